"""Name tables between published checkpoints and ours, in both directions."""
