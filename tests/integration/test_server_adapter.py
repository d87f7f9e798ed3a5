"""Adapters into a real vLLM server, over HTTP: by a folder that it sees, and uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import make_rollouts, make_sample, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.errors import SetupError
from sapo_vl.generator.base import build
from sapo_vl.generator.servers import adapter_upload, routes, transfer
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.training.receipt import DeliveryCheck, DeliveryError

pytestmark = pytest.mark.slow

BOUND = 1e-5
LONG = "How many circles are there in the drawing, and what is their sum? " * 4
"""Longer than a block of the prefix cache."""


class Pair:
    """A learner and a server with adapters on all linear layers, the vision tower's too."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.config = tiny_config(
            folder,
            *("model.lora.rank=8", "model.lora.targets=all", f"run.dir={run}"),
            *("generator.backend=server", "generator.local_servers=1"),
        )
        self.assets = open_assets(folder)
        renderer = PromptRenderer(self.assets, self.config.data)
        self.prompts = renderer.render(
            [
                make_sample(text=LONG, name="words"),
                make_sample([(64, 64)], text=LONG, name="drawing"),
            ]
        )
        self.learner = Learner(self.config, self.assets)
        self.generator = build(self.config, self.assets, seed=0, adapter=True)
        self.check = DeliveryCheck(self.config, self.prompts)
        self.version = 0

    @property
    def server(self):
        return self.generator.alive[0]

    def train(self) -> None:
        rollouts = make_rollouts(self.prompts)
        for rollout in rollouts:
            rollout.old_logprobs = None
        self.learner.update(rollouts, objectives.build(self.config), 1e-2)

    def deliver(self) -> float:
        """Send the adapter; return the receipt's largest difference, in nats."""
        self.version += 1
        self.generator.update_adapter(self.learner.adapter(), self.version)
        return self.check.ask(self.generator, self.learner, self.version).max_abs


@pytest.fixture(scope="module")
def pair(tiny_folder, tmp_path_factory):
    made = Pair(tiny_folder, tmp_path_factory.mktemp("adapter") / "run")
    yield made
    made.generator.close()


def uploads() -> set[Path]:
    return set(Path("/dev/shm").glob("sapo_vl-upload-*"))


@pytest.mark.parametrize("visible", [True, False])
def test_each_version_is_the_learners(pair, monkeypatch, visible):
    """The first by vLLM's route, later ones in place; uploaded ones leave one folder behind."""
    before = uploads()
    if not visible:  # the digest of what was uploaded is checked all the same
        local = str(pair.generator._sender._adapter._root)

        def sees(server, path, content):
            return not path.startswith(local) and routes.sees(server, path, content)

        monkeypatch.setattr(adapter_upload, "sees", sees)
        monkeypatch.setattr(adapter_upload, "PIECE_BYTES", 10_000)
    for _ in range(2):
        assert pair.deliver() <= BOUND
        pair.train()
    assert pair.deliver() <= BOUND
    assert pair.server.get("/weight_info")["weight_version"].endswith(f".{pair.version}")
    assert len(uploads() - before) == (0 if visible else 1)


@pytest.mark.parametrize("cache", ["/reset_prefix_cache", "/reset_encoder_cache"])
def test_a_cache_that_is_not_dropped_is_noticed(pair, monkeypatch, cache):
    pair.deliver()
    pair.train()
    post = type(pair.server).post

    def skip(self, path, json=None, timeout=60.0):
        return {"success": True} if path.startswith(cache) else post(self, path, json, timeout)

    with monkeypatch.context() as planted:
        planted.setattr(type(pair.server), "post", skip)
        with pytest.raises(DeliveryError, match="weights"):
            pair.deliver()
    pair.check = DeliveryCheck(pair.config, pair.prompts)
    assert pair.deliver() <= BOUND


def test_another_runs_learner_is_refused(pair):
    other = transfer.WeightSender(routes.ChunkRoute(), "other", pair.generator._sender._adapter)
    with pytest.raises(SetupError, match="serves another run"):
        other.send_adapter([pair.server], pair.learner.adapter(), 1)
