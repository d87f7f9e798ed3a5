"""Rollout batches: sample, grade, advantages; cut into mini-batches; keep and restore.

A rollout batch is a list of RolloutGroup, whole groups on one rank.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.advantages import group_advantages
from sapo_vl.config import Config
from sapo_vl.evaluation.heldout import problem_seed
from sapo_vl.generator.base import Generator, Sampling
from sapo_vl.learner.rows import TrainRow
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import RolloutGroup, Sample


def collect(
    generator: Generator,
    renderer: PromptRenderer,
    rubric: Rubric,
    samples: Sequence[Sample],
    config: Config,
    step: int,
) -> list[RolloutGroup]:
    """Sample G responses for each sample, grade them and compute group advantages.

    Seeds come from (run seed, step, record id): the same step gives the same rollouts again.
    """
    options = config.rollout
    prompts = renderer.render(samples)
    seeds = [problem_seed(config.run.seed, f"{step}:{sample.id}") for sample in samples]
    sampling = Sampling(options.group_size, options.temperature, options.max_new_tokens)
    completions = generator.generate(prompts, sampling, seeds)
    pairs = [(s, c.text) for s, cs in zip(samples, completions, strict=True) for c in cs]
    lengths = [len(c.token_ids) for cs in completions for c in cs]
    rewards = rubric.grade(pairs, lengths)
    groups = []
    for i, (prompt, own) in enumerate(zip(prompts, completions, strict=True)):
        graded = rewards[i * options.group_size : (i + 1) * options.group_size]
        advantages = group_advantages(
            np.array([r.value for r in graded]),
            np.array([r.valid for r in graded]),
            objectives.advantage_std(config),
        )
        groups.append(RolloutGroup(prompt, own, graded, advantages))
    return groups


def mini_batches(groups: Sequence[RolloutGroup], count: int) -> list[list[TrainRow]]:
    """Return `count` lists of rows, of the groups that carry a gradient.

    A group goes to the mini-batch it belongs to; those that belong to none are dealt out in turn. A
    group whose advantages are all 0 is left out, and so is a response without a verdict. A list
    that would be empty holds one row that does not count, so that this rank still takes part.
    """
    parts: list[list[TrainRow]] = [[] for _ in range(count)]
    kept = [group for group in groups if np.any(group.advantages)]
    for number, group in enumerate(kept):
        place = number % count if group.mini_batch is None else group.mini_batch
        parts[place].extend(group_rows(group))
    spare = replace(group_rows(groups[0], all_rows=True)[0], counts=False, advantage=0.0)
    return [part or [spare] for part in parts]


def places(
    groups: Sequence[RolloutGroup], empty: Sequence[int], found: Sequence[RolloutGroup]
) -> list[tuple[int, RolloutGroup]]:
    """Return (number in `groups`, group to stand there instead) for what dynamic sampling found.

    A group fills one of the `empty` places of its own mini-batch.
    """
    free = list(empty)
    out = []
    for group in found:
        place = next(i for i in free if groups[i].mini_batch == group.mini_batch)
        free.remove(place)
        out.append((place, group))
    return out


def group_rows(group: RolloutGroup, *, all_rows: bool = False) -> list[TrainRow]:
    """Return a row per judged response (or per response)."""
    old = _old_logprobs(group)
    return [
        TrainRow(group.prompt, c.token_ids, float(a), c.generator_logprobs, o)
        for c, r, a, o in zip(group.completions, group.rewards, group.advantages, old, strict=True)
        if r.valid or all_rows
    ]


def keep_old_logprobs(groups: Sequence[RolloutGroup], batches: Sequence[list[TrainRow]]) -> None:
    """Copy the rows' old log-probs back to their groups; responses without a row get none."""
    found = {
        id(row.token_ids): row.old_logprobs for batch in batches for row in batch if row.counts
    }
    for group in groups:
        values = [found.get(id(c.token_ids)) for c in group.completions]
        if all(v is not None for v in values):
            group.old_logprobs = values  # type: ignore[assignment]


def _old_logprobs(group: RolloutGroup) -> list[Any]:
    if group.old_logprobs is None:
        return [None] * len(group.completions)
    return list(group.old_logprobs)


def pack(batches: Sequence[list[TrainRow]], groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    """Return a picklable form without pictures' tensors, for a checkpoint inside a step."""
    place = {
        id(c.token_ids): (i, j) for i, g in enumerate(groups) for j, c in enumerate(g.completions)
    }
    return {
        "samples": [group.prompt.sample for group in groups],
        "groups": [(g.completions, g.rewards, g.advantages, None, g.mini_batch) for g in groups],
        "batches": [
            [(*place[id(r.token_ids)], replace(r, prompt=None, token_ids=[])) for r in batch]  # type: ignore[arg-type]
            for batch in batches
        ],
    }


def unpack(
    packed: dict[str, Any], renderer: PromptRenderer
) -> tuple[list[list[TrainRow]], list[RolloutGroup]]:
    """Undo `pack`, rendering the prompts again."""
    prompts = renderer.render(packed["samples"])
    groups = [
        RolloutGroup(prompt, *rest) for prompt, rest in zip(prompts, packed["groups"], strict=True)
    ]
    batches = [
        [  # rows share their ids with the completions, see keep_old_logprobs
            replace(row, prompt=prompts[i], token_ids=groups[i].completions[j].token_ids)
            for i, j, row in batch
        ]
        for batch in packed["batches"]
    ]
    return batches, groups


def write(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Write a parquet file with a row per response; pictures stand in each group's first row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for group in groups:
        sample = group.prompt.sample
        old = _old_logprobs(group)
        for i, (completion, reward) in enumerate(
            zip(group.completions, group.rewards, strict=True)
        ):
            rows.append(
                {
                    "id": sample.id,
                    "task": sample.task,
                    "problem": sample.problem,
                    "images": list(sample.images) if i == 0 else [],
                    "answer": sample.answer,
                    "response": completion.text,
                    "finish_reason": completion.finish_reason,
                    "reward": reward.value,
                    "correct": reward.correct,
                    "valid": reward.valid,
                    "verdicts": json.dumps(
                        {n: [v.outcome, v.score, v.reason] for n, v in reward.terms.items()}
                    ),
                    "advantage": float(group.advantages[i]),
                    "token_ids": completion.token_ids,
                    "generator_logprobs": completion.generator_logprobs.tolist(),
                    "old_logprobs": None if old[i] is None else old[i].tolist(),
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.rename(path)
