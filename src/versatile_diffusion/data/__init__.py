"""Data: sources, captions, caches and the emoji set."""
