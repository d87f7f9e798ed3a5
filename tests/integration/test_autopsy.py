"""Planted non-finite gradients: found, named, written down, and reproduced by `sapo-vl replay`."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LOG_ADVANTAGE, cli, distance, make_rollouts, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.errors import ConfigError
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.examine import TokenFault, examine, module_of, summary
from sapo_vl.runs.folder import Run
from sapo_vl.train import train_step
from sapo_vl.training import replay
from sapo_vl.training.monitor import open_metrics
from sapo_vl.training.replay import Agreement
from sapo_vl.training.setup import load_inputs
from sapo_vl.training.trainer import Trainer

pytestmark = pytest.mark.slow

LR = 1e-3
FORMS = {
    "zero-2": ("learner.zero_stage=2", "model.dtype=bfloat16"),
    "zero-3": ("learner.zero_stage=3", "model.gradient_checkpointing=all"),
    "padded": ("learner.layout=padded", "learner.micro_batch_tokens=100000"),
}


@pytest.fixture
def objective(tiny_folder):
    return objectives.build(tiny_config(tiny_folder))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.weights()}


@pytest.mark.parametrize("form", FORMS)
def test_an_examination_changes_nothing(build, prompts, objective, form):
    """Not the weights, nor what Adam makes of the next update."""
    examined, untouched = build(*FORMS[form]), build(*FORMS[form])
    before = weights(examined)
    found = examine(examined, make_rollouts(prompts), objective)
    assert found.finite
    assert found.culprit == ""
    assert distance(weights(examined), before) == 0
    reports = [each.update(make_rollouts(prompts), objective, LR) for each in (examined, untouched)]
    assert not any(report.skipped for report in reports)
    assert reports[0].loss == reports[1].loss == found.loss
    assert distance(weights(examined), weights(untouched)) == 0
    # one micro-batch here: the norm over all parameters is the optimizer's
    norm = float(np.sqrt(sum(n * n for n in found.norms.values())))
    assert norm == pytest.approx(reports[1].grad_norm, rel=2e-3)
    by_module = found.by_module()
    assert sum(n * n for n in by_module.values()) == pytest.approx(norm**2)
    assert "model.language_model.layers.0" in by_module


def test_a_layer_that_breaks_is_named(build, prompts, objective):
    learner = build("model.gradient_checkpointing=all")
    with torch.no_grad():
        learner.model.model.language_model.layers[1].mlp.up_proj.weight[3, 5] = float("inf")
    found = examine(learner, make_rollouts(prompts), objective)
    assert not found.finite
    assert found.forward == "model.language_model.layers.1.mlp.up_proj"
    assert found.culprit.startswith("the forward pass of module model.language_model.layers.1.mlp.")


def test_a_gradient_that_breaks_in_the_backward_pass_is_named(build, prompts, objective):
    learner = build()
    layer = learner.model.model.language_model.layers[1].mlp
    layer.down_proj.register_forward_hook(
        lambda module, arguments, output: output * 1.0 + Blunt.apply(output)
    )
    found = examine(learner, make_rollouts(prompts), objective)
    assert (found.forward, found.tokens) == (None, [])
    assert found.after == "model.language_model.layers.1.mlp.down_proj"
    assert found.culprit == f"the backward pass between module {found.after} and module " + str(
        found.backward
    )
    assert str(found.backward).startswith("model.language_model.layers.1.mlp.")


class Blunt(torch.autograd.Function):
    """Zero, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("by_token", [True, False])
def test_a_loss_that_breaks_names_record_response_and_token(build, prompts, objective, by_token):
    """In micro-batches of another order, with one of a rollout's inputs broken besides."""
    rollouts = make_rollouts(prompts)
    marked = rollouts[7]
    marked.advantage = 1e20  # a finite mark that the loss below looks for

    def loss(inputs):
        surrogate = objective.loss(inputs)
        infinite = torch.where(inputs.advantages_T == 1e20, float("inf"), 0.0)
        return surrogate._replace(loss=(inputs.logprobs_T * infinite).sum())

    broken = replace(objective, loss=loss, by_token=by_token)
    learner = build("learner.micro_batch_tokens=200")
    found = examine(learner, rollouts, broken)
    record = marked.prompt.sample.id
    assert found.tokens == [
        TokenFault(record, 7, token, ("the loss's gradient",))
        for token in range(len(marked.token_ids))
    ]
    assert found.culprit == f"the objective's loss at record {record}, response 7, token 0"
    rollouts[2].old_logprobs[0] = float("nan")
    found = examine(learner, rollouts, broken)
    assert {fault.rollout for fault in found.tokens} == {2, 7}
    (given,) = [f for f in found.tokens if "the old log-prob" in f.quantities]
    assert (given.rollout, given.token) == (2, 0)
    assert found.culprit == (
        f"the old log-prob of record {rollouts[2].prompt.sample.id}, response 2, token 0, an "
        "input of the loss"
    )


def test_a_parameter_belongs_to_its_layer():
    assert module_of("model.language_model.layers.3.mlp.up_proj.weight") == (
        "model.language_model.layers.3"
    )
    assert module_of("model.visual.merger.norm.weight") == "model.visual.merger.norm"


TINY_RUN = (
    f"objective={LOG_ADVANTAGE}",
    "rewards=[{fn: boxed}, {fn: random}]",
    "generator.backend=transformers",
    "data.synthetic_train=16",
    "data.synthetic_test=4",
    "rollout.prompts=4",
    "rollout.group_size=4",
    "rollout.max_new_tokens=8",
    "rollout.steps=1",
    "algorithm.num_mini_batches=2",
    "learner.micro_batch_tokens=400",
    "checkpoint.every=9",
)


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_folder):
    """Return a function that takes the step of a tiny run and returns the run's folder."""

    def take_step(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("autopsy") / "run"
        config = tiny_config(tiny_folder, *TINY_RUN, f"run.dir={folder}", *overrides)
        run = Run(objectives.resolve(config), resume=False)
        inputs = load_inputs(run)
        with closing(run), closing(inputs.rubric), open_metrics(run, resume=False) as writer:
            trainer = Trainer(run, inputs, inputs.assets, writer)
            with closing(trainer.learner), closing(trainer.queue):
                trainer.sync()
                with trainer.step() as step:
                    train_step(trainer, step)
        return folder

    return take_step


@pytest.fixture(scope="module")
def whole(train) -> Path:
    """Return the run that trains all weights, whose objective breaks in both mini-batches."""
    return train()


def bundles(run: Path) -> list[Path]:
    return sorted((run / "autopsy").iterdir())


def test_replay_reproduces_a_planted_non_finite_step(whole, capsys):
    """Bit for bit, with the record that the advantages name."""
    first, second = bundles(whole)
    assert [p.name for p in (first, second)] == ["step_000001-nonfinite", "step_000001-nonfinite-2"]
    for path in (first, second):
        groups = json.loads((path / "rollouts.json").read_text())
        guilty = [
            (group["record"], i)
            for i, (group, response) in enumerate(
                (group, response) for group in groups for response in group["responses"]
            )
            if response["advantage"] <= -1
        ]
        assert guilty
        said = replayed(path, capsys, by_command=path == second)
        lines = said.splitlines()
        assert lines[-1] == "reproduced bit for bit"
        named = {(f["record"], f["rollout"]) for f in found(path)["tokens"]}
        assert named == set(guilty)
        record, response = found(path)["tokens"][0]["record"], found(path)["tokens"][0]["rollout"]
        assert (
            f"first value that is not finite: the objective's loss at record {record}, response "
            f"{response}, token 0" in said
        )
        assert "weights of the bundle: those of that moment" in lines
        assert "model.language_model.layers.0" in said


def replayed(path: Path, capsys, *, by_command: bool) -> str:
    """Return what a replay of `path` prints, in this process or by the command."""
    if by_command:
        done = cli("replay", path)
        assert done.returncode == 0, done.stderr
        return done.stdout
    capsys.readouterr()
    assert replay.main(path, None, []) is Agreement.EXACT
    return capsys.readouterr().out


def found(path: Path) -> dict:
    return json.loads((path / "gradients.json").read_text())


def test_another_objective_does_not_reproduce_it(whole, capsys):
    path = bundles(whole)[0]
    assert replay.main(path, None, ["objective=sapo"]) is Agreement.NOT
    assert "first value that is not finite: none" in capsys.readouterr().out
    assert replay.main(path, None, ["learner.layout=padded"]).is_reproduced


def test_without_its_weights_the_runs_start_or_a_folder_takes_their_place(
    whole, tiny_folder, tmp_path, capsys
):
    """The step was skipped, so that both are the same weights here."""
    shutil.copytree(whole, tmp_path / "run")
    path = bundles(tmp_path / "run")[0]
    shutil.rmtree(path / "model")
    with pytest.raises(ConfigError, match=r"nonfinite/model is missing: .*--model"):
        replay.main(path, None, [])
    assert replay.main(path, str(tiny_folder), []) is Agreement.EXACT
    manifest = json.loads((path / "manifest.json").read_text())
    for checkpoint, words in (
        (None, "weights that the run started from"),
        ("step_000001", "weights of checkpoint step_000001: its weights are those of the batch"),
    ):
        changed = manifest | {"weights": None, "checkpoint": checkpoint}
        (path / "manifest.json").write_text(json.dumps(changed))
        assert replay.main(path, None, []) is Agreement.EXACT
        assert words in capsys.readouterr().out


def test_a_finite_pass_is_compared_figure_by_figure(whole, build, prompts, objective):
    seen = examine(build(), make_rollouts(prompts), objective)
    recorded = summary(seen)
    assert replay.compare(recorded, seen) is Agreement.EXACT
    rounded = {n: x * 1.0005 for n, x in recorded["parameter_gradient_norms"].items()}
    near = recorded | {"parameter_gradient_norms": rounded}
    assert replay.compare(near, seen) is Agreement.CLOSE
    assert replay.compare(recorded | {"parameter_gradient_norms": {}}, seen) is Agreement.DIFFERENT
    assert replay.compare(recorded | {"finite": False}, seen) is Agreement.NOT
    assert replay.compare(None, seen) is Agreement.NOTHING
    broken = found(bundles(whole)[0])
    assert replay.compare(broken, seen) is Agreement.NOT


def test_adapters_travel_without_their_base(train):
    run = train("model.lora.rank=8", "learner.zero_stage=3")
    path = bundles(run)[0]
    assert (path / "adapter" / "adapter_model.safetensors").exists()
    assert not (path / "model").exists()
    assert replay.main(path, None, []) is Agreement.EXACT
