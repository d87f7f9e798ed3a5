"""`python -m sapo_vl.cli`: the same as the console script `sapo-vl`."""

from sapo_vl.cli.parser import main

main()
