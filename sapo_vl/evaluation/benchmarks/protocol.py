"""Records that the benchmarks share: responses, verdicts, the benchmark itself. No torch, no sympy.

    Sample --prompt, generator--> Response --extract--> ExtractedAnswer --judge--> ScoredResponse

A Response is a line of a responses file (rows.py reads it), ours or a published one, so that
scoring can be repeated without generating. What is scored is what follows the last `</think>`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.readers.text import MarkedText
from sapo_vl.rewards.parsing.extract import after_thinking
from sapo_vl.schema import IMAGE_MARK, Outcome, Sample, Verdict

_IMAGE_TAG = re.compile(r"<image[ _](\d+)>")

SEED = 42
"""Seed that MMMU, MMMU-Pro and EMMA use for their random choices."""

MAX_TEXT_CHARS = 400_000
"""Characters of a response that are scored; 40,960 tokens have about 160,000."""


def problem_key(problem_id: object, variant: object) -> str:
    """Return the name of a problem, unique in its benchmark: "78", or "78#3" for a variant."""
    return f"{problem_id}#{variant}" if variant else str(problem_id)


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a problem, with the problem's fields that scoring needs."""

    model: str
    problem_id: str
    answer: Any  # text, or a list of accepted texts
    content: str | None  # the response itself; None: nothing was published
    choices: dict[str, str] = field(default_factory=dict)  # letter -> text
    official_extraction: Any = None  # the authors' own, where published
    official_correct: bool | None = None  # the authors' own verdict, where published
    question_type: str | None = None
    answer_type: str | None = None
    precision: int | None = None  # decimals that count
    unit: str | None = None
    question: str = ""
    variant: str = ""  # which version of the problem: one of DynaMath's ten
    run: str = ""  # which of a model's configurations
    sample: int = 0  # index among the model's responses to the problem
    meta: dict[str, Any] = field(default_factory=dict)  # subject, level, ...: columns of tables
    unscorable: str = ""  # why no answer can be judged, a fault of the row; empty: it can

    @property
    def text(self) -> str:
        """What is scored: the response after its last `</think>`, "" while thinking is open.

        At most its last MAX_TEXT_CHARS characters, which bounds the time of every rule.
        """
        return (after_thinking(self.content or "") or "")[-MAX_TEXT_CHARS:]

    @property
    def is_thinking(self) -> bool:
        """Whether the response ends before its thinking does: it has no answer."""
        return after_thinking(self.content or "") is None

    @property
    def key(self) -> str:
        """The problem's name, unique within the benchmark."""
        return problem_key(self.problem_id, self.variant)

    @property
    def family(self) -> str:
        """Unit of resampling: a problem with all its variants (MathVerse: its versions)."""
        return str(self.meta.get("problem_index", self.problem_id))


@dataclass(frozen=True, slots=True)
class ExtractedAnswer:
    """The answer that a rule reads from a response."""

    value: Any  # None: no answer
    note: str = ""  # how it was read, where that is not the usual way
    is_random: bool = False  # drawn by the official rule
    is_response: bool = False  # the whole response: the judge reads the answer itself
    failure: str = ""  # why an LLM gave no extraction, a fault of ours: no verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an extracted answer is right, by the official rule."""

    correct: bool | None  # None: no verdict
    reason: str
    rules: dict[str, bool] = field(default_factory=dict)  # verdicts of other named rules
    reading: str | None = None  # the answer, where only the judge reads it


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """A response with its verdict."""

    response: Response
    extraction: ExtractedAnswer
    judgement: Judgement

    @property
    def correct(self) -> bool | None:
        """The verdict that accuracy counts."""
        return self.judgement.correct


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data source and the protocol that scores responses to it, as functions."""

    name: str  # on the command line
    title: str  # in tables
    rows: Callable[[Path], Iterable[Sample | Dropped]]  # a source's rows, in the protocol's order
    prompt: Callable[[Sample], str | MarkedText]  # one IMAGE_MARK per image, or with its own images
    extract: Callable[[Response, random.Random], ExtractedAnswer]
    judge: Callable[[Response, Any], Judgement]
    check: Callable[[Response], Response] | None = None  # a row's golds and fields; see rows.py
    files: tuple[str, ...] = ()  # patterns: a folder with a match of any is the benchmark's
    folder: str = ""  # usual name of that folder; empty: the benchmark's
    hub: str = ""  # where the files can be downloaded
    tables: tuple[str | tuple[str, str], ...] = ()  # keys of Response.meta, or fields of Response
    aggregate: Callable[[Sequence[ScoredResponse]], dict[str, Any]] | None = None  # own metrics
    llm: bool = False  # the protocol asks an LLM for the extraction
    llm_judge: bool = False  # and for the verdict
    labels: bool = False  # published as verdicts without responses: the published verdict counts


def from_verdict(verdict: Verdict, **rules: bool) -> Judgement:
    """Return a training verifier's verdict as a benchmark's."""
    has_verdict = verdict.outcome is not Outcome.NO_VERDICT
    correct = verdict.outcome is Outcome.CORRECT if has_verdict else None
    return Judgement(correct, verdict.reason, rules, verdict.extracted)


def mark_images(text: str, sample: Sample) -> MarkedText:
    """Replace the tags <image 1> or <image_1> of a prompt by image marks.

    As the repositories show them: an image named twice is shown twice, images that the text does
    not name come first, and a tag without an image stays.
    """
    numbers = sample.metadata["published"]["image_numbers"]
    images = dict(zip(numbers, sample.images, strict=True))
    named: list[int] = []

    def mark(tag: re.Match[str]) -> str:
        number = int(tag[1])
        if number not in images:
            return tag[0]
        named.append(number)
        return IMAGE_MARK

    marked = _IMAGE_TAG.sub(mark, text.replace(IMAGE_MARK, "image"))
    unnamed = [number for number in sorted(images) if number not in named]
    order = (*unnamed, *named)
    shown = tuple(images[number] for number in order)
    return MarkedText(IMAGE_MARK * len(unnamed) + marked, shown, order)
