"""Training of the diffuser: objective, mixture of flows, promotion and LoRA."""
