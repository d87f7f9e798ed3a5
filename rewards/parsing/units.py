"""Split a quantity into value and unit, and pair the values of two quantities.

    split("20 m/s")                   Quantity("20", Unit((("m", 1), ("s", -1)), ...))
    split("5 million dollars")        Quantity("5000000", Unit((("USD", 1),), ...))
    split("2 h 30 min")               Quantity("5/2", Unit((("s", 1),), Fraction(3600)))
    readings("1.5 km", "1500 m")      (("1.5", "(1500)*(1/1000)"),)
    readings("5 cm", "5 m^2")         ()

A unit that only one side has is optional. Two units must have the same dimension, and the answer's
value is converted exactly to the gold's unit. Words of scale (`million`, `dozen`), of parts
(`tenths`) and of powers (`squared`) change the value. docs/verifiers.md has all conventions.
The arithmetic of units is in unit_algebra.py, their names are in unit_table.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from sapo_vl.rewards.parsing import number_words, unit_algebra
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.rewards.parsing.unit_algebra import Certainty, Reading, Unit
from sapo_vl.rewards.parsing.unit_table import COUNTERS

MAX_CHARS = 400  # of a text that may have a unit; a longer one is an expression
MAX_ENDS = 40  # places where the value may end
MAX_QUANTITY = 120  # characters of a number with its unit
MAX_PARTS = 4  # of a quantity such as 1 h 20 min 5 s

Pair = tuple[str, str]
"""The gold's value and the answer's value, in the same unit."""

_NO_UNIT = re.compile(r"[-+\d.,/:()\[\]^*= ]*|[^\\\W\d_]")
_WORDS_ONLY = re.compile(r"\{?\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}\}?")
_VALUE_END = re.compile(
    r"[\d)}!\]%]\.?|\\(?:pi|infty)(?![a-z])|[A-Za-z](?=\s*\\text)|(?<![A-Za-z])[a-z](?=\s+[a-zA-Z]{2})"
)
_WORD_GAP = re.compile(r"[A-Za-z]\s+\d|\d\s+[A-Za-z]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")  # the degrees are its argument's
_DEGREES_MINUTES = re.compile(
    r"([+-]?)\s*(\d+(?:\.\d+)?)°\s*(\d+(?:\.\d+)?)'(?!')\s*(?:(\d+(?:\.\d+)?)(?:''|\"))?"
)
_FEET_INCHES = re.compile(r"(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:''|\")")
_PART = re.compile(r"\s*(?:and\s+|,\s*)?(\d+(?:\.\d+)?|\d+\s*/\s*\d+)(\s*[^\d]+)")
_TEXT = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ORDINAL = re.compile(
    r"(?:the\s+)?(\d+)\s*\^?\s*\{?\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)(?![A-Za-z])"
    r"\s*\}*\s*([A-Za-z ]*)",
    re.IGNORECASE,
)
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "ten": 10, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_SCALE = re.compile(
    rf"(?P<value>.*[\d)}}]|.*\\pi)\s*(?:\\text\s*\{{\s*)?(?P<word>{'|'.join(_SCALES)})s?\b\s*"
    r"(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_CHINESE_SCALES = {
    "万亿": 10**12, "亿": 10**8, "千万": 10**7, "百万": 10**6, "十万": 10**5, "万": 10**4,
    "千": 1000, "百": 100,
}  # fmt: skip
_CHINESE_SCALE = re.compile(
    rf"(.*[\d)}}])\s*({'|'.join(_CHINESE_SCALES)})(?!米|克|瓦|帕|焦|伏|分)(.*)"
)
_POWER = re.compile(
    r"(.*[\d)}])\s*(?:\\text\s*\{)?\s*(?:(squared)|(cubed)|to the (?:power of )?(?:the )?(\d{1,3})"
    r"(?:st|nd|rd|th)?(?: power)?)\s*\}?"
)
_BELOW_ZERO = re.compile(r"(\d.*?)\s*(?:\\text\s*\{)?\s*(below|above)\s+zero\s*\}?", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"(?:\\text\s*\{\s*)?(minus|negative|positive|-)(?:\s*\}\s*|\s+)(?=[-\d\\.(])|\^\{-\}\s*(?=\d)|(?:负|零下)\s*(?=\d)",
    re.IGNORECASE,
)
_MIXED = re.compile(r"([+-]?\d+) and (\d+\s*/\s*\d+)(?!\s*[-+*/^\d])(.*)")
_OUT_OF = re.compile(r"(\d+) out of (\d+)")
_LISTED = re.compile(r"(\s*,\s*|\s*,?\s+(?:and|or)\s+)(.+)", re.DOTALL)
_SHORT_SCALE = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?)(k|K|M|B|bn|mn|mil)")
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9, "mn": 10**6, "mil": 10**6}
_PLAIN = re.compile(r"[+-]?\d[\d,. ]*")
_PER = re.compile(r"每(.{1,4}?)((?:\d|\\frac).*)")
_CHINESE_NUMBER = re.compile(r"([负零〇一二两三四五六七八九十百千万亿点半分之]+)(.*)")


_PERCENT, _DEGREE = Unit((("%", 1),)), Unit((("deg", 1),))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and its unit."""

    value: str  # cleaned text of the value alone
    unit: Unit | None = None  # None: no unit, or nothing but % or °
    percent: bool = False  # the value is followed by % or "percent"
    degrees: bool = False  # the value is followed by ° or "degrees"
    certainty: Certainty = Certainty.WORD
    name: str = ""  # the unit as it is written

    @property
    def whole_unit(self) -> Unit | None:
        """The unit, or that of a percent or degree sign."""
        return _PERCENT if self.percent else _DEGREE if self.degrees else self.unit


@lru_cache(maxsize=16384)
def split(text: str) -> Quantity:
    """Return value and unit of a cleaned text; a text without a unit is its own value.

    One letter directly behind a digit is a variable (`5m`), unless `readings` finds a unit on the
    other side.
    """
    quantity = _quantity(text)
    return Quantity(text.strip()) if quantity.certainty is Certainty.LETTER else quantity


@lru_cache(maxsize=16384)
def readings(gold: str, answer: str) -> tuple[Pair, ...]:
    """Return the pairs of values of which one has to be equal; none when the units differ."""
    left, right = _quantity(gold), _quantity(answer)
    if not _is_unit(left, right):
        left = Quantity(gold.strip())
    if not _is_unit(right, left):
        right = Quantity(answer.strip())
    if not left.value or not right.value:
        return ()
    factor: Fraction | None = Fraction(1)
    gold_unit, answer_unit = left.whole_unit, right.whole_unit
    if gold_unit is not None and answer_unit is not None:
        factor = unit_algebra.factor(gold_unit, answer_unit)
        if factor is None:
            return _in_radians(left, right) if _are_angles(gold_unit, answer_unit) else ()
    if left.degrees != right.degrees and "\\pi" in left.value + right.value:
        return _in_radians(left, right)
    value = right.value if factor == 1 else f"({right.value})*({factor})"
    pairs = [(left.value, value)]
    if left.percent != right.percent:
        pairs.append(
            (f"({left.value})/100", value) if left.percent else (left.value, f"({value})/100")
        )
    pairs.extend(_short_scales(left.value, value))
    return tuple(pairs)


def same_unit(gold: str, answer: str) -> bool:
    """Whether two written units (`Quantity.name`) are the same; a missing one agrees with any."""
    left, right = (unit_algebra.read(f" {text}") for text in (gold, answer))
    if left is None or right is None:
        return not gold or not answer or gold == answer
    return unit_algebra.factor(left.unit, right.unit) == 1


def compound(text: str) -> str:
    """Return `5/2 h` for `2 hours and 30 minutes`; '' for a text that is no sum of quantities."""
    found = _compound(text)
    return f"{found[0].value}\\text{{ {found[1]}}}" if found else ""


def is_quantity(text: str) -> bool:
    """Whether a folded text is one number, in digits or in words, with a unit or without."""
    text = text.strip().rstrip(".,;。")
    if len(text) > MAX_QUANTITY or not text:
        return False
    quantity = split(in_digits(text) or compound(text) or text)
    try:
        return to_fraction(quantity.value) is not None
    except OverLimitError:
        return True


@lru_cache(maxsize=16384)
def in_digits(text: str) -> str:
    """Return a text whose number is in words with digits: `half an hour` is `1/2 hour`.

    Returns '' for a text without a number in words, or with anything but a unit behind it.
    """
    if len(text) > MAX_CHARS:
        return ""
    text = text.strip()
    if match := _NEGATIVE.match(text):
        sign = "" if (match[1] or "").casefold() == "positive" else "-"
        rest = text[match.end() :].strip()
        rest = rest.removesuffix("}") if rest.count("{") < rest.count("}") else rest
        return f"{sign}{in_digits(rest) or rest}"
    plain = text
    if "\\text" in text:
        match = _WORDS_ONLY.fullmatch(text)
        plain = match[1] if match else " ".join(_TEXT.sub(r" \1 ", text).split())
    if not plain.isascii() and (match := _CHINESE_NUMBER.fullmatch(plain.strip())):
        value = number_words.read_chinese(match[1])
        is_unit = not match[2] or match[2] in COUNTERS or match[2] in unit_algebra.CHINESE
        return f"{value}{match[2]}" if value is not None and is_unit else ""
    if match := _MIXED.fullmatch(plain):
        return f"{match[1]} {match[2]}{match[3]}"
    if match := _OUT_OF.fullmatch(plain):
        return f"{match[1]}/{match[2]}"
    found = number_words.read(plain)
    if found is None:
        return ""
    if not found.rest.strip(" ."):
        return str(found.value)
    if match := _LISTED.fullmatch(found.rest):
        others = in_digits(match[2])
        return f"{found.value}{match[1]}{others}" if others else ""
    rest = re.sub(r"^\s+(?:of\s+)?(?:an?|the)\s+", " ", found.rest)
    rest = re.sub(r"^-", " ", rest)
    if unit_algebra.read(rest) is None and not _POWER.fullmatch(f"1{rest}"):
        return ""
    return f"{found.value}{rest if rest[0] == ' ' else ' ' + rest}"


def _is_unit(quantity: Quantity, other: Quantity) -> bool:
    """Whether letters that may be variables are a unit, as far as the other side tells."""
    if quantity.unit is None or quantity.certainty is Certainty.WORD:
        return True
    if other.unit is not None:
        return other.certainty > Certainty.LETTER or quantity.certainty > Certainty.LETTER
    if quantity.certainty is Certainty.LETTER:
        return False
    return not any(c.isalpha() for c in _COMMAND.sub("", other.value))


def _are_angles(left: Unit, right: Unit) -> bool:
    """Whether one unit is the degree and the other one the radian."""
    return {left.powers, right.powers} == {_DEGREE.powers, (("rad", 1),)}


def _in_radians(left: Quantity, right: Quantity) -> tuple[Pair]:
    values = [f"({q.value})*\\pi/180" if q.degrees else q.value for q in (left, right)]
    return ((values[0], values[1]),)


def _short_scales(gold: str, answer: str) -> Iterator[Pair]:
    """Yield the pair in which `5k` is 5000, where the other side is a plain number."""
    for text, other, is_gold in ((gold, answer, True), (answer, gold, False)):
        match = _SHORT_SCALE.fullmatch(text.replace(" ", ""))
        if match and _PLAIN.fullmatch(other):
            value = f"({match[1]})*{_SHORT_SCALES[match[2].casefold()]}"
            yield (value, other) if is_gold else (other, value)


def _quantity(text: str) -> Quantity:
    """Read value and unit of a text, with units that `split` takes for variables."""
    text = text.strip()
    if _NO_UNIT.fullmatch(text) or len(text) > MAX_CHARS:
        return Quantity(text)
    if match := _WORDS_ONLY.fullmatch(text):
        text = match[1].strip()
    special = _special(text)
    if special is not None:
        return special
    for end in _value_ends(text):
        rest = text[end:]
        if rest[0] in "{^_" and not text[end - 1].isdigit():
            continue  # the second part of a fraction
        attached = not rest[:1].isspace()
        reading = unit_algebra.read(rest, attached)
        if reading is not None and _can_be_value(text[:end], rest, reading):
            return replace(_with_unit(text[:end], reading), name=rest.strip())
    return _scaled(text) or Quantity(text)


def _with_unit(value: str, reading: Reading) -> Quantity:
    """Return the quantity; a percent or degree sign alone is a flag and no unit."""
    value, unit = value.strip().rstrip("."), reading.unit
    scaled = _scaled(value)
    value = scaled.value if scaled and scaled.unit is None else value
    if unit.is_percent:
        return Quantity(value, percent=True)
    if unit.is_degrees and not unit.counted:
        is_argument = bool(_FUNCTION.search(value))
        return Quantity(f"{value}°") if is_argument else Quantity(value, degrees=True)
    if not unit.powers and not unit.counted and not unit.per:
        return Quantity(value)
    return Quantity(value, unit, certainty=reading.certainty)


def _value_ends(text: str) -> Iterator[int]:
    """Yield where the value may end, from the left; at most MAX_ENDS places."""
    for count, match in enumerate(_VALUE_END.finditer(text)):
        if count >= MAX_ENDS:
            return
        if match.end() < len(text):
            yield match.end()


def _can_be_value(value: str, unit: str, reading: Reading) -> bool:
    """Whether brackets are closed, and variables stand only before an unmistakable unit."""
    if "\\text" in value or any(value.count(a) != value.count(b) for a, b in ("{}", "()")):
        return False
    if not any(c.isalpha() for c in _COMMAND.sub("", value)) or "\\text" in unit:
        return True
    is_unit = reading.certainty is Certainty.WORD and bool(reading.unit.powers)
    return is_unit and not _WORD_GAP.search(value)


def _special(text: str) -> Quantity | None:
    """Quantities that aren't a value followed by a unit."""
    if match := _DEGREES_MINUTES.fullmatch(text):
        sign, *parts = match.groups()
        value = sum(Fraction(p) / 60**i for i, p in enumerate(parts) if p is not None)
        return Quantity(f"{sign}{value}", degrees=True)
    if match := _FEET_INCHES.fullmatch(text):
        value = Fraction(match[1]) + Fraction(match[2]) / 12
        return _quantity(f"{value} feet")
    if match := _ORDINAL.fullmatch(text):
        nouns = f" {match[2].strip(' }')}" if match[2].strip() else ""
        return _quantity(f"{match[1]}{nouns}") if nouns != " power" else None
    if match := _BELOW_ZERO.fullmatch(text):
        sign = "-" if match[2].casefold() == "below" else ""
        return _quantity(f"{sign}{match[1]}")
    if (match := _PER.fullmatch(text)) and (found := _quantity(match[2])).unit is not None:
        return _quantity(f"{match[2]}每{match[1]}") if match[1] in unit_algebra.CHINESE else found
    if not text.isascii() and (match := _CHINESE_SCALE.fullmatch(text)):
        return _quantity(f"({match[1]})*{_CHINESE_SCALES[match[2]]}{match[3]}")
    if text.endswith("\\times"):
        return Quantity(text.removesuffix("\\times").strip())  # "5 times"
    whole = _compound(text)
    return whole[0] if whole else _word_number(text)


def _word_number(text: str) -> Quantity | None:
    """Read `3 quarters of a mile` and `5 million people`, where digits and words are mixed."""
    if not text[:1].isdigit() or "\\" in text.replace("\\text", ""):
        return None
    digits = in_digits(text)
    return _quantity(digits) if digits else None


def _scaled(text: str) -> Quantity | None:
    """Return `5\\text{ million dollars}` or `2\\pi` squared with the words multiplied out."""
    if match := _SCALE.fullmatch(text):
        rest = match["rest"]
        rest = rest.removesuffix("}") if rest.count("{") < rest.count("}") else rest
        rest = re.sub(r"^of\s+", "", rest)
        value = f"({match['value'].strip()})*{_SCALES[match['word'].casefold()]}"
        return _quantity(f"{value} {rest}".strip())
    if match := _POWER.fullmatch(text):
        exponent = 2 if match[2] else 3 if match[3] else int(match[4])
        return Quantity(f"({match[1]})^{{{exponent}}}")
    return None


def _compound(text: str) -> tuple[Quantity, str] | None:
    """Read `2 h 30 min`, `5 ft 3 in`, `1 hour and 20 minutes` as one quantity in its first unit.

    Returns it with the text of that unit.
    """
    flat = _TEXT.sub(r" \1 ", text).strip()
    sign = "-" if flat.startswith("-") else ""
    flat = flat.removeprefix("-")
    if not flat[:1].isdigit() or not any(c.isdigit() for c in flat.lstrip("0123456789./ ")):
        return None
    parts: list[tuple[Fraction, Unit]] = []
    names: list[str] = []
    position = 0
    while position < len(flat):
        match = _PART.match(flat, position)
        if match is None or len(parts) == MAX_PARTS:
            return None
        name = re.sub(r"(?:,|\band)\s*$", "", match[2].rstrip())
        if parts and name.strip() == "m" and parts[-1][1].powers == (("s", 1),):
            name = "min"
        if parts and parts[0][1] == _DEGREE and name.strip().startswith(("min", "\\min", "sec")):
            name = "arcminute" if "min" in name else "arcsecond"
        reading = unit_algebra.read(name) or unit_algebra.read(f" {name}")
        if reading is None or (parts and not _is_smaller(reading.unit, match[1], parts[-1])):
            return None
        parts.append((Fraction(match[1].replace(" ", "")), reading.unit))
        names.append(name.strip())
        position = match.end()
    if len(parts) < 2:
        return None
    if re.search(r",|\band\b", flat) and _is_decimal(parts[1][1], parts[0][1]):
        return None  # `5 m, 30 cm` are two lengths
    first = parts[0][1]
    value = sum(number * unit.size / first.size for number, unit in parts)
    return Quantity(f"{sign}{value}", first), names[0]


def _is_smaller(unit: Unit, number: str, before: tuple[Fraction, Unit]) -> bool:
    """Whether a part of a sum is less than one of the unit before: 30 min behind hours."""
    whole, larger = before
    if unit.powers != larger.powers or unit.counted or larger.counted or whole.denominator != 1:
        return False
    return Fraction(number.replace(" ", "")) * unit.size < larger.size


def _is_decimal(small: Unit, large: Unit) -> bool:
    """Whether the larger unit is a power of ten of the smaller one, but not money."""
    ratio = large.size / small.size
    is_money = any(name.isupper() and len(name) == 3 for name, _ in small.powers)
    return str(ratio).strip("0") == "1" and ratio > 1 and not is_money
