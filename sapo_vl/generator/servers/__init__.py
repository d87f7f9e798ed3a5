"""Rollouts from vLLM servers: processes, HTTP clients, the transfer of weights to them."""
