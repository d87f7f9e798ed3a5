"""A rollout batch: sampling with advantages, mini-batches, saving and restoring, parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sapo_vl.algorithm.advantages import group_advantages
from sapo_vl.config import Config
from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Prompt, Rollout, RolloutGroup, VersionSpan
from sapo_vl.training.pools import PassCount

if TYPE_CHECKING:
    import pyarrow as pa

KEPT_FIELDS = tuple(f.name for f in fields(Rollout) if f.name not in ("prompt", "is_filler"))
"""Fields of a rollout that a checkpoint keeps; prompts are rendered again."""


@dataclass(slots=True)
class RolloutBatch:
    """This rank's groups of one training step."""

    groups: list[RolloutGroup]
    num_mini_batches: int
    pass_counts: list[PassCount] = field(default_factory=list)  # for the difficulty pools

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
            "pass_counts": [list(count) for count in self.pass_counts],
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
        counts = [PassCount(*count) for count in state.get("pass_counts", ())]
        return cls(groups, state["num_mini_batches"], counts)


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


def is_written(config: Config, step: int) -> bool:
    """Whether the rollouts of `step`, counted from 1, go into a file."""
    every = config.run.rollouts_every
    return bool(every) and step % every == 0


def write_parquet(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Write a row per response; a group's images are in its first row only.

    Rows of one group are neighbours with the same number in `group`. A group is never split between
    row groups, so that a reader gets it by reading one. Per-token values of responses that no
    update was made with are null, as are those of an update that was made before a resume from a
    checkpoint without them.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    schema = _schema()
    floats = [name for name in schema.names if name in TOKEN_FLOATS]
    writer = pq.ParquetWriter(
        partial,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in REPEATED],
        use_byte_stream_split=[f"{name}.list.element" for name in floats],
        write_statistics=False,
    )
    with writer:
        for numbers in _row_groups(groups):
            rows = [
                _row(number, groups[number], i, rollout)
                for number in numbers
                for i, rollout in enumerate(groups[number].rollouts)
            ]
            writer.write_table(_table(rows, schema), row_group_size=len(rows))
    partial.rename(path)


TOKEN_FLOATS = (
    *("generator_logprobs", "old_logprobs", "reference_logprobs"),
    *("gate_weights", "log_ratios", "entropies"),
)
"""A rollout's values by token, which a file holds as float32."""

REPEATED = ("id", "task", "problem", "answer", "finish_reason", "verdicts")
"""Columns with few different values."""

ROW_GROUP_TOKENS = 1 << 17
"""Tokens from which on a row group takes no further group: about 3 MB to read for one of them."""


def _row_groups(groups: Sequence[RolloutGroup]) -> Iterator[list[int]]:
    """Yield the numbers of the groups in each row group of a file."""
    numbers: list[int] = []
    tokens = 0
    for number, group in enumerate(groups):
        numbers.append(number)
        tokens += sum(len(rollout.token_ids) for rollout in group.rollouts)
        if tokens >= ROW_GROUP_TOKENS:
            yield numbers
            numbers, tokens = [], 0
    if numbers:
        yield numbers


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, number, floats = pa.string(), pa.float32(), pa.list_(pa.float32())
    return pa.schema(
        [
            ("group", pa.int32()),  # the response's group in this file, from 0
            ("id", text),
            ("task", text),
            ("problem", text),
            ("images", pa.list_(pa.binary())),
            ("answer", text),
            ("response", text),
            ("finish_reason", text),
            ("tokens", pa.int32()),  # of the response
            ("reward", pa.float64()),
            ("correct", pa.bool_()),
            ("valid", pa.bool_()),
            ("verdicts", text),  # JSON: {term: [outcome, score, reason]}
            ("advantage", pa.float64()),
            ("mean_logprob", number),  # of generator_logprobs, nats
            ("largest_mismatch", number),  # the largest |generator_logprobs - old_logprobs|
            ("largest_log_ratio", number),  # the largest |log_ratios|
            ("token_ids", pa.list_(pa.int32())),
            ("versions", pa.list_(pa.list_(pa.int32()))),  # [version, start, end] of each span
            *((name, floats) for name in TOKEN_FLOATS),
        ]
    )


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = {field.name: pa.array([r[field.name] for r in rows], field.type) for field in schema}
    return pa.table(columns, schema=schema)


def _row(number: int, group: RolloutGroup, index: int, rollout: Rollout) -> dict[str, Any]:
    sample, reward = group.prompt.sample, rollout.verdict
    mu, old, log_ratios = rollout.generator_logprobs, rollout.old_logprobs, rollout.log_ratios
    return {
        "group": number,
        "id": sample.id,
        "task": sample.task,
        "problem": sample.problem,
        "images": list(sample.images) if index == 0 else [],
        "answer": sample.answer,
        "response": rollout.text,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout.token_ids),
        "reward": reward.value,
        "correct": reward.correct,
        "valid": reward.valid,
        "verdicts": json.dumps(
            {name: [v.outcome, v.score, v.reason] for name, v in reward.terms.items()}
        ),
        "advantage": rollout.advantage,
        "mean_logprob": None if mu is None else float(mu.sum() / max(1, len(mu))),
        "largest_mismatch": None if mu is None or old is None else _largest(mu - old),
        "largest_log_ratio": None if log_ratios is None else _largest(log_ratios),
        "token_ids": rollout.token_ids,
        "versions": [list(span) for span in rollout.versions],
        **{name: getattr(rollout, name) for name in TOKEN_FLOATS},
    }


def _largest(values_T: np.ndarray) -> float:
    return float(np.abs(values_T).max(initial=0.0))
