"""Servers beside a learner on up to 64 GPUs: the two tables of docs/multinode.md.

    PYTHONPATH=.:scripts .venv/bin/python -m bench.multinode

Arithmetic of the planner (sapo_vl/training/plan) on H100 cards; nothing was measured on a GPU.
Legend: L GPUs of the learner, S of the servers, N = L + S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from sapo_vl.config import CONFIGS, Config, load
from sapo_vl.training.plan.fit import Plan, make_plan, with_values
from sapo_vl.training.plan.hardware import GPUS, GPUS_PER_NODE, Hardware, gpus
from sapo_vl.training.plan.learner import weight_bytes
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.seconds import ELEMENTWISE, LOADER
from sapo_vl.training.plan.shape import ModelShape, model_shape

CARD = 80
"""GB of a card: an H100, for which the configurations are written."""

PROMPTS_PER_GPU = 16
"""Prompts of a step for each of the N GPUs: the configurations' own 128 on 8."""

SERVER_MEMORY = 0.9
"""generator.gpu_memory_utilization of a card that a server has for itself."""

USABLE = 0.8
"""Share of a network's nominal rate that a transfer of gigabytes reaches: an assumption."""

RANK = 32
"""model.lora.rank of the rows with adapters."""

SPLITS = 8
"""L is tried in so many equal parts of N."""


@dataclass(frozen=True)
class Network:
    """What joins the nodes; bytes per second and direction, usable."""

    name: str
    flow: float  # from one GPU, which is how weights leave the learner
    node: float  # of all of a node's cards together, which is how gradients are summed


def ethernet(gigabits: int, cards: int = 1) -> Network:
    """Return a network of `cards` cards a node; one flow uses one of them."""
    rate = USABLE * gigabits * 1e9 / 8
    label = f"{gigabits} Gbit/s" if cards == 1 else f"{cards} x {gigabits} Gbit/s"
    return Network(label, rate, cards * rate)


NVLINK = Network("NVLink", GPUS[CARD].link, GPUS[CARD].link)
SLOW, FAST, WIDE = ethernet(25), ethernet(100), ethernet(400, GPUS_PER_NODE)


@dataclass(frozen=True)
class Case:
    """A shipped configuration, with all weights trained or with adapters."""

    label: str
    file: str
    lora: int = 0

    @property
    def keys(self) -> list[str]:
        """Overrides of the configuration."""
        return [f"model.lora.rank={self.lora}"]


CASES = (
    Case("8B", "qwen3_vl_8b"),
    Case(f"8B, LoRA {RANK}", "qwen3_vl_8b", RANK),
    Case("30B-A3B", "qwen3_vl_30b_a3b"),
)


@cache
def _opened(case: Case) -> tuple[Config, ModelShape]:
    config = load(CONFIGS / "train" / f"{case.file}.yaml", case.keys)
    return config, model_shape(module_on_meta(config, ask_hub=False)[0])


@dataclass(frozen=True)
class Sync:
    """What goes from the learner to each server after a step."""

    sent: float  # bytes
    gather: float  # bytes that rank 0 collects from the other ranks first, under ZeRO-3
    loading: float  # seconds in a server: tensors one by one, three copies in the card's memory

    def seconds(self, network: Network, learner_link: float) -> float:
        """Return all of it, one after the other; each server gets the same stream."""
        return self.gather / learner_link + self.sent / network.flow + self.loading


def sync(case: Case) -> Sync:
    """Return a case's transfer: all weights, or the adapter's alone."""
    config, shape = _opened(case)
    gpu, b = GPUS[CARD], weight_bytes(config)
    tensors = shape.tensors + sum(3 * layer.experts for layer in shape.layers)
    parameters = shape.parameters
    if case.lora:
        base = _opened(replace(case, lora=0))[1]
        tensors, parameters = shape.tensors - base.tensors, shape.trained
    sent = float(b * parameters)
    gather = sent if config.learner.zero_stage == 3 else 0.0
    return Sync(sent, gather, tensors * LOADER + 3 * sent / (ELEMENTWISE * gpu.bandwidth))


@dataclass(frozen=True)
class Split:
    """A division of N GPUs; seconds of a step."""

    learner: int
    servers: int
    tensor_parallel: int  # GPUs of one server
    rollout: float
    update: float  # with the log-probs of the old policy
    sync: float

    @property
    def step(self) -> float:
        """Seconds of a step with rollout.ahead: both sides work at once."""
        return max(self.rollout, self.update) + self.sync


def best_split(case: Case, count: int, network: Network) -> Split:
    """Return the division with the shortest step, of those whose learner fits its cards."""
    return min(_splits(case, count, network), key=lambda split: split.step)


def in_turn(case: Case, count: int, network: Network) -> float:
    """Return a step's seconds where all GPUs sample and then all learn, without servers."""
    config, shape = _with_prompts(case, count)
    sampling = make_plan(config, shape, gpus(CARD, count)).seconds
    learning = _learner(config, shape, count, network).seconds
    rollout = sampling.prefill + sampling.decode
    return rollout + learning.old_logprobs + learning.update + learning.sync


def _with_prompts(case: Case, count: int) -> tuple[Config, ModelShape]:
    config, shape = _opened(case)
    return with_values(config, {"rollout.prompts": PROMPTS_PER_GPU * count}), shape


def _learner(config: Config, shape: ModelShape, count: int, network: Network) -> Plan:
    """Return the plan of `count` ranks whose collectives go through the network between nodes."""
    gpu = GPUS[CARD]
    if count > GPUS_PER_NODE:
        gpu = replace(gpu, link=min(gpu.link, network.node))
    return make_plan(config, shape, Hardware(gpu, count, min(count, GPUS_PER_NODE)))


def _splits(case: Case, count: int, network: Network) -> Iterator[Split]:
    config, shape = _with_prompts(case, count)
    remote = with_values(config, {"generator.backend": "server", "generator.tensor_parallel": 1})
    for part in range(1, SPLITS):
        ranks = count * part // SPLITS
        learner = _learner(remote, shape, ranks, network)
        if learner.problems():
            continue
        seconds = learner.seconds
        sampling = _sampling(config, shape, count - ranks)
        if sampling is not None:
            between = NVLINK if count <= GPUS_PER_NODE else network
            yield Split(
                ranks,
                count - ranks,
                *sampling,
                update=seconds.old_logprobs + seconds.update,
                sync=sync(case).seconds(between, learner.hardware.gpu.link),
            )


def _sampling(config: Config, shape: ModelShape, count: int) -> tuple[int, float] | None:
    """Return (GPUs of one server, seconds of the rollout) on `count` GPUs; None: no room."""
    found = []
    for split in (1, 2, 4, 8):
        keys = {
            "generator.tensor_parallel": split,
            "generator.gpu_memory_utilization": SERVER_MEMORY,
        }
        plan = make_plan(with_values(config, keys), shape, gpus(CARD, count))
        if count % split == 0 and plan.engine.longest >= config.generator.max_model_len:
            found.append((plan.seconds.prefill + plan.seconds.decode, split))
    return (min(found)[1], min(found)[0]) if found else None


def sync_table() -> str:
    """Return bytes and seconds of a transfer by network."""
    networks = (NVLINK, FAST, SLOW)
    names = " | ".join(f"s over {network.name}" for network in networks)
    lines = [f"| what is sent | GB | s to load | {names} |", "|---|---|---|---|---|---|"]
    for case in CASES:
        made = sync(case)
        seconds = " | ".join(f"{made.seconds(n, GPUS[CARD].link):.1f}" for n in networks)
        lines.append(f"| {case.label} | {made.sent / 1e9:.1f} | {made.loading:.1f} | {seconds} |")
    return "\n".join(lines)


def balance_table() -> str:
    """Return the best division by model, number of GPUs and network."""
    lines = [
        "| model | GPUs | network | learner + servers (GPUs each) | rollout s | update s "
        "| sync s | step s | in turn s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        for count in (8, 16, 32, 64):
            for network in (NVLINK,) if count <= GPUS_PER_NODE else (FAST, WIDE):
                made = best_split(case, count, network)
                lines.append(
                    f"| {case.label} | {count} | {network.name} | {made.learner} + {made.servers} "
                    f"({made.tensor_parallel}) | {made.rollout:.0f} | {made.update:.0f} | "
                    f"{made.sync:.1f} | {made.step:.0f} | {in_turn(case, count, network):.0f} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    print(sync_table())
    print()
    print(balance_table())
