"""Records of outputs: PNG metadata and embedding files."""
