"""RUN/warnings.jsonl: what a run warned of, kept for its report.

One JSON object a line: {"step": 12, "text": "log-probs of sampler and learner differ by .."}. Step
0 is what was found before the first step. A resumed run repeats the warnings of the steps that it
takes again; `read` gives each once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from sapo_vl.system import distributed

FILE = "warnings.jsonl"


class RunWarning(NamedTuple):
    """One line of the file."""

    step: int  # steps are counted from 1; 0: before the first
    text: str  # may quote foreign text: print it through errors.printable


def record(run_dir: Path, step: int, text: str) -> None:
    """Append a warning; only rank 0 does."""
    if distributed.rank() == 0:
        line = json.dumps({"step": step, "text": text}) + "\n"
        with (run_dir / FILE).open("a", encoding="utf-8") as file:
            file.write(line)


def read(run_dir: Path) -> list[RunWarning]:
    """Return the warnings in order, each once; lines that a killed process cut off are left out."""
    path = run_dir / FILE
    if not path.is_file():
        return []
    found: dict[RunWarning, None] = {}
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            found[RunWarning(int(row["step"]), str(row["text"]))] = None
        except (ValueError, TypeError, KeyError):
            continue
    return list(found)
