"""Combine verifiers into one reward and keep the breakdown.

    rubric = Rubric.from_terms([("answer", 1.0), ("my/verifier.py:score", 0.2)])
    rewards = rubric.grade([(sample, response), ...])

The first term decides `Reward.correct`, which accuracy is counted by. A term without a verdict
makes the whole reward invalid: the trainer masks that response out of its group.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.rewards import CHECK_GOLD, FAULTS, JUDGED, STAGED, VERIFIERS
from sapo_vl.rewards.pool.client import Referee
from sapo_vl.rewards.verifiers import answer, overlong
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig, candidate
from sapo_vl.rewards.verifiers.maths import Pending, settle
from sapo_vl.schema import Outcome, Reward, Sample, Verdict

Pairs = Sequence[tuple[Sample, str]]
Verifier = Callable[[Sample, str], Verdict]
FirstLook = Callable[[Sample, str], Verdict | Pending]


@dataclass(frozen=True, slots=True)
class Term:
    """One verifier and its share of the reward."""

    name: str  # as the config spells it: a key of VERIFIERS or `file.py:function`
    weight: float  # multiplies the verdict's score


class Rubric:
    """A weighted sum of verifiers. Build it with `from_terms`, end it with `close`."""

    def __init__(
        self,
        terms: Sequence[Term],
        referee: Referee,
        judge: Judge | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.terms = tuple(terms)
        self.referee = referee
        self.judge = judge
        self.max_tokens = max_tokens

    @classmethod
    def from_terms(
        cls,
        terms: Sequence[tuple[str, float]],
        workers: int | None = None,
        deadline: float = 2.0,
        judge: JudgeConfig | None = None,
        max_tokens: int | None = None,
    ) -> Rubric:
        """Load every term's function. Raises ConfigError naming the key `rewards[i].fn`.

        `workers` and `deadline` (seconds per question) are the pool's, `judge` is needed by the
        judge's terms, `max_tokens` is the limit that `overlong` measures against.
        """
        if not terms:
            raise ConfigError("rewards: is empty; name at least one verifier, e.g. answer")
        referee = Referee(workers, deadline)
        for i, (name, weight) in enumerate(terms):
            _check_term(i, name, float(weight), [n for n, _ in terms[:i]], judge)
            if name not in VERIFIERS:
                _check_user(i, name, referee)
        made = [Term(name, float(weight)) for name, weight in terms]
        return cls(made, referee, Judge(judge) if judge else None, max_tokens)

    def grade(self, pairs: Pairs, lengths: Sequence[int] | None = None) -> list[Reward]:
        """Return one Reward per (sample, response), in order; `lengths` in tokens, for overlong."""
        columns = {term.name: self._verdicts(term.name, pairs, lengths) for term in self.terms}
        return [
            self._reward({name: column[i] for name, column in columns.items()})
            for i in range(len(pairs))
        ]

    def check_gold(self, samples: Sequence[Sample]) -> None:
        """Raise DataError for the first sample whose own gold answer the first term refuses."""
        name = self.terms[0].name
        name = "answer" if name == "answer_or_judge" else name
        if name not in CHECK_GOLD:
            return
        pairs = [(sample, f"\\boxed{{{sample.answer}}}") for sample in samples]
        for sample, verdict in zip(samples, self._verdicts(name, pairs, None), strict=True):
            if verdict.outcome is not Outcome.CORRECT:
                raise DataError(
                    f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} (answer_type "
                    f"{sample.answer_type}) does not pass {name!r}: {verdict.reason}"
                )

    def close(self) -> None:
        """End the workers. Calling it twice is fine."""
        self.referee.close()

    def _reward(self, verdicts: dict[str, Verdict]) -> Reward:
        valid = all(v.outcome is not Outcome.NO_VERDICT for v in verdicts.values())
        value = sum(t.weight * verdicts[t.name].score for t in self.terms) if valid else 0.0
        correct = verdicts[self.terms[0].name].outcome is Outcome.CORRECT
        return Reward(value=float(value), correct=correct, valid=valid, terms=verdicts)

    def _verdicts(self, name: str, pairs: Pairs, lengths: Sequence[int] | None) -> list[Verdict]:
        """One term's verdicts over the whole batch."""
        if name not in VERIFIERS:
            path, _, function = name.rpartition(":")
            return self.referee.call_user(path, function, pairs)
        if name == "judge":
            return self._judged(pairs)
        if name == "answer_or_judge":
            ruled = self._staged(answer.first_look, pairs)
            asked = [i for i, v in enumerate(ruled) if v.outcome is not Outcome.CORRECT]
            for i, verdict in zip(asked, self._judged([pairs[i] for i in asked]), strict=True):
                ruled[i] = verdict
            return ruled
        if name == "overlong":
            tokens = lengths if lengths is not None else [None] * len(pairs)
            return [
                _timed(name, partial(overlong.score, tokens=n, max_tokens=self.max_tokens), pair)
                for n, pair in zip(tokens, pairs, strict=True)
            ]
        if name in STAGED:
            return self._staged(_function(STAGED[name]), pairs)
        return [_timed(name, _function(VERIFIERS[name]), pair) for pair in pairs]

    def _staged(self, first_look: FirstLook, pairs: Pairs) -> list[Verdict]:
        """Decide what needs no worker, ask the workers about the rest in one batch."""
        looked = [_looked(first_look, pair) for pair in pairs]
        asked = self.referee.decide([v.question for v in looked if isinstance(v, Pending)])
        answered = iter(asked)
        return [settle(v, next(answered)) if isinstance(v, Pending) else v for v in looked]

    def _judged(self, pairs: Pairs) -> list[Verdict]:
        assert self.judge is not None, self.terms
        return self.judge.verdicts([(sample, candidate(response)) for sample, response in pairs])


def build_rubric(config: Config) -> Rubric:
    """Return the rubric of `config.rewards`, with the judge of `config.judge` where one is set.

    Raises ConfigError naming the term (`rewards[i].fn`) that cannot be used.
    """
    return Rubric.from_terms(
        [(term.fn, term.weight) for term in config.rewards],
        judge=JudgeConfig(config.judge.url, config.judge.model) if config.judge else None,
        max_tokens=config.rollout.max_new_tokens,
    )


def _function(target: str) -> Callable[..., Verdict]:
    module, _, name = target.partition(":")
    function: Callable[..., Verdict] = getattr(importlib.import_module(module), name)
    return function


def _timed(name: str, verifier: Callable[..., Verdict], pair: tuple[Sample, str]) -> Verdict:
    """Run one verifier. Its exception is recorded as NO_VERDICT, never as a silent 0."""
    verdict = _looked(verifier, pair)
    assert isinstance(verdict, Verdict), name
    return verdict


def _looked(verifier: FirstLook, pair: tuple[Sample, str]) -> Verdict | Pending:
    start = time.perf_counter()
    try:
        verdict = verifier(*pair)
    except Exception as error:  # the one boundary: recorded, counted and masked
        verdict = Verdict(Outcome.NO_VERDICT, 0.0, f"raised {error!r}"[:500])
    if isinstance(verdict, Pending):
        return verdict
    return replace(verdict, seconds=time.perf_counter() - start)


def _check_term(
    i: int, name: str, weight: float, earlier: Sequence[str], judge: JudgeConfig | None
) -> None:
    key = f"rewards[{i}].fn"
    if name in earlier:
        raise ConfigError(f"{key}: {name!r} is listed twice")
    if name in JUDGED and judge is None:
        raise ConfigError(f"{key}: {name!r} needs a judge: give judge.url and judge.model")
    if name in FAULTS and weight > 0:
        raise ConfigError(
            f"rewards[{i}].weight: {name!r} scores a fault: its weight is at most 0, not {weight:g}"
        )
    if name in VERIFIERS:
        return
    path, colon, _ = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ConfigError(
            f"{key}: {name!r} is unknown; allowed: {', '.join(sorted(VERIFIERS))}, "
            f"or path/to/file.py:function{nearest(name, VERIFIERS)}"
        )
    if not Path(path).is_file():
        raise ConfigError(f"{key}: the file {path!r} does not exist")


def _check_user(i: int, name: str, referee: Referee) -> None:
    """Import the user's file in a worker. Raises ConfigError when that fails."""
    path, _, function = name.rpartition(":")
    problem = referee.check_user(path, function)
    if problem:
        referee.close()
        raise ConfigError(f"rewards[{i}].fn: {path!r}: {problem}")
