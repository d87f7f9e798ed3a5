"""What the benchmarks share: the records, and accuracy tables over them. Light: no torch, no sympy.

    Problem --prompt, generator--> Row (one response) --extract--> Extraction --judge--> Scored

A Row is a line of a responses file, ours or a published one, so that scoring is repeated without
generating. Shares are between 0 and 1; a Cell also has the percentage, as papers print it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sapo_vl.errors import DataError
from sapo_vl.schema import Outcome, Sample, Verdict

T = TypeVar("T")

SEED = 42
"""The seed that MMMU, MMMU-Pro and EMMA use for their random choices."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_KNOWN = (
    "model", "problem_id", "gold", "choices", "response", "official_extraction",
    "official_correct", "question_type", "answer_type", "precision", "unit", "question", "variant",
    "run", "sample", "meta",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One response and what is known of its problem."""

    model: str
    problem_id: str
    gold: Any  # text, or a list of accepted texts
    response: str | None  # None: nothing was published
    options: dict[str, str] = field(default_factory=dict)  # letter -> text
    official_extraction: Any = None  # the authors' own, where published
    label: bool | None = None  # the authors' own verdict, where published
    question_type: str | None = None
    answer_type: str | None = None
    precision: int | None = None  # decimals
    unit: str | None = None
    question: str = ""
    variant: str = ""  # of one problem: DynaMath's ten
    run: str = ""  # one model's several configurations
    sample: int = 0  # index among n responses of the model to the problem
    meta: dict[str, Any] = field(default_factory=dict)  # subject, level, ...: columns of tables

    @property
    def text(self) -> str:
        """The response, empty where there is none."""
        return self.response or ""

    @property
    def key(self) -> str:
        """The problem's id with its variant: unique within the benchmark."""
        return f"{self.problem_id}#{self.variant}" if self.variant else self.problem_id

    @property
    def family(self) -> str:
        """What is resampled as one: a problem's variants, in MathVerse its versions."""
        return str(self.meta.get("problem_index", self.problem_id))


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a benchmark, with the prompt its protocol prescribes."""

    id: str
    prompt: str  # with one IMAGE_MARK per image
    images: tuple[bytes, ...]  # encoded files
    gold: Any
    options: dict[str, str] = field(default_factory=dict)
    question: str = ""
    question_type: str | None = None
    answer_type: str | None = None
    precision: int | None = None
    unit: str | None = None
    variant: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The problem's id with its variant: unique within the benchmark."""
        return f"{self.id}#{self.variant}" if self.variant else self.id

    def sample(self, benchmark: str) -> Sample:
        """Return what the renderer takes."""
        return Sample(f"{benchmark}-{self.key}", benchmark, "", self.prompt, self.images, "")

    def record(self, model: str, sample: int, response: str) -> dict[str, Any]:
        """Return the line of a responses file that `read_row` reads back."""
        return {
            "model": model,
            "problem_id": self.id,
            "variant": self.variant,
            "sample": sample,
            "question_type": self.question_type,
            "answer_type": self.answer_type,
            "precision": self.precision,
            "unit": self.unit,
            "choices": self.options or None,
            "gold": self.gold,
            "question": self.question,
            "response": response,
            "meta": self.meta,
        }


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a rule takes for the answer."""

    value: Any  # None: no answer was found
    note: str = ""  # how it was found, where that is not the usual way
    is_random: bool = False  # the official rule drew it
    is_response: bool = False  # the judge finds the answer itself in the whole response


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an extracted answer is right. `correct` is the official rule's; None: no verdict."""

    correct: bool | None
    reason: str
    rules: dict[str, bool] = field(default_factory=dict)  # what other named rules say
    reading: str | None = None  # the answer, where only the judge finds it


@dataclass(frozen=True, slots=True)
class Scored:
    """A row with its verdict."""

    row: Row
    extraction: Extraction
    judgement: Judgement

    @property
    def correct(self) -> bool | None:
        """The verdict that accuracy counts."""
        return self.judgement.correct


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: where its problems are, and its protocol as functions."""

    name: str  # on the command line
    title: str  # in tables
    problems: Callable[[Path], Iterator[Problem]]
    extract: Callable[[Row, random.Random], Extraction]
    judge: Callable[[Row, Any], Judgement]
    tables: tuple[str | tuple[str, str], ...] = ()  # keys of Row.meta, or Row's own fields
    aggregate: Callable[[Sequence[Scored]], dict[str, Any]] | None = None  # its own metrics
    llm: bool = False  # the protocol asks an LLM for the extraction
    llm_judge: bool = False  # and for the verdict
    labels: bool = False  # published as verdicts without responses: the row's label is taken


def read_row(record: Mapping[str, Any], where: str) -> Row:
    """Return the Row of one JSON object. Raises DataError naming the place and the key.

    A row needs model, problem_id and gold, and a response or what was published in its place.
    """
    published = "official_extraction" in record or "official_correct" in record
    for key in ("model", "problem_id", "gold", *(() if published else ("response",))):
        if key not in record:
            raise DataError(f"{where}: the key {key!r} is missing (a row has {', '.join(record)})")
    response = _of(record, "response", str, "text", where)
    meta = dict(_of(record, "meta", dict, "an object", where) or {})
    meta |= {k: v for k, v in record.items() if k not in _KNOWN and k not in meta}
    return Row(
        model=str(record["model"]),
        problem_id=str(record["problem_id"]),
        gold=record["gold"],
        response=response,
        options=lettered(record.get("choices"), where),
        official_extraction=record.get("official_extraction"),
        label=_of(record, "official_correct", bool, "true or false", where),
        question_type=_of(record, "question_type", str, "text", where),
        answer_type=_of(record, "answer_type", str, "text", where),
        precision=_whole(record, "precision", where),
        unit=_of(record, "unit", str, "text", where),
        question=str(record.get("question") or ""),
        variant=str(record["variant"]) if record.get("variant") is not None else "",
        run=str(record.get("run") or ""),
        sample=_whole(record, "sample", where) or 0,
        meta=meta,
    )


def _of(record: Mapping[str, Any], key: str, kind: type[T], words: str, where: str) -> T | None:
    value = record.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise DataError(f"{where}: {key} must be {words} or null, not {str(value)[:40]!r}")


def _whole(record: Mapping[str, Any], key: str, where: str) -> int | None:
    value = record.get(key)
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {key} must be a whole number or null, not {value!r}") from None


def whole_gold(row: Row) -> int:
    """Return the gold answer as a whole number. Raises DataError naming the problem."""
    try:
        return int(row.gold)
    except (TypeError, ValueError):
        raise DataError(
            f"problem {row.problem_id}: the gold answer {row.gold!r} is no whole number"
        ) from None


def lettered(choices: Any, where: str) -> dict[str, str]:
    """Return options by letter from a list, a dictionary or nothing."""
    if not choices:
        return {}
    if isinstance(choices, Mapping):
        return {str(letter): str(text) for letter, text in choices.items()}
    if isinstance(choices, list) and len(choices) <= len(LETTERS):
        return {LETTERS[i]: str(text) for i, text in enumerate(choices)}
    raise DataError(f"{where}: choices must be a list of texts or letter -> text")


def cell(verdicts: Sequence[bool | None]) -> dict[str, Any]:
    """Return accuracy over the rows that have a verdict, with the counts."""
    known = [v for v in verdicts if v is not None]
    share = sum(known) / len(known) if known else None
    percent = None if share is None else round(100 * share, 2)
    return {"accuracy": share, "percent": percent, "correct": sum(known), "total": len(known)}


def tables(scored: Sequence[Scored], keys: Sequence[str | tuple[str, str]]) -> dict[str, Any]:
    """Return {key: {value: Cell}}; a row counts in each of its values where it has several."""
    result: dict[str, Any] = {}
    for key in keys:
        groups: dict[str, list[bool | None]] = defaultdict(list)
        for item in scored:
            for value in _values(item.row, key):
                groups[value].append(item.correct)
        name = key if isinstance(key, str) else "_x_".join(key)
        if groups:
            result[name] = {value: cell(groups[value]) for value in sorted(groups, key=_order)}
    return result


def from_verdict(verdict: Verdict, **rules: bool) -> Judgement:
    """Return a training verifier's verdict as a benchmark's."""
    known = verdict.outcome is not Outcome.NO_VERDICT
    correct = verdict.outcome is Outcome.CORRECT if known else None
    return Judgement(correct, verdict.reason, rules, verdict.extracted)


def _values(row: Row, key: str | tuple[str, str]) -> list[str]:
    if isinstance(key, tuple):
        left, right = (_values(row, part) for part in key)
        return [f"{a} / {b}" for a in left for b in right]
    value = row.meta[key] if key in row.meta else getattr(row, key, None)
    if value is None or value == "":
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _order(value: str) -> tuple[int, float, str]:
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)
