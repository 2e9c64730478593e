"""Media files of recordings: videos, numbered frames, sound."""
