"""The command line: `sapo-vl COMMAND`; one file per group of commands, parser.py holds them all."""

from sapo_vl.cli.parser import main

__all__ = ["main"]
