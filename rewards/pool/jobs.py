"""The records exchanged by the pool and its workers. Light, so that both sides start fast."""

from __future__ import annotations

from dataclasses import dataclass

from sapo_vl.rewards.parsing.exact_decider import Tolerance
from sapo_vl.schema import Sample


@dataclass(frozen=True, slots=True)
class Question:
    """Are these two cleaned texts equal? Hashable: the key of the cache."""

    gold: str
    answer: str
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class NeedsWorker:
    """A verifier's result where exact arithmetic can't decide: the question a worker has to."""

    question: Question
    extracted: str  # the answer as it stands in the response, for the verdict


@dataclass(frozen=True, slots=True)
class EqualJob:
    """Decide a Question."""

    question: Question


@dataclass(frozen=True, slots=True)
class UserJob:
    """Call a user's verifier on one response."""

    target: str  # absolute/path/to/file.py:function
    sample: Sample
    response: str


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Import a user's verifier ahead of its first UserJob."""

    target: str  # absolute/path/to/file.py:function
    key: str  # the config key it was written under, for the error message


RewardJob = EqualJob | UserJob | LoadJob


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a job."""

    status: str  # done, timeout, crash, memory, limit, error, not asked
    reason: str = ""
    seconds: float = 0.0  # measured in the worker; the deadline for a timeout
    outcome: str = ""  # an Outcome's value; empty for a LoadJob and for a job that failed
    score: float = 0.0
    extracted: str | None = None
