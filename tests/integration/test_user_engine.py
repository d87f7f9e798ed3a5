"""`generator.backend: my/engine.py:Engine`: a user's own generator takes a training step."""

from __future__ import annotations

import pytest
from helpers import ROOT, cli, tiny_config

from sapo_vl.errors import ConfigError
from sapo_vl.generator.base import build, check_backend
from sapo_vl.runs import metrics

ENGINE = '''
"""Samples with transformers and logs every call."""

from pathlib import Path

from sapo_vl.generator.hf_generate import HFGenerator


class Engine:
    def __init__(self, config, assets, *, seed):
        self.inner = HFGenerator(config, assets)
        self.log = Path(__file__).with_name("engine.log").open("w")
        self.write("start", seed)

    def write(self, *words):
        print(*words, file=self.log, flush=True)

    def generate(self, prompts, params, seeds):
        self.write("generate", len(prompts), params.n)
        return self.inner.generate(prompts, params, seeds)

    def update_weights(self, weights):
        weights = dict(weights)
        self.write("update_weights", len(weights))
        self.inner.update_weights(weights.items())

    def sleep(self):
        self.write("sleep")

    def close(self):
        self.write("close")
        self.inner.close()
'''

SMALL = (
    *("run.seed=3", "run.tensorboard=false", "data.synthetic_train=60", "data.synthetic_test=8"),
    *("sft.steps=2", "rollout.steps=1", "rollout.prompts=4", "rollout.group_size=3"),
    *("rollout.max_new_tokens=8", "rollout.max_resample_rounds=0"),
    *("algorithm.num_mini_batches=1", "evaluation.problems=4", "evaluation.samples=1"),
)


@pytest.fixture
def engine_file(tmp_path):
    path = tmp_path / "my_engine.py"
    path.write_text(ENGINE)
    return path


@pytest.mark.slow
def test_a_training_step_with_a_users_engine(tmp_path, engine_file):
    run = tmp_path / "run"
    done = cli(
        *("train", "--config", ROOT / "configs/train/smoke.yaml", *SMALL),
        *(f"generator.backend={engine_file}:Engine", f"run.dir={run}"),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    calls = (tmp_path / "engine.log").read_text().splitlines()
    assert calls[0] == "start 3"
    step = calls.index("generate 4 3")  # the step's one call: 4 prompts, 3 responses each
    assert "sleep" in calls[step:]
    assert any(call.startswith("update_weights") for call in calls[step:])
    rows = [row for row in metrics.read(run) if row["phase"] == "train"]
    assert [row["step"] for row in rows] == [1]


@pytest.mark.parametrize("backend", ["vlllm", "absent/engine.py:Engine"])
def test_a_wrong_backend_is_found_without_starting_one(backend):
    with pytest.raises(ConfigError, match=r"generator\.backend"):
        check_backend(backend)


def test_a_missing_class_is_named(engine_file, tiny_folder, assets):
    config = tiny_config(tiny_folder, f"generator.backend={engine_file}:Motor")
    with pytest.raises(ConfigError, match=r"generator\.backend.*Motor"):
        build(config, assets, seed=0)
