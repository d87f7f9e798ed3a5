"""A rollout batch: sampling with advantages, mini-batches, saving and restoring, parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.algorithm.advantages import group_advantages
from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Prompt, Rollout, RolloutGroup, VersionSpan

KEPT_FIELDS = tuple(f.name for f in fields(Rollout) if f.name not in ("prompt", "is_filler"))
"""Fields of a rollout that a checkpoint keeps; prompts are rendered again."""


@dataclass(slots=True)
class RolloutBatch:
    """This rank's groups of one training step."""

    groups: list[RolloutGroup]
    num_mini_batches: int

    def age(self, step: int) -> int:
        """Return the training steps between the oldest weights that sampled and those of `step`.

        `step`, counted from 0, begins with weights that have seen as many steps.
        """
        spans = [s.version for g in self.groups for r in g.rollouts for s in r.versions]
        return step - min(spans, default=step)

    def mini_batches(self) -> list[list[Rollout]]:
        """Return the rollouts of each mini-batch, without those that have no gradient.

        A group goes to the mini-batch it was drawn for, or round-robin if it has none. Groups whose
        advantages are all 0 and responses without a verdict are left out. An otherwise empty
        mini-batch holds one filler, so that this rank takes part in the collectives.
        """
        batches: list[list[Rollout]] = [[] for _ in range(self.num_mini_batches)]
        trained = [group for group in self.groups if group.has_gradient]
        for number, group in enumerate(trained):
            index = number % len(batches) if group.mini_batch is None else group.mini_batch
            batches[index].extend(r for r in group.rollouts if r.verdict.valid)
        filler = replace(self.groups[0].rollouts[0], advantage=0.0, is_filler=True)
        return [batch or [filler] for batch in batches]

    def state_dict(self) -> dict[str, Any]:
        """Return a picklable form for a mid-step checkpoint, with samples in place of prompts."""
        return {
            "num_mini_batches": self.num_mini_batches,
            "groups": [
                {
                    "sample": group.prompt.sample,
                    "mini_batch": group.mini_batch,
                    "rollouts": [
                        {name: getattr(rollout, name) for name in KEPT_FIELDS}
                        for rollout in group.rollouts
                    ],
                }
                for group in self.groups
            ],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], renderer: PromptRenderer) -> RolloutBatch:
        """Restore a batch, rendering its prompts again."""
        saved = state["groups"]
        prompts = renderer.render([group["sample"] for group in saved])
        groups = [
            RolloutGroup(
                prompt,
                [_restored(prompt, rollout) for rollout in group["rollouts"]],
                group["mini_batch"],
            )
            for prompt, group in zip(prompts, saved, strict=True)
        ]
        return cls(groups, state["num_mini_batches"])


def _restored(prompt: Prompt, saved: dict[str, Any]) -> Rollout:
    spans = tuple(VersionSpan(*span) for span in saved.get("versions", ()))
    return Rollout(prompt, **(saved | {"versions": spans}))


def set_versions(groups: Sequence[RolloutGroup], version: int) -> None:
    """Note the weights' version on the responses whose generator doesn't tell it."""
    for group in groups:
        for rollout in group.rollouts:
            if not rollout.versions:
                rollout.versions = (VersionSpan(version, 0, len(rollout.token_ids)),)


def rollout_seed(seed: int, step: int, record: str, copy: int = 0) -> int:
    """Return the sampling seed of a record in a step: the same step gives the same rollouts again.

    `copy` counts the record's earlier draws in the step; without it a record that is drawn twice
    would give the same responses twice, and they would count double.
    """
    return problem_seed(seed, f"{step}:{record}" + (f"#{copy}" if copy else ""))


def sample_groups(
    engine: SampleEngine,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    seeds: Sequence[int],
    *,
    normalize: bool,
) -> list[RolloutGroup]:
    """Sample a graded group per prompt, with advantages, in one call of the generator.

    `seeds` holds one seed per prompt; `normalize` divides advantages by the group's standard
    deviation.
    """
    groups = engine.sample(requests_of(prompts, params, seeds))
    for group in groups:
        rewards = [rollout.verdict for rollout in group.rollouts]
        advantages = group_advantages(
            np.array([r.value for r in rewards]),
            np.array([r.valid for r in rewards]),
            normalize=normalize,
        )
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            rollout.advantage = float(advantage)
    return groups


def replace_groups(
    groups: list[RolloutGroup], dropped: Sequence[int], resampled: Sequence[RolloutGroup]
) -> None:
    """Overwrite the groups at the indices `dropped` with resampled ones, in place.

    Each takes the first free place of its own mini-batch; asserts that there is one.
    """
    free = list(dropped)
    for group in resampled:
        index = next((i for i in free if groups[i].mini_batch == group.mini_batch), None)
        assert index is not None, group.mini_batch
        free.remove(index)
        groups[index] = group


def write_parquet(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Write a row per response; a group's images are in its first row only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(group, i, rollout) for group in groups for i, rollout in enumerate(group.rollouts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.rename(path)


def _row(group: RolloutGroup, index: int, rollout: Rollout) -> dict[str, Any]:
    sample, reward = group.prompt.sample, rollout.verdict
    mu, old = rollout.generator_logprobs, rollout.old_logprobs
    reference = rollout.reference_logprobs
    return {
        "id": sample.id,
        "task": sample.task,
        "problem": sample.problem,
        "images": list(sample.images) if index == 0 else [],
        "answer": sample.answer,
        "response": rollout.text,
        "finish_reason": rollout.finish_reason,
        "reward": reward.value,
        "correct": reward.correct,
        "valid": reward.valid,
        "verdicts": json.dumps(
            {name: [v.outcome, v.score, v.reason] for name, v in reward.terms.items()}
        ),
        "advantage": rollout.advantage,
        "token_ids": rollout.token_ids,
        "versions": [list(span) for span in rollout.versions],
        "generator_logprobs": None if mu is None else mu.tolist(),
        "old_logprobs": None if old is None else old.tolist(),
        "reference_logprobs": None if reference is None else reference.tolist(),
    }
