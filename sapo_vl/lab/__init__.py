"""The SAPO laboratory: grids of small runs, restartable cell by cell, and the page they make."""
