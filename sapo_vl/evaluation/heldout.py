"""Held-out accuracy: avg@n at the training temperature, greedy beside it, by the same verifiers.

`avg` is the mean over problems of the share of right answers among n samples (mean pass@1), its
interval a bootstrap over problems. The same function serves training and `sapo-vl evaluate`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from sapo_vl.evaluation.stats import interval
from sapo_vl.generator.base import Generator, SamplingParams
from sapo_vl.generator.sampling import problem_seed
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

CHUNK = 64
"""Problems rendered and sampled at once: bounds the pictures in memory."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The result of one evaluation; shares between 0 and 1."""

    avg: float  # mean over problems of the mean over samples
    ci95: tuple[float, float]  # 95 % bootstrap interval of avg over problems
    greedy: float | None  # share of problems whose greedy response is right
    samples: int  # n
    problems: int
    no_verdict: int  # responses that no verifier could judge: left out of the means
    tasks: dict[str, float]  # avg by task

    def summary(self) -> dict[str, Any]:
        """Return the figures under the names of summary.json: `avg@n`, `ci95`, `greedy`."""
        fields = asdict(self)
        return {f"avg@{self.samples}": fields.pop("avg"), **fields}


def evaluate(
    generator: Generator,
    renderer: PromptRenderer,
    rubric: Rubric,
    samples: Sequence[Sample],
    *,
    n: int,
    temperature: float,
    max_new_tokens: int,
    greedy: bool,
    seed: int,
    out: Path | None = None,
) -> Accuracy:
    """Sample n responses (and a greedy one) for each problem and grade them; all ranks share.

    `out` receives a JSON line per response. Seeds depend on `seed` and the problem's id alone, so
    that an evaluation neither disturbs training nor depends on the order of problems.
    """
    own = list(samples)[distributed.rank() :: distributed.world_size()]
    records: list[dict[str, Any]] = []
    modes = [SamplingParams(n, temperature, max_new_tokens)]
    if greedy:
        modes.append(SamplingParams(1, 0.0, max_new_tokens))
    for chunk in _chunks(own):
        prompts = renderer.render(chunk)
        seeds = [problem_seed(seed, sample.id) for sample in chunk]
        for sampling in modes:
            responses = generator.generate(prompts, sampling, seeds)
            pairs = [(s, c.text) for s, cs in zip(chunk, responses, strict=True) for c in cs]
            for (sample, text), reward in zip(pairs, rubric.grade(pairs), strict=True):
                records.append(
                    {
                        "id": sample.id,
                        "task": sample.task,
                        "mode": "sampled" if sampling.temperature else "greedy",
                        "correct": reward.correct if reward.valid else None,
                        "answer": sample.answer,
                        "response": text,
                    }
                )
    records = gather(records)
    if out is not None and distributed.rank() == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return accuracy(records, n)


def accuracy(records: Sequence[dict[str, Any]], n: int) -> Accuracy:
    """Summarise graded responses: dictionaries with id, task, mode and correct (or None)."""
    by_problem: dict[str, list[bool]] = defaultdict(list)
    by_task: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    greedy: list[bool] = []
    for record in records:
        if record["correct"] is None:
            continue
        if record["mode"] == "greedy":
            greedy.append(record["correct"])
        else:
            by_problem[record["id"]].append(record["correct"])
            by_task[record["task"]][record["id"]].append(record["correct"])
    means = np.array([np.mean(v) for v in by_problem.values()])
    return Accuracy(
        avg=float(means.mean()) if len(means) else 0.0,
        ci95=interval(means, list(by_problem)),
        greedy=float(np.mean(greedy)) if greedy else None,
        samples=n,
        problems=len({record["id"] for record in records}),
        no_verdict=sum(record["correct"] is None for record in records),
        tasks={
            task: float(np.mean([np.mean(v) for v in problems.values()]))
            for task, problems in sorted(by_task.items())
        },
    )


def _chunks(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for i in range(0, len(samples), CHUNK):
        yield samples[i : i + CHUNK]


def gather(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of all ranks, on all of them."""
    if distributed.world_size() == 1:
        return records
    parts: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(parts, records)
    return [record for part in parts for record in part]
