"""Offline generation: a table of inputs to shards of outputs, in this process or on a Ray cluster."""
