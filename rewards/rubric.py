"""Combine verifiers into one reward and keep the breakdown.

    rubric = Rubric.from_terms([("answer", 1.0), ("my/verifier.py:score", 0.2)])
    rewards = rubric.grade([(sample, response), ...])

The first term decides `Reward.correct`, from which accuracy is computed. A term without a verdict
makes the whole reward invalid: the trainer masks that response out of its group.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sapo_vl import plugins
from sapo_vl.config import Config
from sapo_vl.config.sections import JudgeOptions
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.rewards import CHECK_GOLD, DECIDE_FAST, IF_CORRECT, JUDGED, PENALTIES, VERIFIERS
from sapo_vl.rewards.pool.client import PoolClient
from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import answer, overlong, shortness
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig, judged_answer
from sapo_vl.schema import Outcome, Reward, Sample, Verdict

Pairs = Sequence[tuple[Sample, str]]
"""(sample, response) in the order of the rewards."""

DecideFast = Callable[[Sample, str], Verdict | NeedsWorker]

BY_LENGTH = {"overlong": overlong.score, "shortness": shortness.score}
"""Verifiers that are given a response's number of tokens and the limit on it."""


@dataclass(frozen=True, slots=True)
class Term:
    """One verifier and its share of the reward."""

    name: str  # as in the config: a key of VERIFIERS or `path/to/file.py:function`
    weight: float  # multiplies the verdict's score


def build_rubric(config: Config) -> Rubric:
    """Return the rubric of `config.rewards`, with the judge of `config.judge` where one is set.

    Raises ConfigError naming the term (`rewards[i].fn`) that cannot be used.
    """
    return Rubric.from_terms(
        [(term.fn, term.weight) for term in config.rewards],
        deadline=config.verifier.timeout_seconds,
        judge=_judge_config(config.judge) if config.judge else None,
        max_tokens=config.rollout.max_new_tokens,
    )


def _judge_config(options: JudgeOptions) -> JudgeConfig:
    return JudgeConfig(
        options.url, options.model, deadline=options.timeout_seconds, pictures=options.pictures
    )


class Rubric:
    """A weighted sum of verifiers. Build it with `from_terms`, end its workers with `close`."""

    def __init__(
        self,
        terms: Sequence[Term],
        pool_client: PoolClient,
        judge: Judge | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.terms = tuple(terms)
        self.pool_client = pool_client
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
        """Check every (name, weight) and load its function.

        Args:
            terms: at least one; each name once.
            workers: processes of the pool; up to 4 by default.
            deadline: seconds a worker has for one response (`verifier.timeout_seconds`).
            judge: required by the terms in JUDGED.
            max_tokens: the response limit that the terms in BY_LENGTH measure against.

        Raises:
            ConfigError: a term can't be used; names the key (`rewards[i].fn`).
        """
        if not terms:
            raise ConfigError("rewards: is empty; name at least one verifier, e.g. answer")
        rubric = cls(
            [Term(name, float(weight)) for name, weight in terms],
            PoolClient(workers, deadline),
            Judge(judge) if judge else None,
            max_tokens,
        )
        try:
            for i, term in enumerate(rubric.terms):
                if term.name in [earlier.name for earlier in rubric.terms[:i]]:
                    raise ConfigError(f"rewards[{i}].fn: {term.name!r} is listed twice")
                _check_weight(term, i)
                rubric.check_verifier(term.name, f"rewards[{i}].fn")
        except ConfigError:
            rubric.close()
            raise
        return rubric

    def check_verifier(self, name: str, key: str) -> None:
        """Check that `verdicts` can run a verifier; import a user's file in a worker.

        Raises ConfigError naming `key`.
        """
        if name in JUDGED and self.judge is None:
            raise ConfigError(f"{key}: {name!r} needs a judge: give judge.url and judge.model")
        if name not in VERIFIERS:
            plugins.parse(name, key, VERIFIERS)
            self.pool_client.check_user(name, key)

    def grade(self, pairs: Pairs, lengths: Sequence[int] | None = None) -> list[Reward]:
        """Return one Reward per (sample, response), in order; `lengths` in tokens."""
        columns = {term.name: self.verdicts(term.name, pairs, lengths) for term in self.terms}
        for name in columns.keys() & set(IF_CORRECT):
            decided = zip(columns[name], columns[self.terms[0].name], strict=True)
            columns[name] = [shortness.if_correct(verdict, first) for verdict, first in decided]
        return [
            self._combine({name: column[i] for name, column in columns.items()})
            for i in range(len(pairs))
        ]

    def check_gold(self, samples: Sequence[Sample]) -> bool:
        """Raise DataError for the first sample whose own gold answer fails the first term.

        Returns whether the term was asked: a judge, a control or a user's function may have reasons
        of its own to refuse a gold answer, and is only tried (see probe.py).
        """
        name = self.terms[0].name
        name = "answer" if name == "answer_or_judge" else name
        if name not in CHECK_GOLD:
            return False
        pairs = [(sample, f"\\boxed{{{sample.answer}}}") for sample in samples]
        for sample, verdict in zip(samples, self.verdicts(name, pairs), strict=True):
            if verdict.outcome is not Outcome.CORRECT:
                raise DataError(
                    f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} (answer_type "
                    f"{sample.answer_type}) does not pass {name!r}: {verdict.reason}"
                )
        return True

    def close(self) -> None:
        """End the workers. Idempotent."""
        self.pool_client.close()

    def verdicts(
        self, name: str, pairs: Pairs, lengths: Sequence[int] | None = None
    ) -> list[Verdict]:
        """Return one verifier's verdicts over a batch, in order."""
        if name not in VERIFIERS:
            return self.pool_client.call_user(name, pairs)
        if name == "judge":
            return self._ask_judge(pairs)
        if name == "answer_or_judge":
            return self.judge_unless_correct(self.decide(answer.decide_fast, pairs), pairs)
        if name in BY_LENGTH:
            tokens = lengths if lengths is not None else [None] * len(pairs)
            results = [
                _timed(partial(BY_LENGTH[name], tokens=count, max_tokens=self.max_tokens), pair)
                for count, pair in zip(tokens, pairs, strict=True)
            ]
            return self.pool_client.resolve_all(results)
        return self.decide(_import(DECIDE_FAST.get(name, VERIFIERS[name])), pairs)

    def decide(self, decide_fast: DecideFast, pairs: Pairs) -> list[Verdict]:
        """Decide in this process what needs no worker, and the rest in one batch to the pool."""
        return self.pool_client.resolve_all([_timed(decide_fast, pair) for pair in pairs])

    def judge_unless_correct(self, verdicts: Sequence[Verdict], pairs: Pairs) -> list[Verdict]:
        """Return the verdicts, with the judge's in place of those that aren't correct."""
        rejected = [i for i, v in enumerate(verdicts) if v.outcome is not Outcome.CORRECT]
        result = list(verdicts)
        for i, verdict in zip(rejected, self._ask_judge([pairs[i] for i in rejected]), strict=True):
            result[i] = verdict
        return result

    def _combine(self, verdicts: dict[str, Verdict]) -> Reward:
        valid = all(v.outcome is not Outcome.NO_VERDICT for v in verdicts.values())
        value = sum(t.weight * verdicts[t.name].score for t in self.terms) if valid else 0.0
        correct = verdicts[self.terms[0].name].outcome is Outcome.CORRECT
        return Reward(value=float(value), correct=correct, valid=valid, terms=verdicts)

    def _ask_judge(self, pairs: Pairs) -> list[Verdict]:
        assert self.judge is not None, self.terms
        return self.judge.verdicts([(sample, judged_answer(r)) for sample, r in pairs])


def _check_weight(term: Term, i: int) -> None:
    """Raise ConfigError for a weight or place of rewards[i] that turns its meaning around."""
    if term.name in PENALTIES and term.weight > 0:
        raise ConfigError(
            f"rewards[{i}].weight: {term.name!r} measures a fault: its weight is at most 0, not "
            f"{term.weight:g}"
        )
    if term.name in IF_CORRECT and i == 0:
        raise ConfigError(
            f"rewards[0].fn: {term.name!r} counts where the first term is correct: put a verifier "
            "of answers in front of it"
        )
    if term.name in IF_CORRECT and term.weight < 0:
        raise ConfigError(
            f"rewards[{i}].weight: {term.name!r} is a bonus: its weight is at least 0, not "
            f"{term.weight:g}"
        )


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _timed(verifier: DecideFast, pair: tuple[Sample, str]) -> Verdict | NeedsWorker:
    """Run one verifier; an exception becomes NO_VERDICT with its reason, never a silent 0."""
    start = time.perf_counter()
    try:
        result = verifier(*pair)
    except DataError as error:
        result = Verdict(Outcome.NO_VERDICT, 0.0, f"bad gold: {error}")
    except Exception as error:  # the one boundary: recorded, counted and masked
        result = Verdict(Outcome.NO_VERDICT, 0.0, f"raised {error!r}"[:500])
    if isinstance(result, NeedsWorker):
        return result
    return replace(result, seconds=time.perf_counter() - start)
