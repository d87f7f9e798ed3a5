"""Read a unit from text into a product of powers of base units, and compare units.

    read(" m/s^{2}")            Unit((("m", 1), ("s", -2)), Fraction(1))
    read(" dollars per day")    Unit((("USD", 1), ("s", -1)), Fraction(1, 86400))
    read(" slices of pizza")    Unit((), Fraction(1), counted=("slice",))

Grammar: factors joined by blanks, `·`, `*`, `-`, `/` or "per"; a factor is a unit of
unit_table.py with a power (`^2`, `^{-1}`, `cm2`, "square", "cubed"), or a noun. Everything behind
the first `/` or "per" is in the denominator (`J/kg·K` is J/(kg·K)). A word that denies, compares or
joins (`not`, `than`, `or`) makes the text no unit at all. Linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache

from sapo_vl.rewards.parsing.unit_table import (
    AMBIGUOUS,
    CHINESE,
    NAMES,
    SYMBOLS,
    KnownUnit,
    Powers,
    find,
    singular,
    word_set,
)

MAX_CHARS = 120  # a longer text isn't a unit
MAX_POWER = 9
MAX_NOUNS = 5

_TEXT = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SPELLINGS = [
    (re.compile(r"\\(sec|min|bar)(?![a-z{])"), r" \1 "),  # words that clean() takes for commands
    (re.compile(r"\\Omega(?![a-z])|\\ohm(?![a-z])"), "ohm"),
    (re.compile(r"\\%|\bper[\s-]?cent\b|\bpercent(?:age)? points?\b", re.IGNORECASE), "%"),
    (re.compile(r"\\mu\s*(?=[a-zA-Z])|[µμ](?=[a-zA-Z])"), "u"),
    (re.compile(r"(?<![A-Za-z])([kmM])\s+(?=ohm)"), r"\1"),
    (re.compile(r"(?:\bdeg(?:ree)?s?\.?|°)\s+(?:of\s+)?(?=C\b|F\b)"), "°"),
    (re.compile(r"(?:\bdeg(?:ree)?s?\.?|°)\s+(?=celsius|centigrade|fahrenheit)", re.I), ""),
    (re.compile(r"(?<![A-Za-z])([NJCAVW])\s+(?=[msh](?![A-Za-z]))"), r"\1·"),
    (re.compile(r"\bnautical[\s-]miles?\b", re.IGNORECASE), "nmi"),
    (re.compile(r"\blight[\s-]years?\b", re.IGNORECASE), "ly"),
    (re.compile(r"\bfl(?:uid|\.)?\s+(?:oz\b\.?|ounces?\b)", re.IGNORECASE), "floz"),
    (re.compile(r"\bmetric tons?\b", re.IGNORECASE), "t"),
    (re.compile(r"\bU\.?S\.?\s+(?=dollar)|US(?=\$)", re.IGNORECASE), ""),
    (re.compile(r"\bpounds? sterling\b|\bbritish pounds?\b", re.IGNORECASE), "£"),
    (re.compile(r"\bin (?:total|all|length|width|height|depth|diameter|radius|area|volume|size"
                r"|weight|mass|advance|perimeter|circumference)\b", re.IGNORECASE), ""),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"(\1)/(\2)"),
]  # fmt: skip
_RUN_TOGETHER = re.compile(
    r"(?<![A-Za-z])([kcm]?m|[km]?g|[kM]?J|k?N|[kM]?W|k?V|m?mol|[mk]?C|m?A|m?L|k?Pa)"
    r"(s|h|min|kg|K|m|cm|L|mol|C|A)(?![A-Za-z])(?=(\s*\^\s*\{?\s*-)?)"
)
_PRODUCTS = word_set("Nm kNm Ns Js Pas kgm gcm Vs Cm As kNs")
_TOKEN = re.compile(
    r"(?P<word>°\s?[CF](?![a-zA-Z])|[aApP]\.\s?[mM]\.?|HK\$|[A-Za-z]+\.?|[°%$€£¥₹₩₽¢])"
    r"|(?P<foreign>[^\W\d_a-zA-Z]+)"
    r"|(?P<power>\^\s*(?:\{\s*[+-]?\s*\d\s*\}|[+-]?\d)|(?<=[A-Za-z])[23](?!\d))"
    r"|(?P<slash>/)|(?P<joint>\\(?:cdot|times)(?![a-z])|[*·]|(?<=[A-Za-z])[.-](?=[A-Za-z]))"
    r"|(?P<blank>[\s{}()'\"]+)"
)
_CLOSED_CLASS = word_set(
    """
    not no none never nor neither nothing is isn isnt are aren arent was were be been being
    do does doesn did has have had can cannot could should would will may might must and or but
    than then if when where while because since so thus hence therefore at to by from with without
    for on off into onto over under above below between before after about minus plus divided
    the this that these those it its he she they we you i who which what how why wrong incorrect
    impossible false true invalid undefined unknown negative positive equal equals
    infinity infinite base mod modulo sin cos tan log ln lim max exp gcd lcm choose squared cubed
    half halves quarter quarters third thirds hundred thousand million billion trillion dozen
    ten tens minimum maximum zero one two three four five six seven eight nine eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty
    seventy eighty ninety past clock noon midnight
    """
)
"""Words that are neither units nor nouns: a text with one of them is no unit."""
_FOREIGN_DENIALS = re.compile(
    "不|没|非|无|错|否|以上|以下|左右|多|至少|至多|或|和|与|且|大于|小于|等于|约|分之|点"
)
_CVC = re.compile(r"[^aeiou][aeiouy][^aeiou]")  # cat, pen: a noun rather than a product of names
_SHORT_NOUNS = word_set("old ago egg ant eye ear arm owl oak bee tea pie toe ice")
_SQUARE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_RAISED = {"squared": 2, "cubed": 3}


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of base units, its exact size, and the things that are counted."""

    powers: Powers = ()
    size: Fraction = Fraction(1)  # in base units
    counted: tuple[str, ...] = ()  # nouns of the numerator, in the singular
    per: tuple[str, ...] = ()  # nouns of the denominator

    @property
    def is_percent(self) -> bool:
        """Whether the unit is one hundredth and nothing else."""
        return self.powers == (("%", 1),) and not self.per

    @property
    def is_degrees(self) -> bool:
        """Whether the unit is the degree of an angle."""
        return self.powers == (("deg", 1),) and self.size == 1


class Certainty(IntEnum):
    """How sure it is that letters behind a number are a unit and not variables."""

    LETTER = 0  # one letter directly behind the digit: `5m`
    SPACED_LETTER = 1  # one letter behind a blank, or letters with a slash: `5 m`, `5m/s`
    WORD = 2  # a name, a symbol of several letters, a noun, anything in `\text{}`


@dataclass(frozen=True, slots=True)
class Reading:
    """A unit, and how sure it is that the letters are one."""

    unit: Unit
    certainty: Certainty


def factor(gold: Unit, answer: Unit) -> Fraction | None:
    """Return what an answer's value is multiplied by to be in the gold's unit; None: they differ.

    Nouns must agree as far as both name them, and of several words the last one counts: `5 balls`
    is `5 red balls`, not `5 boys`. Nouns of two scripts can't be compared, so they agree (`5人`,
    `5 people`).
    """
    if not (_same_nouns(gold.counted, answer.counted) and _same_nouns(gold.per, answer.per)):
        return None
    if bool(gold.per) != bool(answer.per):
        return None
    if gold.powers != answer.powers:
        if {(u.powers, u.size) for u in (gold, answer)} == _POUNDS:
            return Fraction(1)
        return Fraction(1) if _readings(gold.powers) & _readings(answer.powers) else None
    return answer.size / gold.size


_POUNDS = {(NAMES["pound"].powers, NAMES["pound"].size), ((("GBP", 1),), Fraction(1))}
"""`5 pounds` may be £5."""


def _same_nouns(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    if not left or not right or left[-1] == right[-1]:
        return True
    if set(left) <= set(right) or set(right) <= set(left):
        return True
    return all(w.isascii() for w in left) != all(w.isascii() for w in right)


@lru_cache(maxsize=1024)
def _readings(powers: Powers) -> frozenset[Powers]:
    """Return the powers with each reading of an ambiguous base unit."""
    readings = {powers}
    for i, (name, exponent) in enumerate(powers):
        for other in AMBIGUOUS.get(name, ()):
            readings.add(tuple(sorted((*powers[:i], (other, exponent), *powers[i + 1 :]))))
    return frozenset(readings)


@lru_cache(maxsize=8192)
def read(text: str, attached: bool = False) -> Reading | None:
    """Read a whole text as a unit; None when it isn't one.

    `attached`: the text stands directly behind a digit, without a blank.
    """
    if len(text) > MAX_CHARS or not text.strip():
        return None
    is_text = "\\text" in text or text.strip().startswith("{")
    flat = _TEXT.sub(r" \1 ", text)
    for pattern, plain in _SPELLINGS:
        flat = pattern.sub(plain, flat)
    flat = _RUN_TOGETHER.sub(_apart, flat)
    reader = _Reader(attached and not is_text, is_text)
    position = 0
    while position < len(flat):
        match = _TOKEN.match(flat, position)
        if match is None or not reader.take(str(match.lastgroup), match[0]):
            return None
        position = match.end()
    return reader.result()


def _apart(match: re.Match[str]) -> str:
    """Separate `ms^{-1}` (metres per second, not milliseconds) and `Nm` into factors."""
    is_inverse = match[3] is not None
    is_known = match[0] in SYMBOLS and match[0] not in ("ms", "kmh")
    if is_known or not (is_inverse or match[0] in _PRODUCTS):
        return match[0]
    return f"{match[1]}·{match[2]}"


class _Reader:
    """Takes tokens from left to right; `take` returns False at a token that can't be in a unit."""

    def __init__(self, attached: bool, is_text: bool) -> None:
        self.attached, self.is_text = attached, is_text
        self.powers: dict[str, int] = {}
        self.size = Fraction(1)
        self.nouns: tuple[list[str], list[str]] = ([], [])  # numerator, denominator
        self.is_below = False  # behind a slash or "per"
        self.next_power = 1  # of "square", "cubic"
        self.last: tuple[KnownUnit, int] | None = None  # the unit before, with its exponent
        self.skips = False  # behind "of": what the quantity is made of
        self.factors = self.letters = self.capitals = 0
        self.is_rate = self.is_attached_letter = self.has_joint = False

    def take(self, kind: str, token: str) -> bool:
        """Take one token; False: the text is no unit."""
        if kind == "blank":
            return True
        attached, self.attached = self.attached, False
        if kind == "slash":
            self.is_rate = True
            return self._below()
        if kind == "joint":
            self.last, self.has_joint = None, True
            return self.factors > 0
        if kind == "power":
            return self._power(int(re.sub(r"[\^{}\s]", "", token)))
        if kind == "foreign":
            return self._foreign(token)
        return self._word(token.replace(".", "").replace(" ", ""), attached)

    def result(self) -> Reading | None:
        """Return what was read, or None when a factor or its unit is missing."""
        if not self.factors or self.next_power != 1:
            return None
        powers = tuple(sorted((name, n) for name, n in self.powers.items() if n))
        unit = Unit(powers, self.size, tuple(self.nouns[0]), tuple(self.nouns[1]))
        if self.is_text or self.letters < self.factors:
            return Reading(unit, Certainty.WORD)
        if self.is_rate or (self.has_joint and self.capitals):
            return Reading(unit, Certainty.SPACED_LETTER)
        if self.factors > 1:
            return None  # `g t` is a product of variables
        weak = self.is_attached_letter
        return Reading(unit, Certainty.LETTER if weak else Certainty.SPACED_LETTER)

    def _below(self) -> bool:
        self.is_below, self.skips, self.last = True, False, None
        return True

    def _power(self, power: int) -> bool:
        """Raise the unit before. In the denominator the sign is ignored: `m/s^{-2}` is m/s²."""
        if self.skips or self.last is None or not 0 < abs(power) <= MAX_POWER:
            return False
        known, exponent = self.last
        wanted = -abs(power) if self.is_below else power
        self.is_rate = self.is_rate or power < 0
        self._multiply(known, wanted - exponent)
        self.last = None
        return True

    def _multiply(self, known: KnownUnit, exponent: int) -> None:
        for name, power in known.powers:
            self.powers[name] = self.powers.get(name, 0) + power * exponent
        self.size *= known.size**exponent

    def _word(self, token: str, attached: bool) -> bool:
        word = token.casefold()
        if word == "per":
            return self._below()
        if word in _SQUARE and self.next_power == 1 and not self.skips:
            self.next_power = _SQUARE[word]
            return True
        if word in _RAISED and self.last is not None:
            return self._power(_RAISED[word])
        if self.skips:
            return word not in _CLOSED_CLASS or word in ("the", "this", "these", "those")
        if word in ("a", "an") and self.factors:
            return self._below()  # dollars a day
        if word in ("each", "every", "times") and self.factors:
            return True
        if word == "of":
            self.skips, self.factors = True, max(self.factors, 1)
            return True
        known = find(token, attached)
        if known is None and attached and len(token) == 1:
            known, self.is_attached_letter = find(token), True
        if known is None:
            return self._noun(word, attached)
        self.letters += len(token) == 1 and token.isalpha()
        self.capitals += len(token) == 1 and token.isupper()
        return self._known(known, 1)

    def _known(self, known: KnownUnit, power: int) -> bool:
        exponent = (-1 if self.is_below else 1) * self.next_power * power
        self._multiply(known, exponent)
        self.last = (known, exponent)
        self.next_power = 1
        self.factors += 1
        return True

    def _noun(self, word: str, attached: bool) -> bool:
        is_noun = len(word) > 3 or (len(word) == 3 and self._is_short_noun(word))
        if attached or not is_noun or word in _CLOSED_CLASS or self.next_power != 1:
            return False
        nouns = self.nouns[self.is_below]
        nouns.append(singular(word))
        self.factors += 1
        self.last = None
        return len(nouns) <= MAX_NOUNS

    def _is_short_noun(self, word: str) -> bool:
        return self.is_text or word in _SHORT_NOUNS or bool(_CVC.fullmatch(word))

    def _foreign(self, token: str) -> bool:
        """A run of letters of another script: `米`, `平方厘米`, `米每秒`, `个苹果`, `км`."""
        if _FOREIGN_DENIALS.search(token) and token not in CHINESE:
            return False
        above, _, below = token.partition("每")
        if above and not self._foreign_factor(above):
            return False
        if below:
            self._below()
        return not below or self._foreign_factor(below)

    def _foreign_factor(self, token: str) -> bool:
        power = {"平方": 2, "立方": 3}.get(token[:2], 1)
        known = CHINESE.get(token[2:] if power > 1 else token)
        if known is not None:
            return self._known(known, power)
        if power > 1:
            return False
        if token.strip("个個"):
            self.nouns[self.is_below].append(token)
        self.factors += 1
        return True
