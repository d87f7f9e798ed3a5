"""Ranks and collectives; GPUs and environment variables."""
