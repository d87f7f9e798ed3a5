"""Records that the benchmarks share: responses, verdicts, the benchmark itself. No torch, no sympy.

    Sample --prompt, generator--> Response --extract--> ExtractedAnswer --judge--> ScoredResponse

A Response is a line of a responses file, ours or a published one, so that scoring can be repeated
without generating.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any, TypeVar

from sapo_vl.data import Dropped
from sapo_vl.data.readers.text import MarkedText, choices_by_letter
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK, Outcome, Sample, Verdict

T = TypeVar("T")
_IMAGE_TAG = re.compile(r"<image[ _](\d+)>")

SEED = 42
"""Seed that MMMU, MMMU-Pro and EMMA use for their random choices."""

_FIELDS = (
    "model", "problem_id", "gold", "answer", "choices", "response", "official_extraction",
    "official_correct", "question_type", "answer_type", "precision", "unit", "question", "variant",
    "run", "sample", "meta",
)  # fmt: skip
"""Keys of a responses file that are fields of `Response`; any other key goes into its meta."""


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

    @property
    def text(self) -> str:
        """The response, empty where there is none."""
        return self.content or ""

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
    files: tuple[str, ...] = ()  # patterns: a folder with a match of any is the benchmark's
    folder: str = ""  # usual name of that folder; empty: the benchmark's
    hub: str = ""  # where the files can be downloaded
    tables: tuple[str | tuple[str, str], ...] = ()  # keys of Response.meta, or fields of Response
    aggregate: Callable[[Sequence[ScoredResponse]], dict[str, Any]] | None = None  # own metrics
    llm: bool = False  # the protocol asks an LLM for the extraction
    llm_judge: bool = False  # and for the verdict
    labels: bool = False  # published as verdicts without responses: the published verdict counts


def read_response(record: Mapping[str, Any], where: str) -> Response:
    """Return the Response of one line of a responses file; `where` names the line in errors.

    A line needs model, problem_id and the answer (as "gold" or "answer"), and a response or what
    was published in its place.

    Raises:
        DataError: a key is missing or has a value of another type; names the line and the key.
    """
    answer_key = "answer" if "answer" in record and "gold" not in record else "gold"
    published = "official_extraction" in record or "official_correct" in record
    for key in ("model", "problem_id", answer_key, *(() if published else ("response",))):
        if key not in record:
            raise DataError(f"{where}: the key {key!r} is missing (a row has {', '.join(record)})")
    meta = dict(_typed(record, "meta", dict, "an object", where) or {})
    meta |= {k: v for k, v in record.items() if k not in _FIELDS and k not in meta}
    return Response(
        model=str(record["model"]),
        problem_id=str(record["problem_id"]),
        answer=record[answer_key],
        content=_typed(record, "response", str, "text", where),
        choices=_choices(record.get("choices"), where),
        official_extraction=record.get("official_extraction"),
        official_correct=_typed(record, "official_correct", bool, "true or false", where),
        question_type=_typed(record, "question_type", str, "text", where),
        answer_type=_typed(record, "answer_type", str, "text", where),
        precision=_integer(record, "precision", where),
        unit=_typed(record, "unit", str, "text", where),
        question=str(record.get("question") or ""),
        variant=str(record["variant"]) if record.get("variant") is not None else "",
        run=str(record.get("run") or ""),
        sample=_integer(record, "sample", where) or 0,
        meta=meta,
    )


def _typed(record: Mapping[str, Any], key: str, kind: type[T], words: str, where: str) -> T | None:
    value = record.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise DataError(f"{where}: {key} must be {words} or null, not {str(value)[:40]!r}")


def _integer(record: Mapping[str, Any], key: str, where: str) -> int | None:
    value = record.get(key)
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {key} must be a whole number or null, not {value!r}") from None


def _choices(choices: Any, where: str) -> dict[str, str]:
    """Return the choices by letter, from a list, an object by letter, or nothing."""
    if not choices:
        return {}
    if isinstance(choices, Mapping):
        return {str(letter): str(text) for letter, text in choices.items()}
    if isinstance(choices, list) and len(choices) <= len(ascii_uppercase):
        return choices_by_letter([str(text) for text in choices])
    raise DataError(f"{where}: choices must be a list of texts or letter -> text")


def integer_answer(response: Response) -> int:
    """Return the problem's answer as an integer. Raises DataError naming the problem."""
    try:
        return int(response.answer)
    except (TypeError, ValueError):
        raise DataError(
            f"problem {response.problem_id}: the answer {response.answer!r} is not an integer"
        ) from None


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
