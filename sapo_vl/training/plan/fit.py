"""A run's plan: memory in each phase, host memory, disk, seconds; whether it fits; what would."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sapo_vl.config import Config
from sapo_vl.training.plan.activations import Activations, activations
from sapo_vl.training.plan.engine import EngineMemory, engine_memory
from sapo_vl.training.plan.hardware import GIB, Hardware
from sapo_vl.training.plan.host import Disk, HostMemory, disk, host_memory
from sapo_vl.training.plan.learner import LearnerStates, learner_states, weight_bytes
from sapo_vl.training.plan.seconds import StepSeconds, step_seconds
from sapo_vl.training.plan.shape import ModelShape
from sapo_vl.training.plan.workload import Workload, workload

CONTEXT = 1.0 * GIB
"""CUDA's context and the libraries' work spaces, per process (estimate)."""

COMMUNICATION = 0.7 * GIB
"""NCCL's buffers where there are several ranks (estimate)."""

MARGIN = 0.05
"""Share of the card that a plan leaves free: for fragments, and for what estimates miss."""

SMALLER_BUDGETS = (2, 4)
"""Divisors of learner.micro_batch_tokens that are tried."""

UTILISATION = "generator.gpu_memory_utilization"

SHOWN = 5
"""Changes that are printed."""


@dataclass(frozen=True)
class Phase:
    """What lies on a rank's device at one moment of a step."""

    name: str
    parts: dict[str, float]  # component -> bytes

    @property
    def total(self) -> float:
        """Bytes of all components."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """A run on given hardware."""

    config: Config
    hardware: Hardware
    shape: ModelShape
    work: Workload
    states: LearnerStates
    activations: Activations
    engine: EngineMemory
    phases: tuple[Phase, ...]
    host: HostMemory
    disk: Disk
    seconds: StepSeconds

    @property
    def peak(self) -> Phase:
        """The phase that needs most of the device."""
        return max(self.phases, key=lambda phase: phase.total)

    def problems(self) -> list[str]:
        """Return what does not fit on the device, in words; empty if all does."""
        found = []
        room, peak = self.hardware.gpu.memory * (1 - MARGIN), self.peak
        if peak.total > room:
            found.append(
                f"{peak.name} needs {peak.total / GIB:.1f} GiB of a card on which "
                f"{room / GIB:.1f} GiB are usable"
            )
        if self.config.generator.backend != "vllm":
            return found
        if self.engine.kv_cache <= 0:
            found.append(
                f"generator.gpu_memory_utilization={self.config.generator.gpu_memory_utilization} "
                "leaves the engine no room for a KV cache: its weights and largest step need "
                f"{(self.engine.total) / GIB:.1f} GiB"
            )
        elif self.engine.longest < self.config.generator.max_model_len:
            found.append(
                f"the KV cache holds {self.engine.longest:,.0f} tokens, fewer than "
                f"generator.max_model_len={self.config.generator.max_model_len}"
            )
        return found


def make_plan(config: Config, shape: ModelShape, hardware: Hardware) -> Plan:
    """Work out the plan of a config on given hardware."""
    on_cpu = hardware.is_cpu
    work = workload(config, shape, hardware.ranks)
    states = learner_states(shape, config, hardware.ranks, on_cpu=on_cpu)
    rows = activations(shape, config, work, on_cpu=on_cpu)
    engine = engine_memory(shape, config, hardware, work)
    host = host_memory(shape, config, hardware, states, engine.total)
    return Plan(
        config,
        hardware,
        shape,
        work,
        states,
        rows,
        engine,
        tuple(_phases(shape, config, hardware, states, rows, engine)),
        host,
        disk(shape, config, hardware.ranks),
        step_seconds(shape, config, hardware, work, engine, states.swapped),
    )


def _phases(
    shape: ModelShape,
    config: Config,
    hardware: Hardware,
    states: LearnerStates,
    rows: Activations,
    engine: EngineMemory,
) -> Iterator[Phase]:
    process = 0.0 if hardware.is_cpu else CONTEXT + COMMUNICATION * (hardware.ranks > 1)
    resting = {"weights": states.weights, "optimizer": states.optimizer}
    kept = {"gradients": states.gradients, "reduce bucket": states.bucket}
    always = {"CUDA context": process}
    asleep = {"engine: graphs": engine.graphs}
    if not engine.sleeps:
        cache = engine.kv_cache if config.generator.backend == "vllm" else 0.0
        asleep = {"engine: weights": engine.weights, "engine: KV cache": cache}
    idle = {"weights": states.weights - states.base} if states.moved else resting
    if states.bucket_stays and not states.moved:
        idle = idle | kept
    idle = idle | always
    sampling = idle | {
        "engine: weights": engine.weights,
        "engine: KV cache": max(0.0, engine.kv_cache),
        "engine: activations": engine.work,
        "engine: graphs": engine.graphs,
    }
    yield Phase("sampling", sampling)
    working = resting | kept | always | asleep | {"ZeRO-3 gathers": states.gathered}
    saved = working | {"activations": rows.saved}
    yield Phase("update: head", saved | {"head: logits, gradient": rows.head})
    yield Phase("update: backward", saved | {"a layer's backward": rows.layer})
    stepping = resting | kept | always | asleep
    if config.learner.zero_stage == 2:  # freed after the last micro-batch
        del stepping["reduce bucket"]
    yield Phase(
        "optimizer step",
        stepping | {"float32 gradients": states.step},
    )
    group = shape.largest_group * weight_bytes(config) * (config.learner.zero_stage == 3)
    yield Phase(
        "weight sync",
        idle | asleep | {"engine: weights": engine.weights, "ZeRO-3 gathers": group},
    )
    # Where the learner's frozen weights are away, its part waits for them, and the engine sleeps.
    scored = idle | asleep | {"weights": states.weights} if states.base else sampling
    yield Phase("receipt", scored | {"activations": rows.receipt})


@dataclass(frozen=True)
class Change:
    """Keys whose new values make a plan fit, and the step's seconds then."""

    values: dict[str, Any]
    plan: Plan

    @property
    def text(self) -> str:
        """As on the command line."""
        return " ".join(f"{key}={_written(value)}" for key, value in self.values.items())


def changes_that_fit(plan: Plan) -> list[Change]:
    """Try other values of the keys that decide about memory; return those that fit.

    Sorted by seconds of a step. A change is left out when a part of it already fits and is as fast.
    """
    fitting: dict[str, Change] = {}
    for values in sorted(_alternatives(plan), key=len):
        tried = make_plan(with_values(plan.config, values), plan.shape, plan.hardware)
        if tried.problems():
            continue
        change = Change(values, tried)
        others = str({key: value for key, value in values.items() if key != UTILISATION})
        known = fitting.get(others)
        if known is None or tried.seconds.total < known.plan.seconds.total:
            fitting[others] = change
    changes = list(fitting.values())
    kept = [c for c in changes if not any(_covers(other, c) for other in changes if other is not c)]
    kept.sort(key=lambda change: (change.plan.seconds.total, len(change.values)))
    return kept[:SHOWN]


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return the config with other values at dotted keys."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {
        section: getattr(config, section).model_copy(update=update)
        for section, update in sections.items()
    }
    return config.model_copy(update=changed)


def _covers(known: Change, change: Change) -> bool:
    """Whether `known` is as fast, within a hundredth, and sets fewer of the same keys."""
    return (
        known.values.keys() < change.values.keys()
        and known.plan.seconds.total <= 1.01 * change.plan.seconds.total
    )


def _alternatives(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield sets of changed values."""
    config, ranks = plan.config, plan.hardware.ranks
    learner, model = config.learner, config.model
    longest = plan.work.prompt_tokens + plan.work.response_tokens
    order = ("none", "alternate", "all")
    options: dict[str, list[Any]] = {
        "learner.zero_stage": [2, 3] if ranks > 1 else [],
        "learner.offload_optimizer": [True],
        "learner.offload_while_sampling": [config.generator.backend != "server"],
        "model.gradient_checkpointing": list(order[order.index(model.gradient_checkpointing) :]),
        "learner.micro_batch_tokens": [
            learner.micro_batch_tokens // cut
            for cut in SMALLER_BUDGETS
            if learner.micro_batch_tokens // cut >= longest
        ],
        "generator.tensor_parallel": [n for n in (2, 4, 8) if ranks % n == 0],
        UTILISATION: [round(0.05 * n, 2) for n in range(3, 19)],
    }
    current = {
        key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in options
    }
    for combination in itertools.product(
        *(
            [current[key], *(v for v in values if v != current[key])]
            for key, values in options.items()
        )
    ):
        values = {
            key: value
            for (key, value) in zip(options, combination, strict=True)
            if value != current[key]
        }
        stage = values.get("learner.zero_stage", learner.zero_stage)
        offload = values.get("learner.offload_optimizer", learner.offload_optimizer)
        moves = values.get("learner.offload_while_sampling", learner.offload_while_sampling)
        if not values or (offload and (stage == 0 or moves)):
            continue
        if stage != 3 and learner.offload_parameters:
            continue
        if stage < 2 and learner.grad_accum_dtype is not None:
            continue
        yield values


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
