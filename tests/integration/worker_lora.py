"""A learner with adapters and a real engine: what reaches the engine, and faults on the way.

python worker_lora.py FOLDER     -> one JSON object on stdout's last line
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from helpers import make_rollouts, make_sample, tiny_config  # noqa: E402

from sapo_vl.algorithm import objectives  # noqa: E402
from sapo_vl.generator import adapter_folder  # noqa: E402
from sapo_vl.generator.base import SamplingParams, build, requests_of  # noqa: E402
from sapo_vl.learner.engine import Learner  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.schema import Rollout  # noqa: E402
from sapo_vl.training.receipt import DeliveryCheck, DeliveryError  # noqa: E402

LONG = "How many circles are there in the drawing, and what is their sum? " * 4
"""Longer than a block of the prefix cache."""


class Pair:
    """A learner and an engine with adapters on all linear layers, the vision tower's too."""

    def __init__(self, folder: Path) -> None:
        self.config = tiny_config(
            folder,
            "model.lora.rank=8",
            "model.lora.targets=all",
            "learner.offload_while_sampling=true",
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
        self.engine = build(self.config, self.assets, seed=0, adapter=True)
        self.check = DeliveryCheck(self.config, self.prompts)

    def train(self) -> None:
        """Take one optimizer step."""
        rollouts = make_rollouts(self.prompts)
        for rollout in rollouts:
            rollout.old_logprobs = None
        self.learner.update(rollouts, objectives.build(self.config), 1e-2)

    def deliver(self) -> float:
        """Send the adapter while the frozen weights are away; return the largest difference."""
        self.learner.sleep()
        self.engine.update_adapter(self.learner.adapter())
        assert self.check.ask(self.engine, self.learner, 1) is None
        return self.check.settle(self.learner).max_abs

    def refused(self, *, away: bool = True) -> str:
        """Return why a receipt is refused; empty where it is not."""
        if away:
            self.learner.sleep()
        try:
            self.check.ask(self.engine, self.learner, 1)
            if away:
                self.check.settle(self.learner)
        except DeliveryError as error:
            return str(error)
        return ""


def planted(pair: Pair) -> dict[str, str]:
    """Return each planted fault's message; every one is mended by the next whole delivery."""
    llm, found = pair.engine._llm, {}
    pair.train()
    found["not delivered"] = pair.refused(away=False)
    pair.deliver()
    pair.train()
    without = (w for w in pair.learner.adapter() if ".layers.1." not in w[0])
    pair.engine.update_adapter(without)
    found["a layer missing"] = pair.refused()
    pair.deliver()
    settings = pair.engine._adapter._settings
    settings.lora_alpha *= 2
    pair.engine.update_adapter(pair.learner.adapter())
    found["scale doubled"] = pair.refused()
    settings.lora_alpha /= 2
    pair.deliver()
    for name, reset in (
        ("stale prefix cache", llm.llm_engine.reset_encoder_cache),
        ("stale encoder cache", llm.reset_prefix_cache),
    ):
        pair.train()
        whole = pair.engine.reset_caches
        pair.engine.reset_caches = reset
        write = adapter_folder.AdapterFolder.write
        if name == "stale prefix cache":  # the cache tells adapters apart by their path
            adapter_folder.AdapterFolder.write = same_path(write)
        pair.engine.update_adapter(pair.learner.adapter())
        found[name] = pair.refused()
        pair.engine.reset_caches, adapter_folder.AdapterFolder.write = whole, write
        pair.deliver()
    return found


def same_path(write):
    """Return AdapterFolder.write without a path of its own for each version."""

    def overwrite(self, weights):
        self._version -= 1
        new = self._root / "new"
        self._root, root = new, self._root
        made = write(self, weights)
        self._root = root
        old = root / f"v{self._version}"
        for file in made.iterdir():
            file.replace(old / file.name)
        return old

    return overwrite


def sampled(pair: Pair, engine) -> list[Rollout]:
    """Return responses to the pair's prompts, with fixed seeds."""
    params = SamplingParams(2, 1.0, 8)
    groups = engine.generate(requests_of(pair.prompts, params, [3] * len(pair.prompts)))
    return [rollout for group in groups for rollout in group]


@torch.no_grad()
def merged_gaps(pair: Pair, folder: Path, adapted: list[Rollout]) -> dict[str, float]:
    """Return how far a plain engine on the exported model is from others, in nats.

    From the learner, and from the engine on base and adapter, whose responses are `adapted`.
    """
    pair.learner.export(folder)
    engine = build(tiny_config(folder), open_assets(folder), seed=0)
    rollouts = sampled(pair, engine)
    engine.close()
    assert [r.token_ids for r in rollouts] == [r.token_ids for r in adapted]
    pair.learner.fill_old_logprobs(rollouts)
    merged = np.concatenate([r.generator_logprobs for r in rollouts])
    others = {
        "learner": np.concatenate([r.old_logprobs for r in rollouts]),
        "adapter": np.concatenate([r.generator_logprobs for r in adapted]),
    }
    return {name: float(np.abs(merged - values).max()) for name, values in others.items()}


pair = Pair(Path(sys.argv[1]))
result = {"first": pair.deliver(), "planted": planted(pair), "last": pair.deliver()}
root = pair.engine._adapter._root
result["folders"] = len(list(root.glob("v*")))
adapted = sampled(pair, pair.engine)
pair.engine.close()
result["left behind"] = root.exists()
result["merged"] = merged_gaps(pair, Path(sys.argv[2]), adapted)
print(json.dumps(result))
