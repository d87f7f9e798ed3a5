"""Notations of plain text that have to be rewritten before LaTeX is normalised.

Currency signs move behind their number (`\\$5.50`, `US$5`, `€5` become `5.50\\text{ USD}` and so
on), as `$` also delimits formulas. `6.02 x 10^23` gets a times sign. Circled numerals are items of
a list (`①③` is 1, 3). Linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata

_NAMES = {
    "$": "USD", "US$": "USD", "USD": "USD", "HK$": "HKD", "A$": "AUD", "C$": "CAD", "NT$": "TWD",
    "£": "£", "€": "€", "¥": "¥", "RMB": "CNY", "CNY": "CNY", "₹": "₹", "Rs": "₹", "Rs.": "₹",
    "₩": "₩", "₽": "₽",
}  # fmt: skip
_NUMBER = r"(?:\d+(?:(?:,|\{,\}|,\\!)\d{2,3})*(?:\.\d+)?|\.\d+)"
_SCALE = r"(?P<scale>\s*(?:(?:hundred|thousand|[mb]illion|trillion|lakh|crore)s?|[kKMB]|bn|mn)\b)?"
_MARKED = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>(?:US|HK|NT|A|C)?\\\$|\b(?:USD|RMB|CNY|Rs\.?)(?=\s?\d)|[£€¥₹₩₽])"
    rf"\s*(?P<minus>-?)\s*(?P<number>{_NUMBER}|\\frac\s*\{{\d+\}}\s*\{{\d+\}}){_SCALE}"
    r"(?!\s*\\frac)"
)
_DOLLAR = re.compile(
    rf"(?<![\w}}])(?P<sign>[+-]?)\s?(?P<currency>(?:US|HK|NT|A|C)?\$)\s?(?P<minus>-?)"
    rf"(?P<number>{_NUMBER}){_SCALE}"
    r"(?=\s*(?:$|[,;:)\]}.!?/]|\\text|[a-z]{2,}))"
)
_BEHIND = re.compile(r"(?<=[\d}])\s*\\\$")
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))|(?<=\d\s)x(?=\s10\b(?!\s*[a-zA-Z]))")
_BLANK_GROUPS = re.compile(
    r"(?<![\d.,/] )(?<![\d.,/^_])\d{1,3}(?: \d{3})+(?![\d/])(?! [\d/])(?=[^a-z]|$)"
)
_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"
_CIRCLED_RUN = re.compile(f"[{_CIRCLED}][{_CIRCLED}\\s]*[{_CIRCLED}]")


def separate_circled(text: str) -> str:
    """Return the text with commas between adjacent circled numerals: `①③` becomes `1, 3`."""
    return _CIRCLED_RUN.sub(_listed, text)


def _listed(match: re.Match[str]) -> str:
    return ", ".join(str(int(unicodedata.numeric(c))) for c in match[0] if not c.isspace())


def rewrite(text: str) -> str:
    """Return the text with currencies behind their numbers and times signs before powers of 10."""
    if " " in text:
        text = _BLANK_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)
    if "x" in text or "X" in text:
        text = _TIMES.sub(r"\\times ", text)
    if "$" in text or not text.isascii() or "Rs" in text or "USD" in text or "RMB" in text:
        text = _BEHIND.sub(r"\\text{ USD}", _MARKED.sub(_behind, text))
        dollars = text.count("$")
        if dollars and len(_DOLLAR.findall(text)) == dollars:  # otherwise they delimit a formula
            text = _DOLLAR.sub(_behind, text)
    return text


def _behind(match: re.Match[str]) -> str:
    name = _NAMES[match["currency"].replace("\\", "")]
    sign = "-" if "-" in match["sign"] + match["minus"] else match["sign"]
    return f"{sign}{match['number']}{match['scale'] or ''}\\text{{ {name}}}"
