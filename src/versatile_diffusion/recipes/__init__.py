"""Data sets, and training recipes of the shipped models."""
