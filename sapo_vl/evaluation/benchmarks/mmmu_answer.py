"""Answer extraction of MMMU and MMMU-Pro (MMMU-Benchmark/MMMU, eval_utils.py).

Oddities kept: where no choice is named, the rule draws one at random (seed 42, in the order of the
responses; `is_random` marks it and the report counts it); MMMU-Pro accepts "X " and "X." without a
space before the letter, so that an ordinary capital counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sapo_vl.evaluation.benchmarks.protocol import ExtractedAnswer, Response

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_SENTENCES = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""The official patterns with a lookbehind before each run of digits: same matches, linear time."""
MAX_OPEN_CHARS = 20_000


def choice(response: Response, draw: random.Random, forms: Sequence[str]) -> ExtractedAnswer:
    """Return the choice that the response names last.

    `forms` are ways to write the letter, e.g. "({})" and " {} ", tried in turn; then, in a
    response of more than five words, the texts of the choices.
    """
    text = response.text
    for sign in (",", ".", "!", "?", ";", ":", "'"):
        text = text.strip(sign)
    text = f" {text} "
    for form in forms:
        letters = [letter for letter in response.choices if form.format(letter) in text]
        if letters:
            ranked = form if "(" in form else " {} "
            return ExtractedAnswer(_last(letters, [text.rfind(ranked.format(c)) for c in letters]))
    lower = text.lower()
    if len(text.split()) > 5:
        letters = [c for c, choice in response.choices.items() if choice.lower() in lower]
        if letters:
            positions = [lower.rfind(response.choices[c].lower()) for c in letters]
            return ExtractedAnswer(_last(letters, positions), "option text")
    drawn = draw.choice(list(response.choices)) if response.choices else None
    return ExtractedAnswer(drawn, "random choice of the official rule", is_random=True)


def _last(letters: list[str], positions: list[int]) -> str:
    return letters[positions.index(max(positions))]


def open_answers(response: str) -> list[str | float]:
    """Return every prediction the rule reads from an open answer, normalised, without repeats."""
    parts = _key_parts(response[-MAX_OPEN_CHARS:])
    numbers = [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    return list(dict.fromkeys(v for text in [*parts, *numbers] for v in normalise(text)))


def _key_parts(response: str) -> list[str]:
    """Return the shortest tail behind an indicator word in each line; the last may hold "=".

    An empty tail makes the rule start anew, so a later, longer one may follow it.
    """
    response = response.strip().strip(".").lower()
    sentences = _SENTENCES.split(response)
    parts = []
    for i, sentence in enumerate(sentences):
        words = (*_INDICATORS, "=") if i == len(sentences) - 1 else _INDICATORS
        shortest = ""
        for word in words:
            tail = sentence.split(word)[-1].strip()
            if word in sentence and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            parts.append(shortest)
    return parts or [response]


def normalise(text: str) -> list[str | float]:
    """Return a number rounded to two decimals, or lower-case text; one letter gets a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_correct(expected: str | Sequence[str], predictions: Sequence[str | float]) -> bool:
    """Return whether a prediction equals an accepted number or contains an accepted text."""
    answers = [expected] if isinstance(expected, str) else expected
    accepted = [value for text in answers for value in normalise(text)]
    texts = [value for value in accepted if isinstance(value, str)]
    return any(
        any(text in prediction for text in texts)
        if isinstance(prediction, str)
        else prediction in accepted
        for prediction in predictions
    )
