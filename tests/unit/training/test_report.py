"""The end of a run: evaluation and model are those of its last step, also after it went on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from sapo_vl.config import load
from sapo_vl.evaluation.heldout import evaluation_settings
from sapo_vl.model.weights import FrozenWeights
from sapo_vl.runs import plots
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.training import report
from sapo_vl.training.report import write_report


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(plots, "curves", lambda folder: folder / "curves.png")


class FakeTrainer:
    """As much of a trainer as a report needs; its model is a file that holds the step."""

    saves = False  # whether an evaluation has a checkpoint

    def __init__(self, folder, step: int, *overrides: str) -> None:
        config = load(None, [f"run.dir={folder}", "evaluation.samples=2", *overrides])
        self.run = Run(config, resume=folder.exists())
        self.run.close()  # as the end of the process does
        self.config, self.state = config, SimpleNamespace(step=step)
        self.objective = SimpleNamespace(is_gated=True)
        frozen = FrozenWeights(1234, "ab12")
        self.learner = SimpleNamespace(
            export=self.export, frozen=frozen, check_frozen=lambda: frozen
        )
        self.checkpoints = self.run.dir / "checkpoints"
        self.evaluated: list[str] = []
        self.settled = False
        if not (self.run.dir / "eval" / "before.json").exists():
            self.state.step = 0
            self.evaluate("before")
            self.state.step = step

    def settle_receipt(self) -> None:
        """Note that the sampler's weights were compared."""
        self.settled = True

    def export(self, out) -> None:
        """Write the model."""
        assert self.settled, "an unproven model"
        out.mkdir(exist_ok=True)
        (out / "weights").write_text(str(self.state.step))

    def evaluation_stamp(self) -> dict:
        """Return the stamp of the trainer."""
        return {"step": self.state.step, "settings": evaluation_settings(self.config)}

    def evaluate(self, name: str) -> None:
        """Write an evaluation whose accuracy is a tenth of the step."""
        self.evaluated.append(name)
        share = self.state.step / 10
        figures = {f"avg@{self.config.evaluation.samples}": share, "ci95": [0.0, 1.0]}
        figures |= {"greedy": None, "problems": 3}
        folder = self.run.dir / "eval"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jsonl").write_text(f"{share}\n")
        with (self.run.dir / "metrics.jsonl").open("a") as file:
            row = {"phase": "eval", "step": self.state.step, "name": name, "avg": share}
            file.write(json.dumps(row) + "\n")
        write_json(folder / f"{name}.json", figures | self.evaluation_stamp())
        if self.saves:
            (self.checkpoints / f"step_{self.state.step:06d}").mkdir(parents=True, exist_ok=True)


@pytest.fixture
def finished(tmp_path):
    """Return the folder of a run that ended at step 2."""
    made = FakeTrainer(tmp_path / "run", 2)
    write_report(made)
    assert made.evaluated == ["before", "after"]
    return made.run.dir


def test_a_finished_run_has_its_model_and_figures(finished):
    assert (finished / "final" / "weights").read_text() == "2"
    assert read_json(finished / "final.json") == {"step": 2}
    summary = read_json(finished / "summary.json")
    assert (summary["before"]["avg@2"], summary["after"]["avg@2"]) == (0.0, 0.2)
    assert summary["frozen"] == {"parameters": 1234, "start": "ab12", "end": "ab12"}
    assert not (finished / "final.partial").exists()


def test_a_finished_run_resumes_to_itself(finished):
    made = FakeTrainer(finished, 2)
    write_report(made)
    assert made.evaluated == []
    assert sorted(p.name for p in finished.glob("final*")) == ["final", "final.json"]


def test_a_run_that_went_on_is_evaluated_and_exported_again(finished, capsys):
    made = FakeTrainer(finished, 4)
    write_report(made)
    assert made.evaluated == ["after"]
    assert (finished / "final" / "weights").read_text() == "4"
    assert (finished / "final-step_000002" / "weights").read_text() == "2"
    assert read_json(finished / "summary.json")["after"]["avg@2"] == 0.4
    assert (finished / "eval" / "after.jsonl").read_text() == "0.4\n"
    assert (finished / "eval" / "after-step_000002.jsonl").read_text() == "0.2\n"
    assert read_json(finished / "eval" / "after-step_000002.json")["step"] == 2
    printed = capsys.readouterr().out
    assert "40.0 %" in printed
    assert "of step 4" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("frozen weights")]
    assert line.count("ab12") == 2  # at the start and at the end
    assert "1,234 parameters" in line


def test_other_settings_are_evaluated_again_and_the_model_is_kept(finished, capsys):
    made = FakeTrainer(finished, 2, "evaluation.temperature=0.5")
    write_report(made)
    assert made.evaluated == ["after"]
    assert sorted(p.name for p in finished.glob("final*")) == ["final", "final.json"]
    assert read_json(finished / "eval" / "after.json")["settings"]["temperature"] == 0.5
    assert "other settings" in capsys.readouterr().out  # than before.json


@pytest.mark.parametrize("kept", [True, False])
def test_a_kill_between_two_renames_leaves_nothing_wrong(finished, kept):
    """`final` was set aside and its stamp is the new one or the old one; the model is written."""
    (finished / "final").rename(finished / "final-step_000002")
    if not kept:
        write_json(finished / "final.json", {"step": 4})
    write_report(FakeTrainer(finished, 4))
    assert (finished / "final" / "weights").read_text() == "4"
    assert (finished / "final-step_000002" / "weights").read_text() == "2"


def test_what_is_set_aside_never_overwrites(finished):
    (finished / "final-step_000002").mkdir()
    write_report(FakeTrainer(finished, 4))
    assert (finished / "final-step_000002-2" / "weights").read_text() == "2"


def test_an_evaluation_without_any_verdict_is_unknown(tmp_path, capsys):
    made = FakeTrainer(tmp_path / "run", 1)
    stamp = made.evaluation_stamp() | {"avg@2": None, "ci95": None, "greedy": None, "problems": 3}
    write_json(made.run.dir / "eval" / "after.json", stamp)
    write_report(made)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("after")]
    assert line.split() == ["after", "-", "-", "-"]


BEST = ("evaluation.every=1", "checkpoint.best=avg")


@pytest.fixture
def written(monkeypatch):
    """Return the checkpoints that were exported; a model is a file with its checkpoint's name."""
    names: list[str] = []

    monkeypatch.setattr(FakeTrainer, "saves", True)

    def write_model(config, path, out) -> None:
        names.append(path.name)
        out.mkdir()
        (out / "weights").write_text(path.name)

    monkeypatch.setattr(report, "write_model", write_model)
    return names


def past_evaluation(made: FakeTrainer, step: int) -> None:
    made.state.step, end = step, made.state.step
    made.evaluate(f"step_{step:06d}")
    made.state.step = end


def test_the_best_model_is_exported_beside_the_last(tmp_path, written, capsys):
    made = FakeTrainer(tmp_path / "run", 2, *BEST, "rollout.steps=2")
    past_evaluation(made, 7)  # of a later step than the end: left by a killed process
    past_evaluation(made, 1)
    write_report(made)
    assert written == ["step_000002"]
    summary = read_json(made.run.dir / "summary.json")
    figures = {"metric": "avg", "step": 2, "value": 0.2, "evaluations": 2, "later": 0}
    assert summary["best"] == figures
    assert summary["stopped_early"] is None
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "best model" in x]
    assert "20.0 %, the highest of 2 evaluations and so too high on average" in line
    write_report(FakeTrainer(made.run.dir, 2, *BEST))
    assert written == ["step_000002"]  # once

    made = FakeTrainer(made.run.dir, 4, *BEST)
    write_report(made)
    assert (made.run.dir / "best" / "weights").read_text() == "step_000004"
    assert (made.run.dir / "best-step_000002" / "weights").read_text() == "step_000002"
    assert read_json(made.run.dir / "best.json") == {"step": 4}


def test_a_run_that_stopped_early_says_so(tmp_path, written, capsys):
    keys = (*BEST, "rollout.steps=9", "evaluation.patience=3")
    made = FakeTrainer(tmp_path / "run", 2, *keys)
    write_report(made)
    summary = read_json(made.run.dir / "summary.json")
    assert summary["stopped_early"] == {"step": 2, "steps": 9, "patience": 3}
    assert "stopped early at step 2 of 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("saved", "reason"), [(True, "manifest.json is missing"), (False, "step_000002 does not exist")]
)
def test_a_damaged_best_checkpoint_costs_its_folder_and_not_the_run(
    tmp_path, capsys, saved, reason
):
    made = FakeTrainer(tmp_path / "run", 2, *BEST)
    made.saves = saved
    write_report(made)
    printed = capsys.readouterr().out
    assert reason in printed
    assert "best model" not in printed
    assert not (made.run.dir / "best").exists()
    assert read_json(made.run.dir / "summary.json")["best"]["step"] == 2
