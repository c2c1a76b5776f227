"""Checkpoints of others, read into our modules."""
