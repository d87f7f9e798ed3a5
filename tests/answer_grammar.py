"""A grammar of answers: values with their gold text, other spellings of them, and near misses.

    case = quantity(Random(0))
    case.gold                 a gold answer: `36 \\text{ km/h}`
    case.equal(rng)           another spelling of the same value: `10 m/s`
    case.different(rng)       the gold's spelling of another value, unit, order or name: `37 km/h`

Every draw comes from the `random.Random` that is handed in, so that hypothesis can shrink it
(`st.randoms`) and a script can repeat it from a seed. answer_structures.py has the other half:
kinds with several parts, and whole responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from answer_spelling import decimal_texts, fraction_texts, integer_texts, number_text, spelled

Render = Callable[[Random], str]


@dataclass(frozen=True)
class Case:
    """One value of a kind."""

    kind: str
    gold: str
    equal: Render  # an answer that equals the gold
    different: Render  # an answer that doesn't
    choices: tuple[str, ...] = ()


def integer(rng: Random) -> Case:
    """An integer of up to nine digits."""
    value = rng.choice((1, -1)) * rng.randrange(10 ** rng.randrange(1, 10))

    def different(rng: Random) -> str:
        others = {
            value + 1,
            value - 1,
            -value,
            value * 10,
            value + 1000,
            int(str(abs(value))[::-1]),
        }
        return rng.choice(integer_texts(rng, rng.choice(sorted(others - {value}))))

    return Case("integer", str(value), lambda r: r.choice(integer_texts(r, value)), different)


def decimal(rng: Random) -> Case:
    """A decimal with up to four places."""
    places = rng.randrange(1, 5)
    value = Fraction(rng.randrange(-(10**5), 10**5), 10**places)
    value += Fraction(value.denominator == 1, 10**places)

    def different(rng: Random) -> str:
        step = Fraction(1, 10**places)
        others = {value + step, value - step, -value, value * 10, value / 10}
        return rng.choice(decimal_texts(rng, rng.choice(sorted(others - {value}))))

    gold = decimal_texts(Random(0), value)[0]
    return Case("decimal", gold, lambda r: r.choice(decimal_texts(r, value)), different)


def fraction(rng: Random) -> Case:
    """A fraction in lowest terms that isn't an integer."""
    bottom = rng.randrange(2, 30)
    value = Fraction(rng.randrange(-200, 200), bottom)
    value += Fraction(value.denominator == 1, bottom)

    def different(rng: Random) -> str:
        top, bottom = value.numerator, value.denominator
        others = {Fraction(top + 1, bottom), Fraction(top, bottom + 1), -value, value + 1}
        others |= {Fraction(bottom, top)} if top else set()
        return rng.choice(fraction_texts(rng, rng.choice(sorted(others - {value}))))

    gold = fraction_texts(Random(0), value)[0]
    return Case("fraction", gold, lambda r: r.choice(fraction_texts(r, value)), different)


# Families of units: (size in the first unit of the family, spellings).
_LENGTHS = (
    (Fraction(1), ("m", "meters", "metres", r"\text{ m}", r"\mathrm{m}", "米")),
    (Fraction(1, 100), ("cm", "centimeters", r"\text{ cm}", r"\,\mathrm{cm}", "厘米")),
    (Fraction(1000), ("km", "kilometers", "Kilometres", r"\text{ km}", "千米", "公里")),
    (Fraction(1, 1000), ("mm", "millimetres", r"\text{mm}")),
)
_AREAS = (
    (Fraction(1), ("m^2", "m²", "m2", "square meters", "sq. m", r"\text{ m}^2", "平方米")),
    (Fraction(1, 10000), ("cm^2", "cm²", "square centimeters", r"\text{ cm}^{2}", "平方厘米")),
)
_SPEEDS = (
    (
        Fraction(1),
        (
            "m/s",
            "meters per second",
            r"\text{ m/s}",
            r"\text{ m s}^{-1}",
            "m·s^{-1}",
            r"\,\mathrm{m/s}",
            "米/秒",
            "米每秒",
        ),
    ),
    (Fraction(5, 18), ("km/h", "km per hour", "kilometers per hour", r"\text{ km/h}", "千米/时")),
    (Fraction(1, 60), ("m/min", "meters per minute", r"\text{ m/min}", "米/分钟")),
)
_ACCELERATIONS = (
    (Fraction(1), ("m/s^2", "m/s²", r"\text{ m/s}^2", "m s^{-2}", "meters per second squared")),
)
_MASSES = (
    (Fraction(1), ("kg", "kilograms", r"\text{ kg}", "千克", "公斤")),
    (Fraction(1, 1000), ("g", "grams", r"\text{ g}", "克")),
    (Fraction(1000), ("t", "tonnes", r"\text{ t}", "吨")),
)
_TIMES = (
    (Fraction(1), ("h", "hours", "hrs", r"\text{ h}", "小时")),
    (Fraction(1, 60), ("min", "minutes", "mins", r"\text{ minutes}", "分钟")),
    (Fraction(1, 3600), ("s", "seconds", r"\text{ s}", "秒")),
)
_POWERS = (
    (Fraction(1), ("W", "watts", r"\text{ W}", "瓦")),
    (Fraction(1000), ("kW", "kilowatts", r"\text{ kW}", "千瓦")),
    (Fraction(10**6), ("MW", "megawatts", r"\text{ MW}")),
    (Fraction(1, 1000), ("mW", "milliwatts", r"\text{ mW}")),
)
_DENSITIES = (
    (Fraction(1), ("kg/m^3", r"\text{ kg/m}^3", "kg·m^{-3}", "kilograms per cubic meter")),
    (Fraction(1000), ("g/cm^3", r"\text{ g/cm}^3", "g/cm³", "grams per cubic centimeter")),
)
_MONEY = (
    (Fraction(1), ("dollars", "USD", r"\text{ dollars}")),
    (Fraction(1, 100), ("cents", "¢", r"\text{ cents}")),
)
_EUROS = ((Fraction(1), ("euros", "€", "EUR", r"\text{ euros}")),)
_WAGES = (
    (Fraction(1), ("dollars per hour", "dollars/hour", r"\text{ dollars per hour}")),
    (Fraction(1, 24), ("dollars per day", "dollars a day", r"\text{ dollars per day}")),
)
_COUNTS = (
    ((Fraction(1), ("apples", r"\text{ apples}", "apple")),),
    ((Fraction(1), ("people", r"\text{ people}", "persons")),),
    ((Fraction(1), ("books", r"\text{ books}")),),
)
FAMILIES = (
    _LENGTHS, _AREAS, _SPEEDS, _ACCELERATIONS, _MASSES, _TIMES, _POWERS, _DENSITIES, _MONEY,
    _EUROS, _WAGES, *_COUNTS,
)  # fmt: skip


def _with_unit(number: str, unit: str, rng: Random) -> str:
    is_tight = unit.startswith("\\") or unit[0] > "~" or (len(unit) == 2 and unit.isalpha())
    return f"{number}{unit}" if is_tight and rng.random() < 0.5 else f"{number} {unit}"


def quantity(rng: Random) -> Case:
    """A number with a unit."""
    family = rng.choice(FAMILIES)
    size, names = rng.choice(family)
    value = Fraction(rng.randrange(1, 1000), rng.choice((1, 1, 2, 10)))

    def equal(rng: Random) -> str:
        if rng.random() < 0.2:
            return number_text(rng, value)
        if value.denominator == 1 and len(names[0]) > 3 and rng.random() < 0.3:
            return f"{spelled(int(value))} {names[0]}"
        other, spellings = rng.choice(family)
        return _with_unit(number_text(rng, value * size / other), rng.choice(spellings), rng)

    def different(rng: Random) -> str:
        if rng.random() < 0.4:
            return _with_unit(number_text(rng, value + 1), rng.choice(names), rng)
        units = [unit for f in FAMILIES for unit in f if f is not family or unit[0] != size]
        return _with_unit(number_text(rng, value), rng.choice(rng.choice(units)[1]), rng)

    return Case(
        "quantity",
        _with_unit(number_text(rng, value, True), rng.choice(names), rng),
        equal,
        different,
    )


_SIGNS = {"$": ("$", r"\$", "US$"), "£": ("£",), "€": ("€",), "¥": ("¥",), "₹": ("₹", "Rs. ")}


def money(rng: Random) -> Case:
    """An amount with its currency in front."""
    sign = rng.choice(sorted(_SIGNS))
    cents = rng.randrange(1, 10**6)

    def text(sign: str, cents: int, rng: Random) -> str:
        whole, part = divmod(cents, 100)
        number = f"{whole:,}" if rng.random() < 0.5 else str(whole)
        return f"{rng.choice(_SIGNS[sign])}{number}" + (f".{part:02d}" if part else "")

    def different(rng: Random) -> str:
        if rng.random() < 0.5:
            return text(sign, cents + rng.choice((1, 100)), rng)
        return text(rng.choice(sorted(set(_SIGNS) - {sign})), cents, rng)

    def equal(rng: Random) -> str:
        if rng.random() < 0.2:
            return number_text(rng, Fraction(cents, 100))
        return text(sign, cents, rng)

    return Case(
        "money", text(sign, cents, rng).replace("$", r"\$").replace(r"\\$", r"\$"), equal, different
    )


def duration(rng: Random) -> Case:
    """Hours and minutes, or degrees and minutes of an angle."""
    whole, part = rng.randrange(1, 24), rng.randrange(1, 60)
    is_angle = rng.random() < 0.3

    def text(whole: int, part: int, rng: Random) -> str:
        if is_angle:
            forms: tuple[str, ...] = (
                f"{whole}^\\circ {part}'",
                f"{whole}°{part}′",
                f"{whole}^{{\\circ}}{part}^{{\\prime}}",
            )
        else:
            minutes = whole * 60 + part
            forms = (
                f"{whole} h {part} min", f"{whole} hours {part} minutes", f"{minutes} min",
                f"{whole} hours and {part} minutes", f"{minutes} minutes", f"{whole}小时{part}分钟",
                rf"{whole} \text{{ h }} {part} \text{{ min}}", f"{whole}h{part}min",
                rf"\frac{{{minutes}}}{{60}} \text{{ hours}}",
            )  # fmt: skip
        return rng.choice(forms)

    def different(rng: Random) -> str:
        return text(whole, part % 59 + 1, rng) if rng.random() < 0.5 else text(whole + 1, part, rng)

    return Case("duration", text(whole, part, rng), lambda r: text(whole, part, r), different)


_SCALES: dict[str, int | Fraction] = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12,
    "tenths": Fraction(1, 10), "hundredths": Fraction(1, 100), "quarters": Fraction(1, 4),
    "thirds": Fraction(1, 3), "halves": Fraction(1, 2), "万": 10**4, "亿": 10**8,
}  # fmt: skip


def scaled(rng: Random) -> Case:
    """A number with a word of scale or of parts, and perhaps a noun."""
    word = rng.choice(sorted(_SCALES))
    number, noun = rng.randrange(2, 20), rng.choice(("", "", " people", " dollars"))
    value = Fraction(number * _SCALES[word])
    noun = "" if value.denominator > 1 or word > "~" else noun

    def text(number: int, word: str, rng: Random) -> str:
        if word > "~":
            return f"{number}{word}"
        digits = spelled(number) if rng.random() < 0.4 else str(number)
        plain = f"{digits} {word}"
        return rng.choice(
            (plain, plain, rf"{digits} \text{{ {word}}}" if digits.isdigit() else plain)
        )

    def equal(rng: Random) -> str:
        plain = number_text(rng, value)
        return rng.choice((plain, f"{plain}{noun}", f"{text(number, word, rng)}{noun}"))

    def different(rng: Random) -> str:
        others = [w for w in _SCALES if _SCALES[w] != _SCALES[word]]
        wrong = (str(number), text(number + 1, word, rng), text(number, rng.choice(others), rng))
        return rng.choice(wrong)

    gold = rng.choice((number_text(rng, value, True), f"{number} {word}{noun}"))
    return Case("scaled", gold, equal, different)


def percent(rng: Random) -> Case:
    """A percentage, also as its decimal or without the sign."""
    tenths = rng.randrange(1, 2000)
    value = Fraction(tenths, 10)

    def equal(rng: Random) -> str:
        number = number_text(rng, value)
        forms = (rf"{number}\%", f"{number} %", f"{number} percent", rf"{number} \text{{ percent}}")
        return rng.choice((*forms, number, number_text(rng, value / 100), f"{number}％"))

    def different(rng: Random) -> str:
        other = value + Fraction(rng.choice((1, 10, 1000)), 10)
        return rng.choice((rf"{number_text(rng, other)}\%", rf"{number_text(rng, value / 100)}\%"))

    return Case("percent", rf"{number_text(rng, value, True)}\%", equal, different)


KINDS: dict[str, Callable[[Random], Case]] = {
    "integer": integer, "decimal": decimal, "fraction": fraction, "quantity": quantity,
    "money": money, "duration": duration, "scaled": scaled, "percent": percent,
}  # fmt: skip
"""Numbers and quantities; answer_structures.py adds the kinds with several parts."""
