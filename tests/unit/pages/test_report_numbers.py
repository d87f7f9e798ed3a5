"""The report's numbers, worked out by hand: changes, curves, the gate's words, times, settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from run_folders import (
    AFTER,
    BEFORE,
    train_row,
    write_config,
    write_evaluation,
    write_rows,
    write_run,
)

from sapo_vl.errors import ConfigError
from sapo_vl.pages.report import change, curves, gate, load, settings, timing


def loaded(folder, name="a"):
    return load.load(folder, name)


def with_rows(folder, *rows, **config):
    write_config(folder, **config)
    write_rows(folder, *rows)
    return loaded(folder)


def test_before_and_after_are_paired_by_problem(tmp_path):
    found = change.of_run(loaded(write_run(tmp_path / "a")))
    # Per problem +1, 0, 0, +1: mean 1/2. A resample of four has mean 0 or 1 in 1/16 of all cases
    # each, more than the 2.5 % of an end. Of the four sign patterns of the two gaps that are not 0
    # one has a sum as large, and p is twice 1/4. Before, four draws from (0, 1/2, 1, 0) sum to 3.5
    # or more in 5 of 256 cases and to 3 or more in 19; after, from (1, 1/2, 1, 1) to 2 in 1 case
    # and to 2.5 or less in 13.
    row = found.overall.rows[0]
    assert row == [
        "all problems, sampled", "4", "37.5 % (0.0 to 75.0)", "87.5 % (62.5 to 100.0)",
        "+50.0 (+0.0 to +100.0)", "2", "0", "0.5000",
    ]  # fmt: skip
    assert found.overall.columns[2:4] == ["before", "after step 2"]
    assert found.sentence.startswith("No clear difference: 37.5 % before, 87.5 % after step 2. ")
    assert "+50.0 points" in found.sentence
    # even: p2 and p4, +0 and +1; odd: p1 and p3, +1 and 0
    assert [row[0] for row in found.tasks.rows] == ["even", "odd"]
    assert [row[4].split()[0] for row in found.tasks.rows] == ["+50.0", "+50.0"]
    assert found.tasks.rows[0][2].startswith("25.0 %")
    assert found.tasks.rows[1][2].startswith("50.0 %")


def test_an_interval_that_contradicts_p_is_explained(tmp_path):
    folder = write_run(tmp_path / "a")
    gaps = {f"p{i}": [i < 5, i < 5] for i in range(8)}  # five of eight: 5/8, p 2/32, low 1/4
    write_evaluation(folder, "before", {name: [False, False] for name in gaps})
    write_evaluation(folder, "after", gaps, step=2)
    found = change.of_run(loaded(folder))
    assert found.overall.rows[0][-1] == "0.0625"
    assert found.sentence.startswith("No clear difference")
    assert any("with so few problems" in note for note in found.notes)
    assert change.of_run(loaded(write_run(tmp_path / "b"))).notes == []


def test_problems_with_a_verdict_on_one_side_only_are_left_out_and_counted(tmp_path):
    folder = write_run(tmp_path / "a")
    write_evaluation(folder, "after", {**AFTER, "p1": [None, None]}, step=2)
    found = change.of_run(loaded(folder))
    assert found.overall.rows[0][1] == "3"
    assert found.overall.rows[0][2].startswith("50.0 %")  # 1/2, 1 and 0 before
    assert "Left out are problems with a verdict of one side alone, before: 1." in found.notes


def test_two_runs_are_compared_unless_their_problems_differ(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    write_evaluation(second, "after", BEFORE, step=2)
    found = change.between(loaded(first), loaded(second, "b"))
    assert found.overall.columns[2:4] == ["a", "b"]
    assert found.overall.rows[0][4].startswith("-50.0")
    write_evaluation(second, "after", AFTER, step=2, answer="9")
    found = change.between(loaded(first), loaded(second, "b"))
    assert found.overall is None
    assert "problem 'p1' has the answer '7' in one and '9' in the other" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.41, 0.87, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0, 80, [0, 20, 40, 60, 80]),
        (-0.03, 0.02, [-0.03, -0.02, -0.01, 0, 0.01, 0.02]),
        (5, 5, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, ticks):
    assert curves.linear_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_a_logarithmic_axis():
    assert curves.log_ticks(2e-3, 0.5) == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    assert curves.log_ticks(1, 1) == pytest.approx([1, 10])
    assert len(curves.log_ticks(1e-13, 1e-3)) <= 7


def test_a_chart_has_its_values_at_their_places_and_in_words(tmp_path):
    run = with_rows(
        tmp_path / "a",
        train_row(1, grad_norm=0.0),
        train_row(2, grad_norm=None),
        train_row(3, grad_norm=2.0),
    )
    (chart,) = curves.charts([run])
    assert chart.title == "Gradient norm"
    (line,) = chart.lines
    bottom, right = curves.HEIGHT - curves.BOTTOM, curves.WIDTH - curves.RIGHT
    assert line.points == f"{curves.LEFT},{bottom} {right},{curves.TOP}"
    assert line.words == "0 at step 1, 2 at step 3; lowest 0 at step 1, highest 2 at step 3"
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert chart.y_ticks[2].at == pytest.approx((bottom + curves.TOP) / 2)
    assert chart.words == f"norm: {line.words}"


def test_held_out_points_carry_their_intervals(tmp_path):
    charts = curves.charts([loaded(write_run(tmp_path / "a"))])
    accuracy = next(chart for chart in charts if chart.title == "Accuracy")
    sampled, held_out = accuracy.lines
    assert sampled.label == "sampled in training"
    assert held_out.points == ""
    assert len(held_out.markers) == 2
    span = curves.HEIGHT - curves.TOP - curves.BOTTOM  # the axis goes from 0 to 1
    x, y, low, high = held_out.markers[1]
    assert x == curves.WIDTH - curves.RIGHT
    assert y == pytest.approx(curves.TOP + 0.125 * span, abs=0.06)
    assert low == pytest.approx(curves.TOP + 0.5 * span, abs=0.06)
    assert high == curves.TOP
    assert held_out.words.startswith("37.5 % at step 0, 87.5 % at step 2")


def test_a_long_line_keeps_its_spike():
    y_N = np.zeros(10_000)
    y_N[4321] = 1.0
    x_N, thinned_N = curves._thinned(np.arange(10_000.0), y_N)
    assert len(x_N) <= curves.MOST_POINTS
    assert thinned_N.max() == 1.0
    assert x_N[thinned_N.argmax()] == 4321
    assert (np.diff(x_N) > 0).all()


def test_several_runs_share_a_chart_with_a_line_each(tmp_path):
    first = with_rows(tmp_path / "a", train_row(1, entropy=1.0, gate__mean=1.0, gate__p01=0.9))
    second = with_rows(tmp_path / "b", train_row(1, entropy=2.0))
    charts = {chart.title: chart for chart in curves.charts([first, second])}
    assert len(charts["Entropy"].lines) == 2
    assert [line.label for line in charts["Gate weight of a token: mean"].lines] == ["a"]


def test_the_gate_in_words(tmp_path):
    rows = [
        train_row(
            step, gate__mean=mean, gate__active=0.25, gate__mean_pos=0.8, gate__mean_neg=0.4,
            gate__below_0=0, ratio__kl=0.1 * step, ratio__ess=0.9,
            mini_batches={"gate/mean": [1.0, None if step == 1 else 0.6, mean]},
        )
        for step, mean in ((1, 0.5), (2, 0.7))
    ]  # fmt: skip
    what, weights, signs, falls, ratios = gate.explained(with_rows(tmp_path, *rows))
    assert "at r = 2.76 for tokens" not in what  # temperatures are not in this config.yaml
    assert weights == (
        "Over the run the mean weight was 0.6000; it was lowest in step 1, at 0.5000. 25.0 % of "
        "the tokens had a weight below 0.999: on these the gate did something."
    )
    assert signs == (
        "Tokens of better responses had a mean weight of 0.8000, those of worse ones 0.4000: the "
        "gate held back the worse ones more."
    )
    assert "A step makes 3 updates." in falls
    assert falls.endswith("the mean weight was 1; at the last one it was 0.6000.")
    assert "moved by 0.15 nats of KL on average and by 0.2 at most (step 2)" in ratios
    assert "never below 90.0 %" in ratios


def test_the_gate_halves_where_its_temperature_says(tmp_path):
    options = {"tau_pos": 1.0, "tau_neg": 4.0, "gate": "sigmoid"}
    run = with_rows(tmp_path, train_row(1, gate__mean=1.0), objective_options=options)
    what = gate.explained(run)[0]
    assert "at r = 2.76 for tokens of better than average responses (τ = 1)" in what
    assert "at r = 1.44 for tokens of worse than average responses (τ = 4)" in what


def test_an_objective_that_clips_has_no_gate(tmp_path):
    run = with_rows(tmp_path, train_row(1, gate__mean=0.98), objective="grpo")
    what, share = gate.explained(run)[:2]
    assert "grpo has no soft gate" in what
    assert share.startswith("Over the run the mean share was 0.9800")


@pytest.mark.parametrize(
    ("weight", "text"),
    [(1.0, "1"), (0.5, "0.5000"), (0.99983, "0.99983"), (1 - 9.6e-5, "0.999904")],
)
def test_a_weight_near_1_keeps_two_digits_of_its_distance(weight, text):
    assert gate._w(weight) == text


def test_time_by_phase_and_by_part_of_a_step(tmp_path):
    run, steps = timing.bars(loaded(write_run(tmp_path / "a")))
    assert run.title == "The run: 40 s"
    assert [(bar.label, bar.share) for bar in run.bars] == [
        ("loading weights, starting the engine", 0.75),
        ("training steps", 0.25),
    ]
    # 2 + 2 s of rollouts, 1 + 1 s of updates, and 4 of the phase's 10 s elsewhere
    assert [(bar.share, bar.text) for bar in steps.bars] == [
        (0.4, "4.0 s, 40 %"),
        (0.2, "2.0 s, 20 %"),
        (0.4, "4.0 s, 40 %"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.26, "4.3 s"), (42.4, "42 s"), (510, "8 min 30 s"), (11_100, "3 h 05 min")],
)
def test_durations(seconds, text):
    assert change.duration(seconds) == text


def test_settings_that_differ_from_the_defaults(tmp_path):
    table = settings.differing([loaded(write_run(tmp_path / "a"))])
    assert table.columns == ["key", "default", "this run", "meaning"]
    rows = {row[0]: row[1:3] for row in table.rows}
    assert rows["learner.lr"] == ["1e-06", "0.0001"]
    assert rows["rollout.steps"] == ["100", "2"]
    assert rows["rollout.max_new_tokens"] == ["2048", "16"]
    assert set(rows) == {"learner.lr", "rollout.steps", "rollout.max_new_tokens"}


def test_settings_of_several_runs_and_of_their_objective(tmp_path):
    write_config(tmp_path / "a", objective_options={"tau_pos": 2.0})
    write_config(tmp_path / "b", objective_options={"tau_pos": 1.0}, run={"seed": 5})
    runs = [loaded(tmp_path / name, name) for name in "ab"]
    table = settings.differing(runs)
    assert table.columns == ["key", "default", "a", "b"]
    assert [r for r in table.rows if r[0] == "sapo.tau_pos"] == [["sapo.tau_pos", "1", "2", "1"]]
    assert [r for r in table.rows if r[0] == "run.seed"] == [["run.seed", "0", "0", "5"]]


def test_a_part_that_is_damaged_is_named_and_the_rest_is_read(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "versions.json").write_text("{")
    (folder / "eval" / "after.jsonl").write_text('{"id": 1}\n')
    (folder / "seconds.json").write_text(json.dumps({"sapo": "long"}))
    run = loaded(folder)
    assert run.steps_done == 2
    assert run.before is not None
    assert run.after is None
    assert len(run.faults) == 3
    assert any("after.jsonl:1: the key 'task' is missing" in fault for fault in run.faults)
    assert any("versions.json is damaged" in fault for fault in run.faults)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run's folder: config.yaml is missing"):
        loaded(tmp_path)


def test_runs_are_named_by_the_ends_of_their_paths(tmp_path):
    assert load.names([tmp_path / "x" / "main"]) == ["main"]
    assert load.names([tmp_path / "x" / "a", tmp_path / "x" / "b"]) == ["a", "b"]
    assert load.names([tmp_path / "x" / "main", tmp_path / "y" / "main"]) == ["x/main", "y/main"]


def test_an_unfinished_run_is_compared_with_its_newest_evaluation(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "final.json").unlink()
    (folder / "eval" / "after.json").unlink()  # cut off before it was finished
    write_evaluation(folder, "step_000001", AFTER, step=1)
    write_rows(
        folder,
        {"phase": "eval", "step": 0, "name": "before", "avg": 0.375},
        train_row(1, accuracy=0.5),
        {"phase": "eval", "step": 1, "name": "step_000001", "avg": 0.875},
    )
    run = loaded(folder)
    assert not run.is_complete
    assert change.of_run(run).overall.columns[3] == "after step 1"


def test_runs_keep_their_colours_in_all_charts(tmp_path):
    first, second = (loaded(write_run(tmp_path / name), name) for name in "ab")
    charts = {chart.title: chart for chart in curves.charts([first, second])}
    assert [line.color for line in charts["Reward"].lines] == [0, 1]
    assert [(line.label.split(",")[0], line.color) for line in charts["Accuracy"].lines] == [
        ("a", 0),
        ("a", 0),
        ("b", 1),
        ("b", 1),
    ]
    assert "Seconds of a step: rollouts" in charts


def test_shares_on_an_axis_differ_from_tick_to_tick():
    assert [curves.number(v, "percent") for v in (0, 0.0005, 0.001, 0.083, 1)] == [
        *("0 %", "0.05 %", "0.1 %", "8.3 %", "100 %"),
    ]


def test_keys_of_adapters_are_shown_one_by_one(tmp_path):
    write_config(tmp_path, model={"lora": {"rank": 8}})
    (row,) = settings.differing([loaded(tmp_path)]).rows
    assert row == ["model.lora.rank", "0", "8", "rank of the adapters; 0: all weights are trained"]
