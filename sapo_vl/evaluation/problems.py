"""Load a benchmark's problems: locate the files, read them by their source, build the prompts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.images import header_size
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import MarkedText, choices_by_letter
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, Response, problem_key
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.schema import IMAGE_MARK, Sample


def load(benchmark: Benchmark, source: Path, limit: int | None) -> list[Sample]:
    """Return the first `limit` problems (None: all), with the protocol's prompt as `problem`.

    A sample's id is the problem's key, "78" or "78#3", unique within the benchmark.

    Raises:
        DataError: there are no problems, or a record cannot be used: a benchmark is never scored on
            a part of its problems. Names the record.
    """
    folder = find(source, benchmark)
    problems: dict[str, Sample] = {}
    for record in itertools.islice(benchmark.rows(folder), limit):
        if isinstance(record, Dropped):
            raise DataError(f"{benchmark.name}: --source {source}, {record.id}: {record.reason}")
        problem = _with_prompt(benchmark, record)
        check_images(problem)
        check_row(benchmark, problem)
        if problem.id in problems:
            raise DataError(f"{benchmark.name} {problem.id}: the id occurs twice")
        problems[problem.id] = problem
    if not problems:
        raise DataError(f"{benchmark.name}: --source {source} holds no problems")
    return list(problems.values())


def find(source: Path, benchmark: Benchmark) -> Path:
    """Return the folder, `source` or the benchmark's own in it, that holds the benchmark's files.

    Raises:
        DataError: neither does; names the files and where they can be downloaded.
    """
    name = benchmark.folder or benchmark.name
    if not benchmark.files:
        return source / name if (source / name).is_dir() else source
    for folder in (source / name, source):
        if any(next(folder.glob(pattern), None) for pattern in benchmark.files):
            return folder
    hub = f"; `hf download {benchmark.hub} --repo-type dataset --local-dir DIR` downloads them"
    raise DataError(
        f"{benchmark.name}: --source {source} has none of {', '.join(benchmark.files)} "
        f"(nor has {source / name}){hub if benchmark.hub else ''}"
    )


def _with_prompt(benchmark: Benchmark, sample: Sample) -> Sample:
    fallback: Published = {
        "problem_id": sample.id,
        "answer": sample.answer,
        "question": sample.problem.replace(IMAGE_MARK, ""),
        "choices": list(sample.choices),
        "answer_type": sample.answer_type,
        "precision": sample.precision,
        "unit": sample.unit,
        "tables": {"task": sample.task},
    }
    published: Published = sample.metadata.get("published") or fallback
    key = problem_key(published["problem_id"], published.get("variant"))
    try:
        prompt = benchmark.prompt(sample)
        marked = prompt if isinstance(prompt, MarkedText) else MarkedText(prompt, sample.images)
    except KeyError as error:
        raise DataError(f"{benchmark.name} {key}: the record lacks {error}") from error
    metadata = sample.metadata | {"published": published}
    return replace(
        sample,
        id=key,
        dataset=benchmark.name,
        problem=marked.text,
        images=marked.images,
        metadata=metadata,
    )


def check_images(problem: Sample) -> None:
    """Raise DataError when image marks and images differ in number, or one is not an image."""
    name = f"{problem.dataset} {problem.id}"
    for data in problem.images:
        try:
            header_size(data)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    marks = problem.problem.count(IMAGE_MARK)
    if marks != len(problem.images):
        raise DataError(f"{name}: {marks} image marks and {len(problem.images)} images")


def check_row(benchmark: Benchmark, problem: Sample) -> Response:
    """Return an empty response to a problem, checked for the benchmark's rule.

    Raises DataError naming the problem: an hour of sampling must not end in it.
    """
    return read_response(
        response_record(problem, "-", 0, ""), f"{benchmark.name} {problem.id}", benchmark
    )


def response_record(problem: Sample, model: str, sample: int, response: str) -> dict[str, Any]:
    """Return the line of a responses file that `read_response` reads back."""
    published: Published = problem.metadata["published"]
    choices = choices_by_letter(published.get("choices") or ())
    return {
        "model": model,
        "problem_id": published["problem_id"],
        "variant": published.get("variant", ""),
        "sample": sample,
        "question_type": published.get("question_type"),
        "answer_type": published.get("answer_type"),
        "precision": published.get("precision"),
        "unit": published.get("unit"),
        "choices": choices or None,
        "gold": published["answer"],
        "question": published["question"],
        "response": response,
        "meta": published.get("tables", {}),
    }


def max_images(problems: Sequence[Sample]) -> int:
    """Return the largest number of images of one problem."""
    return max((len(problem.images) for problem in problems), default=0)
