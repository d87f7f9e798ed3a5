"""Combine verifiers into one reward and keep the breakdown.

    rubric = Rubric.from_terms([("boxed", 1.0), ("my/verifier.py:score", 0.2)])
    rewards = rubric.grade([(sample, response), ...])

The first term decides `Reward.correct`, which accuracy is counted by. A term without a verdict
makes the whole reward invalid: the trainer masks that response out of its group.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.rewards import VERIFIERS
from sapo_vl.schema import Outcome, Reward, Sample, Verdict

Verifier = Callable[[Sample, str], Any]
"""Returns a Verdict; a user's may return a number in [0, 1] or be a coroutine function."""


@dataclass(frozen=True, slots=True)
class Term:
    """One verifier and its share of the reward."""

    name: str  # as the config spells it: a key of VERIFIERS or `file.py:function`
    weight: float  # multiplies the verdict's score
    verifier: Verifier


class Rubric:
    """A weighted sum of verifiers. Build it with `from_terms`, end it with `close`."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    @classmethod
    def from_terms(cls, terms: Sequence[tuple[str, float]]) -> Rubric:
        """Load every term's function. Raises ConfigError naming the key `rewards[i].fn`."""
        if not terms:
            raise ConfigError("rewards: is empty; name at least one verifier, e.g. boxed")
        names = [name for name, _ in terms]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(f"rewards[{i}].fn: {name!r} is listed twice")
        return cls([Term(fn, float(w), _load(i, fn)) for i, (fn, w) in enumerate(terms)])

    def grade(self, pairs: Sequence[tuple[Sample, str]]) -> list[Reward]:
        """Return one Reward per (sample, response), in order."""
        return [self._reward(sample, response) for sample, response in pairs]

    def check_gold(self, samples: Sequence[Sample]) -> None:
        """Raise DataError for the first sample whose own gold answer the first term refuses."""
        term = self.terms[0]
        for sample in samples:
            verdict = _verdict(term, sample, f"\\boxed{{{sample.answer}}}")
            if verdict.outcome is not Outcome.CORRECT and term.name != "random":
                raise DataError(
                    f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} (answer_type "
                    f"{sample.answer_type}) does not pass {term.name!r}: {verdict.reason}"
                )

    def close(self) -> None:
        """Free what the verifiers hold. Calling it twice is fine."""

    def _reward(self, sample: Sample, response: str) -> Reward:
        verdicts = {term.name: _verdict(term, sample, response) for term in self.terms}
        valid = all(v.outcome is not Outcome.NO_VERDICT for v in verdicts.values())
        value = sum(term.weight * verdicts[term.name].score for term in self.terms) if valid else 0
        correct = verdicts[self.terms[0].name].outcome is Outcome.CORRECT
        return Reward(value=float(value), correct=correct, valid=valid, terms=verdicts)


def _load(i: int, name: str) -> Verifier:
    """Return the function behind `name`, a key of VERIFIERS or `path/to/file.py:function`."""
    key = f"rewards[{i}].fn"
    if name in VERIFIERS:
        module_name, _, function = VERIFIERS[name].partition(":")
        verifier: Verifier = getattr(importlib.import_module(module_name), function)
        return verifier
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ConfigError(
            f"{key}: {name!r} is unknown; allowed: {', '.join(sorted(VERIFIERS))}, "
            f"or path/to/file.py:function{nearest(name, VERIFIERS)}"
        )
    if not Path(path).is_file():
        raise ConfigError(f"{key}: the file {path!r} does not exist")
    found = getattr(_import_file(key, Path(path)), function, None)
    if not callable(found):
        raise ConfigError(f"{key}: {path!r} has no function {function!r}")
    return found


def _import_file(key: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"user_verifier_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does at import is the user's to mend
        raise ConfigError(f"{key}: {path} does not import: {error!r}") from error
    return module


def _verdict(term: Term, sample: Sample, response: str) -> Verdict:
    """Run one verifier. Its exception is recorded as NO_VERDICT, never as a silent 0."""
    start = time.perf_counter()
    try:
        result = term.verifier(sample, response)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        verdict = _as_verdict(result)
    except Exception as error:  # the one boundary: recorded, counted and masked
        verdict = Verdict(Outcome.NO_VERDICT, 0.0, f"{term.name} raised {error!r}")
    seconds = time.perf_counter() - start
    tier = verdict.tier if term.name in VERIFIERS else "user"
    return replace(verdict, seconds=seconds, tier=tier)


def _as_verdict(result: Any) -> Verdict:
    if isinstance(result, Verdict):
        return result
    value = float(result)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"returned {value}, allowed is a Verdict or a number in [0, 1]")
    outcome = Outcome.CORRECT if value >= 0.5 else Outcome.WRONG
    return Verdict(outcome, value, f"scored {value:g}")
