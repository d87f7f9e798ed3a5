"""Runs parts, each in a process of its own: a crash or a hang costs one part.

On a CPU the process is a fork, which has everything imported; on a GPU a new one, because a fork
can't use a GPU that its parent may have looked at.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from gpu_check.outcome import FAILED, Outcome, Setting, line

NAMES = {"deepspeed": "DeepSpeed", "fla": "flash-linear-attention", "vllm": "vLLM"}
"""Optional packages that parts need."""


@dataclass(frozen=True, slots=True)
class Part:
    """A group of checks."""

    what: str
    check: str  # module:function, which yields outcomes
    needs: tuple[str, ...] = ()  # of NAMES
    ranks: int = 1  # that it starts: as many GPUs are needed, or a CPU
    slow_on_cpu: bool = False  # run there only when named
    limit: float = 300.0  # seconds


def reason_to_skip(part: Part, setting: Setting, named: bool) -> str | None:
    """Return why a part can't or shouldn't run here, None if it should."""
    for module in part.needs:
        if module not in setting.modules:
            return f"{NAMES[module]} is not installed"
    if setting.device == "cuda" and setting.gpus < part.ranks:
        return f"needs {part.ranks} GPUs, here: {setting.gpus}"
    if setting.device == "cpu" and part.slow_on_cpu and not named:
        return "slow on a CPU: name it to run it"
    return None


def run(name: str, part: Part, setting: Setting) -> list[Outcome]:
    """Run a part and print each outcome to stderr; a failure of the part is one more outcome."""
    outcomes = []
    for outcome in _outcomes(part, setting):
        print(line(name, outcome), file=sys.stderr, flush=True)
        outcomes.append(outcome)
    return outcomes


def _outcomes(part: Part, setting: Setting) -> Iterator[Outcome]:
    method = "fork" if setting.device == "cpu" else "spawn"
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(part.check, setting, sender))
    process.start()
    sender.close()
    ends = time.monotonic() + part.limit
    while receiver.poll(max(0.0, ends - time.monotonic())):
        try:
            outcome = receiver.recv()
        except EOFError:
            process.join()
            yield Outcome("the part", FAILED, f"its process ended with code {process.exitcode}")
            return
        if outcome is None:
            process.join()
            return
        yield outcome
    process.kill()
    process.join()
    yield Outcome("the part", FAILED, f"not done within {part.limit:.0f} s")


def _child(check: str, setting: Setting, sender: Connection) -> None:
    warnings.filterwarnings("ignore")
    module, name = check.split(":")
    try:
        function: Callable[[Setting], Iterator[Outcome]]
        function = getattr(importlib.import_module(module), name)
        for outcome in function(setting):
            sender.send(outcome)
    except Exception as error:  # of one part; the others go on
        traceback.print_exc()
        note = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        sender.send(Outcome("the part", FAILED, note.replace("|", "/")))
    sender.send(None)
