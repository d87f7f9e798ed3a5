"""Answer extraction of MathVision's official rule (MATH-V, evaluation/).

Steps, in the rule's order: a choice at the end or the start; a number after the last "is "; without
a box the text after "the answer is" and similar phrases; of several boxes the last; then the
content of the box without LaTeX noise, units and everything before the last "=".

Oddity kept: the content of a box is matched greedily and cut at the first "}" only when no "{"
precedes it, so that `\\boxed{\\frac{1}{2}}. The answer is: \\frac{1}{2}` keeps its tail.
"""

from __future__ import annotations

import re
import unicodedata

_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_BOX = re.compile(r"oxed{(.*)}", re.DOTALL)

_NOISE = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"),
    ("\n", ""), ("\\text", ""), ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""),
    ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", ""),
    ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""),
)  # fmt: skip
"""Replaced one after the other, in this order."""

_STRIPPED = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
    ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", ""),
)  # fmt: skip
_DOTS = (("\\%", ""), (" .", " 0."), ("{.", "{0."))
_BRACKETED = tuple(f"({c})" for c in "abcde") + tuple(f"{{{c}}}" for c in "abcde")


def find_answer(response: str) -> str:
    """Return the official extraction of a response."""
    text = _choice_or_number(response.strip())
    if "oxed{" not in text:
        for flag in _FLAGS:
            for spelled in (flag, flag.replace("the", "The")):
                text = _behind(text, spelled)
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    answer = _inside(text)
    for letter in _BRACKETED:
        answer = answer.replace(letter, letter[1])
    return answer.rstrip(".").lstrip(":").strip()


def _choice_or_number(text: str) -> str:
    for c in "ABCDE":
        if text.endswith((f" {c}.", f" ({c}).")) or text.startswith(
            (f"{c}\n", f"({c})\n", f"({c}) {c}\n")
        ):
            text = c
    last = text.split("is ")[-1].rstrip(".")
    return last if _is_number(last) else text


def _behind(text: str, flag: str) -> str:
    has_flag = flag in text
    text = text.split(flag)[-1].strip()
    return text.split("\n")[0].split(". ")[0] if has_flag else text


def _inside(text: str) -> str:
    text = text.lower().replace("{}", "")
    boxes = _BOX.findall(text)
    answer: str = boxes[-1] if boxes else text
    closing, opening = answer.find("}"), answer.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        answer = answer.split("}")[0]
    answer = _replaced(answer.split("=")[-1].split("\\approx")[-1], _NOISE)
    return strip(answer)


def strip(text: str) -> str:
    """Return the string normal form of the MATH data set's rule."""
    text = _replaced(text, _STRIPPED)
    if "\\text{ " in text:
        text = text.split("\\text{ ")[0]
    text = _replaced(text, _DOTS)
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _slashed(text)


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _braced_roots(text: str) -> str:
    first, *rest = text.split("\\sqrt")
    return first + "".join(
        "\\sqrt" + (part if not part or part[0] == "{" else f"{{{part[0]}}}{part[1:]}")
        for part in rest
    )


def _braced_fractions(text: str) -> str:
    first, *rest = text.split("\\frac")
    out = first
    for part in rest:
        if part and part[0] == "{":
            out += "\\frac" + part
        elif len(part) < 2:
            return text
        else:
            bottom = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            out += f"\\frac{{{part[0]}}}{bottom}"
    return out


def _slashed(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 2:
        return text
    try:
        top, bottom = int(parts[0]), int(parts[1])
    except ValueError:
        return text
    return f"\\frac{{{top}}}{{{bottom}}}" if text == f"{top}/{bottom}" else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        try:
            unicodedata.numeric(text)
        except (TypeError, ValueError):
            return False
    return True
