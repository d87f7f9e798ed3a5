"""Quantities: values and units of texts, exact sizes, numbers in words, currencies."""

from fractions import Fraction
from itertools import pairwise

import pytest
from answer_spelling import chinese, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.rewards.parsing import unit_algebra, units
from sapo_vl.rewards.parsing.currencies import behind_numbers
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.parsing.number_words import read, read_chinese, value_of
from sapo_vl.rewards.parsing.rationals import to_fraction
from sapo_vl.rewards.parsing.unit_table import CHINESE, NAMES, SYMBOLS, find


def unit(text):
    """Return dimension and size of a text that is a unit behind a blank."""
    reading = unit_algebra.read(f" {text}")
    return reading and (dict(reading.unit.powers), reading.unit.size)


@pytest.mark.parametrize(
    ("text", "powers", "size"),
    [
        ("cm", {"m": 1}, "1/100"),
        ("in", {"m": 1}, "0.0254"),
        ("ft", {"m": 1}, "0.3048"),
        ("miles", {"m": 1}, "1609.344"),
        ("acres", {"m": 2}, "4046.8564224"),
        ("gallons", {"m": 3}, "0.003785411784"),
        ("lb", {"g": 1}, "453.59237"),
        ("km/h", {"m": 1, "s": -1}, "5/18"),
        ("km h^{-1}", {"m": 1, "s": -1}, "5/18"),
        ("kilometres per hour", {"m": 1, "s": -1}, "5/18"),
        ("ms^{-1}", {"m": 1, "s": -1}, "1"),
        ("ms", {"s": 1}, "0.001"),
        (r"\text{m}/\text{s}^2", {"m": 1, "s": -2}, "1"),
        (r"\frac{\text{m}}{\text{s}^2}", {"m": 1, "s": -2}, "1"),
        ("meters per second squared", {"m": 1, "s": -2}, "1"),
        ("meters per second per second", {"m": 1, "s": -2}, "1"),
        ("kg m/s^2", {"g": 1, "m": 1, "s": -2}, "1000"),
        ("N", {"g": 1, "m": 1, "s": -2}, "1000"),
        ("Nm", {"g": 1, "m": 2, "s": -2}, "1000"),
        (r"N \cdot m", {"g": 1, "m": 2, "s": -2}, "1000"),
        ("kWh", {"g": 1, "m": 2, "s": -2}, "3600000000"),
        ("kilowatt-hours", {"g": 1, "m": 2, "s": -2}, "3600000000"),
        ("J/(kg K)", {"m": 2, "s": -2, "K": -1}, "1"),
        ("g/cm^3", {"g": 1, "m": -3}, "1000000"),
        ("mW", {"g": 1, "m": 2, "s": -3}, "1"),
        ("MW", {"g": 1, "m": 2, "s": -3}, "1000000000"),
        (r"k\Omega", {"g": 1, "m": 2, "s": -3, "A": -2}, "1000000"),
        (r"\mu m", {"m": 1}, "1/1000000"),
        ("sq. ft", {"m": 2}, "0.09290304"),
        ("cubic meters", {"m": 3}, "1"),
        ("cm2", {"m": 2}, "1/10000"),
        ("cents", {"USD": 1}, "1/100"),
        ("dollars a day", {"USD": 1, "s": -1}, "1/86400"),
        ("千米/时", {"m": 1, "s": -1}, "5/18"),
        ("平方厘米", {"m": 2}, "1/10000"),
        ("米每秒", {"m": 1, "s": -1}, "1"),
        ("degrees Celsius", {"degC": 1}, "1"),
        ("mins", {"s": 1}, "60"),
    ],
)
def test_units_are_powers_of_base_units_with_a_size(text, powers, size):
    assert unit(text) == (powers, Fraction(size))


@pytest.mark.parametrize(
    "text",
    [
        *("is not possible", "or more", "squared", "below zero", "than 6", "one", "past six"),
        *("x", "x y", "g t", "abc", "m 5", "m^", "/", "dx", "m^{10}", "square", "=", "m,"),
        *("以上", "不对", "million"),
    ],
)
def test_what_is_no_unit(text):
    assert unit(text) is None


def test_symbols_keep_their_case_and_names_do_not():
    assert find("mW") != find("MW")
    assert find("KM") == find("km") == find("Kilometers") == find("KILOMETRE")
    assert find("t") == find("tonnes")
    assert find("T") == find("tesla")
    assert find("V", attached=True) is None  # `5V` may be a product
    assert find("cm", attached=True) == find("cm")
    assert find("CM", attached=True) is None  # `5CM`: a segment


def test_every_unit_of_the_tables_is_read_by_its_own_spelling():
    for table in (SYMBOLS, NAMES, CHINESE):
        for word, known in table.items():
            reading = unit_algebra.read(f"\\text{{ {word}}}")
            assert reading is not None, word
            if word not in ("°", "am", "pm"):
                assert reading.unit.size == known.size, word


@pytest.mark.parametrize(
    ("text", "value", "name"),
    [
        ("20 m/s", "20", "m/s"),
        (r"\frac{1}{2} \text{ cm}", r"\frac{1}{2}", r"\text{ cm}"),
        (r"8*10^4 watts", "8*10^4", "watts"),
        (r"4\pi \text{ cm}^2", r"4\pi", r"\text{ cm}^2"),
        (r"(2x+1)\text{ cm}", "(2x+1)", r"\text{ cm}"),
        ("5人", "5", "人"),
        ("12 (cm)", "12", "(cm)"),
        ("5m", "5m", ""),
        ("2ab", "2ab", ""),
        ("5 is wrong", "5 is wrong", ""),
        (r"\sin 30°", r"\sin 30°", "°"),
    ],
)
def test_a_quantity_is_split_into_value_and_unit(text, value, name):
    quantity = units.split(text)
    assert (quantity.value, quantity.name) == (value, name)


@pytest.mark.parametrize(
    ("text", "value", "size"),
    [
        ("2 h 30 min", "5/2", 3600),
        ("1 hour 20 minutes", "4/3", 3600),
        ("2h30m", "5/2", 3600),
        ("1 min 30 s", "3/2", 60),
        ("5 ft 3 in", "21/4", "0.3048"),
        ("5元5角", "11/2", 1),
        ("3 dollars 5 cents", "61/20", 1),
    ],
)
def test_a_sum_of_quantities_is_one(text, value, size):
    quantity = units.split(text)
    assert Fraction(quantity.value) == Fraction(value)
    assert quantity.unit.size == Fraction(size)


def test_a_larger_part_or_another_dimension_makes_no_sum():
    for text in ("2 h 90 min", "30 min 2 h", "2 h 30 cm", "1.5 h 20 min", "5 apples 3 pears"):
        assert units.split(text).unit is None, text
    assert units.compound("5 m, 30 cm") == ""
    assert units.compound("5 feet, 3 inches")


def test_degrees_and_minutes():
    assert units.split("30°15'").value == "121/4"
    assert units.split("30°15'36''").value == str(Fraction(30) + Fraction(15 * 60 + 36, 3600))
    assert units.split("30 degrees 15 minutes").degrees or units.compound("30 degrees 15 minutes")


def test_readings_convert_the_answer_to_the_gold_unit():
    assert units.readings("1.5 km", "1500 m") == (("1.5", "(1500)*(1/1000)"),)
    assert units.readings("5 cm", "5 m^2") == ()
    assert units.readings("50%", "0.5") == (("50", "0.5"), ("(50)/100", "0.5"))
    assert units.readings("5m", "5") == (("5m", "5"),)
    assert units.readings("5m", "5 meters") == (("5", "5"),)
    assert ("5000", "(5)*1000") in units.readings("5000", "5k")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seven", 7),
        ("Twenty-one", 21),
        ("ninety nine", 99),
        ("one hundred and five", 105),
        ("twelve hundred", 1200),
        ("two hundred thousand", 200_000),
        ("one million two hundred thousand and five", 1_200_005),
        ("one thousand, two hundred and thirty-four", 1234),
        ("minus one hundred", -100),
        ("negative three quarters", "-3/4"),
        ("a dozen", 12),
        ("half a dozen", 6),
        ("half", "1/2"),
        ("two and a half", "5/2"),
        ("one hundred and three quarters", "403/4"),
        ("two twenty-fifths", "2/25"),
        ("five hundredths", "1/20"),
        ("three point one four", "3.14"),
        ("3 quarters", "3/4"),
        ("5 million", 5_000_000),
        ("2 and a half", "5/2"),
        ("二十五", 25),
        ("一千零一", 1001),
        ("三万五千", 35_000),
        ("两亿", 200_000_000),
        ("三分之二", "2/3"),
        ("负三点一四", "-3.14"),
    ],
)
def test_numbers_in_words(text, value):
    assert value_of(text) == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["two three", "cats", "a cat", "third", "one cat", "三角形", "三十十", "", "hundred", "and"],
)
def test_what_is_no_number_in_words(text):
    assert value_of(text) is None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**12 - 1))
def test_english_cardinals_are_read_back(number):
    assert value_of(spelled(number)) == number
    assert value_of(spelled(number, joint=" and ")) == number
    assert value_of(chinese(number)) == number


def test_text_behind_a_number_in_words():
    found = read("three quarters of an hour")
    assert (found.value, found.rest) == (Fraction(3, 4), " of an hour")
    assert units.in_digits("three quarters of an hour") == "3/4 hour"
    assert units.in_digits("two circles are equal") == ""
    assert units.in_digits("half past six") == ""
    assert units.in_digits("one and two") == "1 and 2"


def test_chinese_numerals_with_wrong_places():
    for text in ("十百", "二二十", "万", "千千"):
        assert read_chinese(text) is None, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\$5", r"5\text{ USD}"),
        ("$5.50", r"5.50\text{ USD}"),
        ("-$5", r"-5\text{ USD}"),
        ("$-5", r"-5\text{ USD}"),
        ("US$5", r"5\text{ USD}"),
        ("$5 million", r"5 million\text{ USD}"),
        (r"\$1,234", r"1,234\text{ USD}"),
        ("£5", r"5\text{ £}"),
        ("Rs. 500", r"500\text{ ₹}"),
        ("($3, $4)", r"(3\text{ USD}, 4\text{ USD})"),
        ("$5 dollars", r"5\text{ USD}"),
        ("$5$", "$5$"),
        ("$5$ and $6$", "$5$ and $6$"),
        ("$5x+3", "$5x+3"),
        ("$x$", "$x$"),
    ],
)
def test_currency_signs_move_behind_their_numbers(text, expected):
    assert behind_numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1(6)", "1/6"),
        ("0.(3)", "1/3"),
        (r"0.\dot{1}2\dot{3}", "41/333"),
        (r"0.333\dots", "1/3"),
        (r"0.1666\dots", "1/6"),
        (r"0.142857142857\dots", "1/7"),
        ("1'234", 1234),
        ("12,34,567", 1234567),
        (r"3.14\dots", None),
        (r"0.33\dots", None),
    ],
)
def test_decimals_and_groups(text, value):
    assert to_fraction(text) == (None if value is None else Fraction(value))


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60)
    | st.text(alphabet="0123456789 .,/^{}()[]°%$€mskgh\\text-'万米每", max_size=40)
)
def test_nothing_raises(text):
    for cleaned in (text, clean(text)):
        quantity = units.split(cleaned)
        assert len(units.readings(cleaned, "5 cm")) <= 4
        units.in_digits(cleaned)
        units.compound(cleaned)
        assert quantity.value is not None


def test_long_texts_take_no_time():
    for part in (
        "1 m ",
        "5 h 3 ",
        "m/",
        "one ",
        "$1",
        "1 000",
        "{",
        "\\text{",
        "'1",
        "零一",
        "0.1",
        "1,1",
    ):
        text = part * 4000
        units.split(text)
        units.in_digits(text)
        units.compound(text)
        behind_numbers(text)
        for length in (40, 120, 400):
            units.readings(text[:length], text[: length - 1])


def test_sizes_order_units_of_one_dimension():
    for symbols in (
        ("nm", "mm", "cm", "dm", "m", "km", "mi"),
        ("s", "min", "h", "day", "wk"),
        ("g", "oz", "lb", "kg", "t"),
    ):
        sizes = [unit(symbol)[1] for symbol in symbols]
        assert all(small < large for small, large in pairwise(sizes))
