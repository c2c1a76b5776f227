"""The training engine, independent of the model: loop, checkpoints, processes, optimizers and tracking."""
