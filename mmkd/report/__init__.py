"""What a run has to show: stored predictions, the comparison table, and a self-contained HTML page."""
