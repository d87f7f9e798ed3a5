"""Doctor's checks of the model itself, with real vLLM and a real learner."""

from __future__ import annotations

import pytest
from doctor_cases import diagnose, faults, told

from sapo_vl.cli.options import find_config
from sapo_vl.config import load
from sapo_vl.training.doctor.examine import CHECKS

pytestmark = pytest.mark.slow


class Stale:
    """The session's engine, which gets no update after the first."""

    def __init__(self, engine) -> None:
        self._engine = engine

    def update_weights(self, weights, version=0) -> None:
        if version == 0:
            self._engine.update_weights(weights)
        for _ in weights:
            pass

    def __getattr__(self, name):
        return getattr(self._engine, name)


class Scaled(Stale):
    """The session's engine, with every weight a hundredth too large."""

    def update_weights(self, weights, version=0) -> None:
        self._engine.update_weights((name, 1.01 * tensor) for name, tensor in weights)


@pytest.fixture
def config(tiny_folder, tmp_path):
    """The default job, on a tiny model that exists already."""
    overrides = [f"model.path={tiny_folder}", f"run.dir={tmp_path / 'run'}"]
    return load(find_config("train/main.yaml"), overrides)


@pytest.fixture
def restored(engine, assets):
    """Give the session's engine the folder's weights again, after a test."""
    from sapo_vl.model.weights import load_weights

    yield engine
    model = load_weights(assets, "float32")
    layout = assets.family.to_checkpoint_layout
    engine.update_weights(
        (name, layout(name, parameter.detach())) for name, parameter in model.named_parameters()
    )


def test_the_default_job_has_no_fault(config, tmp_path, restored):
    table = diagnose(config, tmp_path / "s", checks=CHECKS, generator=restored)
    assert faults(table) == {}, [row for rows in table.values() for row in rows]
    assert list(table) == [check.name for check in CHECKS]
    assert "on prompts with pictures (a warning from 1e-05)" in told(table, "engine and learner")
    assert "the engine follows" in told(table, "update")
    assert not (tmp_path / "run").exists()


def test_a_stale_engine(config, tmp_path, restored):
    """With a KL penalty, whose reference the update needs."""
    config.algorithm.kl_coef = 0.01
    table = diagnose(config, tmp_path / "s", "update", generator=Stale(restored))
    assert faults(table) == {"update": "wrong"}
    line = told(table, "update")
    assert line.startswith("stale engine: gradient norm")
    assert "vllm answers as before the update, to the last bit" in line


def test_an_engine_with_other_weights(config, tmp_path, restored):
    table = diagnose(config, tmp_path / "s", "update", generator=Scaled(restored))
    assert faults(table) == {"engine and learner": "wrong", "update": "not checked"}
    assert "above generator.parity_stop=1e-05" in told(table, "engine and learner")


@pytest.mark.parametrize(
    "changes",
    [
        ("model.lora.rank=8", "algorithm.kl_coef=0.01"),
        ("model.dtype=bfloat16", "generator.parity_stop=null", "learner.zero_stage=2"),
    ],
)
def test_adapters_and_bfloat16_give_no_false_alarm(tiny_folder, tmp_path, changes):
    overrides = [f"model.path={tiny_folder}", f"run.dir={tmp_path / 'run'}", *changes]
    config = load(find_config("train/main.yaml"), ["generator.backend=transformers", *overrides])
    table = diagnose(config, tmp_path / "s", "update")
    assert faults(table) == {}, told(table, "update")
    assert "the engine follows" in told(table, "update")
