"""Samplers of responses: the protocol (base), vLLM, and transformers' generate as the reference."""
