"""TabMWP's official extraction and normalisation (lupantech/PromptPG, utilities).

Oddity kept: after "(A) " the text counts, not the letter, so that "(A) the bromine mixture" is not
the choice "bromine mixture".
"""

from __future__ import annotations

import random
import re
from string import ascii_uppercase

from sapo_vl.evaluation.benchmarks.protocol import ExtractedAnswer
from sapo_vl.rewards.parsing.extract import last_box

_OPTION = tuple(
    re.compile(pattern)
    for pattern in (
        r"^\(([A-Za-z])\)$",
        r"^([A-Za-z])$",
        r"^([A-Za-z]). ",
        r"[Th]he answer is ([A-Z])",
    )
)
_OPTION_TEXT = (
    re.compile(r"^\([A-Za-z]\) ([\s\S]+)$"),
    re.compile(r"[Th]he answer is \([A-Za-z]\) ([\s\S]+)$"),
)
_VALUE = tuple(
    re.compile(pattern)
    for pattern in (
        r"[Th]he answer is ([\s\S]+)$",
        r"[Th]he table shows that ([\d\$\.\,\/\:]+) ",
        r" = ([\d\$\.\,\/\:]+)",
        r"(?<= be| is) ([\-\d\$\.\,\/\:]{0,}[\d]+)",
        r"(?<= are| was) ([\-\d\$\.\,\/\:]{0,}[\d]+)",
        r"(?<= were) ([\-\d\$\.\,\/\:]{0,}[\d]+)",
        r" ([\d\$\.\,\/\:]+ [AP]\.M)",
        r"([\-\d\$\.\,\/\:]{0,}[\d]+)",
    )
)
_FRACTION = re.compile(r"\$?\\frac\{([\d\.\,\-]+)\}\{([\d\.\,]+)\}\$?")
_LAST_DOT = re.compile(r"(?<![AP]\.M)\.$")
_TIGHT_EQUALS = re.compile(r"(?<=\d)[\=](?=[\-\$\d])")
_NUMBER = re.compile(r"^[-+]?[\d,./]+$")
MAX_CHARS = 10_000  # from the end, where the answer is: the patterns are not linear


def boxed(response: str) -> str:
    """Return the inside of the last box, for models that were asked for one; else the response."""
    return last_box(response).answer or response


def find(output: str, options: list[str], draw: random.Random) -> ExtractedAnswer:
    """Return the official prediction: an option's text, or the value in words or digits."""
    output = _FRACTION.sub(r"\1/\2", output[-MAX_CHARS:])
    output = _LAST_DOT.sub("", output)
    output = _TIGHT_EQUALS.sub(" = ", output).replace("\u2212", "-")
    if options:
        return _option(output, options, draw)
    for pattern in _VALUE:
        if matches := pattern.findall(output):
            value = matches[-1].strip()
            return ExtractedAnswer(
                value[:-1] if value.endswith(".") and ".M" not in value else value
            )
    return ExtractedAnswer(output)


def _option(output: str, options: list[str], draw: random.Random) -> ExtractedAnswer:
    for pattern in _OPTION:
        matches = pattern.findall(output)
        if matches and matches[0].upper() in ascii_uppercase[:6]:
            index = ascii_uppercase.index(matches[0].upper())
            if index < len(options):
                return ExtractedAnswer(options[index])
            note = "random choice of the official rule"
            return ExtractedAnswer(options[draw.randrange(len(options))], note, is_random=True)
    for pattern in _OPTION_TEXT:
        if matches := pattern.findall(output):
            return ExtractedAnswer(matches[0])
    scores = [_shared_words(option, output) for option in options]
    return ExtractedAnswer(options[scores.index(max(scores))], "most shared words")


def _shared_words(left: str, right: str) -> float:
    if left == right:
        return 2.0
    if " " not in left and " " not in right:
        return 0.0
    a, b = left.split(" "), right.split(" ")
    return len(set(a) & set(b)) / max(len(a), len(b))


def normalise(text: str, unit: str | None) -> str:
    """Return a number with at most three decimals, or the text without its unit."""
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text))
    if not _NUMBER.match(text):
        return text.replace(unit, "").strip() if unit else text
    text = text.replace(",", "")
    try:
        if re.match(r"[-+]?\d+$", text):
            number = str(int(text[:4000]))
        elif "/" in text:
            top, bottom = text.split("/")[:2]
            number = str(round(float(top) / float(bottom), 3))
        else:
            number = str(round(float(text), 3))
    except (ValueError, ArithmeticError):
        return text
    return re.sub(r"\.[0]+$", "", number)
