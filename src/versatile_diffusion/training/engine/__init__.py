"""Training without a model: the loop, its state on disk, processes, optimizers and tracking."""
