"""Read numbers in words: English cardinals, fractions and mixed numbers, Chinese numerals.

    read("three quarters of an hour")   NumberInWords(Fraction(3, 4), " of an hour")
    read("5 million people")            NumberInWords(Fraction(5000000), " people")
    read("minus one hundred and five")  NumberInWords(Fraction(-105), "")
    read_chinese("三分之二")              Fraction(2, 3)

Digits count as words here, so that `5 dozen` and `2 and a half` are read by the same grammar.
Left out: ordinals (`the third` is not 3), years (`nineteen ninety`), telephone-like runs of digits.
Linear in the number of words: the grammar looks at most `MAX_WORDS` words ahead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_WORDS = 24  # a longer phrase isn't one number
MAX_CHARS = 200


def _counted(words: str, start: int, step: int = 1) -> dict[str, int]:
    return {word: start + step * i for i, word in enumerate(words.split())}


_ONES = _counted("zero one two three four five six seven eight nine", 0)
_TEENS = _counted(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 10
)
_TENS = _counted("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10)
_TENS["fourty"] = 40  # the usual misspelling
_SCALES = {
    "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_SCALES |= {f"{word}s": value for word, value in _SCALES.items()}
_HUNDRED = {"hundred": 100, "hundreds": 100}
_DOZEN = {"dozen": 12, "dozens": 12}
_ORDINALS = {
    "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14,
    "fifteenth": 15, "sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19,
    "twentieth": 20, "thirtieth": 30, "fortieth": 40, "fiftieth": 50, "sixtieth": 60,
    "seventieth": 70, "eightieth": 80, "ninetieth": 90, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6, "billionth": 10**9,
}  # fmt: skip
_PARTS = {"half": 2, "quarter": 4} | _ORDINALS  # singular: behind "one" and "a"
_MANY_PARTS = {"halves": 2} | {f"{word}s": v for word, v in _PARTS.items() if word != "half"}
_NEGATIVE, _POSITIVE = ("minus", "negative"), ("plus", "positive")
_FIRST = {
    *_ONES, *_TEENS, *_TENS, *_NEGATIVE, *_POSITIVE, "a", "an", "half",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(-(?=\s?[a-z\d])|[a-z]+|\d+(?:,\d{2,3})*(?:\.\d+)?|\S)", re.IGNORECASE)
_DIGITS = re.compile(r"\d[\d,]*(?:\.\d+)?")
_WORD_OR_NUMBER = re.compile(r"\s*([A-Za-z]+)|\s*[-+]?\d[\d,.]*\s*[- ]\s*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class NumberInWords:
    """A number at the start of a text, and the text after it."""

    value: Fraction
    rest: str


@lru_cache(maxsize=8192)
def read(text: str) -> NumberInWords | None:
    """Read the longest number at the start of `text`, if it has a word in it; else None."""
    match = _WORD_OR_NUMBER.match(text)
    if match is None or (match[1] and match[1].casefold() not in _FIRST):
        return None
    tokens = _Tokens(text)
    found = tokens.number(0)
    if found is None:
        return None
    value, end = found
    if not any(token.isalpha() for token in tokens.words[:end]):
        return None  # digits alone are not our business
    return NumberInWords(value, text[tokens.ends[end - 1] :])


def value_of(text: str) -> Fraction | None:
    """Return the value of a text that is one number in words, such as `Twenty-one`."""
    if (chinese := read_chinese(text)) is not None:
        return chinese
    found = read(text.strip())
    return found.value if found is not None and not found.rest.strip(" .") else None


_Found = tuple[Fraction, int] | None  # value, index of the next token


class _Tokens:
    """The words of a text; each method reads one kind of number that starts at a word."""

    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        self.ends: list[int] = []  # where each word ends in the text
        position = 0
        while position < min(len(text), MAX_CHARS) and len(self.words) < MAX_WORDS:
            match = _TOKEN.match(text, position)
            if match is None:
                break
            position = match.end()
            if match[1] == "-" and self.words:
                continue  # twenty-one, three-quarters
            self.words.append(match[1].casefold())
            self.ends.append(position)

    def word(self, i: int) -> str:
        return self.words[i] if i < len(self.words) else ""

    def number(self, i: int) -> _Found:
        """A sign and a mixed number, a fraction or a cardinal."""
        sign = 1
        if self.word(i) in _NEGATIVE or self.word(i) in _POSITIVE or self.word(i) == "-":
            sign = 1 if self.word(i) in _POSITIVE else -1
            i += 1
        found = self._mixed(i) or self._fraction(i) or self._half_of_scale(i) or self._decimal(i)
        return None if found is None else (sign * found[0], found[1])

    def _mixed(self, i: int) -> _Found:
        """`two and a half`, `one hundred and three quarters`."""
        for with_and in (True, False):
            whole = self._cardinal(i, with_and)
            if whole is None or self.word(whole[1]) != "and":
                continue
            part = self._fraction(whole[1] + 1)
            if part is not None and part[0] < 1:
                return whole[0] + part[0], part[1]
        return None

    def _fraction(self, i: int) -> _Found:
        """`a half`, `one third`, `three quarters`, `7 tenths`, `two twenty-fifths`."""
        if self.word(i) == "half" and self.word(i + 1) not in ("a", "an"):
            return Fraction(1, 2), i + 1
        top = (Fraction(1), i + 1) if self.word(i) in ("a", "an") else self._cardinal(i, True)
        if top is None:
            return None
        names = _PARTS if top[0] == 1 else _MANY_PARTS
        if self.word(top[1]) in names:
            return top[0] / names[self.word(top[1])], top[1] + 1
        tens = _TENS.get(self.word(top[1]))
        plural = "" if top[0] == 1 else "s"
        ones = _ORDINALS.get(self.word(top[1] + 1).removesuffix(plural))
        if tens and ones and ones < 10 and self.word(top[1] + 1).endswith(f"h{plural}"):
            return top[0] / (tens + ones), top[1] + 2
        return None

    def _half_of_scale(self, i: int) -> _Found:
        """`half a million`, `half a dozen`; else the 1/2 of `half an hour`."""
        if self.word(i) != "half":
            return None
        scale = (_SCALES | _DOZEN).get(self.word(i + 2))
        if scale is not None:
            return Fraction(scale, 2), i + 3
        return Fraction(1, 2), i + 1

    def _decimal(self, i: int) -> _Found:
        """A cardinal, with `point one four` behind it."""
        whole = self._cardinal(i, with_and=True)
        if whole is None:
            return None
        end = whole[1]
        if self.word(end) != "point":
            return whole
        digits = ""
        while self.word(end + 1 + len(digits)) in _ONES:
            digits += str(_ONES[self.word(end + 1 + len(digits))])
        if not digits:
            return whole
        return whole[0] + Fraction(int(digits), 10 ** len(digits)), end + 1 + len(digits)

    def _cardinal(self, i: int, with_and: bool) -> _Found:
        """`one hundred and five`, `five hundred thousand`, `5 million`, `a dozen`."""
        if _DIGITS.fullmatch(self.word(i)):
            return self._scaled_digits(i)
        if self.word(i) == "zero":
            return Fraction(0), i + 1
        total, last_scale, read_any = 0, 10**15, False
        while True:
            group = self._below_thousand(i, with_and, is_first=not read_any)
            if group is None:
                break
            value, i = group
            read_any = True
            scale = _SCALES.get(self.word(i))
            if scale is None or scale >= last_scale:
                total += value
                break
            while self.word(i) in _SCALES:
                last_scale = _SCALES[self.word(i)]
                value, i = value * last_scale, i + 1
            total += value
            if self.word(i) == "," and self._below_thousand(i + 1, with_and, False) is not None:
                i += 1  # one thousand, two hundred
            if self.word(i) == "and":
                if not with_and or self._below_thousand(i + 1, False, False) is None:
                    break
                i += 1
        if not read_any:
            return None
        if self.word(i) in _DOZEN:
            total, i = total * 12, i + 1
        return Fraction(total), i

    def _scaled_digits(self, i: int) -> tuple[Fraction, int]:
        """`5`, `5 million`, `2 hundred thousand`."""
        total, i = Fraction(self.word(i).replace(",", "")), i + 1
        scales = _SCALES | _HUNDRED | _DOZEN
        while self.word(i) in scales:
            total, i = total * scales[self.word(i)], i + 1
        return total, i

    def _below_thousand(self, i: int, with_and: bool, is_first: bool) -> tuple[int, int] | None:
        """A number below 10,000 without "thousand": `twelve hundred`, `ninety-nine`."""
        scales = _SCALES | _HUNDRED | _DOZEN
        if is_first and self.word(i) in ("a", "an") and self.word(i + 1) in scales:
            value, end = 1, i + 1
        else:
            tens = self._below_hundred(i)
            if tens is None:
                return None
            value, end = tens
        if self.word(end) not in _HUNDRED:
            return value, end
        value, end = value * 100, end + 1
        start = end + 1 if with_and and self.word(end) == "and" else end
        rest = self._below_hundred(start)
        return (value + rest[0], rest[1]) if rest is not None else (value, end)

    def _below_hundred(self, i: int) -> tuple[int, int] | None:
        word = self.word(i)
        if word in _TEENS:
            return _TEENS[word], i + 1
        if word in _TENS:
            ones = _ONES.get(self.word(i + 1), 0)
            return (_TENS[word] + ones, i + 2) if ones else (_TENS[word], i + 1)
        return (_ONES[word], i + 1) if _ONES.get(word) else None


_CHINESE_DIGITS = {c: v for v, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000}
_CHINESE_NUMBER = re.compile(
    r"(负)?(?:([零〇一二两三四五六七八九十百千万亿]+)分之)?"
    r"([零〇一二两三四五六七八九十百千万亿]+)(?:点([零〇一二三四五六七八九]+))?|(半)"
)


def read_chinese(text: str) -> Fraction | None:
    """Return the value of `三`, `二十五`, `三分之二`, `负一百零五` or `三点一四`; else None."""
    if text.isascii() or len(text) > 40:
        return None
    match = _CHINESE_NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    if match[5]:
        return Fraction(1, 2)
    value = _chinese_integer(match[3])
    if value is None:
        return None
    result = Fraction(value)
    if match[4]:
        digits = "".join(str(_CHINESE_DIGITS[c]) for c in match[4])
        result += Fraction(int(digits), 10 ** len(digits))
    if match[2]:
        bottom = _chinese_integer(match[2])
        if not bottom:
            return None
        result /= bottom
    return -result if match[1] else result


def _chinese_integer(text: str) -> int | None:
    """Return the value of an integer in Chinese numerals, None when it isn't well formed."""
    if all(c in _CHINESE_DIGITS for c in text):
        return int("".join(str(_CHINESE_DIGITS[c]) for c in text))
    total, section, digit, last = 0, 0, -1, 10**5
    for char in text:
        if char in _CHINESE_DIGITS:
            if digit > 0:
                return None  # two digits without a place between them
            digit = _CHINESE_DIGITS[char]
        elif char in _CHINESE_SCALES:
            if _CHINESE_SCALES[char] >= last or digit == 0:
                return None
            last = _CHINESE_SCALES[char]
            section += (digit if digit > 0 else 1) * last
            digit = -1
        else:
            section += max(digit, 0)
            if not section and not total:
                return None
            scale = 10**4 if char == "万" else 10**8
            total = (total + section) * scale if char == "亿" else total + section * scale
            section, digit, last = 0, -1, 10**5
    return total + section + max(digit, 0)
