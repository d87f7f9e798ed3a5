"""The units that the verifiers know: symbols, names, dimensions and exact sizes.

A dimension is a product of powers of base units: metre, gram, second, ampere, kelvin, mole,
candela, degree, and whatever can't be converted into anything else (dollar, bit, month). Sizes are
exact fractions of the base units. `find` looks up one word; unit_algebra.py reads whole units.

Symbols keep their case, as `mW` is not `MW`; names don't. Sources of the sizes: the SI brochure
(2019), NIST Handbook 44 appendix C (inch, pound, gallon); tests/unit/rewards/parsing/test_units.py
holds some of them, computed by hand.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

Powers = tuple[tuple[str, int], ...]
"""Base units with their exponents, sorted; no exponent is zero."""


class KnownUnit(NamedTuple):
    """The dimension and the size of one unit."""

    powers: Powers
    size: Fraction  # in base units


_PREFIXES = {
    "p": ("pico", -12), "n": ("nano", -9), "u": ("micro", -6), "m": ("milli", -3),
    "c": ("centi", -2), "d": ("deci", -1), "h": ("hecto", 2), "k": ("kilo", 3), "M": ("mega", 6),
    "G": ("giga", 9), "T": ("tera", 12),
}  # fmt: skip

# symbols | names in the singular | dimension | size | prefixes that occur
_SI = """
m | meter metre | m | 1 | n u m c d k
g | gram gramme | g | 1 | n u m k
s | second sec | s | 1 | p n u m
A | ampere amp | A | 1 | n u m k
K | kelvin | K | 1 | m
mol | mole | mol | 1 | u m k
lm | lumen | cd | 1 |
lx | lux | cd m-2 | 1 |
N | newton | g m s-2 | 1000 | m k
J | joule | g m2 s-2 | 1000 | m k M G
W | watt | g m2 s-3 | 1000 | u m k M G T
V | volt | g m2 s-3 A-1 | 1000 | u m k M
ohm | ohm | g m2 s-3 A-2 | 1000 | m k M
Pa | pascal | g m-1 s-2 | 1000 | h k M G
Hz | hertz | s-1 | 1 | k M G T
C | coulomb | A s | 1 | n u m
F | farad | g-1 m-2 s4 A2 | 1/1000 | p n u m
H | henry | g m2 s-2 A-2 | 1000 | u m
T | tesla | g s-2 A-1 | 1000 | u m
Wb | weber | g m2 s-2 A-1 | 1000 | m
Bq | becquerel | s-1 | 1 | k M G
Sv | sievert | m2 s-2 | 1 | u m
eV | electronvolt | eV | 1 | k M G
bar | bar | g m-1 s-2 | 100000000 | m
L l | liter litre | m3 | 1/1000 | u m c d
cal | calorie | g m2 s-2 | 4184 | k
Wh | watt-hour | g m2 s-2 | 3600000 | k M G T
Ah | ampere-hour | A s | 3600 | m
B | byte | B | 1 |
bit | bit | bit | 1 |
"""
_OTHERS = """
min | minute | s | 60
h hr | hour | s | 3600
| day | s | 86400
wk | week | s | 604800
mo | month | month | 1
yr | year | month | 12
| decade | month | 120
| century | month | 1200
in | inch | m | 127/5000
ft | foot feet | m | 381/1250
yd | yard | m | 1143/1250
mi | mile | m | 201168/125
nmi | nautical-mile | m | 1852
ly | light-year lightyear | ly | 1
AU | astronomical-unit | AU | 1
| angstrom | m | 1/10000000000
| micron | m | 1/1000000
lb lbs | pound | g | 45359237/100000
oz | ounce | g | 45359237/1600000
| stone | g | 317514659/50000
t | ton tonne | g | 1000000
| quintal | g | 100000
ha | hectare | m2 | 10000
| acre | m2 | 316160658/78125
gal | gallon | m3 | 473176473/125000000000
qt | quart | m3 | 473176473/500000000000
pt | pint | m3 | 473176473/1000000000000
| cup | m3 | 473176473/2000000000000
floz | fluid-ounce | m3 | 473176473/16000000000000
tbsp | tablespoon | m3 | 473176473/32000000000000
tsp | teaspoon | m3 | 157725491/32000000000000
cc | | m3 | 1/1000000
mph | | m s-1 | 1397/3125
kmh kph kmph | | m s-1 | 5/18
kn | knot | m s-1 | 463/900
mpg | | m-2 | 201168000000000/473176473
rpm | revolution-per-minute | deg s-1 | 6
rps | | deg s-1 | 360
bpm | | beat s-1 | 1/60
atm | atmosphere | g m-1 s-2 | 101325000
mmHg | | mmHg | 1
psi | | psi | 1
VA | | g m2 s-3 | 1000
kVA | | g m2 s-3 | 1000000
dB | decibel | dB | 1
ppm | | ppm | 1
ppb | | ppb | 1
px | pixel | px | 1
fps | | fps | 1
KB kB | kilobyte | KB | 1
MB | megabyte | MB | 1
GB | gigabyte | GB | 1
TB | terabyte | TB | 1
Kb kb kbit | kilobit | kb | 1
Mb Mbit | megabit | Mb | 1
Gb Gbit | gigabit | Gb | 1
Kbps kbps | | kb s-1 | 1
Mbps | | Mb s-1 | 1
Gbps | | Gb s-1 | 1
KBps kBps | | KB s-1 | 1
MBps | | MB s-1 | 1
GBps | | GB s-1 | 1
° deg degs | degree | deg | 1
° | arcminute | deg | 1/60
° | arcsecond | deg | 1/3600
rev | revolution turn | deg | 360
rad rads | radian | rad | 1
% | percent percentage pct | % | 1
$ USD | dollar | USD | 1
¢ | cent | USD | 1/100
€ EUR | euro | EUR | 1
£ GBP | | GBP | 1
| pence | GBP | 1/100
¥ | | ¥ | 1
CNY RMB | yuan renminbi | CNY | 1
| jiao | CNY | 1/10
JPY | yen | JPY | 1
₹ INR Rs | rupee | INR | 1
₩ KRW | won | KRW | 1
₽ RUB | ruble rouble | RUB | 1
HK$ HKD | | HKD | 1
CHF | franc | CHF | 1
| peso | peso | 1
°C | celsius centigrade | degC | 1
°F | fahrenheit | degF | 1
am | a.m. | am | 1
pm | p.m. | pm | 1
| unit | unit | 1
"""
_CHINESE = """
纳米 n m|微米 u m|毫米 m m|厘米 c m|公分 c m|分米 d m|米 m|公尺 m|千米 k m|公里 k m|海里 nmi
|英寸 in|英尺 ft|英里 mi|毫克 m g|克 g|千克 k g|公斤 k g|吨 t|公顷 ha|毫升 m L|升 L|小时 h|时 h
|钟头 h|分钟 min|秒 s|秒钟 s|毫秒 m s|天 day|日 day|周 wk|星期 wk|月 mo|个月 mo|年 yr|岁 yr
|周岁 yr|元 CNY|块 CNY|块钱 CNY|圆 CNY|人民币 CNY|角 jiao|毛 jiao|美元 USD|欧元 EUR|英镑 £
|日元 JPY|円 JPY|牛 N|牛顿 N|焦 J|焦耳 J|千焦 k J|瓦 W|瓦特 W|千瓦 k W|千瓦时 k Wh|伏 V|伏特 V
|千伏 k V|安 A|安培 A|毫安 m A|欧 ohm|欧姆 ohm|帕 Pa|帕斯卡 Pa|千帕 k Pa|赫兹 Hz|摩尔 mol
|度 deg|摄氏度 °C|华氏度 °F|弧度 rad|圈 rev|转 rev|百分点 %|원 KRW|км k m|см c m|мм m m|м m
|кг k g|г g|ч h|мин min|сек s|руб ₽
"""
COUNTERS = frozenset("个個只隻件本张張位名人条條棵次倍种種组組间間辆輛块份句道题題页頁层層")
"""Measure words that may stand behind a numeral (`三个`); behind digits any word may."""

_NOT_ATTACHED = {"lx", "kn", "mo", "pt", "qt", "ha", "ly", "VA", "AU", "MN", "PA"}
AMBIGUOUS = {
    "¥": frozenset({"CNY", "JPY"}),
    "deg": frozenset({"degC", "degF"}),
}
"""A base unit that may stand for another one: `¥` for yuan and for yen, `30°` for `30°C`."""


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def _powers(text: str) -> Powers:
    pairs = []
    for part in text.split():
        name = part.rstrip("-0123456789")
        pairs.append((name, int(part[len(name) :] or "1")))
    return tuple(sorted(pairs))


def _tables() -> tuple[dict[str, KnownUnit], dict[str, KnownUnit], dict[str, KnownUnit]]:
    """Return symbols by their exact spelling, names in lower case, and Chinese units."""
    symbols: dict[str, KnownUnit] = {}
    names: dict[str, KnownUnit] = {}
    for line in _SI.strip().splitlines():
        signs, words, dimension, size, prefixes = (part.strip() for part in line.split("|"))
        base = KnownUnit(_powers(dimension), Fraction(size))
        scaled = [("", "", base)]
        for prefix in prefixes.split():
            word, exponent = _PREFIXES[prefix]
            larger = KnownUnit(base.powers, base.size * Fraction(10) ** exponent)
            scaled.append((prefix, word, larger))
        for prefix, word, unit in scaled:
            symbols.update({prefix + sign: unit for sign in signs.split()})
            names.update({word + name.replace("-", " "): unit for name in words.split()})
    for line in _OTHERS.strip().splitlines():
        signs, words, dimension, size = (part.strip() for part in line.split("|"))
        unit = KnownUnit(_powers(dimension), Fraction(size))
        symbols.update({sign: unit for sign in signs.split() if sign not in symbols})
        names.update({name.replace("-", " "): unit for name in words.split()})
    names["kilo"] = symbols["kg"]
    chinese = {}
    for entry in "".join(_CHINESE.split("\n")).split("|"):
        word, *parts = entry.split()
        sign = "".join(parts)
        chinese[word] = symbols[sign] if sign in symbols else names[sign]
    return symbols, names, chinese


SYMBOLS, NAMES, CHINESE = _tables()
_FOLDED: dict[str, KnownUnit | None] = {}
for _symbol, _unit in SYMBOLS.items():  # "KM" is km; None: two units differ by case alone
    _key = _symbol.casefold()
    _FOLDED[_key] = _unit if _FOLDED.get(_key, _unit) == _unit else None


@lru_cache(maxsize=4096)
def find(word: str, attached: bool = False) -> KnownUnit | None:
    """Return the unit of a symbol or a name, None for any other word.

    `attached`: the word stands directly behind a digit, where only a symbol in its exact case or a
    whole name is a unit (`5cm`, `5meters`; in `5AB` and `5m` the letters are variables).
    """
    if word in SYMBOLS:
        is_variable = (len(word) == 1 and word.isalpha()) or word in _NOT_ATTACHED
        return None if attached and is_variable else SYMBOLS[word]
    folded = word.casefold()
    if folded in _PLURAL_SYMBOLS:
        return SYMBOLS[folded[:-1]]
    for name in (folded, singular(folded)):
        if name in NAMES and len(name) > 2:
            return NAMES[name]
    if attached or len(word) < 2 or (word[0] in "mM" and not word.isupper() and not word.islower()):
        return None  # `Mm` may be a million times `mm`
    return _FOLDED.get(folded)


@lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """Return the singular of an English noun in lower case: `boxes` is `box`."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


_PLURAL_SYMBOLS = word_set("hrs mins yrs kgs kms cms mms gals mls wks")
_IRREGULAR = {
    "feet": "foot", "people": "person", "children": "child", "men": "man", "women": "woman",
    "teeth": "tooth", "mice": "mouse", "pennies": "penny", "centuries": "century",
    "leaves": "leaf", "gases": "gas", "gas": "gas", "buses": "bus", "houses": "house",
}  # fmt: skip
