"""What a run checks before it trains, and what it makes in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.errors import ConfigError, DataError, SetupError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs.folder import Run
from sapo_vl.training import setup
from sapo_vl.training.setup import (
    SapoStart,
    check_delta_kernels,
    check_records,
    data_folder,
    initial_model,
    load_inputs,
    policy_assets,
    preflight,
    sapo_config,
    sapo_start,
)


def test_preflight_returns_the_resolved_config():
    keys = ["objective=dapo", "generator.backend=transformers", "generator.max_model_len=4096"]
    config = preflight(load(None, keys))
    assert config.objective_options == {"low": 0.2, "high": 0.28}
    assert [(term.fn, term.weight) for term in config.rewards] == [
        ("answer", 1.0),
        ("overlong", -1.0),
    ]
    assert preflight(config) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective=gpo", "objective: 'gpo'"),
        ("sapo.tau_neg=0", r"sapo\.tau_neg=0"),
        ("rewards=[{fn: boxd}]", "boxd"),
        ("generator.backend=vlm", r"generator\.backend: 'vlm'"),
    ],
)
def test_preflight_refuses_what_would_fail_later(override, message):
    with pytest.raises(ConfigError, match=message):
        preflight(load(None, ["generator.backend=transformers", override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.prompts=4", r"rollout\.prompts=4 is below the number of ranks \(6\)"),
        ("sft.batch=5", r"sft\.batch=5 is below the number of ranks \(6\)"),
        ("generator.tensor_parallel=4", r"generator\.tensor_parallel=4 does not divide"),
    ],
)
def test_preflight_checks_the_number_of_ranks(monkeypatch, override, message):
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ConfigError, match=message):
        preflight(load(None, ["generator.backend=transformers", override]))


@pytest.mark.parametrize("key", ["data.path", "sft.data"])
def test_preflight_opens_the_data(tmp_path, key):
    keys = [f"{key}={tmp_path / 'absent'}", "sft.steps=1", "generator.backend=transformers"]
    with pytest.raises(DataError, match="absent"):
        preflight(load(None, keys))


def test_a_hybrid_model_on_a_gpu_needs_its_kernels(monkeypatch, capsys, tiny_folders):
    def keys(path, dtype):
        return load(None, [f"model.path={path}", f"model.dtype={dtype}"])

    hybrids = ("tiny:qwen3_5", tiny_folders("qwen3_5"))
    monkeypatch.setattr(setup, "missing_kernels", lambda: "install them")
    for path in hybrids:
        check_delta_kernels(keys(path, "bfloat16"))  # on a CPU none are needed
    monkeypatch.setattr(setup, "gpu_count", lambda: 1)
    for path in hybrids:
        with pytest.raises(SetupError, match="install them"):
            check_delta_kernels(keys(path, "bfloat16"))
        assert capsys.readouterr().out == ""
        check_delta_kernels(keys(path, "float32"))
        assert "many times slower" in capsys.readouterr().out
    check_delta_kernels(keys("tiny", "bfloat16"))
    check_delta_kernels(keys(tiny_folders("qwen3_vl"), "bfloat16"))
    monkeypatch.setattr(setup, "missing_kernels", lambda: None)
    check_delta_kernels(keys(hybrids[0], "bfloat16"))
    assert capsys.readouterr().out == ""


def test_a_gold_answer_that_the_verifier_refuses_stops_the_run():
    bad = replace(make_sample(name="odd"), answer="1}{2")
    rubric = Rubric.from_terms([("boxed", 1.0)])
    rubric.check_gold([make_sample()])
    with pytest.raises(DataError, match="odd"):
        rubric.check_gold([make_sample(), bad])


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Run:
    """Return a new run on the tiny model with a few procedural problems."""
    keys = ("data.synthetic_train=20", "data.synthetic_test=8", "evaluation.problems=4")
    keys += (f"run.dir={tmp_path / 'run'}", "rollout.prompts=8", "data.max_prompt_tokens=1024")
    keys += ("generator.max_model_len=1280",)
    return Run(preflight(tiny_config(tiny_folder, *keys)), resume=False)


def test_inputs_of_a_run(run, capsys):
    inputs = load_inputs(run)
    assert len(inputs.train_set) == 20
    assert len(inputs.test_set) == 4
    assert {sample.split for sample in inputs.train_set} == {"train"}
    assert {sample.split for sample in inputs.test_set} == {"test"}
    assert len(inputs.prompt_sampler.step(0, 0, 0, 1)) == 8
    assert inputs.benchmarks == {}
    assert "all 24 pass" in capsys.readouterr().out
    inputs.rubric.close()


def test_a_gold_answer_that_fails_is_found_when_inputs_are_loaded(tiny_folder, tmp_path):
    samples = [make_sample(name="fine"), replace(make_sample(name="odd"), answer="1}{2")]
    store.write(tmp_path / "d", [*samples, replace(make_sample(name="held"), split="test")])
    keys = (f"data.path={tmp_path / 'd'}", f"run.dir={tmp_path / 'run'}", "rewards=[{fn: boxed}]")
    config = preflight(tiny_config(tiny_folder, "generator.backend=transformers", *keys))
    with pytest.raises(DataError, match="odd"):
        load_inputs(Run(config, resume=False))


def test_procedural_data_is_made_once(run, capsys):
    folder = data_folder(run, None)
    assert folder == run.dir / "data-seed0-20-8"
    assert "20 training and 8 held-out" in capsys.readouterr().out
    first = [sample.id for sample in store.load(folder, "train")]
    assert data_folder(run, None) == folder
    assert capsys.readouterr().out == ""
    assert [sample.id for sample in store.load(folder, "train")] == first
    assert data_folder(run, Path("given")) == Path("given")


def test_the_policy_is_the_given_folder_or_built_in_the_run(run, tmp_path):
    assert Path(policy_assets(run).path) == initial_model(run.config)
    tiny = load(None, [f"run.dir={tmp_path}", "run.seed=3"])
    assert initial_model(tiny) == tmp_path / "model-seed3"


def prepared(tmp_path, *samples) -> Path:
    held_out = replace(make_sample(name="held"), split="test")
    store.write(tmp_path / "d", [*samples, held_out])
    return tmp_path / "d"


def test_fewer_records_than_prompts_are_said(tiny_folder, tmp_path, capsys):
    path = prepared(tmp_path, make_sample(name="a"), make_sample(name="b"))
    keys = (f"data.path={path}", f"run.dir={tmp_path / 'run'}", "rollout.prompts=8")
    config = preflight(tiny_config(tiny_folder, "generator.backend=transformers", *keys))
    load_inputs(Run(config, resume=False)).rubric.close()
    assert "2 records are fewer than rollout.prompts=8" in capsys.readouterr().out


VERIFIERS = """
def none(sample, response): pass
def any(sample, response): return 1.0
"""


def test_a_verifier_is_tried_and_its_confusion_printed(tiny_folder, tmp_path, capsys):
    (tmp_path / "v.py").write_text(VERIFIERS)
    path = prepared(tmp_path, make_sample(name="a"))
    keys = (f"data.path={path}", f"run.dir={tmp_path / 'run'}", "generator.backend=transformers")
    keys += ("rollout.prompts=4",)
    config = tiny_config(tiny_folder, *keys, f"rewards=[{{fn: '{tmp_path}/v.py:none'}}]")
    with pytest.raises(ConfigError, match=r"rewards\[0\]\.fn=.*v\.py:none: no verdict"):
        load_inputs(Run(preflight(config), resume=False))
    assert "gold answers: all" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no verdict"):
        check_records(config)
    config = tiny_config(tiny_folder, *keys, f"rewards=[{{fn: '{tmp_path}/v.py:any'}}]")
    check_records(config)
    printed = capsys.readouterr().out
    assert "junk right" in printed
    assert "accepts junk: an empty response" in printed
    assert "gold answers: all" not in printed  # it was not asked about all of them


def test_what_the_sapo_phase_starts_from(tmp_path):
    """Adapters go on from the warm-up's, on the same base; a warm-up of all weights is a base."""
    warm, base = tmp_path / "warmup" / "final", tmp_path / "base"
    given = ("model.lora.rank=8", f"model.lora.path={tmp_path / 'a'}")
    for keys, model, adapter in (
        ((), base, None),
        (("sft.steps=2",), warm, None),
        (given, base, tmp_path / "a"),
        (("model.lora.rank=8", "sft.steps=2"), base, warm / "adapter"),
        (("model.lora.rank=8", "sft.steps=2", "sft.lora=false"), warm, None),
    ):
        config = load(None, [f"run.dir={tmp_path}", f"model.path={base}", *keys])
        assert sapo_start(config) == SapoStart(model, adapter)
        assert sapo_config(config).model.lora.path == adapter
        assert sapo_config(config).model.lora.rank == config.model.lora.rank
