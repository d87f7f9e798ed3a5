"""What stops or warns a run: non-finite gradients, no verdicts, the collapse detector's alarms."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from sapo_vl.algorithm import collapse
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import load
from sapo_vl.runs.files import write_json
from sapo_vl.training import autopsy, checkpoint
from sapo_vl.training.checkpoint import TrainState
from sapo_vl.training.monitor import (
    CollapseError,
    NonFiniteGradientError,
    VerdictBudget,
    _lacks_summary,
    check_finite,
    detect_collapse,
)


def report(*, skipped: bool = True) -> UpdateReport:
    return UpdateReport(skipped=skipped)


def test_non_finite_gradients_in_a_row_are_counted_until_the_run_stops(monkeypatch):
    lines: list[str] = []
    made = SimpleNamespace(
        config=load(None, ["learner.max_bad_steps=3"]),
        state=SimpleNamespace(bad_steps=0),
        warn=lambda step, line: lines.append(line),
    )
    step = SimpleNamespace(number=6, position=1)
    monkeypatch.setattr(autopsy, "at_bad_gradient", lambda *_: "first: record b; autopsy in X")
    assert check_finite(made, step, report(skipped=False)) == 0
    assert lines == []
    assert check_finite(made, step, report()) == 1
    assert lines == [
        "step 7, mini-batch 2: gradient not finite, update skipped; first: record b; autopsy in X"
    ]
    made.state.bad_steps = 2
    assert check_finite(made, step, report(skipped=False)) == 0  # in a row
    with pytest.raises(NonFiniteGradientError, match=r"3 optimizer steps.*record b; autopsy in X"):
        check_finite(made, step, report())


def shares(*values: float) -> list[dict]:
    return [
        {"step": i, "response/no_verdict": v, "no_verdict": {"v.py:score: timeout": 1}}
        for i, v in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("limit", "steps", "values", "stops_at"),
    [
        (0.5, 9, (1.0, 0.2, 0.2, 0.9, 0.9), 5),  # mean of the last three is 2 / 3
        (0.5, 9, (1.0, 1.0), None),  # three steps make a judgement
        (0.5, 9, (0.5, 0.5, 0.5), None),  # at the limit
        (0.5, 1, (0.6,), 1),  # a run of one step
        (1.0, 9, (1.0, 1.0, 1.0), None),
        (0.0, 9, (0.0, 0.0, 0.1), 3),
    ],
)
def test_the_budget_of_missing_verdicts(limit, steps, values, stops_at):
    budget = VerdictBudget(limit, steps)
    messages = [budget.observe(row) for row in shares(*values)]
    assert [i for i, m in enumerate(messages, start=1) if m] == ([stops_at] if stops_at else [])
    assert all("v.py:score: timeout" in m and "verifier.max_no_verdict" in m for m in messages if m)


def test_a_row_lacks_its_summary_unless_one_of_its_step_is_there(tmp_path):
    run = SimpleNamespace(dir=tmp_path)
    row = {"phase": "eval", "name": "after", "step": 2}
    assert _lacks_summary(run, row)
    write_json(tmp_path / "eval" / "after.json", {"step": 4})
    assert _lacks_summary(run, row)
    write_json(tmp_path / "eval" / "after-step_000002.json", {"step": 2})
    assert not _lacks_summary(run, row)
    assert not _lacks_summary(run, row | {"step": 4})
    assert not _lacks_summary(run, {"phase": "train", "step": 2})


@pytest.fixture(autouse=True)
def autopsies(monkeypatch) -> list[tuple[int, str]]:
    """Return the steps and messages of the alarms' autopsies, which test_autopsy.py writes."""
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(
        autopsy, "at_alarm", lambda made, step, message: written.append((step, message))
    )
    return written


class NoLearner:
    """Nothing to save."""

    def save(self, directory) -> None:
        """Write nothing."""


def trainer(tmp_path, *overrides: str) -> SimpleNamespace:
    """Return as much of a trainer as the detector's alarms need, with three checkpoints."""
    config = load(None, overrides)
    for step in (2, 4, 6):
        checkpoint.save(tmp_path / "checkpoints", NoLearner(), TrainState(step), 9)
    return SimpleNamespace(
        config=config,
        detector=collapse.Detector(config.collapse),
        checkpoints=tmp_path / "checkpoints",
        run=SimpleNamespace(dir=tmp_path),
    )


def rows(count, start=1, **values):
    healthy = {"entropy": 0.5, "gate/mean": 0.999, "ratio/ess": 0.99, "reward/mean": 0.4}
    return [{"phase": "train", "step": start + i, **healthy, **values} for i in range(count)]


def test_an_alarm_pins_the_last_good_checkpoint_and_records_what_it_saw(
    tmp_path, capsys, autopsies
):
    made = trainer(tmp_path)
    for row in [*rows(4), *rows(3, 5, entropy=0.001)]:
        detect_collapse(made, row["step"], row)
    assert [step for step, _ in autopsies] == [7]
    assert "entropy" in autopsies[0][1]
    (entry,) = json.loads((tmp_path / "collapse.json").read_text())
    assert (entry["rule"], entry["step"], entry["since"]) == ("entropy_low", 7, 5)
    assert entry["checkpoint"] == "step_000004"
    assert entry["row"]["entropy"] == 0.001
    assert "step_000004 is kept" in capsys.readouterr().out
    for step in (8, 10, 12):  # and it outlives the others
        checkpoint.save(made.checkpoints, NoLearner(), TrainState(step), 1)
    names = sorted(path.name for path in made.checkpoints.iterdir())
    assert names == ["step_000004", "step_000012"]
    assert checkpoint.latest(made.checkpoints).name == "step_000012"


def test_it_can_stop_the_run(tmp_path):
    made = trainer(tmp_path, "collapse.action=stop", "collapse.patience=1")
    with pytest.raises(CollapseError, match=r"step 1: stopped by the collapse detector"):
        detect_collapse(made, 1, rows(1, entropy=0.001)[0])


def test_without_an_earlier_checkpoint_nothing_is_pinned(tmp_path, capsys):
    made = trainer(tmp_path, "collapse.patience=1")
    detect_collapse(made, 1, rows(1, entropy=0.001)[0])
    assert "no checkpoint before it" in capsys.readouterr().out


def test_it_can_be_ignored(tmp_path, autopsies):
    made = trainer(tmp_path, "collapse.action=ignore")
    for row in rows(9, entropy=0.0):
        detect_collapse(made, row["step"], row)
    assert autopsies == []
    assert not (tmp_path / "collapse.json").exists()
