"""Two ranks with gloo take the step that one rank takes, at every ZeRO stage and layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT, cli, distance, torchrun
from safetensors.torch import load_file

from sapo_vl.training import replay
from sapo_vl.training.replay import Agreement

pytestmark = pytest.mark.slow

WORKER = ROOT / "tests" / "integration" / "worker_ranks.py"
CASES = ["padded-0", "shared_prefix-0", "shared_prefix-2", "shared_prefix-3", "padded-3"]
FORMS = ["offload-2", "offload-3", "alternate-3", "moe-offload-3", "moe-alternate-3", "kl-3"]
LORA = ["lora-all-0", "lora-1", "lora-all-2", "lora-offload-2", "lora-3", "lora-offload-all-3"]
HYBRID = {"hybrid-all-3": 1e-3, "hybrid-padded-3": 3e-3}
"""Bounds of the whole distance, relative to the update. transformers' chunked delta rule loses
digits in the gradient of the decay's weights, which Adam magnifies where that gradient is small;
padded rows have other chunks than packed ones."""


@pytest.fixture(scope="module")
def outputs(tiny_folders, tmp_path_factory) -> dict[int, Path]:
    """Return the folder with the results of 1 rank and of 2."""
    models = [tiny_folders(name) for name in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5")]
    folders = {}
    for ranks in (1, 2):
        folders[ranks] = tmp_path_factory.mktemp(f"ranks_{ranks}")
        done = torchrun(ranks, WORKER, *models, folders[ranks])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        assert "done" in done.stdout
        assert "resume: exact" in done.stdout
    return folders


def exported(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def largest(a: dict, b: dict) -> float:
    """Return the largest |a - b| of all elements."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("case", ["padded-0", "shared_prefix-0"])
def test_the_gradient_does_not_depend_on_the_number_of_ranks(outputs, case):
    """Ten rollouts on one rank and two on the other: more micro-batches here than there."""
    reference = torch.load(outputs[1] / f"{case}-gradient-0.pt")
    for rank in (0, 1):
        gradient = torch.load(outputs[2] / f"{case}-gradient-{rank}.pt")
        assert distance(gradient, reference) < 1e-6
    padded = torch.load(outputs[1] / "padded-0-gradient-0.pt")
    assert distance(reference, padded) < 2e-6  # the layouts round differently, see test_learner
    shrunk = {name: value * (1 - 1e-5) for name, value in reference.items()}
    assert distance(shrunk, reference) > 5e-6  # the bound has teeth


@pytest.mark.parametrize("case", CASES)
def test_weights_after_two_steps_do_not_depend_on_the_number_of_ranks(outputs, case, tiny_folder):
    """The second step gives one rank pictures alone and the other text alone."""
    start, reference = exported(tiny_folder), exported(outputs[1] / "padded-0")
    update = distance(reference, start)
    assert update > 1e-3
    for ranks in (1, 2):
        assert distance(exported(outputs[ranks] / case), reference) < 1e-3 * update


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_any_form_gives_the_plain_weights_after_three_steps(outputs, form, ranks, request):
    """Offloading, recomputing and sharding, dense and with experts: ZeRO-0's weights on one rank.

    Under ZeRO-3 the head works in chunks of 4 tokens, and the ranks have unequal numbers of them.
    """
    model, plain = ("tiny_folder", "plain")
    if form.startswith("moe"):
        model, plain = ("tiny_moe_folder", "moe-plain")
    if form.startswith("kl"):
        plain = "kl-plain"
        assert largest(*(exported(outputs[1] / name) for name in ("kl-plain", "plain"))) > 1e-4
    start = exported(request.getfixturevalue(model))
    plain, found = exported(outputs[1] / plain), exported(outputs[ranks] / form)
    assert distance(plain, start) > 1e-3
    assert largest(plain, start) > 2e-3
    if form.startswith("kl"):
        assert distance(found, plain) < 5e-6  # 9e-7; Adam magnifies rounding in one element
        assert largest(found, plain) < 2e-4
    else:
        assert largest(found, plain) < 5e-5


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("form", HYBRID)
def test_gated_delta_nets_are_sharded(outputs, form, ranks, tiny_folders):
    """Their own parameters, read outside the forward of a submodule, are gathered and trained.

    So is the convolution's weight, which the padded layout reads without calling its module. The
    vision tower is frozen. One rank has other numbers of prompts, responses and pictures.
    """
    start, plain = exported(tiny_folders("qwen3_5")), exported(outputs[1] / "hybrid-plain")
    found = exported(outputs[ranks] / form)
    names = ("A_log", "dt_bias", "conv1d.weight", "linear_attn.norm.weight")
    for name in start:
        moved = float((found[name] - start[name]).abs().max())
        if ".visual." in name and "merger" not in name:
            assert moved == 0, name
        elif name.endswith(names):
            assert moved > 1e-3, name
    assert distance(found, plain) < HYBRID[form] * distance(plain, start)
    others = [name for name in plain if not name.endswith(("A_log", "dt_bias", "in_proj_a.weight"))]
    assert largest(*({name: w[name] for name in others} for w in (found, plain))) < 2e-4


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("form", LORA)
def test_any_form_gives_the_plain_adapter_after_three_steps(outputs, form, ranks):
    """ZeRO 0 to 3, checkpointing, offloading: the adapter of ZeRO-0 on one rank, and its base."""
    plain, found = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (outputs[1] / "lora-plain", outputs[ranks] / form)
    )
    assert {name.split(".")[3] for name in plain} == {"visual", "language_model"}
    for name, tensor in plain.items():
        assert tensor.any(), name
    assert largest(found, plain) < 5e-5
    assert largest(*map(exported, (outputs[ranks] / form, outputs[1] / "lora-plain"))) < 5e-5
    base = (outputs[1] / "lora-plain-frozen").read_text()
    assert (outputs[ranks] / f"{form}-frozen").read_text() == base != ""


def test_a_run_on_two_ranks(tmp_path):
    """The whole job with the reference sampler: data, sampling and evaluation are shared out."""
    out = tmp_path / "run"
    arguments = [
        "--module",
        "sapo_vl.cli.parser",
        "train",
        "--config",
        ROOT / "configs" / "train" / "smoke.yaml",
        f"run.dir={out}",
        "generator.backend=transformers",
        "learner.zero_stage=3",
        "sft.steps=3",
        "rollout.steps=2",
        "rollout.prompts=6",
        "rollout.max_new_tokens=8",
        "data.synthetic_train=60",
        "data.synthetic_test=12",
        "evaluation.problems=6",
        "evaluation.samples=2",
    ]
    done = torchrun(2, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    summary = json.loads((out / "summary.json").read_text())
    for name in ("before", "after"):
        assert summary[name]["problems"] == 6
        lines = (out / "eval" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == 6 * (2 + 1)
        assert len({json.loads(line)["id"] for line in lines}) == 6
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "train"] == [1, 2]
    assert all(
        row["mismatch/max_abs"] < 1e-3
        for row in rows
        if row["phase"] == "train" and "mismatch/max_abs" in row
    )
    assert exported(out / "final").keys() == exported(out / "warmup" / "final").keys()
    alone = cli("export", out, "--out", tmp_path / "alone")  # ZeRO-3's parts, without the ranks
    assert alone.returncode == 0, alone.stderr
    for file in (out / "final").iterdir():
        assert (tmp_path / "alone" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_rank_whose_share_breaks_has_its_own_autopsy(outputs, capsys):
    """Its replay in one process has the denominator of both, and rank 0's copy of the weights."""
    first, second = sorted((outputs[2] / "broken" / "autopsy").iterdir())
    assert [first.name, second.name] == [f"step_000007-nonfinite-rank{i}" for i in (0, 1)]
    assert (first / "model" / "model.safetensors").exists()
    assert not (second / "model").exists()
    found = json.loads((second / "gradients.json").read_text())
    assert {(fault["rollout"], fault["token"]) for fault in found["tokens"]} >= {(2, 0)}
    assert {fault["rollout"] for fault in found["tokens"]} == {2}  # 5 of all: every second one
    assert json.loads((first / "gradients.json").read_text())["finite"]
    for path in (first, second):
        assert json.loads((path / "manifest.json").read_text())["denominator"] == 12  # responses
        assert replay.main(path, None, []) in (Agreement.EXACT, Agreement.CLOSE)
