"""Sampled responses to a benchmark's problems, stored one by one, so that an evaluation can resume.

    OUT/mathvision/settings.json     what the responses depend on; other settings are refused
    OUT/mathvision/responses.jsonl   a line per response, readable by `sapo-vl score`

Each response has its own seed, from the run's seed, the problem and the sample's index: it depends
neither on the order, nor on earlier responses, nor on the process's random state.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import ConfigError
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.evaluation.problems import response_record
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine, problem_seed, sample_and_grade
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.schema import Sample

SKIPPED_TOO_LONG = "not asked"
"""The finish reason in the responses file of a prompt that leaves no room for a response."""

Record = dict[str, Any]  # a line of a responses file


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """One (problem, sample index) to generate."""

    problem: Sample
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the response in a responses file."""
        return self.problem.id, self.sample


def all_requests(problems: Sequence[Sample], samples: int) -> list[ResponseRequest]:
    """Return `samples` requests per problem, problem by problem."""
    return [ResponseRequest(problem, k) for problem in problems for k in range(samples)]


@dataclass(frozen=True, slots=True)
class ResponseSampler:
    """Generates responses."""

    engine: SampleEngine  # without a rubric: a benchmark has rules of its own
    params: SamplingParams  # n is 1: each response has its own seed
    model: str  # name in the records
    seed: int  # the run's

    def sample(self, requests: Sequence[ResponseRequest]) -> Iterator[list[Record]]:
        """Yield the records of each chunk of requests, in order.

        A prompt longer than `engine.max_prompt_tokens` is never truncated: its response is empty,
        marked SKIPPED_TOO_LONG, and counts as wrong. Raises DataError for an unreadable image.
        """
        problems = [request.problem for request in requests]
        seeds = [problem_seed(self.seed, f"{r.problem.id}@{r.sample}") for r in requests]
        pending = iter(requests)
        for groups in sample_and_grade(self.engine, problems, self.params, seeds):
            records = []
            for group in groups:
                request, text, reason = next(pending), "", SKIPPED_TOO_LONG
                if group.rollouts:
                    text, reason = group.rollouts[0].text, group.rollouts[0].finish_reason
                record = response_record(request.problem, self.model, request.sample, text)
                records.append(record | {"finish_reason": reason})
            yield records


class ResponseStore:
    """The responses file of one benchmark, and the settings that its responses depend on."""

    def __init__(self, folder: Path, settings: Record) -> None:
        """Open or continue a folder; an incomplete last line of a killed process is cut off.

        Raises ConfigError when the folder was written with other settings.
        """
        self.path = folder / "responses.jsonl"
        self._settings_file = folder / "settings.json"
        self._settings = settings
        before = read_json(self._settings_file)
        for key, value in settings.items() if before is not None else ():
            if before.get(key) != value:
                raise ConfigError(
                    f"--out: {folder} was written with {key}={before.get(key)!r}, not {value!r}; "
                    "name another folder or use the same settings"
                )
        if self.path.exists():
            data = self.path.read_bytes()
            complete = data.rfind(b"\n") + 1
            if complete != len(data):
                with self.path.open("r+b") as file:
                    file.truncate(complete)

    def done(self) -> set[tuple[str, int]]:
        """Return the keys of the stored responses."""
        if not self.path.exists():
            return set()
        rows = (row for _, row in read_jsonl(self.path))
        return {(problem_key(row["problem_id"], row["variant"]), row["sample"]) for row in rows}

    def add(self, records: Iterable[Record]) -> None:
        """Append records and flush them; the first call writes the settings."""
        if not self._settings_file.exists():
            write_json(self._settings_file, self._settings)
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def shuffle_images(problems: Sequence[Sample], seed: int) -> list[Sample]:
    """Give each problem the images of another one that has as many.

    Problems without images are left out, and so is one whose number of images no other has.
    """
    by_count: dict[int, list[Sample]] = defaultdict(list)
    for problem in problems:
        if problem.images:
            by_count[len(problem.images)].append(problem)
    shuffled = []
    for group in by_count.values():
        if len(group) > 1:
            order = random.Random(seed).sample(group, len(group))
            for problem, donor in zip(order, [*order[1:], order[0]], strict=True):
                shuffled.append(replace(problem, images=donor.images))
    position = {problem.id: i for i, problem in enumerate(problems)}
    return sorted(shuffled, key=lambda problem: position[problem.id])
