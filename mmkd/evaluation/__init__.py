"""Evaluation: models on a split, each clip exactly once, and what their answers come to."""
