"""The pipeline: checks a request, runs it, and returns outputs that can be replayed."""
