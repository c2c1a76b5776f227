"""Readers of published checkpoints in any layout."""
