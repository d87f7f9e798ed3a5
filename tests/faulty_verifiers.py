"""Functions of a user that misbehave, for tests: `tests/faulty_verifiers.py:NAME`.

`cycle` is for a run: most responses get a verdict, and every fourth meets the next of TEN faults.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sapo_vl.schema import Outcome, Sample, Verdict

SLEEP_SECONDS = 600.0


def raises(sample: Sample, response: str) -> float:
    raise KeyError("answer")


def returns_none(sample: Sample, response: str) -> None:
    return None


def returns_nan(sample: Sample, response: str) -> float:
    return float("nan")


def returns_dict(sample: Sample, response: str) -> dict[str, float]:
    return {"score": 1.0}


def returns_bytes(sample: Sample, response: str) -> bytes:
    return b"1"


def huge_verdict(sample: Sample, response: str) -> Verdict:
    return Verdict(Outcome.CORRECT, 1e30, "far too good")


def nan_verdict(sample: Sample, response: str) -> Verdict:
    return Verdict(Outcome.CORRECT, float("nan"), "no number")


def sleeps(sample: Sample, response: str) -> float:
    time.sleep(SLEEP_SECONDS)
    return 1.0


def exits(sample: Sample, response: str) -> float:
    sys.exit(3)


def kills_itself(sample: Sample, response: str) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def leaves_an_orphan(sample: Sample, response: str) -> float:
    """Leave a child that holds everything it inherited, and die."""
    if os.fork() == 0:
        time.sleep(SLEEP_SECONDS)
        os._exit(0)
    os._exit(1)


def forks_and_returns(sample: Sample, response: str) -> float:
    """Return twice, in the worker and in its copy."""
    os.fork()
    return 1.0


def starts_a_program(sample: Sample, response: str) -> float:
    """Start a program that outlives the call, and hang."""
    subprocess.Popen(["sleep", str(int(SLEEP_SECONDS))])
    time.sleep(SLEEP_SECONDS)
    return 1.0


def prints_garbage(sample: Sample, response: str) -> float:
    """Write into every open file, the worker's channel among them, and answer."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd != 2:  # the test's own output
            try:
                os.write(fd, b"\x00\x00\x00\x05hello garbage")
            except OSError:
                continue
    return 1.0


def unprintable_error(sample: Sample, response: str) -> float:
    class Unprintable(Exception):
        def __repr__(self) -> str:
            raise ValueError("no repr")

    raise Unprintable


TEN: tuple[Callable[[Sample, str], Any], ...] = (
    raises, returns_none, returns_nan, returns_dict, huge_verdict, sleeps, exits, kills_itself,
    leaves_an_orphan, prints_garbage,
)  # fmt: skip


def cycle(sample: Sample, response: str) -> Any:
    """Misbehave for every fourth new response, in one of ten ways; else score whether it is short.

    The folder FAULTS_FOLDER of the environment numbers the responses over all workers, so that one
    that is asked again meets the same fault.
    """
    number = _number_of(f"{sample.id} {response}", Path(os.environ["FAULTS_FOLDER"]))
    if number % 4 == 3:
        return TEN[number // 4 % len(TEN)](sample, response)
    return float(len(response) % 2)


def _number_of(key: str, folder: Path) -> int:
    known = folder / hashlib.sha256(key.encode(errors="replace")).hexdigest()
    if known.exists():
        return int(known.read_text())
    for number in itertools.count():
        try:
            os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        known.write_text(str(number))
        return number
    raise AssertionError("unreachable")
