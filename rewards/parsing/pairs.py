r"""Numbers that belong together by a sign: times, ratios, ranges, scores, dates.

The sign decides, not the value: `4:30`, `10-20`, `3 to 5` and `2021-05-06` are never computed.

Conventions: `a:b` is a time where it can be one (two digits below 60 behind the colon) and isn't in
lowest terms, otherwise a ratio; a ratio equals any multiple of itself and its fraction. `a-b` and
`a to b` are compared part by part. `a to b` is a ratio beside `a:b`. am or pm may be missing on one
side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.answer_values import Pair, Tristate, all_of
from sapo_vl.rewards.parsing.brackets import split_top
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction

Comparison = Callable[[str, str], Tristate]
"""Compares two expressions, gold first."""

MAX_CHARS = 80  # of a pair; a longer text is none
_PLAIN = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PHONE = re.compile(r"\(?(\d{3})\)?[ .-](\d{3})[ .-](\d{4})")
_TO = re.compile(
    r"(?:from\s+|between\s+)?(?P<low>[+-]?.{1,30}?)\s+(?:is\s+)?(?:\\text\s*\{\s*to\s*\}|to)\s+"
    r"(?P<high>.{1,30})",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"between\s+(?P<low>.{1,30}?)\s+and\s+(?P<high>.{1,30})", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<clock>\d{1,2}(?:\s*:\s*\d{2}){0,2})\s*"
    r"(?:(?P<half>[ap])\s*\.?\s*m\.?|(?P<rest>o'?\s?clock|hours?|hrs?|h))?",
    re.IGNORECASE,
)
_HOURS = {
    "twelve": 12, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
}  # fmt: skip
_HOUR = rf"(?P<hour>\d{{1,2}}|{'|'.join(_HOURS)})"
_SPOKEN = re.compile(
    rf"(?:(?P<part>half|(?:a )?quarter|\d{{1,2}}|five|ten|twenty|twenty[- ]five)"
    rf"(?: minutes?)? (?P<side>past|after|to|before) )?{_HOUR}(?P<clock>\s*o'?\s?clock)?",
    re.IGNORECASE,
)
_MINUTES = {"half": 30, "quarter": 15, "a quarter": 15, "five": 5, "ten": 10, "twenty": 20}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_YEAR, _DAY = r"(?P<year>\d{4})", r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<year>\d{4})\s*[-/.年]\s*(?P<monthno>\d{1,2})\s*[-/.月]\s*(?P<day>\d{1,2})\s*日?",
        rf"{_MONTH}\s+{_DAY}(?:\s*,?\s+{_YEAR})?",
        rf"{_DAY}\s+(?:of\s+)?{_MONTH}(?:\s*,?\s+{_YEAR})?",
        r"(?P<monthno>\d{1,2})月(?P<day>\d{1,2})日",
    )
]
_SLASHES = re.compile(r"(\d{1,2})\s*[/.]\s*(\d{1,2})\s*[/.]\s*(\d{4})")


def parse_pair(text: str) -> Pair | None:
    """Return the pair that a cleaned text is, or None."""
    if len(text) > MAX_CHARS or not text:
        return None
    if text[0].isdigit() and any(sign in text for sign in "-/.年月") and (date := parse_date(text)):
        return date
    if ":" in text:
        return _colons(text)
    if "-" in text:
        return _hyphens(text)
    if " to " in text or "{to}" in text or "{ to }" in text:
        return parse_time(text) or _range(_TO.fullmatch(text), text)
    return parse_time(text) if text[-1] in "mMk" and text[0].isdigit() else None


def parse_date(text: str) -> Pair | None:
    """Return year, month and day ("" where it is missing) of a date, or None."""
    if len(text) > MAX_CHARS:
        return None
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            named = found.get("month")
            month = _MONTHS.index(named[:3].lower()) + 1 if named else int(found["monthno"])
            return Pair("date", (found.get("year") or "", str(month), str(int(found["day"]))))
    if match := _SLASHES.fullmatch(text):
        return Pair("date", (match[3], str(int(match[1])), str(int(match[2]))), text=text)
    return None


def parse_time(text: str) -> Pair | None:
    """Return the time of day that is written with am, pm or o'clock, or spoken, or None."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().strip(".")
    if text.casefold() in ("noon", "midnight"):
        return Pair("colon", ("12", "00"), "pm" if text.casefold() == "noon" else "am")
    match = _TIME.fullmatch(text)
    if match and (match["half"] or (match["rest"] and "clock" in match["rest"])):
        parts = [part.strip() for part in match["clock"].split(":")]
        half = f"{match['half'].lower()}m" if match["half"] else ""
        return Pair("colon", (*parts, "00") if len(parts) == 1 else tuple(parts), half)
    match = _SPOKEN.fullmatch(text)
    if match is None or not (match["part"] or match["clock"]):
        return None
    if (match["part"] or "").isdigit() and "minute" not in text and match["side"] == "to":
        return None  # `10 to 20` is a range
    hour = int(match["hour"]) if match["hour"].isdigit() else _HOURS[match["hour"].lower()]
    part = (match["part"] or "0").lower()
    minutes = int(part) if part.isdigit() else _MINUTES.get(part, 25)
    if match["side"] and match["side"].lower() in ("to", "before"):
        hour, minutes = (hour - 2) % 12 + 1, 60 - minutes
    return Pair("colon", (str(hour), f"{minutes:02d}"))


def _colons(text: str) -> Pair | None:
    if time := parse_time(text):
        return time
    match = _TIME.fullmatch(text)
    if match and match["rest"]:
        text = match["clock"]
    parts = split_top(text, ":")
    return Pair("colon", tuple(parts), text=text) if 2 <= len(parts) <= 6 and all(parts) else None


def _hyphens(text: str) -> Pair | None:
    if match := _PHONE.fullmatch(text):
        return Pair("hyphen", match.groups())
    if not (text[0].isdigit() or text[0] in "$£€¥") or text.count("-") > 4:
        return None
    if "{" in text and "\\text" not in text:
        return None  # `3{i}-2{j}`
    parts, unit = [], ""
    for part in text.split("-"):
        quantity = units.split(part.strip())
        value = quantity.value.strip("$£€¥ ")
        if not _PLAIN.fullmatch(value):
            return None
        parts.append(value)
        unit = quantity.name or unit
    return Pair("hyphen", tuple(parts), unit, text)


def _range(match: re.Match[str] | None, text: str) -> Pair | None:
    """Return `low to high` where both are numbers."""
    if match is None:
        return None
    low, high = units.split(match["low"].strip()), units.split(match["high"].strip())
    values = (low.value.strip("$£€¥ "), high.value.strip("$£€¥ "))
    if any(_number(value) is None for value in values):
        return None
    return Pair("to", values, high.name or low.name, text)


def parse_between(text: str) -> Pair | None:
    """Return the range of `between low and high`, or None."""
    return _range(_BETWEEN.fullmatch(text), text) if len(text) <= MAX_CHARS else None


@lru_cache(maxsize=1024)
def _number(text: str) -> object:
    try:
        return to_fraction(text)
    except OverLimitError:
        return None


def is_time(pair: Pair) -> bool:
    """Whether a colon pair can be a time of day or a duration."""
    hours, *rest = pair.parts
    return (
        pair.kind == "colon"
        and len(rest) <= 2
        and bool(re.fullmatch(r"\d{1,2}", hours))
        and all(re.fullmatch(r"[0-5]\d", part) for part in rest)
    )


def is_time_only(pair: Pair) -> bool:
    """Whether a time can't be a ratio, as nobody leaves a ratio unreduced or writes `05:30`."""
    if not is_time(pair):
        return False
    numbers = [int(part) for part in pair.parts]
    return bool(pair.unit) or math.gcd(*numbers) != 1 or pair.parts[0].startswith("0")


def as_fraction(pair: Pair) -> str | None:
    """Return the LaTeX fraction of a ratio of two, or None for any other pair.

    `3 to 4` is a ratio in lowest terms only: `10 to 20` is a range.
    """
    if pair.kind not in ("colon", "to") or len(pair.parts) != 2 or is_time_only(pair):
        return None
    if pair.kind == "to" and (pair.unit or not _is_reduced(pair.parts)):
        return None
    return f"\\frac{{{pair.parts[0]}}}{{{pair.parts[1]}}}"


def _is_reduced(parts: Sequence[str]) -> bool:
    return all(part.isdecimal() for part in parts) and math.gcd(*map(int, parts)) == 1


def difference(pair: Pair) -> str | None:
    """Return `7-2` as an expression; None for what can only be a range (`10-20`) or a date."""
    if pair.kind != "hyphen" or len(pair.parts) != 2:
        return None
    high, low = (_number(part) for part in pair.parts)
    is_falling = isinstance(high, Fraction) and isinstance(low, Fraction) and high >= low
    return pair.text if is_falling else None


def same_pairs(gold: Pair, answer: Pair, number: Comparison) -> Tristate:
    """Compare two pairs; `number` compares two expressions."""
    if is_time(gold) and is_time(answer):
        return _same_times(gold, answer)
    if "colon" in (gold.kind, answer.kind):
        if {gold.kind, answer.kind} <= {"colon", "to"} and not (gold.unit or answer.unit):
            return _same_ratios(gold, answer, number)
        return False
    if "date" in (gold.kind, answer.kind):
        return _same_dates(gold, answer)
    if len(gold.parts) != len(answer.parts) or not units.same_unit(gold.unit, answer.unit):
        return False
    return all_of(map(_same_parts, gold.parts, answer.parts))


def _same_parts(gold: str, answer: str) -> bool:
    if max(len(gold), len(answer)) > 2 and gold.startswith("0") != answer.startswith("0"):
        return False  # `555-0123` isn't `555-123`
    return gold == answer or (_number(gold) is not None and _number(gold) == _number(answer))


def _same_times(gold: Pair, answer: Pair) -> bool:
    clocks = []
    for pair in (gold, answer):
        parts = [int(part) for part in pair.parts]
        clocks.append(parts + [0] * (3 - len(parts)))
    written_same = clocks[0] == clocks[1]
    if gold.unit == answer.unit:
        return written_same
    in_day = [
        _hour_of_day(clock, pair.unit) for clock, pair in zip(clocks, (gold, answer), strict=True)
    ]
    if gold.unit and answer.unit:
        return in_day[0] == in_day[1]
    return written_same or in_day[0] == in_day[1]


def _hour_of_day(clock: list[int], half: str) -> list[int]:
    hour = clock[0] % 12 + (12 if half == "pm" else 0) if half else clock[0]
    return [hour, *clock[1:]]


def _same_ratios(gold: Pair, answer: Pair, number: Comparison) -> Tristate:
    """Compare proportions: every part in relation to the first."""
    if len(gold.parts) != len(answer.parts):
        return False
    if any(is_time_only(pair) for pair in (gold, answer)):
        return False
    first, other_first = gold.parts[0], answer.parts[0]
    return all_of(
        number(f"\\frac{{{first}}}{{{part}}}", f"\\frac{{{other_first}}}{{{other}}}")
        for part, other in zip(gold.parts[1:], answer.parts[1:], strict=True)
    )


def _same_dates(gold: Pair, answer: Pair) -> bool:
    if gold.kind != answer.kind:
        return False
    if gold.parts[1:] != answer.parts[1:]:
        return False
    return gold.parts[0] == answer.parts[0] or "" in (gold.parts[0], answer.parts[0])
