"""Finding, reading and comparing answers: LaTeX, numbers, units, expressions."""
