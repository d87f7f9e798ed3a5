"""The configuration: order of sources, refusals with the nearest name, and every YAML file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config, dump, load, parse_section, section_of, to_yaml
from sapo_vl.config.keys import BUILT_IN_OBJECTIVES, RENAMED
from sapo_vl.errors import ConfigError

FILES = sorted(ROOT.glob("configs/train/*.yaml")) + sorted(ROOT.glob("configs/eval/*.yaml"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_of_the_paper():
    config = objectives.resolve(load(None, []))
    assert config.objective == "sapo"
    assert config.objective_options == {"tau_pos": 1.0, "tau_neg": 1.05, "gate": "sigmoid"}
    assert (config.algorithm.num_mini_batches, config.algorithm.importance_cap) == (4, 2)


@pytest.mark.parametrize("value", ["true", "false", "null"])
def test_gradient_checkpointing_is_a_choice_of_three(value):
    with pytest.raises(ConfigError, match=r"gradient_checkpointing=.*'none', 'alternate' or"):
        load(None, [f"model.gradient_checkpointing={value}"])


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = written(tmp_path, "sapo: {tau_pos: 0.9, tau_neg: 1.2}\nrun: {seed: 3}\n")
    config = load(path, ["sapo.tau_neg=1.1", "run.dir=runs/x"])
    assert config.objective_options == {"tau_pos": 0.9, "tau_neg": 1.1}
    assert objectives.resolve(config).objective_options["gate"] == "sigmoid"
    assert config.algorithm.num_mini_batches == 4
    assert (config.run.seed, config.run.dir) == (3, Path("runs/x"))


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("data.instruction=Think first: then answer", "data", "instruction", None),
        ("data.instruction=#1 {x} [y", "data", "instruction", None),
        ("data.instruction='quoted: text'", "data", "instruction", "quoted: text"),
        ("data.instruction='Well', she said", "data", "instruction", None),
        ("data.instruction=42", "data", "instruction", None),
        ("data.instruction=null", "data", "instruction", None),
        ("data.instruction=2025-13-45", "data", "instruction", None),
        ("data.instruction=", "data", "instruction", None),
        ("data.train_split=yes", "data", "train_split", None),
        ("run.dir=20251125", "run", "dir", Path("20251125")),
        ("run.dir=2025-11-25", "run", "dir", Path("2025-11-25")),
        ("run.dir=1e5", "run", "dir", Path("1e5")),
        ("data.path=none", "data", "path", "nothing"),
        ("algorithm.importance_cap=none", "algorithm", "importance_cap", "nothing"),
        ("algorithm.importance_cap=None", "algorithm", "importance_cap", "nothing"),
        ("algorithm.importance_cap=~", "algorithm", "importance_cap", "nothing"),
        ("rollout.max_resample_rounds=none", "rollout", "max_resample_rounds", "nothing"),
        ("run.seed=010", "run", "seed", 10),
        ("run.seed=1_000", "run", "seed", 1000),
        ("run.wandb=yes", "run", "wandb", True),
        ("learner.zero_stage=3", "learner", "zero_stage", 3),
    ],
)
def test_the_type_of_a_key_decides_how_a_value_is_read(override, section, key, value, tmp_path):
    expected = override.partition("=")[2] if value is None else value
    expected = None if expected == "nothing" else expected
    assert getattr(getattr(load(None, [override]), section), key) == expected
    text = override.partition("=")[2]
    if ": " not in text and "#" not in text and text not in ("", "~") and "'," not in text:
        path = written(tmp_path, f"{section}:\n  {key}: {text}\n")
        assert getattr(getattr(load(path, []), section), key) == expected


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    keys = ("run.dir", "data.path", "sft.data", "learner.deepspeed", "evaluation.source")
    config = load(None, [f"{key}=~/x" for key in keys] + ["model.path=~/model"])
    tree = dump(config)
    for key in keys:
        section, name = key.split(".")
        assert tree[section][name] == "/home/me/x", key
    assert config.model.path == "/home/me/model"
    assert load(None, ["data.path=~"]).data.path == Path("/home/me")


def test_a_password_is_never_repeated():
    with pytest.raises(ConfigError, match=r"judge\.url") as caught:
        load(None, ["judge.url=http://me:s3cret@host/v1", "judge.model=m"])
    assert "s3cret" not in str(caught.value)


def test_a_null_section_can_be_filled(tmp_path):
    path = written(tmp_path, "judge: null\n")
    config = load(path, ["judge.url=http://127.0.0.1:1/v1", "judge.model=2024"])
    assert config.judge is not None
    assert (config.judge.url, config.judge.model) == ("http://127.0.0.1:1/v1", "2024")
    assert load(path, ["judge=none"]).judge is None


def test_a_long_value_is_shortened():
    with pytest.raises(ConfigError) as caught:
        load(None, [f"run.seed={'9' * 5000}"])
    assert len(str(caught.value)) < 300


def test_the_last_override_of_a_key_wins():
    assert load(None, ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_scientific_numbers_are_numbers(text, tmp_path):
    assert load(None, [f"learner.lr={text}"]).learner.lr == 1e-5
    assert load(written(tmp_path, f"learner: {{lr: {text}}}"), []).learner.lr == 1e-5


def test_values_in_yaml_notation():
    config = load(
        None,
        [
            "model.freeze=[vision]",
            "algorithm.importance_cap=null",
            "run.tensorboard=false",
            "learner.betas=[0.9, 0.99]",
            "rewards=[{fn: boxed, weight: 0.5}, {fn: my/file.py:score}]",
        ],
    )
    assert config.model.freeze == ["vision"]
    assert config.algorithm.importance_cap is None
    assert config.run.tensorboard is False
    assert config.learner.betas == (0.9, 0.99)
    assert [(t.fn, t.weight) for t in config.rewards] == [("boxed", 0.5), ("my/file.py:score", 1)]


@pytest.mark.parametrize(
    ("override", "wrong", "right"),
    [
        ("sapo.tau_ngeative=1", "sapo.tau_ngeative", "sapo.tau_neg"),
        ("learner.zero_stgae=1", "learner.zero_stgae", "learner.zero_stage"),
        ("lerner.lr=1", "lerner", "learner"),
        ("spao.tau_neg=1", "spao", "sapo"),
        ("grop.high=1", "grop", "grpo"),
        ("temperature=1", "temperature", "rollout.temperature"),
        ("learner.group_size=4", "learner.group_size", "rollout.group_size"),
        ("rewards=[{fun: boxed}]", "rewards[0].fun", "rewards[0].fn"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, wrong, right):
    with pytest.raises(ConfigError) as caught:
        objectives.resolve(load(None, [override]))
    assert f"unknown key '{wrong}'" in str(caught.value)
    assert f"did you mean '{right}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    path = written(tmp_path, "learner:\n  zero_stages: 1\n")
    with pytest.raises(
        ConfigError, match=r"zero_stages.*did you mean 'learner.zero_stage'"
    ) as caught:
        load(path, [])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.seed", "not an override; write key=value"),
        ("sapo=3", "'sapo' holds a group of keys"),
        ("learner=3", "'learner' holds a group of keys"),
        ("sapo.tau_neg=-1", "sapo.tau_neg=-1: Input should be greater than 0"),
        ("sapo.tau_neg=high", "sapo.tau_neg='high': Input should be a valid number"),
        ("learner.zero_stage=4", "learner.zero_stage=4: Input should be 0, 1, 2 or 3"),
        ("model.dtype=fp8", "model.dtype='fp8': Input should be 'float32' or 'bfloat16'"),
        ("rollout.group_size=1", "rollout.group_size=1"),
        ("learner.lr=1e30", "learner.lr=1e+30"),
        ("sft.lr=nan", "sft.lr=nan"),
        ("learner.betas=[2,3]", "learner.betas.0=2"),
        ("learner.betas=[0.9, 1]", "learner.betas.1=1"),
        ("learner.betas.x=1", "learner.betas"),
        ("run.seed=-1", "run.seed=-1"),
        ("run.seed=4294967296", "run.seed=4294967296"),
        ("run.seed=1:30", "run.seed='1:30'"),
        ("run.stall_minutes=1e300", "run.stall_minutes=1e+300"),
        ("run.dir=", "run.dir=''"),
        ("run.dir=~no-such-user-here/x", "no-such-user-here"),
        ("model.path=", "model.path=''"),
        ("rollout.temperature=1e-5", "rollout.temperature=1e-05"),
        ("algorithm.importance_cap=-1", "algorithm.importance_cap=-1"),
        ("algorithm.importance_cap=inf", "algorithm.importance_cap=inf"),
        ("rewards=[{fn: boxed, weight: .inf}]", "rewards.0.weight=inf"),
        ("rewards=[{fn: boxed, weight: nan}]", "rewards.0.weight=nan"),
        ("sapo.tau_neg=inf", "sapo.tau_neg=inf"),
        ("data.ratio={sum: .nan}", "data.ratio.sum=nan"),
        ("judge={url: localhost, model: m}", "judge.url='localhost'"),
        ("judge={url: 'http://h:99999/v1', model: m}", "judge.url="),
        ("judge={url: 'http://h/v1?key=s', model: m}", "OPENAI_API_KEY"),
        ("rollout.prompts=2", "rollout.prompts=2 is below algorithm.num_mini_batches=4"),
        ("data.max_pixels=100", "data.min_pixels=4096 is above data.max_pixels=100"),
        ("rollout.max_new_tokens=9000", "leaves no room"),
        ("rewards=[]", "rewards is empty"),
        ("learner.offload_parameters=true", "needs learner.zero_stage=3"),
        ("model.freeze=[1", "is not a value in YAML notation"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(override, words):
    with pytest.raises(ConfigError) as caught:
        objectives.resolve(load(None, [override]))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must hold 'key: value' lines, not a list"),
        ("a: [1\n", "can't be read"),
        ("sapo:\n", "'sapo' holds a group of keys"),
        ("run: {seed: 1}\nrun: {dir: x}\n", "'run' is given twice"),
        ("run:\n  seed: 1\n  seed: 2\n", "'seed' is given twice"),
        ("data: {ratio: &a {b: *a}}\n", "refers to itself"),
        ("7\n", "not a int"),
        ("[" * 5000, "can't be read"),
    ],
)
def test_a_broken_file(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), [])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_nearest_there_is():
    with pytest.raises(ConfigError, match=r"does not exist; did you mean '.*smoke\.yaml'"):
        load(ROOT / "configs/train/smok.yaml", [])


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load(written(tmp_path, "# nothing\n"), []) == Config()


def test_later_assignments_are_checked():
    config = load(None, [])
    with pytest.raises(ValueError, match="float32"):
        config.model.dtype = "fp8"


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_file_parses_and_survives_saving(path, tmp_path):
    config = objectives.resolve(load(path, []))
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "saved.yaml", []) == config


def test_offload_needs_zero():
    with pytest.raises(ConfigError, match=r"needs learner\.zero_stage of 1, 2 or 3"):
        load(None, ["learner.zero_stage=0", "learner.offload_optimizer=true"])


def test_a_state_that_is_always_in_host_memory_is_not_moved_there():
    with pytest.raises(ConfigError, match=r"offload_while_sampling .*offload_optimizer=true"):
        load(None, ["learner.offload_while_sampling=true", "learner.offload_optimizer=true"])


def test_there_are_files_for_every_size():
    names = {p.name for p in FILES}
    assert {"main.yaml", "smoke.yaml", "synthetic.yaml"} <= names
    sizes = {"qwen3_vl_2b.yaml", "qwen3_vl_4b.yaml", "qwen3_vl_8b.yaml", "qwen3_vl_30b_a3b.yaml"}
    assert sizes <= names


def test_everything_survives_saving(tmp_path):
    config = load(
        None,
        [
            "data.path=a/b",
            "algorithm.importance_cap=null",
            "model.freeze=[merger, vision]",
            "learner.betas=[0.8, 0.9]",
            "rewards=[{fn: format}, {fn: boxed, weight: 2}]",
            "generator.parity_stop=1e-3",
        ],
    )
    for number, tree in enumerate((config, Config())):
        path = tmp_path / f"{number}.yaml"
        path.write_text(to_yaml(tree))
        assert load(path, []) == tree


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_names_the_new_one(old, new, tmp_path):
    section, _, key = old.partition(".")
    override = f"{old}=1" if key else f"{section}.low=1"
    with pytest.raises(ConfigError, match=re.escape(f"'{old}'; it is now {new}")) as caught:
        objectives.resolve(load(None, [override]))
    assert "\n" not in str(caught.value)
    text = f"{section}: {{{key or 'low'}: 1}}\n"
    with pytest.raises(ConfigError, match=re.escape(new)):
        objectives.resolve(load(written(tmp_path, text), []))


def test_every_new_key_exists():
    known = [
        f"{s}.{k}"
        for s, values in dump(Config()).items()
        if isinstance(values, dict)
        for k in values
    ]
    for new in RENAMED.values():
        assert new in known or new.startswith(("a section", "the environment variable")), new


def test_the_built_in_objectives_are_those_there_are():
    assert set(objectives.OBJECTIVES) == set(BUILT_IN_OBJECTIVES)


@pytest.mark.parametrize(
    ("objective", "section"), [("grpo", "grpo"), ("my/loss.py:loss", "loss"), ("a:b/c.py:d", "d")]
)
def test_the_section_of_an_objective(objective, section):
    assert section_of(objective) == section


def test_options_of_the_file_belong_to_the_files_objective(tmp_path):
    path = written(tmp_path, "objective: grpo\ngrpo: {high: 0.3}\n")
    config = load(path, ["grpo.low=0.1"])
    assert (config.objective, config.objective_options) == ("grpo", {"high": 0.3, "low": 0.1})
    with pytest.raises(ConfigError, match="'grpo' holds options of objective=grpo") as caught:
        load(path, ["objective=gspo"])
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="the command line: 'cispo' holds options"):
        load(path, ["cispo.low=1"])


def test_the_resolved_config_shows_the_objectives_section(tmp_path):
    config = objectives.resolve(load(None, ["objective=cispo", "cispo.high=3"]))
    assert dump(config)["cispo"] == {"low": 1.0, "high": 3.0}
    assert dump(config)["objective"] == "cispo"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == dump(config)
    assert load(tmp_path / "config.yaml", []) == config


def test_a_section_is_parsed_by_its_own_class():
    model = objectives.OBJECTIVES["grpo"].options
    assert parse_section(model, {"high": 0.5}, "grpo") == model(low=0.2, high=0.5)
    with pytest.raises(ConfigError, match=r"grpo\.high='x'"):
        parse_section(model, {"high": "x"}, "grpo")
    with pytest.raises(ConfigError, match=r"unknown key 'grpo\.hig'; did you mean 'grpo\.high'"):
        parse_section(model, {"hig": 1}, "grpo")


def test_what_is_known_leaves_out_where_options_are_kept():
    with pytest.raises(ConfigError, match="known here: objective, run, model") as caught:
        load(None, ["zzzz=1"])
    assert "objective_options" not in str(caught.value)


SERVED = ("generator.backend=server", "generator.local_servers=1")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (SERVED[:1], "needs generator.servers or generator.local_servers"),
        (SERVED[1:], "no other backend uses them"),
        (("generator.servers=[http://h:1]",), "no other backend uses them"),
        ((*SERVED, "generator.servers=[http://h:1]"), "set one of them"),
        (("rollout.in_flight=true", "rollout.ahead=1"), "needs generator.backend=server and"),
        ((*SERVED, "learner.offload_while_sampling=true"), "offload_while_sampling makes room"),
        ((*SERVED, "rollout.in_flight=true"), "and rollout.ahead of 1 or more"),
    ],
)
def test_keys_of_servers_that_contradict_each_other(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load(None, list(overrides))
