"""Whole runs with adapters: the warm-up's goes on, the base stays, and no kill changes a bit."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from helpers import cli
from killed_runs import SABOTEUR, SMOKE, digest, exact, finished, rows, sabotaged
from peft import PeftModel
from safetensors.torch import load_file

from sapo_vl.errors import SetupError
from sapo_vl.model import lora
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import load_weights
from sapo_vl.training import export

pytestmark = pytest.mark.slow

EVERY_KILL = os.environ.get("SAPO_TEST_KILLS") == "all"
SFT_STEPS, STEPS, LR = 4, 2, 1e-5
OVERRIDES = (
    "model.lora.rank=8",
    "data.synthetic_train=60",
    "data.synthetic_test=12",
    f"sft.steps={SFT_STEPS}",
    "checkpoint.sft_every=2",
    f"rollout.steps={STEPS}",
    "rollout.prompts=8",
    "rollout.max_new_tokens=8",
    f"learner.lr={LR}",
    "evaluation.problems=4",
    "evaluation.samples=1",
    "evaluation.greedy=false",
    "generator.max_model_len=512",
    f"generator.backend={'vllm' if EVERY_KILL else 'transformers'}",
    f"rewards=[{{fn: '{SABOTEUR}:score'}}]",
)
STRIKES = [
    # after the warm-up's four updates and step 1's, in step 2's third mini-batch
    ("update:11:SIGKILL", "continuing at step 1 of 2"),
]
EVERY_STRIKE = [
    ("update:3:SIGKILL", "warm-up: continuing at step 2 of 4"),
    ("saving:3:SIGKILL", "continuing at step 1 of 2"),  # step 2's checkpoint is half written
    ("update:3:SIGKILL", "continuing at step 1 of 2"),  # in step 2's third mini-batch
    ("export:1:SIGKILL", "continuing at step 2 of 2"),
]
"""What `scripts/kills.sh` does, with vLLM; CI strikes once and samples with transformers."""


def train(run: Path, *, resume: bool = False, strike: str = ""):
    options = ["--resume"] if resume else ["--config", SMOKE, *OVERRIDES]
    return sabotaged("train", *options, f"run.dir={run}", strike=strike)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Return a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("reference") / "run"
    done = train(run)
    finished(done)
    (run.parent / "stdout").write_text(done.stdout)
    return run


def test_kills_do_not_change_a_bit_of_an_adapter(reference, tmp_path):
    run, expected = tmp_path / "run", ""
    for number, (strike, following) in enumerate(EVERY_STRIKE if EVERY_KILL else STRIKES):
        done = train(run, resume=number > 0, strike=strike)
        assert done.returncode == -9, (strike, done.stdout[-3000:], done.stderr[-6000:])
        assert expected in done.stdout, (strike, done.stdout[-3000:])
        assert not (run / "final").exists()
        expected = following
    done = train(run, resume=True)
    finished(done)
    assert expected in done.stdout
    for folder in ("warmup/final", "warmup/final/adapter", "final", "final/adapter"):
        for file in sorted(path for path in (reference / folder).iterdir() if path.is_file()):
            if file.name != lora.SETTINGS:  # it names the run's own base
                assert digest(run / folder / file.name) == digest(file), file
    for phase in ("sft", "train", "eval"):
        assert [exact(r) for r in rows(run, phase)] == [exact(r) for r in rows(reference, phase)]
    both = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    resumed, whole = ({k: v for k, v in each.items() if k != "seconds"} for each in both)
    assert resumed == whole


def test_the_base_is_shown_to_be_frozen(reference):
    base = dict(load_weights(open_assets(reference / "model-seed0"), "float32").named_parameters())
    frozen = json.loads((reference / "summary.json").read_text())["frozen"]
    assert frozen["parameters"] == sum(tensor.numel() for tensor in base.values())
    assert frozen["start"] == frozen["end"] != ""
    (line,) = [
        line
        for line in (reference.parent / "stdout").read_text().splitlines()
        if line.startswith("frozen weights")
    ]
    assert line.count(frozen["start"]) == 2


def test_the_warm_ups_adapter_goes_on(reference):
    """It is of the model before the warm-up, and SAPO's few small steps keep it where it was."""
    warm, final = (
        load_file(reference / folder / "final" / "adapter" / lora.WEIGHTS)
        for folder in ("warmup", "")
    )
    settings = json.loads((reference / "final" / "adapter" / lora.SETTINGS).read_text())
    assert settings["base_model_name_or_path"] == str(reference / "model-seed0")
    updates = 4 * STEPS
    gaps = [float((final[name] - warm[name]).abs().max()) for name in warm]
    assert 0 < max(gaps) <= 2 * LR * updates  # Adam moves by about the learning rate
    ups = [float(tensor.abs().max()) for name, tensor in warm.items() if ".lora_B." in name]
    assert min(ups) > 5 * LR * updates
    row = rows(reference, "train")[0]
    assert row["mismatch/max_abs"] <= 1e-4  # the sampler has it from the first step on


def test_base_and_adapter_are_the_merged_model(reference):
    base = load_weights(open_assets(reference / "model-seed0"), "float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        bare = base(input_ids=ids).logits.log_softmax(-1)
        whole = load_weights(open_assets(reference / "final"), "float32")
        merged = whole(input_ids=ids).logits.log_softmax(-1)
        theirs = PeftModel.from_pretrained(base, reference / "final" / "adapter")
        found = theirs(input_ids=ids).logits.log_softmax(-1)
    torch.testing.assert_close(found, merged, atol=1e-5, rtol=0)
    assert float((bare - merged).abs().max()) > 1e-3


def test_export_gives_the_final_model_and_adapter(reference, tmp_path):
    finished(cli("export", reference, "--out", tmp_path / "whole"))
    finished(cli("export", reference, "--out", tmp_path / "adapter", "--adapter-only"))
    for out, folder in (("whole", "final"), ("adapter", "final/adapter")):
        files = {path.name for path in (reference / folder).iterdir() if path.is_file()}
        assert {path.name for path in (tmp_path / out).iterdir()} == files
        for name in files:
            assert digest(tmp_path / out / name) == digest(reference / folder / name), name


def test_a_disk_that_fills_up_leaves_no_half_adapter(reference, tmp_path, monkeypatch):
    def fill(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lora, "write_tensors", fill)
    with pytest.raises(SetupError, match=f"no space left for the adapter in {tmp_path}"):
        export.main(reference, tmp_path / "out", None, adapter_only=True)
    assert list(tmp_path.iterdir()) == []
