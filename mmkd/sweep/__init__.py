"""Sweeps: searches over the settings of a distillation whose trials share what the teachers said; docs/sweeps.md."""
