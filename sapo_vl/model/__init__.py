"""The policy's files and weights, prompts, and what is particular to a model family."""
