"""Applications of the paper: disentanglement, editing through text, variations with the colours of their input."""
