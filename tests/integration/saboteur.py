"""`sapo-vl` that sends itself a signal at an exact moment, and a verifier that decides by chance.

    SAPO_TEST_SIGNAL=update:3:SIGKILL python saboteur.py train ...

The signal comes when the moment has come so many times in this process. Timing by a clock would
hit another place each time. SERVER in a signal's place kills the run's local servers instead.
Commas separate several strikes.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import zlib

from sapo_vl.cli import parser as cli
from sapo_vl.schema import Outcome, Sample, Verdict
from sapo_vl.system.machine import prepare_environment

MOMENTS = {  # name -> module, class or "", function, whether the signal comes after the call
    "update": ("sapo_vl.learner.engine", "Learner", "update", False),
    "saving": ("sapo_vl.learner.engine", "Learner", "save", True),  # not renamed yet
    "saved": ("sapo_vl.training.checkpoint", "", "save", True),
    "export": ("sapo_vl.learner.engine", "Learner", "export", False),
    "asked": ("sapo_vl.generator.servers.generator", "ServerGenerator", "generate", False),
    "sent": ("sapo_vl.generator.servers.generator", "ServerGenerator", "_update", False),
    "decode": ("vllm.v1.engine.llm_engine", "LLMEngine", "step", False),
}


def score(sample: Sample, response: str) -> Verdict:
    """Half of all responses are right, always the same ones."""
    lucky = zlib.crc32(f"{sample.id} {response}".encode()) % 2 == 1
    if lucky or response == f"\\boxed{{{sample.answer}}}":
        return Verdict(Outcome.CORRECT, 1.0, "by chance")
    return Verdict(Outcome.WRONG, 0.0, "by chance")


def _strike(name: str) -> None:
    if name != "SERVER":
        os.kill(os.getpid(), getattr(signal, name))
        return
    from sapo_vl.generator.servers.process import LocalServers

    gc.unfreeze()  # the generator freezes what it has made, and frozen objects are not listed
    for servers in [thing for thing in gc.get_objects() if isinstance(thing, LocalServers)]:
        for group in servers.pids:
            os.killpg(group, signal.SIGKILL)


def _arm(moment: str, count: int, struck: str) -> None:
    module, class_name, name, after = MOMENTS[moment]
    owner = importlib.import_module(module)
    owner = getattr(owner, class_name) if class_name else owner
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def wrapped(*args, **kwargs):
        due = next(calls) == count
        if due and not after:
            _strike(struck)
        result = original(*args, **kwargs)
        if due and after:
            _strike(struck)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    prepare_environment()
    for _strike_text in filter(None, os.environ.get("SAPO_TEST_SIGNAL", "").split(",")):
        _moment, _count, _name = _strike_text.split(":")
        _arm(_moment, int(_count), _name)
    cli.main()
