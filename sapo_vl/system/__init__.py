"""Ranks and collectives, and what machine this is."""
