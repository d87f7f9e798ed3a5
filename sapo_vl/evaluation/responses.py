"""Responses to a benchmark's problems, kept one by one, so that a stopped evaluation goes on.

    OUT/mathvision/settings.json     what the responses depend on; another setting is refused
    OUT/mathvision/responses.jsonl   a line per response, readable by `sapo-vl score`

Each response has its own seed, from the run's seed, the problem and the sample's index: nothing
depends on the order, on what was there before, or on a random state of the process.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapo_vl.data.images import header_size
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.benchmarks.protocol import Problem
from sapo_vl.evaluation.benchmarks.sources import read_json, read_jsonl
from sapo_vl.evaluation.heldout import problem_seed
from sapo_vl.evaluation.report import write_json
from sapo_vl.generator.base import Generator, Sampling
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import IMAGE_MARK

CHUNK = 64
"""Responses sampled, and written, at once: what a kill can lose."""

NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Job:
    """One response that is wanted."""

    problem: Problem
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it in a responses file."""
        return self.problem.key, self.sample

    @property
    def name(self) -> str:
        """What its seed is made from."""
        return f"{self.problem.key}@{self.sample}"


@dataclass(frozen=True, slots=True)
class Asker:
    """All that sampling needs."""

    generator: Generator
    renderer: PromptRenderer
    sampling: Sampling
    benchmark: str
    model: str  # name in the records
    seed: int
    room: int  # tokens of the longest prompt that leaves space for the response

    def ask(self, jobs: Sequence[Job]) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each chunk of jobs, in order.

        A prompt longer than `room` is never cut: it gets an empty response that is marked
        `NOT_ASKED`, counts as wrong and is reported. Raises DataError for an unreadable image.
        """
        for i in range(0, len(jobs), CHUNK):
            chunk = jobs[i : i + CHUNK]
            samples = [job.problem.sample(self.benchmark) for job in chunk]
            lengths = self.renderer.lengths(samples)
            fits = [k for k, length in enumerate(lengths) if length <= self.room]
            prompts = self.renderer.render([samples[k] for k in fits])
            seeds = [
                problem_seed(self.seed, f"{chunk[k].problem.key}@{chunk[k].sample}") for k in fits
            ]
            completions = self.generator.generate(prompts, self.sampling, seeds) if fits else []
            answers = dict(zip(fits, completions, strict=True))
            yield [
                self._record(job, answers[k][0].text, answers[k][0].finish_reason)
                if k in answers
                else self._record(job, "", NOT_ASKED)
                for k, job in enumerate(chunk)
            ]

    def _record(self, job: Job, text: str, reason: str) -> dict[str, Any]:
        record = job.problem.record(self.model, job.sample, text)
        return record | {"finish_reason": reason}


def jobs(problems: Sequence[Problem], samples: int) -> list[Job]:
    """Return every response that is wanted. Raises DataError for an id that is there twice."""
    seen: set[str] = set()
    for problem in problems:
        if problem.key in seen:
            raise DataError(f"problem {problem.key}: the id is there twice")
        seen.add(problem.key)
    return [Job(problem, k) for problem in problems for k in range(samples)]


class Kept:
    """The responses file of one benchmark."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open or continue. Raises ConfigError when the folder was made with other settings."""
        self.path = folder / "responses.jsonl"
        self._note = folder / "settings.json"
        self._settings = settings
        if self._note.exists():
            before = read_json(self._note)
            for key, value in settings.items():
                if before.get(key) != value:
                    raise ConfigError(
                        f"--out: {folder} was made with {key}={before.get(key)!r}, not {value!r}; "
                        "name another folder or the same settings"
                    )
        self._drop_half_line()

    def _drop_half_line(self) -> None:
        if self.path.exists():
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                with self.path.open("r+b") as file:
                    file.truncate(whole)

    def done(self) -> set[tuple[str, int]]:
        """Return the keys of the responses that are there."""
        if not self.path.exists():
            return set()
        return {(_key(row), row["sample"]) for _, row in read_jsonl(self.path)}

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append lines and flush them; the first call writes the settings."""
        if not self._note.exists():
            write_json(self._note, self._settings)
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def _key(row: dict[str, Any]) -> str:
    return f"{row['problem_id']}#{row['variant']}" if row["variant"] else str(row["problem_id"])


def shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """Return the problems with the images of others, each of another with as many images.

    A problem whose number of images no other has is left out, as are those without images.
    """
    groups: dict[int, list[Problem]] = defaultdict(list)
    for problem in problems:
        if problem.images:
            groups[len(problem.images)].append(problem)
    result = []
    for group in groups.values():
        if len(group) > 1:
            order = random.Random(seed).sample(group, len(group))
            for problem, other in zip(order, [*order[1:], order[0]], strict=True):
                result.append(replace(problem, images=other.images))
    place = {problem.key: i for i, problem in enumerate(problems)}
    return sorted(result, key=lambda problem: place[problem.key])


def check(problems: Sequence[Problem], name: str) -> None:
    """Raise DataError when a prompt's image marks and images differ, or one is no picture."""
    for problem in problems:
        for data in problem.images:
            try:
                header_size(data)
            except DataError as error:
                raise DataError(f"{name} {problem.key}: {error}") from error
        if problem.prompt.count(IMAGE_MARK) != len(problem.images):
            raise DataError(
                f"{name} {problem.key}: {problem.prompt.count(IMAGE_MARK)} image marks and "
                f"{len(problem.images)} images"
            )
