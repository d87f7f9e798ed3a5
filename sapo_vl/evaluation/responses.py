"""Sampled responses to a benchmark's problems, stored call by call: an evaluation can resume.

    OUT/mathvision/settings.json     what the responses depend on; other settings are refused
    OUT/mathvision/responses.jsonl   a line per response, readable by `sapo-vl score`; its
                                     `fingerprint` is that of the settings and of the problem

Each response has its own seed, from the run's seed, the problem and the sample's index: it depends
neither on the order, nor on earlier responses, nor on the process's random state.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.evaluation.problems import response_record
from sapo_vl.evaluation.provenance import (
    Settings,
    check,
    claim,
    digest,
    problem_fingerprint,
)
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine, problem_seed, sample_and_grade
from sapo_vl.schema import Sample

SKIPPED_TOO_LONG = "not asked"
"""The finish reason in the responses file of a prompt that leaves no room for a response."""

RESPONSES = "responses.jsonl"
TAIL_BYTES = 2**16  # read at once in search of the last line break

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
    """The responses file of one benchmark, and what its responses depend on."""

    def __init__(self, folder: Path, settings: Settings, problems: Sequence[Sample]) -> None:
        """Describe the store of the responses to `problems`; nothing is read or written yet."""
        self.path = folder / RESPONSES
        self._folder, self._settings = folder, settings
        key = digest(settings)
        self._fingerprints = {p.id: digest([key, problem_fingerprint(p)]) for p in problems}

    def check(self) -> None:
        """Raise ConfigError when the folder holds responses of other settings."""
        check(self._folder, self._settings, (RESPONSES,))

    def done(self) -> set[tuple[str, int]]:
        """Return the keys of the stored responses; the incomplete last line of a kill is cut off.

        Raises:
            ConfigError: the folder holds responses of other settings.
            DataError: a line is no response of this benchmark, is there twice, or belongs to a
                problem that has changed; names the line.
        """
        self.check()
        if not self.path.exists():
            return set()
        _cut_incomplete_line(self.path)
        lines: dict[tuple[str, int], str] = {}
        for where, row in read_jsonl(self.path):
            key = _key(row, where)
            if key in lines:
                raise DataError(
                    f"{where}: problem {key[0]!r}, sample {key[1]} is also at {lines[key]}: two "
                    "evaluations wrote here; name another --out or remove one of the lines"
                )
            lines[key] = where
            expected = self._fingerprints.get(key[0])
            if expected is not None and row.get("fingerprint") != expected:
                raise DataError(
                    f"{where}: problem {key[0]!r} had another text, answer or picture, or other "
                    "settings, when this response was made; name another --out or remove the line"
                )
        return set(lines)

    def add(self, records: Iterable[Record]) -> None:
        """Append records with their fingerprints and flush them; a new folder gets its settings."""
        claim(self._folder, self._settings, (RESPONSES,))
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for record in records:
                name = problem_key(record["problem_id"], record["variant"])
                line = record | {"fingerprint": self._fingerprints[name]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _key(row: Record, where: str) -> tuple[str, int]:
    problem, sample = row.get("problem_id"), row.get("sample")
    if not isinstance(problem, str | int) or not isinstance(sample, int):
        raise DataError(
            f"{where}: not a response of `sapo-vl benchmark`, which has problem_id and sample"
        )
    return problem_key(problem, row.get("variant")), sample


def _cut_incomplete_line(path: Path) -> None:
    """Cut off what follows the last line break, reading from the end."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(position - TAIL_BYTES, 0)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position != end:
            file.truncate(position)


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
