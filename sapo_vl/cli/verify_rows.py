"""The input of `sapo-vl verify`: rows of (gold answer, response), one JSON object per line.

    {"id": "1", "answer": "1/2", "response": "So it is \\\\boxed{0.5}."}
    {"id": "2", "answer": "B", "response": "dog", "verifier": "choice", "choices": ["cat", "dog"]}
    {"id": "3", "answer": "6.67", "response": "20:3", "rel_tol": 0.005, "bare": true}
    {"id": "4", "answer": "8", "response": "eight", "verifier": "my/verifier.py:score"}

Required: `id`, `answer` (or `gold`) and `response`. Optional: `verifier` (a name of VERIFIERS or
my/file.py:function; default `answer`, with a judge `answer_or_judge`), `answer_type`, `choices`,
`precision`, `unit`, `rel_tol`, `question`; `bare: true` where the response is a mathematical answer
itself and nothing has to be extracted from it. Other keys are ignored.

Rows in the format of the labelled pairs have a `mode` in place of `verifier`, `answer_type` and
`bare`, and may spell the response `response_or_answer`, or `response_repeat` ([prefix, unit, n,
suffix]: prefix + n * unit + suffix) where it is huge.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sapo_vl.errors import DataError, nearest
from sapo_vl.rewards.verifiers.answer import MATHEMATICAL
from sapo_vl.schema import ANSWER_TYPES, Sample

MODES: dict[str, dict[str, Any]] = {
    "answer": {"bare": True},
    "answer_tol": {"verifier": "math", "bare": True},
    "response": {},
    "mcq": {"verifier": "choice"},
    "mcq_multi": {"verifier": "choice"},
    "text": {"answer_type": "text"},
    "text_judge": {"bare": True},
    "judge": {},
    "judge_reply": {"verifier": "math"},
    "count": {"verifier": "count"},
    "bbox": {"verifier": "boxes"},
    "point": {"verifier": "point"},
}
"""`mode` of a row in the format of the labelled pairs -> the fields that it stands for."""


@dataclass(frozen=True, slots=True)
class VerifyRow:
    """One row of the input, checked."""

    sample: Sample
    response: str
    verifier: str  # a name of VERIFIERS or path/to/file.py:function
    bare: bool  # the response is the answer itself
    location: str  # file:line, for error messages


def read_rows(path: Path, default_verifier: str) -> Iterator[VerifyRow]:
    """Read the rows of a .jsonl or .jsonl.gz file.

    Raises DataError with file and line for a malformed row.
    """
    with open_text(path, "rt") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_row(line, f"{path}:{number}", default_verifier)


def parse_row(line: str, location: str, default_verifier: str) -> VerifyRow:
    """Return one row of the input. Raises DataError that starts with `location`."""
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DataError(f"{location}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{location}: not a JSON object")
    mode = raw.get("mode")
    if mode is not None and mode not in MODES:
        raise DataError(
            f"{location}: mode {mode!r} is unknown; allowed: {', '.join(MODES)}"
            f"{nearest(str(mode), MODES)}"
        )
    options = raw if mode is None else MODES[mode]
    answer_type = options.get("answer_type", "number")
    if answer_type not in ANSWER_TYPES:
        raise DataError(
            f"{location}: answer_type {answer_type!r} is unknown; allowed: "
            f"{', '.join(ANSWER_TYPES)}{nearest(str(answer_type), ANSWER_TYPES)}"
        )
    verifier, bare = options.get("verifier", default_verifier), options.get("bare", False)
    if not isinstance(verifier, str) or not isinstance(bare, bool):
        raise DataError(f"{location}: 'verifier' must be a string and 'bare' true or false")
    is_mathematical = verifier == "math" or (
        verifier in ("answer", "answer_or_judge") and answer_type in MATHEMATICAL
    )
    if bare and not is_mathematical:
        raise DataError(
            f"{location}: 'bare' is for mathematical answers, not for verifier {verifier!r} with "
            f"answer_type {answer_type!r}"
        )
    choices = raw.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{location}: 'choices' must be a list of strings")
    sample = Sample(
        id=_string(raw, "id", location),
        dataset="pairs",
        task=mode or verifier,
        problem=str(raw.get("question", "")),
        images=(),
        answer=_string(raw, "gold" if "gold" in raw else "answer", location),
        answer_type=answer_type,
        choices=tuple(choices),
        precision=_number(raw, "precision", location, int),
        unit=raw.get("unit"),
        rel_tol=_number(raw, "rel_tol", location, float),
    )
    return VerifyRow(sample, _response(raw, location), verifier, bare, location)


def open_text(path: Path, mode: str) -> IO[str]:
    """Open a text file, compressed if its name ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8")


def _string(raw: dict[str, Any], key: str, location: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise DataError(f"{location}: {key!r} must be a string, not {value!r}")
    return value


def _response(raw: dict[str, Any], location: str) -> str:
    if (repeat := raw.get("response_repeat")) is not None:
        if not isinstance(repeat, list) or [type(part) for part in repeat] != [str, str, int, str]:
            raise DataError(f"{location}: 'response_repeat' must be [prefix, unit, n, suffix]")
        prefix, unit, count, suffix = repeat
        return prefix + unit * count + suffix
    key = "response_or_answer" if isinstance(raw.get("response_or_answer"), str) else "response"
    return _string(raw, key, location)


def _number(raw: dict[str, Any], key: str, location: str, kind: type) -> Any:
    value = raw.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise DataError(f"{location}: {key!r} must be a number of at least 0, not {value!r}")
    return kind(value)
