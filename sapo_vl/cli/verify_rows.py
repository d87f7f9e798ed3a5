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
suffix]: prefix + n * unit + suffix) where it is huge. A row is at most MAX_LINE_BYTES long.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sapo_vl.errors import DataError, nearest
from sapo_vl.rewards.parsing.letters import LETTERS
from sapo_vl.rewards.verifiers.answer import MATHEMATICAL
from sapo_vl.schema import ANSWER_TYPES, Sample

MAX_LINE_BYTES = 1 << 24  # of one row, unpacked
MAX_BLANK_LINES = 100_000  # in a row: a few kB of gzip can hold billions
MAX_PRECISION = 30  # decimals
GZIP_MAGIC = b"\x1f\x8b"

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
    """Read the rows of a file of JSON lines, gzip-compressed or not, whatever its name.

    Raises DataError with file and line for a malformed row, also for one of more than
    MAX_LINE_BYTES and for a damaged or unreadable file.
    """
    number = 0
    blank = 0
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if is_packed else raw as lines:
                while line := lines.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise DataError(
                            f"{path}:{number}: the row is longer than {MAX_LINE_BYTES >> 20} MiB"
                        )
                    if line.strip():
                        blank = 0
                        text = _decoded(line, path, number)
                        yield parse_row(text, f"{path}:{number}", default_verifier)
                    elif (blank := blank + 1) > MAX_BLANK_LINES:
                        raise DataError(f"{path}:{number}: {MAX_BLANK_LINES} lines without a row")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number}: {error}") from error


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8: {error}") from error


def parse_row(line: str, location: str, default_verifier: str) -> VerifyRow:
    """Return one row of the input. Raises DataError that starts with `location`."""
    try:
        raw = json.loads(line)
    except RecursionError:
        raise DataError(f"{location}: the JSON is nested too deep") from None
    except ValueError as error:
        raise DataError(f"{location}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{location}: not a JSON object")
    mode = raw.get("mode")
    if mode is not None:
        _one_of(mode, "mode", MODES, location)
    options = raw if mode is None else MODES[mode]
    answer_type = options.get("answer_type", "number")
    _one_of(answer_type, "answer_type", ANSWER_TYPES, location)
    verifier, bare = options.get("verifier", default_verifier), options.get("bare", False)
    if not isinstance(verifier, str) or not isinstance(bare, bool):
        raise DataError(f"{location}: 'verifier' must be a string and 'bare' true or false")
    is_mathematical = verifier == "math" or (
        verifier in ("answer", "answer_or_judge") and answer_type in MATHEMATICAL
    )
    if bare and not is_mathematical:
        raise DataError(
            f"{location}: 'bare' is for mathematical answers, not for verifier {_shown(verifier)} "
            f"with answer_type {answer_type!r}"
        )
    sample = Sample(
        id=_string(raw, "id", location),
        dataset="pairs",
        task=mode or verifier,
        problem=_string(raw, "question", location) if raw.get("question") is not None else "",
        images=(),
        answer=_string(raw, "gold" if "gold" in raw else "answer", location),
        answer_type=answer_type,
        choices=_choices(raw, location),
        precision=_precision(raw, location),
        unit=_string(raw, "unit", location) if raw.get("unit") is not None else None,
        rel_tol=_tolerance(raw, location),
    )
    return VerifyRow(sample, _response(raw, location), verifier, bare, location)


def open_output(path: Path, name: str) -> IO[str]:
    """Open a text file to write, compressed if `name` ends in .gz.

    A lone surrogate, which UTF-8 cannot hold, is written as its escape in JSON.
    """
    if name.endswith(".gz"):
        return gzip.open(path, "wt", encoding="utf-8", errors="backslashreplace")
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def _shown(value: Any) -> str:
    """Return a foreign value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _one_of(value: Any, key: str, allowed: Collection[str], location: str) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise DataError(
            f"{location}: {key} {_shown(value)} is unknown; allowed: {', '.join(allowed)}"
            f"{nearest(str(value)[:80], allowed)}"
        )


def _string(raw: dict[str, Any], key: str, location: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise DataError(f"{location}: {key!r} must be a string, not {_shown(value)}")
    return value


def _choices(raw: dict[str, Any], location: str) -> tuple[str, ...]:
    choices = raw.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{location}: 'choices' must be a list of strings")
    if len(choices) > len(LETTERS):
        raise DataError(f"{location}: {len(choices)} choices; letters name at most {len(LETTERS)}")
    return tuple(choices)


def _response(raw: dict[str, Any], location: str) -> str:
    if (repeat := raw.get("response_repeat")) is not None:
        if not isinstance(repeat, list) or [type(part) for part in repeat] != [str, str, int, str]:
            raise DataError(f"{location}: 'response_repeat' must be [prefix, unit, n, suffix]")
        prefix, unit, count, suffix = repeat
        if not 0 <= count <= MAX_LINE_BYTES or len(unit) * count > MAX_LINE_BYTES:
            raise DataError(
                f"{location}: 'response_repeat' makes a response longer than {MAX_LINE_BYTES} "
                "characters"
            )
        return prefix + unit * count + suffix
    key = "response_or_answer" if isinstance(raw.get("response_or_answer"), str) else "response"
    return _string(raw, key, location)


def _precision(raw: dict[str, Any], location: str) -> int | None:
    value = raw.get("precision")
    if value is None or value == "":
        return None
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not is_whole or not 0 <= value <= MAX_PRECISION:
        raise DataError(
            f"{location}: 'precision' must be a whole number from 0 to {MAX_PRECISION}, "
            f"not {_shown(value)}"
        )
    return int(value)


def _tolerance(raw: dict[str, Any], location: str) -> float | None:
    value = raw.get("rel_tol")
    if value is None or value == "":
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
        raise DataError(
            f"{location}: 'rel_tol' must be a number from 0 up to 1, not {_shown(value)}"
        )
    return float(value)
