"""`sapo-vl train` and `export`: refusals before anything starts, and the plan of a dry run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys

import pytest
from helpers import ROOT, cli, make_sample, one_line, tiny_config

from sapo_vl.config import Config, load
from sapo_vl.data import store
from sapo_vl.errors import ConfigError, DataError, SetupError
from sapo_vl.generator import base as generator
from sapo_vl.model import tiny
from sapo_vl.runs.folder import Run
from sapo_vl.training import export
from sapo_vl.training.setup import preflight

SMOKE = ("train", "--config", ROOT / "configs" / "train" / "smoke.yaml")


def smoke(*overrides: str) -> Config:
    return load(SMOKE[2], list(overrides))


@pytest.mark.slow
def test_missing_data_leaves_no_run(tmp_path):
    run, absent = tmp_path / "run", tmp_path / "absent"
    text = one_line(*SMOKE, f"run.dir={run}", f"data.path={absent}")
    assert f"{absent} does not exist; run: sapo-vl prepare" in text
    assert not run.exists()


def test_data_without_a_split_is_found_before_anything_starts(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no train-\*.parquet"):
        preflight(smoke(f"data.path={tmp_path / 'empty'}"))
    store.write(tmp_path / "train_only", [make_sample()])
    with pytest.raises(DataError, match="has no split 'test', only train"):
        preflight(smoke(f"data.path={tmp_path / 'train_only'}"))


@pytest.mark.slow
def test_a_model_folder_without_a_processor(tmp_path, tiny_folder):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (bare / name).unlink(missing_ok=True)
    text = one_line(*SMOKE, f"run.dir={tmp_path / 'run'}", f"model.path={bare}")
    assert f"model.path={bare}: the folder has no processor" in text
    assert not (tmp_path / "run").exists()


def test_other_folders_that_are_no_model(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    for absent in (f"{tmp_path}/absent", "runs/some/where", "configs/absent"):
        with pytest.raises(DataError, match=rf"model\.path={absent} does not exist"):
            preflight(smoke(f"model.path={absent}"))
    with pytest.raises(DataError, match=r"is not a model folder: config\.json is missing"):
        preflight(smoke(f"model.path={tmp_path}"))
    text_only = tmp_path / "text"
    shutil.copytree(tiny_folder, text_only)
    (text_only / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(DataError, match="model type 'qwen3' is a text model"):
        preflight(smoke(f"model.path={text_only}"))
    (text_only / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json holds no JSON object") as caught:
        preflight(smoke(f"model.path={text_only}"))
    assert "\n" not in str(caught.value)


def test_a_wrong_verifier_is_found_before_anything_starts():
    with pytest.raises(ConfigError, match=r"rewards\[0\].fn: 'bokxed' is unknown.*'boxed'"):
        preflight(smoke("rewards=[{fn: bokxed}]"))


@pytest.mark.slow
def test_a_run_that_exists_is_not_overwritten(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    (run / "metrics.jsonl").write_text("")
    text = one_line(*SMOKE, f"run.dir={run}")
    assert "holds a run already: continue it with --resume" in text
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match=f"run.dir={file} is a file"):
        Run(smoke(f"run.dir={file}"), resume=False)


def test_a_package_that_does_not_import_is_no_vllm(assets, tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it raises ImportError
    with pytest.raises(SetupError, match=r"set generator\.backend=transformers"):
        generator.build(tiny_config(tiny_folder), assets, seed=0)


@pytest.mark.slow
def test_a_folder_of_the_users_keeps_what_is_in_it(tmp_path):
    """A folder that holds no run can be a run's, and nothing in it is deleted."""
    run = tmp_path / "project"
    mine = [run / "data" / "mine.txt", run / "model" / "mine.txt"]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("precious")
    cli(*SMOKE, f"run.dir={run}", f"sft.data={tmp_path / 'absent'}", timeout=180)
    assert [path.read_text() for path in mine] == ["precious"] * 2


@pytest.mark.slow
def test_a_port_in_use(tmp_path):
    """Under a launcher the error is followed by the command that checks the set-up."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli(
            *SMOKE,
            f"run.dir={tmp_path / 'run'}",
            RANK="0",
            WORLD_SIZE="2",
            LOCAL_RANK="0",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            SAPO_LAUNCHER="train_vl.sh",
        )
    assert done.returncode == 2, done.stdout + done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(f"sapo-vl: port {port} is in use on this machine: set MASTER_PORT")
    assert hint.startswith("to check the set-up: ")
    assert hint.endswith(f"doctor --config {SMOKE[2]} run.dir={tmp_path / 'run'}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_vllm(tmp_path):
    """In this process vllm is not found, as where it is not installed."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def without(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] == 'vllm' else find(name, path, target)\n"
        "PathFinder.find_spec = staticmethod(without)\n"
    )
    path = os.pathsep.join([str(tmp_path / "hide"), str(ROOT)])
    text = one_line(*SMOKE, f"run.dir={tmp_path / 'run'}", PYTHONPATH=path)
    assert "vLLM is not installed here" in text
    assert "generator.backend=transformers" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    done = cli(*SMOKE, "--dry-run", f"run.dir={run}", "model.freeze=[vision]")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "16 prompts x 4 responses of at most 24 tokens, 4 mini-batches" in text
    found = [line.split() for line in text.splitlines()]
    rows = {line[0]: line[1:] for line in found if len(line) == 3}
    assert rows["vision"][1] == rows["merger"][1] == "0"
    assert rows["language"][0] == rows["language"][1] == rows["all"][1]
    total = sum(int(rows[name][0].replace(",", "")) for name in ("vision", "merger", "language"))
    assert int(rows["all"][0].replace(",", "")) == total
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("qwen3_vl_4b", (4.3e9, 4.6e9)), ("qwen3_vl_30b_a3b", (30e9, 32e9))],
)
def test_a_dry_run_of_the_large_models_needs_neither_hub_nor_memory(tmp_path, name, parameters):
    config = ROOT / "configs" / "train" / f"{name}.yaml"
    store.write(tmp_path / "d", [make_sample(name="a")])
    both = [make_sample(name="a"), make_sample(name="b")]
    object.__setattr__(both[1], "split", "test")
    store.write(tmp_path / "d", both, overwrite=True)
    done = cli("train", "--config", config, "--dry-run", f"data.path={tmp_path / 'd'}",
               f"run.dir={tmp_path / 'run'}", timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stdout.splitlines() if text.split()[:1] == ["all"]][:1]
    assert parameters[0] < int(line.split()[1].replace(",", "")) < parameters[1]
    assert "published shapes" in done.stdout
    assert "1 train, 1 test records" in done.stdout


def test_export_refuses_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        export.main(tmp_path, tmp_path / "out", None)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config\.yaml is empty"):
        export.main(tmp_path, tmp_path / "out", None)
    (tmp_path / "config.yaml").write_text("{}\n...\n")
    for name in ("../x", "step_000001/learner", "/etc"):
        with pytest.raises(ConfigError, match="it has: none"):
            export.main(tmp_path, tmp_path / "out", name)
    with pytest.raises(ConfigError, match=r"step_000009.*none"):
        export.main(tmp_path, tmp_path / "out", "step_000009")
    with pytest.raises(DataError, match="exists already"):
        export.main(tmp_path, tmp_path, None)


def test_init_tiny_does_not_overwrite(tiny_folder):
    with pytest.raises(DataError, match="exists already"):
        tiny.build(tiny_folder, corpus=["0"], seed=0)
