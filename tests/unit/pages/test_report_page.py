"""report.html: whole pages of whole, partial and hostile runs; refusals; a run that keeps going."""

from __future__ import annotations

import json
import re

import pyarrow.parquet as pq
import pytest
from helpers import picture
from html_pages import HOSTILE, ParsedPage
from run_folders import (
    train_row,
    write_config,
    write_hostile_run,
    write_rollouts,
    write_rows,
    write_run,
)

from sapo_vl.cli.parser import main
from sapo_vl.data import store
from sapo_vl.errors import ConfigError
from sapo_vl.pages.report import page
from sapo_vl.runs import warning_log
from sapo_vl.runs.folder import Run
from sapo_vl.schema import Sample
from sapo_vl.training.report import write_page


def parsed(path):
    return ParsedPage(path.read_text(encoding="utf-8"))


def test_a_page_of_a_whole_run(tmp_path):
    folder = write_run(tmp_path / "main")
    records = [
        Sample(f"p{i}", "d", "odd", f"<image>Question {i}?", (picture(8, 8, i),), "7", split="test")
        for i in range(1, 5)
    ]
    store.write(tmp_path / "data", records)
    write_config(folder, rollout={"steps": 2}, data={"path": str(tmp_path / "data")})
    write_rollouts(folder / "rollouts", images=[picture(300, 300)])
    warning_log.record(folder, 1, "step 1: something is odd")
    page.write([folder])
    found = parsed(folder / "report.html")
    text = " ".join(found.text.split())
    assert "The run is complete: 2 of 2 training steps." in text
    assert "No clear difference: 37.5 % before, 87.5 % after step 2." in text
    assert "step 1: something is odd" in text
    assert "Question 1?" in text  # gained most, with what was said before and after
    assert "0 % right before, 100 % after" in text
    assert "before training: wrong" in text
    assert "advantage +1.25, reward 1.00, 1 of 3 responses right; cut at the length limit" in text
    assert "boxed: 1, reason 0" in text
    assert "torch2.13.0" in text  # two cells
    kinds = [link.partition(";")[0] for link in found.links]
    assert set(kinds) == {"data:image/png", "data:image/jpeg"}  # 8 x 8 and 300 x 300 pixels
    assert "script" not in found.tags
    labels = [value for name, value in found.attributes if name == "aria-label"]
    assert any(label.startswith("Reward, mean per response. reward: 0.25 at") for label in labels)


def test_hostile_content_stays_text(tmp_path):
    folder = write_hostile_run(tmp_path / "a")
    found = parsed(page.write([folder]))
    assert found.text.count(HOSTILE) > 30
    assert not {"script", "a", "iframe", "object", "link", "form"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert all(link.startswith("data:image/") for link in found.links)
    assert "a picture can't be shown" in found.text
    assert "\x1b" not in found.text
    assert "\u202e" not in found.text
    labels = " ".join(value for name, value in found.attributes if name == "aria-label")
    assert HOSTILE in labels
    assert page.write([folder, write_run(tmp_path / "b")], tmp_path / "two.html").exists()


def test_warnings_of_all_sources_come_in_the_order_of_steps(tmp_path):
    folder = tmp_path / "a"
    write_config(folder)
    write_rows(
        folder,
        train_row(1, no_verdict={"timeout": 3}),
        train_row(2, no_verdict={"timeout": 4}, grad_norm=None),
        train_row(3, grad_norm=None),
    )
    warning_log.record(folder, 0, "data.path: 3 records left out")
    said = "step 3: gradient not finite, update skipped; see autopsy/step_000003-parity"
    warning_log.record(folder, 3, said)
    alarm = {"rule": "entropy_low", "step": 2, "message": "entropy_low: low", "checkpoint": None}
    (folder / "collapse.json").write_text(json.dumps([alarm]))
    autopsy = folder / "autopsy" / "step_000003-nonfinite"
    autopsy.mkdir(parents=True)
    (folder / "autopsy" / "step_000003-parity").mkdir()  # one that a warning has named
    (folder / "seconds.json").write_text("[")
    *lines, fault = page._warnings(page.load(folder, "a"))
    assert lines == [
        "data.path: 3 records left out",
        "step 1: no verdict on 7 responses in all: timeout",
        "step 2: collapse: entropy_low: low; there was no checkpoint before it",
        "step 2: the gradient of an update was not finite",
        said,
        f"step 3: an autopsy is in {autopsy}: sapo-vl replay {autopsy} runs its batch again",
    ]
    assert fault.startswith(f"this report lacks a part: {folder / 'seconds.json'} is damaged")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "The run has taken no step yet."),
        ([{"phase": "sft", "step": 3, "loss": 2.0}], "warm-up only: 3 of 5 steps, no SAPO step"),
        ([train_row(1, accuracy=0.5)], "The run is not complete: 1 of 2 training steps are done."),
    ],
)
def test_runs_that_are_not_whole_have_a_page_that_says_what_is_missing(tmp_path, rows, expected):
    folder = tmp_path / "a"
    write_config(folder, rollout={"steps": 2}, sft={"steps": 5})
    if rows:
        write_rows(folder, *rows)
    text = " ".join(parsed(page.write([folder])).text.split())
    assert expected in text
    assert "No time has been recorded in seconds.json." in text
    assert "versions.json is missing." in text
    assert "No rollouts were written (run.rollouts_every)." in text
    assert "has seen no token" in text


def test_an_early_stop_and_the_best_model_are_told(tmp_path):
    folder = write_run(tmp_path / "a")
    write_config(folder, rollout={"steps": 9})
    best = {"metric": "avg", "step": 1, "value": 0.875, "evaluations": 2, "later": 1}
    (folder / "summary.json").write_text(json.dumps({"best": best}))
    text = " ".join(parsed(page.write([folder])).text.split())
    assert "complete: 2 of 9 training steps. It ended early (evaluation.patience)." in text
    assert "best by avg: step 1, 87.5 %, the highest of 2 evaluations" in text


def test_adapters_and_rollouts_ahead_are_among_the_facts(tmp_path):
    write_config(tmp_path, model={"lora": {"rank": 16}}, rollout={"ahead": 2})
    (tmp_path / "config-step_000004.yaml").write_text("x")
    text = parsed(page.write([tmp_path])).text
    assert "adapters of rank 16 (LoRA); the base is frozen" in text
    assert "sampled 2 steps ahead (rollout.ahead)" in text
    assert "settings changed while it ran, see config-step_000004.yaml" in text


def test_files_that_are_damaged_are_named_on_the_page(tmp_path):
    folder = write_run(tmp_path / "a")
    write_rollouts(folder / "rollouts", "step_000002-rank0.parquet")
    (folder / "rollouts" / "step_000002-rank1.parquet").write_bytes(b"PAR1 cut off")
    (folder / "config.yaml").write_text("a: [")
    text = " ".join(parsed(page.write([folder])).text.split())
    assert "step_000002-rank1.parquet can't be read" in text
    assert "response 0" in text  # the other rank's
    assert re.search(r"this report lacks a part: \S+config.yaml is damaged", text)


def test_pictures_that_cannot_be_read_cost_the_pictures_alone(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "a")
    write_rollouts(folder / "rollouts", images=[picture(8, 8)])

    def fail(*arguments, **options):
        raise OSError("corrupt page")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    text = parsed(page.write([folder])).text
    assert "the pictures in step_000002.parquet can't be read: corrupt page" in text
    assert "response 0" in text


def test_the_command_writes_where_it_is_told_and_refuses_in_one_line(tmp_path, capsys):
    first, second = write_run(tmp_path / "x" / "main"), write_run(tmp_path / "y" / "main")
    main(["report", str(first)])
    assert capsys.readouterr().out.strip() == str(first / "report.html")
    out = tmp_path / "both" / "two.html"
    main(["report", str(first), str(second), "--out", str(out)])
    text = parsed(out).text
    assert "y/main against x/main" in text
    for arguments, message in (
        ([first, second], "name a file for the page of several runs: --out FILE.html"),
        ([first, first], f"{first} is named twice"),
        ([tmp_path], "is not a run's folder: config.yaml is missing"),
        ([first, "--out", first], f"--out={first} can't be used: Is a directory"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["report", *map(str, arguments)])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_page_that_fails_loses_nothing_and_says_so(tmp_path, capsys, monkeypatch):
    class Finished:
        dir = tmp_path

    def fail(folders):
        raise ZeroDivisionError("a\nbug")

    run: Run = Finished()  # type: ignore[assignment]
    monkeypatch.setattr(page, "write", fail)
    write_page(run)
    (line,) = capsys.readouterr().out.splitlines()
    assert "report.html could not be written: ZeroDivisionError: a\\nbug; the run is" in line
    assert f"`sapo-vl report {tmp_path}` tries again" in line
    (kept,) = warning_log.read(tmp_path)
    assert kept.text == "report.html could not be written: ZeroDivisionError: a\\nbug"


def test_two_runs_need_an_out(tmp_path):
    with pytest.raises(ConfigError, match="--out"):
        page.write([tmp_path / "a", tmp_path / "b"])
