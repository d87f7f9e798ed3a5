"""Spellings of one number: digits, groups, fractions, powers of ten, words, other scripts."""

from __future__ import annotations

from fractions import Fraction
from random import Random

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
PARTS = {
    2: ("half", "halves"), 3: ("third", "thirds"), 4: ("quarter", "quarters"),
    5: ("fifth", "fifths"), 6: ("sixth", "sixths"), 7: ("seventh", "sevenths"),
    8: ("eighth", "eighths"), 9: ("ninth", "ninths"), 10: ("tenth", "tenths"),
    12: ("twelfth", "twelfths"), 20: ("twentieth", "twentieths"), 100: ("hundredth", "hundredths"),
}  # fmt: skip
VULGAR = {Fraction(1, 2): "½", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔", Fraction(1, 4): "¼",
          Fraction(3, 4): "¾", Fraction(1, 5): "⅕", Fraction(1, 8): "⅛"}  # fmt: skip
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
MINUS = ("-", "−", "-", "– ", "- ")


def spelled(number: int, joint: str = " ") -> str:
    """Return a whole number below 10^12 in English; `joint` stands behind "hundred"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")
    scale, word = next(pair for pair in SCALES if number >= pair[0])
    head, rest = divmod(number, scale)
    between = joint if scale == 100 or rest < 100 else " "
    tail = f"{between}{spelled(rest, joint)}" if rest else ""
    return f"{spelled(head, joint)} {word}{tail}"


def chinese(number: int) -> str:
    """Return a whole number below 10^12 in Chinese numerals."""
    if number == 0:
        return "零"
    text, gap = "", False
    for scale, word in ((10**8, "亿"), (10**4, "万"), (1, "")):
        section, number = divmod(number, scale)
        if not section:
            gap = gap or bool(text)
            continue
        if text and (gap or section < 1000):
            text += "零"
        digits = [int(c) for c in f"{section:04d}"]
        parts = [
            "零一二三四五六七八九"[digit] + ("千百十"[i : i + 1] if digit else "")
            for i, digit in enumerate(digits)
        ]
        text += "".join(parts).strip("零").replace("零零", "零") + word
        gap = False
    return text.replace("零零", "零")


def signed(rng: Random, text: str, is_negative: bool) -> str:
    """Return the text with one of the minus signs in front."""
    return f"{rng.choice(MINUS)}{text}" if is_negative else text


def integer_texts(rng: Random, value: int) -> list[str]:
    """Return spellings of an integer."""
    size, is_negative = abs(value), value < 0
    digits = str(size)
    texts = [
        digits, f"{size:,}", f"{size}.0", f"{size}.", f"{size:,}".replace(",", "{,}"),
        f"{size:,}".replace(",", r",\!"), f"{size:,}".replace(",", r"\,"),
        f"{size:,}".replace(",", "\u2009"), digits.translate(FULL_WIDTH),
        rf"\frac{{{2 * size}}}{{2}}", rf"\text{{{size}}}",
    ]  # fmt: skip
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros and size:
        head = digits[:-zeros]
        forms = (rf"{head} \times 10^{{{zeros}}}", f"{head}e{zeros}", f"{head} x 10^{zeros}")
        texts += [*forms, rf"{head} \cdot 10^{{{zeros}}}"]
    if size >= 10**6 and size % 10**5 == 0:
        texts.append(f"{number_text(rng, Fraction(size, 10**6), True)} million")
    texts = [signed(rng, text, is_negative) for text in texts]
    words = spelled(size, rng.choice((" ", " and ")))
    prefix = rng.choice(("minus ", "negative ", "Negative ")) if is_negative else ""
    texts += [prefix + words, (prefix + words).capitalize()]
    texts.append(("负" if is_negative else "") + chinese(size))
    return texts


def _decimal(value: Fraction) -> str:
    """Return the decimal of a fraction whose denominator divides a power of ten."""
    size, places = abs(value), 0
    while (size * 10**places).denominator != 1:
        places += 1
    digits = str(int(size * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def decimal_texts(rng: Random, value: Fraction) -> list[str]:
    """Return spellings of a decimal; the first is the plain one."""
    plain = _decimal(value)
    size = abs(value)
    fraction = rf"\frac{{{size.numerator}}}{{{size.denominator}}}"
    texts = [plain, plain + ("0" if "." in plain else ".0"), fraction]
    if plain.startswith("0."):
        texts.append(plain[1:])
    if size:
        exponent = rng.randrange(1, 6)
        head = _decimal(size / 10**exponent)
        texts += [rf"{head} \times 10^{{{exponent}}}", f"{head}e{exponent}"]
        tail = _decimal(size * 10**exponent)
        texts += [rf"{tail} \times 10^{{-{exponent}}}", f"{tail} x 10^-{exponent}"]
    texts = [signed(rng, text, value < 0) for text in texts]
    texts[0] = plain if value >= 0 else f"-{plain}"
    if "." in plain and size < 10**6:
        whole, digits = plain.split(".")
        words = f"{spelled(int(whole))} point {' '.join(ONES[int(d)] for d in digits)}"
        texts.append(f"minus {words}" if value < 0 else words)
    return texts


def _recurring(value: Fraction) -> tuple[str, str] | None:
    """Return a fraction's decimal in front of its period, and a period of up to 24 digits."""
    whole, rest = divmod(value.numerator, value.denominator)
    digits, seen = "", {}
    while rest and rest not in seen and len(digits) < 24:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, value.denominator)
        digits += str(digit)
    if rest not in seen:
        return None
    start = seen[rest]
    return f"{whole}.{digits[:start]}", digits[start:]


def fraction_texts(rng: Random, value: Fraction) -> list[str]:
    """Return spellings of a fraction; the first is `\\frac`."""
    size = abs(value)
    top, bottom, factor = size.numerator, size.denominator, rng.randrange(2, 9)
    texts = [
        rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}",
        rf"\tfrac{{{factor * top}}}{{{factor * bottom}}}", rf"{top} \div {bottom}",
    ]  # fmt: skip
    if top < 10 and bottom < 10:
        texts.append(rf"\frac{top}{bottom}")
    if size.denominator > 1 and size > 1:
        whole, rest = divmod(top, bottom)
        texts += [f"{whole} {rest}/{bottom}", rf"{whole}\frac{{{rest}}}{{{bottom}}}"]
        if Fraction(rest, bottom) in VULGAR:
            texts.append(f"{whole}{VULGAR[Fraction(rest, bottom)]}")
    elif size in VULGAR:
        texts.append(VULGAR[size])
    if bottom > 1 and (recurring := _recurring(size)):
        head, period = recurring
        texts += [rf"{head}\overline{{{period}}}", f"{head}({period})"]
    texts = [signed(rng, text, value < 0) for text in texts]
    texts[0] = f"-{texts[0].lstrip('−–- ')}" if value < 0 else texts[0]
    if bottom in PARTS and top < 10**6:
        words = f"{spelled(top)} {PARTS[bottom][top != 1]}"
        texts += [f"minus {words}" if value < 0 else words]
    return texts


def number_text(rng: Random, value: Fraction, is_plain: bool = False) -> str:
    """Return digits of a positive value: a decimal where it has a short one, else a fraction."""
    bottom = value.denominator
    while bottom % 2 == 0:
        bottom //= 2
    while bottom % 5 == 0:
        bottom //= 5
    if bottom > 1 or value.denominator > 10**8:
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    text = _decimal(value)
    if is_plain or "." in text or value < 1000 or rng.random() < 0.5:
        return text
    return f"{int(value):,}"
