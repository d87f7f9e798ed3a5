"""Around the training loop: set-up, prompt sampling, rollouts, trainer, checkpoints."""
