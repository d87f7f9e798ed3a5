"""The run's records: rows that survive a kill, the display in a log, the picture."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sapo_vl.errors import DataError, SetupError
from sapo_vl.runs import progress as progress_module
from sapo_vl.runs.metrics import MetricsWriter, read, truncate
from sapo_vl.runs.plots import _held_out, curves, smooth
from sapo_vl.runs.progress import ProgressDisplay, table
from sapo_vl.runs.trackers import TensorBoard, WandB


def open_writer(run_dir: Path, *trackers) -> MetricsWriter:
    return MetricsWriter(run_dir, {"a": 1}, trackers)


def write_rows(run_dir: Path, *rows: dict) -> None:
    writer = open_writer(run_dir)
    for row in rows:
        writer.write(row)
    writer.close()


def train_row(step: int, **more) -> dict:
    return {"phase": "train", "step": step, **more}


def test_rows_come_back_with_null_for_what_is_not_finite(tmp_path):
    write_rows(
        tmp_path,
        train_row(1, a=0.5, b=math.nan, c=-math.inf, name="x", n=np.int64(3), f=np.float32(0.25)),
    )
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    expected = {"a": 0.5, "b": None, "c": None, "name": "x", "n": 3, "f": 0.25}
    assert read(tmp_path) == [train_row(1, **expected)]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = open_writer(tmp_path)
    writer.write(train_row(1))
    assert read(tmp_path) == [train_row(1)]
    writer.close()
    writer.close()


def test_a_list_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="reward"):
        write_rows(tmp_path, train_row(1, reward=[1, 2]))


def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next_row(tmp_path):
    write_rows(tmp_path, train_row(1), train_row(2))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert read(tmp_path) == [train_row(1)]
    write_rows(tmp_path, train_row(2))
    assert read(tmp_path) == [train_row(1), train_row(2)]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    write_rows(tmp_path, train_row(1), train_row(2))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    write_rows(tmp_path, train_row(3))
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read(tmp_path)


def test_truncate_drops_what_lies_beyond_each_phase_s_last_step(tmp_path):
    rows = [{"phase": p, "step": s} for p in ("sft", "train", "eval") for s in (0, 1, 2, 3)]
    write_rows(tmp_path, *rows)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "ste')
    assert truncate(tmp_path, {"train": 1, "eval": 0}) == 5
    kept = [(row["phase"], row["step"]) for row in read(tmp_path)]
    assert kept == [(p, s) for p, n in (("sft", 4), ("train", 2), ("eval", 1)) for s in range(n)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_truncate_without_a_file_makes_an_empty_one(tmp_path):
    assert truncate(tmp_path, {"train": 3}) == 0
    assert read(tmp_path) == []


@pytest.mark.slow
def test_tensorboard_agrees_with_the_file_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = open_writer(tmp_path, TensorBoard)
    for step in (1, 2, 3):
        writer.write(train_row(step, accuracy=step / 10, note="text", bad=math.nan))
    writer.close()
    truncate(tmp_path, {"train": 1})
    writer = open_writer(tmp_path, TensorBoard)
    writer.write(train_row(2, accuracy=0.9))
    writer.close()

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/accuracy"]
    seen = [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/accuracy")]
    assert seen == [(1, 0.1), (2, 0.9)]


def test_a_missing_wandb_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SetupError, match=r"run\.wandb needs the package wandb"):
        open_writer(tmp_path, WandB)


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


class Clock:
    """A time.monotonic that moves when told."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


def test_a_log_gets_a_line_at_the_ends_and_at_each_tenth(monkeypatch):
    clock, console = Clock(monkeypatch), plain_console()
    with ProgressDisplay(None, 100, "SAPO", console) as progress:
        for step in range(1, 101):
            clock.now += 0.1
            progress.update(step, {"reward": step / 100, "KL": 2.5e-6, "tokens/s": 3150.4})
    lines = lines_of(console)
    assert [line.split()[1] for line in lines] == [
        "1/100",
        *[f"{n}/100" for n in range(10, 101, 10)],
    ]
    assert lines[1] == "SAPO 10/100  reward 0.100  KL 2.5e-06  tokens/s 3,150  0:09 left"
    assert lines[-1].endswith("0:10 in all")


def test_a_slow_run_gets_a_line_every_ten_seconds(monkeypatch):
    clock, console = Clock(monkeypatch), plain_console()
    with ProgressDisplay(None, 10_000, "SAPO", console) as progress:
        for step in range(1, 31):
            clock.now += 4
            progress.update(step, {})
    steps = [int(line.split()[1].split("/")[0]) for line in lines_of(console)]
    assert steps == list(range(1, 31, 3))  # 12 s apart: the first step at or after 10 s


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(monkeypatch):
    clock, console = Clock(monkeypatch), plain_console()
    with ProgressDisplay(None, 100, "SAPO", console) as progress:
        clock.now += 10
        progress.update(91, {})
    assert lines_of(console) == ["SAPO 91/100  1:30 left"]


def test_a_long_log_line_is_not_wrapped_nor_marked_up():
    console = plain_console()
    with ProgressDisplay(None, 10, "SAPO", console) as progress:
        progress.log("[red] " + "x" * 100)
    assert lines_of(console) == ["[red] " + "x" * 100]


def test_other_ranks_are_silent():
    console = plain_console()
    with ProgressDisplay(False, 10, "SAPO", console) as progress:
        progress.update(10, {"reward": 1.0})
        progress.log("hello")
    assert lines_of(console) == []


def test_the_live_display_keeps_log_lines_above_it():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with ProgressDisplay(None, 10, "SAPO", console) as progress:
        progress.update(1, {"reward": 0.5})
        progress.log("checkpoint written")
        progress.update(2, {"reward": 0.75})
    text = console.file.getvalue()
    assert text.index("checkpoint written") < text.index("2/10")
    assert "reward 0.750" in text


def test_a_table_in_a_log_is_aligned_and_never_wrapped():
    console = plain_console()
    rows = [["before", "31.0 %", "28.5 to 33.6 " + "x" * 40], ["after", "9.5 %", "y"]]
    table("Held-out", ["policy", "avg@8", "note"], rows, console)
    title, head, _, *body = [line.rstrip() for line in lines_of(console)][:5]
    assert title.strip() == "Held-out"
    assert head.split() == ["policy", "avg@8", "note"]
    assert [line.split()[0] for line in body if not line.startswith(" ")] == ["before", "after"]
    assert body[0].endswith("28.5 to 33.6 " + "x" * 40)  # the console is 40 columns wide
    assert body[1].split() == ["after", "9.5", "%", "y"]
    assert head.index("avg@8") + len("avg@8") == body[0].index("%") + 1 == body[1].index("%") + 1


def test_a_table_on_a_terminal_loses_nothing():
    console = Console(file=io.StringIO(), force_terminal=True, width=30, color_system=None)
    table("T", ["name", "value"], [["a" * 40, "1"]], console)
    assert console.file.getvalue().count("a") == 40 + "name".count("a") + "value".count("a")


def test_the_moving_mean_by_hand():
    got = smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3)
    np.testing.assert_allclose(got, [1.5, 3.0, 3.0, 3.0])


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize("keys", [("accuracy", "reward/mean", "gate/p01", "mismatch/kl"), ()])
def test_curves_draws_what_is_there(tmp_path, keys):
    evals = [
        {"phase": "eval", "step": 0, "name": "before", "avg": 0.31, "ci95_low": 0.28},
        {"phase": "eval", "step": 20, "name": "after", "avg": 0.7, "greedy": 0.8},
    ]
    steps = [train_row(s, **dict.fromkeys(keys, s / 20)) for s in range(1, 21)]
    write_rows(tmp_path, evals[0], *steps, train_row(21, accuracy=math.nan), evals[1])
    assert curves(tmp_path) == tmp_path / "curves.png"
    assert png_size(tmp_path / "curves.png") == (1500, 960)
    assert 15_000 < (tmp_path / "curves.png").stat().st_size < 400_000


def test_held_out_accuracy_is_drawn_at_the_step_of_its_evaluation():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    names = {0: "before", 10: "step_000010", 20: "after"}
    _held_out(axis, [{"step": s, "name": n, "avg": 0.5, "greedy": 0.6} for s, n in names.items()])
    for line in axis.lines[:1] + axis.lines[-1:]:  # sampled and greedy
        assert line.get_xdata().tolist() == [0, 10, 20]


def test_curves_of_an_empty_run_is_the_user_s_mistake(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"phase": "sft", "step": 1}) + "\n")
    with pytest.raises(DataError, match="no training step"):
        curves(tmp_path)
