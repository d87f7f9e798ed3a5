"""Move currency signs behind their numbers, before LaTeX is normalised.

    behind_numbers("\\$5.50")          5.50\\text{ USD}
    behind_numbers("$5 million")      5 million\\text{ USD}
    behind_numbers("$5$")             $5$, as the signs delimit a formula

A `$` is money where it is escaped, or where every `$` of the text stands before a number that is
complete. Linear in the length of the text.
"""

from __future__ import annotations

import re

_NAMES = {
    "$": "USD", "US$": "USD", "USD": "USD", "HK$": "HKD", "A$": "AUD", "C$": "CAD", "NT$": "TWD",
    "£": "£", "€": "€", "¥": "¥", "RMB": "CNY", "CNY": "CNY", "₹": "₹", "Rs": "₹", "Rs.": "₹",
    "₩": "₩", "₽": "₽",
}  # fmt: skip
_NUMBER = r"(?:\d+(?:(?:,|\{,\}|,\\!)\d{2,3})*(?:\.\d+)?|\.\d+)"
_SCALE = r"(?P<scale>\s*(?:(?:hundred|thousand|[mb]illion|trillion|lakh|crore)s?|[kKMB]|bn|mn)\b)?"
_MARKED = re.compile(
    r"(?P<sign>(?:[+-]\s*)?)(?P<currency>(?:US|HK|NT|A|C)?\\\$"
    r"|\b(?:USD|RMB|CNY|Rs\.?)(?=\s?\d)|[£€¥₹₩₽])"
    rf"\s*(?P<minus>-?)\s*(?P<number>{_NUMBER}|\\frac\s*\{{\d+\}}\s*\{{\d+\}}){_SCALE}"
    r"(?!\s*\\frac)"
)
_DOLLAR = re.compile(
    rf"(?<![\w}}])(?P<sign>(?:[+-]\s?)?)(?P<currency>(?:US|HK|NT|A|C)?\$)\s?(?P<minus>-?)"
    rf"(?P<number>{_NUMBER}){_SCALE}"
    r"(?=\s*(?:$|[,;:)\]}.!?/]|\\text|\\[,;:! ]|[a-z]{2,}))"
)
_CODE = re.compile(r"\b(?:USD|RMB|CNY|Rs)\b")
_TWICE = re.compile(r"(\\text\{ USD\})\s*(?:\\text\{\s*)?(?:USD|dollars?)\b(?:\s*\})?")
_BEHIND = re.compile(r"(?<=[\d}])\s*\\\$")


def behind_numbers(text: str) -> str:
    """Return the text with a unit in `\\text{}` behind each amount of money."""
    if "$" not in text and text.isascii() and not _CODE.search(text):
        return text
    text = _BEHIND.sub(r"\\text{ USD}", _MARKED.sub(_behind, text))
    dollars = text.count("$")
    if dollars and len(_DOLLAR.findall(text)) == dollars:  # otherwise they delimit a formula
        text = _DOLLAR.sub(_behind, text)
    return _TWICE.sub(r"\1", text)  # `$5 dollars`


def _behind(match: re.Match[str]) -> str:
    name = _NAMES[match["currency"].replace("\\", "")]
    sign = "-" if "-" in match["sign"] + match["minus"] else match["sign"].strip()
    return f"{sign}{match['number']}{match['scale'] or ''}\\text{{ {name}}}"
