"""Marks of images, videos and other things, as the toolkits write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.data.readers import marks
from sapo_vl.data.readers.escapes import mend, mend_gold
from sapo_vl.errors import DataError

ONE = [
    *("<Image>", "<IMAGE>", "<image/>", "< image >", "<img>", "<picture>", "<image_placeholder>"),
    *("<|image_pad|>", "<|image|>", "<|imgpad|>", "<|media_pad|>", "<image_token>", "[IMG]"),
    *("[image]", "{image}", "<start_of_image>", "<ImageHere>", "(<image>./</image>)"),
    "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "<|vision_start|><image><|vision_end|>",
    "<|begin_of_image|><|image|><|end_of_image|>",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>",
    "<im_start><im_patch><im_end>",
]


@pytest.mark.parametrize("mark", ONE)
def test_marks_of_other_toolkits_are_the_images_place(mark):
    assert marks.place(f"See {mark} here", ["a"]) == ("See <image> here", ["a"], True)


@pytest.mark.parametrize(
    "mark",
    ["<image_1>", "<image 1>", "<image1>", "<|image_1|>", "<img_1>", "<Image-1>", "<picture 1>"],
)
def test_a_numbered_mark(mark):
    assert marks.place(f"{mark} Is {mark} red?", ["a"])[:2] == ("<image> Is image 1 red?", ["a"])


@pytest.mark.parametrize(
    ("text", "from_zero", "placed", "refs"),
    [
        ("<image_2>, <image_1>", False, "<image>, <image>", ["b", "a"]),
        ("<image_1>, <image_0>", True, "<image>, <image>", ["b", "a"]),
        ("is <image_2> red?", False, "<image>\nis <image> red?", ["a", "b"]),
        ("<image><image> is <image_2> red?", False, "<image><image> is image 2 red?", ["a", "b"]),
        ("<image>more?", False, "<image>\n<image>more?", ["a", "b"]),
    ],
)
def test_two_images(text, from_zero, placed, refs):
    assert marks.place(text, ["a", "b"], from_zero=from_zero)[:2] == (placed, refs)


@pytest.mark.parametrize("text", ["<image_3>", "<image_0>", "<image> <image_2>", "<image_1>?"])
def test_a_mark_without_an_image_or_of_two_kinds(text):
    with pytest.raises(DataError, match="mark"):
        marks.place(text, ["a", "b"] if text != "<image_1>?" else [])


@pytest.mark.parametrize(
    "text",
    [
        "<img>b.png</img> or <img>d/a.png</img>?",
        "![x](b.png) or ![](./a.png)?",
        '<img src="b.png" width="3"> or <img src=\'a.png\'/>?',
    ],
)
def test_marks_that_name_their_file(text):
    assert marks.place(text, ["d/a.png", "b.png"])[:2] == (
        "<image> or <image>?",
        ["b.png", "d/a.png"],
    )
    names = marks.place(text, []).refs
    assert [name.rpartition("/")[2] for name in names] == ["b.png", "a.png"]
    with pytest.raises(DataError, match="name other pictures"):
        marks.place(text, ["c.png", "a.png"])


@pytest.mark.parametrize(
    "mark",
    [
        *("<video>", "<VIDEO>", "<videos>", "<video_1>", "<audio>", "<|audio_1|>", "<sound>"),
        *("<|video_pad|>", "<|endoftext|>", "<|im_start|>", "<|box_start|>", "<bbox>"),
        *("<ref-object>", "<loc_0123>", "<SEG>", "<mask>", "[VIDEO]", "<VIDEO_CONTEXT>"),
        *("<IMG_CONTEXT>", "<|vision_start|>", "<audio_soft_token>"),
    ],
)
def test_other_marks_are_named(mark):
    assert marks.foreign_mark(f"What is {mark} here?") == mark


@pytest.mark.parametrize(
    "text",
    ["a < b > c", "|x| <|y|> 3", "$x<|z|$", "<b>bold</b>", "[1, 2]", "<answer>", "1<2>1", "[a]"],
)
def test_text_is_no_mark(text):
    assert marks.foreign_mark(text) is None
    assert marks.place(text, []) == (text, [], False)


@given(st.lists(st.sampled_from([*ONE, "<image_1>", "<image_0>", "<img>a</img>", "x ", "<", "["])))
def test_as_many_marks_as_images_or_a_refusal(parts):
    text = "".join(parts)
    for count in range(3):
        refs = [f"{n}.png" for n in range(count)]
        try:
            placed = marks.place(text, refs)
        except DataError:
            continue
        assert placed.text.count("<image>") >= len(placed.refs)
        assert sorted(map(str, placed.refs)) == refs or not refs


def test_long_texts_of_half_marks_take_no_time():
    started = time.perf_counter()
    for part in ("<", "<image ", "![", "<img ", "[IMG", "<|image_pad|>", "<|", "{{", "<image_"):
        text = part * 30_000
        marks.foreign_mark(text)
        try:
            marks.place(text, [])
        except DataError:
            continue
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("eaten", "mended"),
    [
        ("\frac{1}{2}", r"\frac{1}{2}"),
        ("5\times 10", r"5\times 10"),
        ("\beta + \rho", r"\beta + \rho"),
        ("\\left(1\right)", r"\left(1\right)"),
        ("x\neq 3", r"x\neq 3"),
        ("\boxed{7}", r"\boxed{7}"),
        ("\varphi, \alpha", r"\varphi, \alpha"),
        ("5\text{ cm}", r"5\text{ cm}"),
        ("name\tteam\nAnn\tred\r\nBo\tthis", "name\tteam\nAnn\tred\r\nBo\tthis"),
        ("page one\fpage two", "page one\fpage two"),
        ("line\nequal", "line\nequal"),
    ],
)
def test_eaten_backslashes(eaten, mended):
    assert mend(eaten) == mended
    assert mend(mended) == mended


def test_a_tab_in_a_gold_is_no_column():
    assert mend_gold("\tan 30") == r"\tan 30"
    assert mend_gold("x\to 3") == r"x\to 3"
    assert mend("a\tan apple") == "a\tan apple"
