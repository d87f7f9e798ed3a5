"""Split a quantity into value and unit, and compare units.

A unit is optional on either side; two units must agree. Nothing is converted: `100 cm` is not
`1 m`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPELLINGS = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter",
    "m": "m meter metre", "km": "km kilometer kilometre", "in": "in inch inche",
    "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "g": "g gram gramme",
    "kg": "kg kilogram kilo", "mg": "mg",
    "lb": "lb pound", "oz": "oz ounce", "t": "ton tonne", "s": "s sec second", "min": "min minute",
    "h": "h hr hour", "day": "day", "week": "week", "month": "month", "year": "year yr",
    "l": "l liter litre", "ml": "ml milliliter millilitre", "gal": "gal gallon",
    "dollar": "dollar usd",
    "cent": "cent", "yuan": "yuan", "euro": "euro", "rad": "rad radian", "deg": "deg degree",
    "unit": "unit", "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hz hertz",
    "mph": "mph", "km/h": "kmh kph", "ohm": "ohm", "%": "percent percentage",
}  # fmt: skip
_CHINESE = {
    "平方厘米": "cm^2", "立方厘米": "cm^3", "平方米": "m^2", "立方米": "m^3", "厘米": "cm",
    "毫米": "mm", "分米": "dm", "千米": "km", "公里": "km", "米": "m", "千克": "kg", "克": "g",
    "元": "yuan",
    "小时": "h", "分钟": "min", "秒": "s", "度": "", "个": "",
}  # fmt: skip
_CHINESE_UNIT = re.compile(rf"(.*[\d)}}])\s*({'|'.join(_CHINESE)})", re.S)
_KNOWN = {word: unit for unit, words in _SPELLINGS.items() for word in words.split()}

_TEXT_UNIT = re.compile(
    r"(.*?[\d})!])\s*\{?\\text\s*\{([^{}]*)\}\}?\s*(?:\^\s*\{?([23])\}?)?", re.S
)
_BARE_UNIT = re.compile(
    r"([+-]?[\d.,/\s]*\d\.?|.*(?:[})]|\\pi))(\s*)"
    r"\{?([A-Za-z][A-Za-z]*(?:[ /.-]+[A-Za-z]+)*)\.?\}?\s*"
    r"(?:\^\s*\{?([23])\}?)?"
)
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")  # the degrees are its argument's


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and its unit."""

    value: str  # cleaned text of the value alone
    unit: str = ""  # normalised ("cm^2"); empty when there is none
    percent: bool = False  # the value is followed by % or "percent"
    degrees: bool = False  # the value is followed by ° or "degrees"


def split(text: str) -> Quantity:
    """Return value and unit of a cleaned text. A lone letter is a unit only inside `\\text{}`."""
    text = text.strip()
    if text.endswith(("°", "°C", "°F")) and not _FUNCTION.search(text):
        value, _, unit = text.rpartition("°")
        return Quantity(value.strip(), f"°{unit}" if unit else "", degrees=not unit)
    if text.endswith("%"):
        return Quantity(text[:-1].strip(), percent=True)
    if not text.isascii() and (match := _CHINESE_UNIT.fullmatch(text)):
        return Quantity(match[1], _CHINESE[match[2]], degrees=match[2] == "度")
    if not text or not (text[-1].isalpha() or text[-1] in "}23."):
        return Quantity(text)
    if "\\text" in text and (match := _TEXT_UNIT.fullmatch(text)):
        return _quantity(match[1], match[2], match[3])
    match = _BARE_UNIT.fullmatch(text)
    if match and (
        _is_unit(match[3], bool(match[2])) or (match[1][-1].isdigit() and f"{{{match[3]}}}" in text)
    ):
        return _quantity(match[1], match[3], match[4])
    return Quantity(text)


def agree(gold: str, answer: str) -> bool:
    """Whether two normalised units can be the same; a missing one agrees with any unit."""
    if not gold or not answer or gold == answer:
        return True
    if gold.rstrip("^23") in _SPELLINGS or answer.rstrip("^23") in _SPELLINGS:
        return False
    return bool(set(gold.split()) & set(answer.split()))


def _is_unit(words: str, spaced: bool) -> bool:
    first = words.casefold().split()[0]
    if len(words) == 1:
        return False
    if _singular(first) in _KNOWN or first in ("square", "sq", "cubic"):
        return True
    return spaced and (len(words) >= 4 or " " in words)


def _singular(word: str) -> str:
    word = word.strip(".")
    return word[:-1] if len(word) > 2 and word.endswith("s") else word


def _quantity(value: str, words: str, power: str | None) -> Quantity:
    names = words.casefold().replace("/", " / ").replace("-", " ").split()
    if names and names[0] in ("square", "sq", "cubic"):
        power = "3" if names[0] == "cubic" else "2"
        names = names[1:]
    names = [_KNOWN.get(_singular(name), _singular(name)) for name in names]
    unit = " ".join(names).replace("mi per h", "mph").replace("mi / h", "mph")
    if unit == "%":
        return Quantity(value.strip(), percent=True)
    if unit == "deg":
        return Quantity(value.strip(), degrees=True)
    return Quantity(value.strip(), f"{unit}^{power}" if power and unit else unit)
