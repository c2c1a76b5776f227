"""Training of codecs and context encoders."""
