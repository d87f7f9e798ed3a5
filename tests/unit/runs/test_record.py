"""What --resume may change, that it is written down, and that nothing else gets through."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sapo_vl.config import Config, load, to_yaml
from sapo_vl.errors import ConfigError
from sapo_vl.runs.folder import Run
from sapo_vl.runs.record import FIXED, LOCATIONS, changes, resumed_config, saved_config

START = ("rollout.steps=2", "run.seed=3", "sapo.tau_neg=1.1", "rewards=[{fn: boxed}]")

OTHER = {
    "objective": "grpo",
    "run.seed": "4",
    "model.dtype": "float32",
    "model.freeze": "[vision]",
    "model.lora": "{rank: 8}",
    "learner.zero_stage": "1",
    "learner.offload_optimizer": "true",
    "learner.offload_parameters": "true",
    "data.train_split": "other",
    "data.rest_after": "2",
    "data.synthetic_train": "5",
    "data.synthetic_test": "5",
    "data.eval_split": "other",
}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """The folder of a run that has started and has a checkpoint of step 4."""
    folder = tmp_path / "run"
    config = load(None, [f"run.dir={folder}", *START])
    Run(config, resume=False).close()
    (folder / "metrics.jsonl").write_text("")
    (folder / "checkpoints" / "step_000004+2").mkdir(parents=True)
    return folder


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return path


def test_every_fixed_key_is_tried_and_exists():
    assert set(OTHER) == set(FIXED)
    tree = Config().model_dump()
    for key in (*FIXED, *LOCATIONS):
        section, _, name = key.partition(".")
        assert name in tree[section] if name else section in tree, key


@pytest.mark.parametrize("key", OTHER)
def test_a_key_that_the_checkpoint_is_tied_to_is_refused_by_name(run_dir, key, tmp_path):
    also = ["learner.zero_stage=3"] if key == "learner.offload_parameters" else []
    with pytest.raises(ConfigError, match="learner.zero_stage" if also else key) as caught:
        resumed_config(run_dir, None, [f"{key}={OTHER[key]}", *also])
    assert "\n" not in str(caught.value)
    if not also:
        section, _, name = key.partition(".")
        tree = {section: {name: yaml.safe_load(OTHER[key])} if name else OTHER[key]}
        with pytest.raises(ConfigError, match=key):
            resumed_config(run_dir, written(tmp_path, yaml.safe_dump(tree)), [])


def test_other_keys_change_and_are_written_down(run_dir, capsys):
    before = (run_dir / "config.yaml").read_text()
    config = resumed_config(
        run_dir, None, ["rollout.steps=9", "sapo.tau_neg=1.2", "learner.lr=1e-4"]
    )
    assert (config.rollout.steps, config.run.seed) == (9, 3)
    Run(config, resume=True).close()
    assert saved_config(run_dir) == config
    assert (run_dir / "config-step_000004.yaml").read_text() == before
    said = capsys.readouterr().out
    for words in ("from step 4: rollout.steps: 2 -> 9", "sapo.tau_neg: 1.1 -> 1.2", "learner.lr"):
        assert words in said
    Run(config, resume=True).close()  # unchanged: nothing to say, nothing to keep
    assert capsys.readouterr().out == ""
    Run(resumed_config(run_dir, None, ["rollout.steps=8"]), resume=True).close()
    kept = sorted(path.name for path in run_dir.glob("config-*.yaml"))
    assert kept == ["config-step_000004-2.yaml", "config-step_000004.yaml"]


def test_a_file_beside_resume_counts(run_dir, tmp_path):
    file = written(tmp_path, "rollout: {steps: 50}\nsapo: {tau_pos: 0.9}\n")
    config = resumed_config(run_dir, file, ["sapo.tau_pos=0.8"])
    assert config.rollout.steps == 50
    assert config.objective_options == {"tau_neg": 1.1, "tau_pos": 0.8}
    assert config.run.seed == 3
    assert [term.fn for term in config.rewards] == ["boxed"]


def test_keys_are_checked_together_with_the_saved_ones(tmp_path):
    """`rollout.prompts=2` goes with the run's own two mini-batches, not with the default four."""
    folder = tmp_path / "run"
    keys = ["rollout.prompts=4", "algorithm.num_mini_batches=2", "objective=grpo"]
    Run(load(None, [f"run.dir={folder}", *keys]), resume=False).close()
    config = resumed_config(folder, None, ["rollout.prompts=2", "grpo.high=0.3"])
    assert (config.rollout.prompts, config.objective_options["high"]) == (2, 0.3)
    with pytest.raises(ConfigError, match=r"rollout\.prompts=1 is below"):
        resumed_config(folder, None, ["rollout.prompts=1"])


def test_a_mapping_is_replaced_as_a_whole_and_changed_key_by_key(tmp_path):
    folder = tmp_path / "run"
    keys = ["data.ratio={a: 1, b: 2}", "run.seed=1"]
    Run(load(None, [f"run.dir={folder}", *keys]), resume=False).close()
    assert resumed_config(folder, None, ["data.ratio={c: 1}"]).data.ratio == {"c": 1}
    both = resumed_config(folder, None, ["data.ratio.b=5", "data.ratio.c=1"]).data.ratio
    assert both == {"a": 1, "b": 5, "c": 1}


def test_fewer_steps_than_done_are_refused(run_dir):
    with pytest.raises(ConfigError, match=r"rollout\.steps=3: the run has done 4"):
        resumed_config(run_dir, None, ["rollout.steps=3"])


def test_the_warm_up_can_change_until_it_is_finished(run_dir):
    assert resumed_config(run_dir, None, ["sft.steps=7"]).sft.steps == 7
    (run_dir / "warmup" / "final").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"sft\.lr=0\.5: the warm-up"):
        resumed_config(run_dir, None, ["sft.lr=0.5"])


def test_relative_paths_are_written_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "v.py").write_text("")
    keys = ["run.dir=run", "data.path=d", "model.path=model", "rewards=[{fn: 'my/v.py:score'}]"]
    Run(load(None, keys), resume=False).close()
    monkeypatch.chdir("/")
    config = saved_config(tmp_path / "run")
    assert config.data.path == tmp_path / "d"
    assert config.model.path == str(tmp_path / "model")
    assert config.rewards[0].fn == f"{tmp_path}/my/v.py:score"
    assert load(None, ["model.path=org/name"]).model.path == "org/name"
    monkeypatch.chdir(tmp_path)  # the same paths, written relative to here, are no change
    assert changes(config, resumed_config(tmp_path / "run", None, keys)) == {}


def test_a_moved_run_is_resumed_where_it_is(run_dir, tmp_path):
    moved = tmp_path / "moved"
    run_dir.rename(moved)
    assert resumed_config(moved, None, []).run.dir == moved
    assert saved_config(moved).run.dir == moved


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_cut_config_is_one_line(run_dir, share):
    path = run_dir / "config.yaml"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    for read in (saved_config, lambda folder: resumed_config(folder, None, [])):
        with pytest.raises(ConfigError, match=r"config\.yaml is empty or cut off") as caught:
            read(run_dir)
        assert "\n" not in str(caught.value)


def test_a_config_that_was_there_before_the_run_is_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    Run(load(None, [f"run.dir={tmp_path}"]), resume=False).close()
    assert (tmp_path / "config-step_000000.yaml").read_text() == "mine: 1\n"
    assert to_yaml(saved_config(tmp_path)) in (tmp_path / "config.yaml").read_text()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", tmp_path / ("x" * 300), Path("/proc/none/run")):
        with pytest.raises(ValueError, match=r"run\.dir=") as caught:
            Run(load(None, [f"run.dir={place}"]), resume=False)
        assert "\n" not in str(caught.value)


def test_two_starts_in_one_folder(run_dir):
    first = Run(saved_config(run_dir), resume=True)
    with pytest.raises(ConfigError, match=r"run\.dir=.* is in use by process"):
        Run(saved_config(run_dir), resume=True)
    first.close()
    Run(saved_config(run_dir), resume=True).close()
