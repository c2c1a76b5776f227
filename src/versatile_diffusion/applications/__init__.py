"""Applications of the paper: disentanglement, editing through text, and colour-matched variations."""
