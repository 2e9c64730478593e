"""Modalities that a source lacks, computed from those it has."""
