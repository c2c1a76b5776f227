"""Training of what stands around the diffuser: codecs and context encoders."""
