"""The viewer's pages without a browser: who is answered, what they hold, and the single file."""

from __future__ import annotations

import json
import math
import re
import socket

import pytest
from fastapi.testclient import TestClient
from viewer_runs import make_group, reply, some_groups, write_old, write_run

from sapo_vl.cli import main
from sapo_vl.cli.pages import chosen_steps
from sapo_vl.errors import ConfigError, DataError, SetupError
from sapo_vl.pages.viewer import single_file
from sapo_vl.pages.viewer.files import RolloutFiles
from sapo_vl.pages.viewer.render import Opened
from sapo_vl.pages.viewer.server import app, is_own_name, listen, page_numbers
from sapo_vl.pages.viewer.token_text import TokenText

TOKEN = "secret-of-this-test"


def opened(*folders) -> Opened:
    return Opened(tuple(map(RolloutFiles, folders)), tuple(map(TokenText, folders)))


def client(*folders, page_size: int = 16, host: str = "127.0.0.1") -> TestClient:
    server = app(opened(*folders), TOKEN, host=host, page_size=page_size)
    return TestClient(server, base_url="http://127.0.0.1:8000")


@pytest.fixture
def run(tmp_path):
    steps = {step: [some_groups(step), some_groups(step, 1)] for step in (1, 2, 3)}
    return write_run(tmp_path / "run", steps)


@pytest.fixture
def page(run):
    made = client(run)
    made.get("/", params={"token": TOKEN})
    return made


def test_nothing_is_answered_without_the_token(run):
    made = client(run)
    for path in ("/", "/group?key=1-0-0", "/tokens?key=1-0-0", "/style.css", "/none", "/docs"):
        assert made.get(path).status_code == 403
        assert made.get(path, params={"token": TOKEN[:-1]}).status_code == 403
    assert made.get("/", cookies={"sapo_vl_8000": "wrong"}).status_code == 403
    assert made.get("/", cookies={"sapo_vl_9000": TOKEN}).status_code == 403  # another server's


def test_the_token_becomes_a_cookie_and_leaves_the_address(run):
    made = client(run)
    first = made.get("/", params={"token": TOKEN, "step": 2}, follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/?step=2")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"sapo_vl_8000={TOKEN};")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert made.get("/").status_code == 200
    assert TOKEN not in made.get("/").text


def test_every_answer_forbids_scripts_of_others_and_tells_no_referrer(page):
    for path in ("/", "/none", "/style.css", "/picture?key=1-0-0&number=0"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:9", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("10.0.0.7:80", True),
        (f"{socket.gethostname()}:1", True),
        ("box.lan:80", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("", False),
    ],
)
def test_a_request_under_another_name_is_refused(run, header, own):
    assert is_own_name(header, "box.lan") == own
    made = client(run, host="box.lan")
    answer = made.get("/", params={"token": TOKEN}, headers={"host": header or " "})
    assert (answer.status_code == 403) == (not own)


def test_a_step_shows_its_groups_by_pages(run):
    made = client(run, page_size=4)
    made.get("/", params={"token": TOKEN})
    text = made.get("/?step=2").text
    assert "Step 2: 6 groups, 18 responses; accuracy 0.333, mean reward 0.333" in text
    assert re.findall(r'id="group-([\d-]+)"', text) == ["2-0-0", "2-0-3", "2-0-6", "2-1-0"]
    assert 'href="/?step=2&amp;page=2"' in text
    assert re.findall(r'id="group-([\d-]+)"', made.get("/?step=2&page=2").text) == [
        "2-1-3",
        "2-1-6",
    ]
    assert 'data-nav="previous" href="/?step=1"' in text
    assert 'data-nav="next" href="/?step=3"' in text
    assert made.get("/?step=9").text == "step 9 has no rollouts; steps 1 to 3 have"
    assert made.get("/?step=x").status_code == 422


def test_filters_stay_from_step_to_step(page):
    text = page.get("/?step=2&show=mixed&task=bars&search=plus").text
    assert re.findall(r'id="group-([\d-]+)"', text) == ["2-0-3", "2-1-3"]
    assert "Showing 1–2 of 2 that match" in text
    assert 'href="/?step=3&amp;task=bars&amp;show=mixed&amp;search=plus"' in text
    assert '<option value="mixed" selected>' in text
    assert "No group of this step matches" in page.get("/?search=nothing").text


def test_a_card_has_everything_that_was_graded(page):
    text = page.get("/?step=2").text
    card = text[text.index('id="group-2-0-3"') : text.index('id="group-2-0-6"')]
    for part in ("1 of 3 right", "mean reward</i> 0.333", "advantage</i> +1.00", "tokens</i> 30",
                 "What is 1 plus 2?", "gold</i> <bdi>8", "by hand", "end</i> stop",
                 "mean p</i> 0.37",
                 '/picture?run=0&amp;key=2-0-3&amp;number=0', "/problem?id=s1"):  # fmt: skip
        assert part in card, part
    assert page.get("/picture?key=2-0-3&number=0").headers["content-type"] == "image/png"
    assert page.get("/picture?key=2-0-3&number=1").status_code == 404


def test_a_problem_is_shown_over_the_steps(page):
    text = page.get("/problem?id=s1").text
    assert re.findall(r'id="group-([\d-]+)"', text) == ["1-0-3", "2-0-3", "3-0-3"]
    assert text.count("<b>1/3</b>") == 3
    assert "No rollouts of this problem" in page.get("/problem?id=nobody").text


def test_tokens_are_given_when_they_are_asked_for(page):
    assert '"ids"' not in page.get("/?step=1").text
    answer = page.get("/tokens?key=1-0-3").json()
    assert [len(response["ids"]) for response in answer] == [30, 30, 31]
    assert answer[0]["ratio"][-1] == 0.1
    assert page.get("/tokens?key=1-0-4").status_code == 404
    assert page.get("/tokens?key=1-0-3&run=1").status_code == 404


def test_two_runs_stand_side_by_side(run, tmp_path):
    other = write_run(tmp_path / "other", {1: [some_groups(1)], 7: [some_groups(7, count=1)]})
    made = client(run, other)
    made.get("/", params={"token": TOKEN})
    text = made.get("/?step=3").text
    cards = text.split('<article class="card"')[1:]
    assert "other, step 1, the nearest" in cards[0]  # 2 steps away, not 4
    assert "What is 0 plus 3?" in cards[0]
    assert cards[0].count('<li class="response') == 6
    assert "/tokens?run=1&amp;key=1-0-0" in cards[0]
    assert "its rollout files don&#39;t have this problem" in cards[3]
    assert made.get("/group?run=1&key=7-0-0").status_code == 200


def test_a_missing_heat_says_why(run, tmp_path):
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "rollouts" / "step_000001-rank0.parquet").to_pylist()
    write_old(tmp_path / "old" / "rollouts" / "step_000001.parquet", rows)
    made = client(tmp_path / "old")
    made.get("/", params={"token": TOKEN})
    text = made.get("/").text
    assert text.count("disabled") == 4
    assert (
        "Not shown as heat: gate weight, log ratio, sampler-learner difference, entropy (" in text
    )
    assert "there is no tokenizer.json in " in text
    (tmp_path / "old" / "final").mkdir()
    (run / "final" / "tokenizer.json").rename(tmp_path / "old" / "final" / "tokenizer.json")
    made = client(tmp_path / "old")
    made.get("/", params={"token": TOKEN})
    text = made.get("/").text
    assert '<option value="mismatch" title="log mu' in text
    assert text.count("disabled") == 3
    assert "has no gate_weights: an older release wrote it" in text


def test_a_long_response_is_cut_in_the_list_alone(tmp_path):
    groups = [make_group("long", [reply("word " * 2000), reply("b", False)])]
    made = client(write_run(tmp_path / "run", {1: [groups]}))
    made.get("/", params={"token": TOKEN})
    assert "6,000 more characters on the group's own page" in made.get("/").text
    whole = made.get("/group?key=1-0-0").text
    assert whole.count("word ") == 2000
    assert "own-page" in whole


def test_values_that_are_no_numbers_are_shown_as_they_are(tmp_path):
    groups = [
        make_group("inf", [reply("a", log_ratio=math.inf), reply("b", False)]),
        make_group("nan", [reply("a", log_ratio=math.nan, logprob=math.nan), reply("b", False)]),
        make_group("fine", [reply("a", log_ratio=0.5), reply("b", False)]),
    ]
    made = client(write_run(tmp_path / "run", {1: [groups]}))
    made.get("/", params={"token": TOKEN})
    text = made.get("/?sort=log_ratio").text
    assert re.findall(r'data-id="(\w+)"', text) == ["inf", "nan", "fine"]
    assert '"ratio":0.5' in text  # the scale is that of the finite ones
    assert made.get("/tokens?key=1-0-0").json()[0]["ratio"][-1] == "inf"
    assert made.get("/tokens?key=1-0-2").json()[0]["mu"][0] == "nan"


@pytest.mark.parametrize("key", ["", "1", "1-0-99", "9" * 5000, "١-0-0", "-1-0-0", "1-0-0-0"])
def test_a_wrong_key_has_no_page(page, key):
    assert page.get("/group", params={"key": key}).status_code == 404


def test_page_numbers_leave_gaps():
    assert page_numbers(1, 1) == [1]
    assert page_numbers(5, 20) == [1, None, 3, 4, 5, 6, 7, None, 20]
    assert page_numbers(20, 20) == [1, None, 18, 19, 20]


def test_a_taken_port_is_named():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(SetupError, match=rf"--host 127\.0\.0\.1 --port {port}: .*in use"):
            listen("127.0.0.1", port)
    with pytest.raises(SetupError, match="--host no-such-host"):
        listen("no-such-host.invalid", 0)


def test_a_running_runs_new_steps_appear(page, run):
    assert page.get("/?step=4").status_code == 404
    some = write_run(run.parent / "later", {4: [some_groups(4)]}) / "rollouts"
    partial = run / "rollouts" / ".step_000004.parquet.partial"
    partial.write_bytes(b"PAR1")
    assert "half written" in page.get("/?step=3").text
    (some / "step_000004.parquet").rename(partial)
    partial.rename(run / "rollouts" / "step_000004.parquet")
    text = page.get("/").text
    assert "Step 4: 3 groups" in text
    assert "half written" not in text
    assert 'data-nav="next" href="/?step=4"' in page.get("/?step=3").text
    assert page.get("/problem?id=s1").text.count("<b>1/3</b>") == 4


def test_the_address_is_one_line_with_a_new_token_each_time(run, monkeypatch, capsys):
    import uvicorn

    served = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: served.append(sockets[0].getsockname())
    )
    for _ in range(2):
        main(["view", str(run)])
    lines = capsys.readouterr().out.splitlines()
    address = r"run: http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})"
    found = [re.fullmatch(address, line) for line in lines]
    assert [("127.0.0.1", int(match[1])) for match in found] == served
    assert found[0][2] != found[1][2]


# --- the single file


def test_the_file_holds_what_was_asked_and_says_what_not(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    main(["view", str(run), "--out", str(out), "--steps", "1,3", "--groups", "2"])
    printed = capsys.readouterr().out
    assert "4 groups of 2 steps" in printed
    assert "4 of the 12 groups of 2 of the run's 3 steps (1, 3)" in printed
    assert "--all" in printed
    text = out.read_text()
    assert len(re.findall('<article class="card"', text)) == 4
    assert "This file holds 4 of the 12 groups" in text
    assert re.findall(r'(?:src|href)="(?!data:image/png|#)', text) == []
    for block in re.findall(r'class="token-data">(.*?)</script>', text):
        assert len(json.loads(block)) == 3


def test_the_whole_file_leaves_nothing_out(run, tmp_path):
    written = single_file.write(tmp_path / "page.html", opened(run), [1, 2, 3], None)
    assert written == single_file.Written(3, 18, "")


def test_two_runs_fit_into_a_file(run, tmp_path):
    other = write_run(tmp_path / "other", {2: [some_groups(2, count=1)]})
    single_file.write(tmp_path / "page.html", opened(run, other), [2], None)
    text = (tmp_path / "page.html").read_text()
    assert len(re.findall('<article class="card"', text)) == 6
    assert len(re.findall('class="token-data"', text)) == 7
    assert text.count("other, step 2<") == 1
    assert text.count("other, its rollout files") == 5


def test_the_file_takes_groups_with_drift_and_others_evenly(tmp_path):
    drifts = [0.0] * 12 + [3.0, 2.0, 0.0, 0.0]
    groups = [make_group(f"g{i}", [reply("a", log_ratio=d)]) for i, d in enumerate(drifts)]
    files = RolloutFiles(write_run(tmp_path / "run", {1: [groups]}))
    assert [g.id for g in single_file.pick(files, 1, 8)] == [
        "g0", "g2", "g4", "g7", "g9", "g11", "g12", "g13"
    ]  # fmt: skip
    assert single_file.pick(files, 1, 16) == single_file.pick(files, 1, None) == files.groups(1)
    assert single_file.evenly(list(range(1, 81)), 5) == [1, 21, 41, 60, 80]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--steps and --all choose what a file holds: add --out FILE.html"),
        (["--all"], "--steps and --all choose what a file holds"),
        (["--groups", "0"], "--groups 0: 1 or more"),
        (["--port", "70000"], "--port 70000: 0 (a free one) to 65535"),
        (["--out", "x.html", "--all", "--groups", "2"], "--all and --groups exclude each other"),
        (["--out", "x.html", "--steps", "1,b"], "--steps 1,b: b is not a step"),
        (["--out", "/proc/none/x.html"], "--out"),
        (["--out", "x.html", "--steps", "9-12"], "none of them has rollouts; 3 steps from 1 to 3"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_line(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["view", str(run), *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_steps_are_numbers_and_ranges():
    assert chosen_steps("3, 1,10-20", [1, 2, 3, 10, 15, 20, 30]) == [1, 3, 10, 15, 20]
    for text, error in (("", DataError), ("-3", ConfigError), ("1-x", ConfigError)):
        with pytest.raises(error):
            chosen_steps(text, [1, 2, 3])
