"""The viewer in a real Chromium: a click through it, and content that attacks it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import chromium, open_page  # noqa: F401
from html_pages import HOSTILE
from viewer_runs import make_group, png, reply, some_groups, write_run

from sapo_vl.pages.viewer import single_file
from sapo_vl.pages.viewer.files import RolloutFiles
from sapo_vl.pages.viewer.render import Opened
from sapo_vl.pages.viewer.server import app, listen
from sapo_vl.pages.viewer.token_text import TokenText

pytestmark = pytest.mark.slow

TOKEN = "secret-of-this-test"


def opened(*folders: Path) -> Opened:
    return Opened(tuple(map(RolloutFiles, folders)), tuple(map(TokenText, folders)))


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    """Serve some runs from a thread; yield the address without the token."""
    import uvicorn

    with listen("127.0.0.1", 0) as sock:
        made = app(opened(*folders), TOKEN, host="127.0.0.1", page_size=4)
        server = uvicorn.Server(uvicorn.Config(made, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = {step: [some_groups(step, count=4), some_groups(step, 1)] for step in (1, 2, 3)}
    return write_run(tmp_path_factory.mktemp("viewer") / "run", steps)


def shown(page) -> list[str]:
    """Return the ids of the problems whose cards can be seen, in order."""
    cards = page.query_selector_all(".card")
    return [card.get_attribute("data-id") for card in cards if card.is_visible()]


def test_a_click_through_the_served_pages(open_page: Callable, run: Path):  # noqa: F811
    with served(run) as address:
        visit = open_page(f"{address}?token={TOKEN}")
        page = visit.page
        assert page.url == address  # the token is gone
        assert page.inner_text(".steps b") == "step 3"
        assert shown(page) == ["s0", "s1", "s2", "s3"]
        page.click('.curve a[data-step="1"]')
        assert page.inner_text(".steps b") == "step 1"

        page.select_option("select[name=show]", "mixed")
        page.wait_for_url("**show=mixed**")
        assert shown(page) == ["s1", "s2", "r1", "r2"]
        page.select_option("select[name=sort]", "lowest")
        page.wait_for_url("**sort=lowest**")
        assert shown(page) == ["s1", "r1", "s2", "r2"]
        page.keyboard.press("/")
        page.keyboard.type("2 plus")
        page.keyboard.press("Enter")
        page.wait_for_url("**search=2*plus**")
        assert shown(page) == ["s2", "r2"]

        assert page.query_selector(".tokens .t") is None
        page.select_option("#heat", "gate")
        page.wait_for_selector(".tokens .t")
        first = page.locator(".tokens").first
        tokens = first.locator(".t")
        assert "".join(tokens.all_text_contents()) == "<think>1 + 2</think>\\boxed{8}<|im_end|>"
        assert tokens.nth(0).get_attribute("title") == "gate weight 0"
        assert tokens.nth(29).get_attribute("title") == "gate weight 1"
        colours = [
            tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in (0, 29)
        ]
        assert colours[0] != colours[1]
        tokens.nth(28).click()
        page.keyboard.press("ArrowRight")
        readout = page.inner_text("#readout")
        for part in ("token 30 of 30", "id 256", "gate 1", "log ratio 0.2", "difference −0.25"):
            assert part in re.sub(r"\s+", " ", readout), part
        page.keyboard.press("h")
        assert page.input_value("#heat") == "ratio"
        assert "0.4" in page.inner_text("#legend")  # the largest log ratio here is 0.1 * (2 + 2)

        page.keyboard.press("n")
        page.wait_for_selector("text=step 2")
        # filter, order and search stay: every problem of step 2 holds a 2,
        assert shown(page) == ["s1", "r1", "s2", "r2"]
        page.wait_for_selector(".tokens .t")  # and so does the heat
        page.keyboard.press("j")
        page.keyboard.press("j")
        assert page.get_attribute(".card.current", "data-id") == "r1"
        page.keyboard.press("k")
        page.click(".card.current a.over")
        assert shown(page) == ["s1", "s1", "s1"]
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        page.click(".card >> nth=1 >> a.own")
        assert page.url.endswith("key=2-0-3")
        visit.check(address)


def test_a_click_through_the_single_file(open_page: Callable, run: Path, tmp_path: Path):  # noqa: F811
    file = tmp_path / "page.html"
    single_file.write(file, opened(run), None)
    visit = open_page(file.as_uri(), width=400)
    page = visit.page
    assert page.inner_text("#step-name") == "step 3"
    assert shown(page) == ["s0", "s1", "s2", "s3", "r0", "r1", "r2"]
    page.keyboard.press("p")
    page.wait_for_url("**#step-2")
    assert page.inner_text("#step-name") == "step 2"
    page.select_option("select[name=show]", "mixed")
    page.select_option("select[name=sort]", "highest")
    assert shown(page) == ["s2", "r2", "s1", "r1"]
    page.fill("input[name=search]", "1 PLUS")
    assert shown(page) == ["s1", "r1"]
    page.select_option("#heat", "entropy")
    page.wait_for_selector(".tokens .t")
    assert page.locator(".tokens .t").first.get_attribute("title") == "entropy 0.5"
    page.click(".card:visible a.over")
    assert shown(page) == ["s1", "s1", "s1"]
    page.keyboard.press("Escape")
    assert shown(page) == ["s1", "r1"]
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    visit.check(file.as_uri())


ATTACKS = (
    HOSTILE,
    "</script><script>window.attacked = 1</script>",
    "</style></title></textarea><svg onload='window.attacked = 2'>",
    "<img src=x onerror='window.attacked = 3'><iframe srcdoc='<script>parent.attacked=4</script>'>",
    "$\\text{<script>window.attacked = 5</script>}$ $\\href{javascript:window.attacked=6}{x}$",
    "javascript:window.attacked=7 data:text/html,<script>attacked=8</script>",
    "\u202egnp.exe\u202c \x1b[31mred\x1b[0m \x00 \ud83d\u200b \u2028 ]]> <!-- ",
    "'\" autofocus onfocus='window.attacked = 9' x='",
    "http://attacker.invalid/x.png <link rel=stylesheet href=//attacker.invalid/y>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.attacked = 10'/>"
    pictures = [svg, b"<script>window.attacked = 11</script>", b"GIF89a/*", png()]
    clean = [text.encode(errors="replace").decode() for text in ATTACKS]
    groups = [
        make_group(
            text, [reply(text, reason=text, finish=text, log_ratio=1.0), reply(text * 500, False)],
            problem=f"<image>{text}", answer=text, task=text, images=pictures,
        )
        for text in clean
    ]  # fmt: skip
    folder = write_run(tmp_path_factory.mktemp("hostile") / "run<b onclick=x>", {1: [groups]})
    (folder / "rollouts" / "<img src=x onerror='attacked=12'>.parquet").write_bytes(b"<script>")
    return folder


LOOK = """() => {
  const all = [...document.querySelectorAll("*")];
  return {
    attacked: window.attacked ?? null,
    framed: document.querySelectorAll("iframe, object, embed").length,
    scripts: document.querySelectorAll("script").length,
    own: document.querySelectorAll("body > script, .side > script.token-data").length,
    handlers: all.flatMap((e) => e.getAttributeNames()).filter((name) => name.startsWith("on")),
    links: all.map((e) => e.href?.baseVal ?? e.href ?? e.src).filter(Boolean),
  };
}"""


def check_attacked(visit, *origins: str) -> None:
    """Assert that no script but ours ran, and that nothing of the content became an element."""
    found = visit.page.evaluate(LOOK)
    assert (found["attacked"], found["framed"], found["handlers"]) == (None, 0, [])
    assert found["scripts"] == found["own"]
    known = (*origins, "data:image/png", "data:,", "#", "/")
    assert [link for link in found["links"] if not link.startswith(known)] == []
    visit.check(*origins)


INJECTED = """() => {
  const script = document.createElement("script");
  script.textContent = "window.attacked = 14";
  document.body.append(script);
  return window.attacked ?? null;
}"""


def test_hostile_content_stays_text(open_page: Callable, hostile_run: Path):  # noqa: F811
    with served(hostile_run) as address:
        visit = open_page(f"{address}?token={TOKEN}")
        page = visit.page
        for number in (1, 2, 3):
            page.goto(f"{address}?page={number}")
            page.select_option("#heat", "ratio")
            page.wait_for_selector(".tokens .t")
            page.locator(".tokens .t").first.hover()
            check_attacked(visit, address)
        text = page.inner_text("main")
        assert "{{ 7 * 7 }}" in text
        assert "picture 1 can't be shown" in text
        page.goto(address)
        page.select_option("select[name=task]", ATTACKS[1])
        page.wait_for_url("**task=**")
        assert page.locator(".card").count() == 1
        assert page.input_value("select[name=task]") == ATTACKS[1]
        for selector in ("a.over", "a.own"):
            page.click(f".card >> nth=0 >> {selector}")
            check_attacked(visit, address)
        page.goto(f"{address}?search=%22%3E%3Cscript%3Ewindow.attacked=13%3C/script%3E")
        check_attacked(visit, address)


def test_hostile_content_stays_text_in_the_single_file(
    open_page: Callable,  # noqa: F811
    hostile_run: Path,
    tmp_path: Path,
):
    file = tmp_path / "page.html"
    single_file.write(file, opened(hostile_run), None, None)
    visit = open_page(file.as_uri())
    page = visit.page
    assert page.locator(".card").count() == len(ATTACKS)
    page.select_option("#heat", "ratio")
    page.wait_for_selector(".tokens .t")
    page.locator(".tokens .t").first.hover()
    check_attacked(visit, file.as_uri())
    text = page.inner_text("main")
    assert "\\u202egnp.exe" in text
    assert "\\x1b[31mred" in text
    assert page.evaluate(INJECTED) is None  # even a script that got in would not run
