"""Context encoders: from values to context tokens."""
