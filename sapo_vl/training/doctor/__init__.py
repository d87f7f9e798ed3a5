"""`sapo-vl doctor`: the contracts of a run, tried on the user's own parts before it starts."""
