"""Text of the viewer: formulas, single tokens, heat, the curve, pictures."""

from __future__ import annotations

import json
import math

import pytest
from html_pages import ParsedPage
from viewer_runs import byte_tokenizer, make_group, png, reply, write_run

from sapo_vl.pages.viewer import formulas
from sapo_vl.pages.viewer.curve import curve
from sapo_vl.pages.viewer.files import RolloutFiles
from sapo_vl.pages.viewer.heat import HEATS, missing, numbers, token_data
from sapo_vl.pages.viewer.pictures import picture
from sapo_vl.pages.viewer.render import script_json
from sapo_vl.pages.viewer.token_text import TokenText


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        (r"so $\frac{1}{2}$", ["<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>"]),
        (r"\(x^2\)", ["<msup><mi>x</mi><mn>2</mn></msup>"]),
        (r"\[y_1\]", ["<msub><mi>y</mi><mn>1</mn></msub>", 'display="block"']),
        (r"\boxed{\frac{a}{b}}", ['class="boxed"', "<mfrac>"]),
        ("$$a < b$$", ['display="block"', "<mo>&lt;</mo>"]),
        ("it costs $5 and $6 more", []),
        ("$x and no end", []),
        (r"\boxed{8", []),
    ],
)  # fmt: skip
def test_formulas_are_drawn_where_they_are_marked(text, drawn):
    page = formulas.rich(text)
    for part in drawn:
        assert part in page
    assert ("<math" in page) == bool(drawn)
    ParsedPage(page)
    if not drawn:
        assert page == text


@pytest.mark.parametrize(
    "source",
    [
        r"\text{<script>alert(1)</script>}",
        r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}",
        r"\text{<img src=x onerror=alert(1)>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(http://a.b)}{x}",
        r"\class{card}{x}",
        r"\color{red;background:url(x)}y",
        r"\mathrm{</math><script>alert(1)</script>}",
        r"\operatorname{<script>}",
        r"\hspace{1em;x}y",
    ],
)
def test_a_formulas_text_and_attributes_stay_what_they_are(source):
    page = ParsedPage(formulas.rich(f"${source}$"))
    assert set(page.tags) <= formulas.ELEMENTS | {"math", "span", "code"}
    allowed = formulas.ATTRIBUTES | {"display", "class"}
    for name, value in page.attributes:
        assert name in allowed
        assert name != "class" or value in ("formula", "boxed")
        assert "javascript" not in value


def test_what_cannot_be_parsed_or_is_too_long_stays_as_written():
    for text in ("$" + "{" * 900 + "$", "$" + "x" * 2000 + "$", r"\boxed{" + "1" * 2000 + "}"):
        assert formulas.rich(text) == text
    many = formulas.rich("$x$ " * 300)
    assert many.count("<math") == formulas.MAX_FORMULAS
    assert many.count("$x$") == 300  # drawn ones keep their source for the other view


def test_thinking_and_pictures_are_set_apart_and_control_characters_seen():
    page = formulas.rich("<think>a</think>b\x1b[0m\u202ec")
    assert page == ('<span class="thought">&lt;think&gt;a&lt;/think&gt;</span>b\\x1b[0m\\u202ec')
    page = formulas.problem("<image>left<image>right")
    assert page == (
        '<span class="image-mark">picture 1</span>left'
        '<span class="image-mark">picture 2</span>right'
    )


@pytest.fixture
def tokens(tmp_path):
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.yaml").write_text(f"model:\n  path: {tmp_path}\n")
    return TokenText(tmp_path)


@pytest.mark.parametrize("text", ["abc", "a é b", "日本 x", "👍🏽!", " lead", "a\n\nb"])
def test_pieces_of_characters_are_at_their_last_token(tokens, text):
    assert tokens.available
    ids = byte_tokenizer().encode(text).ids
    pieces = tokens.pieces(ids)
    assert len(pieces) == len(ids) == len(text.encode())
    assert "".join(pieces) == text
    expected = []
    for character in text:
        expected += [""] * (len(character.encode()) - 1) + [character]
    assert pieces == expected


def test_bytes_that_are_no_character_are_shown_as_such(tokens):
    ids = byte_tokenizer().encode("é").ids
    assert "".join(tokens.pieces(ids[:1])) == "\ufffd"
    pieces = tokens.pieces([*ids[:1] * 30, *byte_tokenizer().encode("ab").ids])
    assert "".join(pieces) == "\ufffd" * 30 + "ab"
    assert tokens.pieces([256]) == ["<|im_end|>"]
    assert tokens.pieces([]) == []


def test_without_a_tokenizer_the_reason_is_given(tmp_path):
    assert TokenText(tmp_path).reason == f"there is no tokenizer.json in {tmp_path}/final, " + str(
        tmp_path / "warmup" / "final"
    )
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "tokenizer.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("model: [")
    text = TokenText(tmp_path)
    assert not text.available
    assert text.reason.startswith(f"{tmp_path}/final/tokenizer.json can't be read: ")


def test_heat_has_each_tokens_numbers(tmp_path):
    group = make_group("g", [reply("é", log_ratio=-2.0), reply("b", False)])
    files = RolloutFiles(write_run(tmp_path / "run", {1: [[group]]}))
    text = TokenText(tmp_path / "run")
    first, second = token_data(files.load(files.groups(1)[0], tokens=True), text, 3)
    assert first["text"] == ["", "é", "<|im_end|>"]
    assert first["ratio"] == [0, 0, -2]
    assert first["gate"] == [0, 0.5, 1]
    assert first["mismatch"] == [-0.25] * 3  # mu -1, pi_old -0.75
    assert first["entropy"] == [0.5] * 3
    assert (second["ratio"], second["gate"], second["mu"]) == (None, None, [-1, -1])
    assert [missing(heat, files, 1, text) for heat in HEATS] == [""] * 4
    (cut, _) = token_data(files.load(files.groups(1)[0], tokens=True), text, 2)
    assert (cut["count"], cut["ratio"], len(cut["text"])) == (3, [0, 0], 2)


def test_numbers_are_short_and_what_is_no_number_stays_visible():
    values = [0.123456, None, math.nan, -math.inf]
    assert numbers(values) == [0.1235, None, "nan", "-inf"]
    assert numbers(None) is None


def test_json_cannot_end_its_element():
    value = {"</script><!--": "&\u2028<script>"}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_the_curve_has_a_strip_by_step_with_rollouts(tmp_path):
    groups = [make_group("g", [reply("a")])]
    files = RolloutFiles(write_run(tmp_path / "run", {2: [groups], 4: [groups], 5: [groups]}))
    drawn = curve([files], list(files.steps))
    assert (drawn.first, drawn.last, drawn.note) == (1, 5, "")
    assert [line.name for line in drawn.lines] == ["accuracy", "reward"]
    points = "0.0,90.0 250.0,80.0 500.0,70.0 750.0,60.0 1000.0,50.0"
    assert drawn.lines[0].points == points
    assert [mark.step for mark in drawn.marks] == [2, 4, 5]
    assert [mark.left for mark in drawn.marks] == [0.0, 500.0, 875.0]
    assert [mark.width for mark in drawn.marks] == [500.0, 375.0, 125.0]
    assert drawn.ticks == ("1", "0.5", "0")
    assert drawn.marks[0].title == "step 2, accuracy 0.200, reward 0.250"


def test_a_curve_without_metrics_still_has_its_steps(tmp_path):
    files = RolloutFiles(write_run(tmp_path / "run", {3: [[make_group("g", [reply("a")])]]}))
    (tmp_path / "run" / "metrics.jsonl").write_text("[1]\n[2]\n")
    drawn = curve([files], [3])
    assert drawn.lines == ()
    assert "metrics.jsonl, line 1 is not a JSON object" in drawn.note
    assert [(m.step, m.left, m.width) for m in drawn.marks] == [(3, 0, 1000)]


def test_pictures_are_decoded_here_and_others_give_a_reason():
    shown = picture(png(size=(3000, 600)), 448)
    assert (shown.width, shown.height, shown.fault) == (3000, 600, "")
    assert shown.data.startswith(b"\x89PNG")
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'></svg>"
    for data in (svg, b"", b"GIF89a<script>", png()[:40]):
        shown = picture(data, 448)
        assert shown.data == b""
        assert shown.fault
    assert "SVG" in picture(svg, 448).fault
