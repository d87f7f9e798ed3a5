"""`sapo-vl evaluate --model M --benchmarks a,b --source DIR --out DIR`: the published benchmarks.

    bash scripts/eval_vl.sh --model runs/main/final --benchmarks mathvision,wemath --source FILES \\
        --out runs/eval --limit 100

Everything is checked (names, files, images, model) before anything is written. Responses are kept
one by one and an interrupted evaluation goes on where it stopped; scoring reads them back, so it
can be repeated with `sapo-vl score`. OUT/report.md and OUT/report.html show the figures, OUT/BENCH/
holds responses.jsonl, scored.jsonl and summary.json. `in_training` is the same for a subset while a
run goes on.

Left out: several ranks for one evaluation; an engine with generator.tensor_parallel does it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation import report as benchmark_report
from sapo_vl.evaluation import score
from sapo_vl.evaluation import stats as passk
from sapo_vl.evaluation.benchmarks import named
from sapo_vl.evaluation.benchmarks.llm import Endpoint
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, Problem, Scored
from sapo_vl.evaluation.heldout import gather
from sapo_vl.evaluation.presets import choose
from sapo_vl.evaluation.responses import NOT_ASKED, Asker, Kept, check, jobs, shuffled
from sapo_vl.generator import base as generator
from sapo_vl.generator.base import Generator, Sampling
from sapo_vl.model import assets as model
from sapo_vl.model.assets import ModelFolder
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs.progress import table
from sapo_vl.system import distributed

SOURCE = Path("benchmarks")
"""Where the benchmarks' own files are looked for without --source, from the current folder."""

CONTROLS = ("blank", "shuffled")
"""Folders beside a benchmark's own: the same problems with white images, and with others'."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    benchmarks: Sequence[Benchmark]
    source: Path  # the benchmarks' own files
    out: Path | None
    samples: int = 1
    limit: int | None = None
    kind: str = "auto"
    controls: bool = False
    endpoint: Endpoint | None = None


def main(config: Config, request: Request) -> None:
    """Evaluate, write OUT, print the table and one JSON line."""
    out = _checked(request)
    sets = {b.name: load(b, request.source, request.limit) for b in request.benchmarks}
    folder = model.open_folder(config.model.path)
    config = fitted(config, folder, sets)
    template = str(folder.processor.chat_template or "")
    kind, sampling = choose(
        request.kind, config.model.path, template, min(
            config.rollout.max_new_tokens, config.generator.max_model_len // 2
        ),
    )  # fmt: skip
    print(f"sampling as {kind}: {sampling}")
    runs = [_Run(config, folder, sampling, b, request, out) for b in request.benchmarks]
    for run in runs:
        run.check()
    distributed.init()
    engine = generator.build(config, folder, seed=config.run.seed)
    summaries = {run.benchmark.name: run.evaluate(sets[run.benchmark.name], engine) for run in runs}
    engine.close()
    result = {"model": config.model.path, "kind": kind, "benchmarks": summaries}
    benchmark_report.write_json(out / "summary.json", result)
    benchmark_report.markdown(out / "report.md", result)
    benchmark_report.html(out / "report.html", result, out, sets)
    show(result)
    print(json.dumps(_short(result)))


def _checked(request: Request) -> Path:
    if request.out is None:
        raise ConfigError("--benchmarks needs --out DIR for the responses")
    if not request.source.is_dir():
        raise DataError(
            f"--source {request.source} is not a folder; name the one of the benchmarks' own files"
        )
    if not request.benchmarks:
        raise ConfigError("--benchmarks names none")
    score.check_folder(request.out)
    if distributed.world_size() > 1:
        raise ConfigError("--benchmarks runs as one process; see generator.tensor_parallel")
    for name, value in (("samples", request.samples), ("limit", request.limit)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} is not a positive number")
    return request.out


def load(benchmark: Benchmark, source: Path, limit: int | None) -> list[Problem]:
    """Return the (first) problems of a benchmark.

    Raises DataError when there is none, and for a record without a key or a readable picture.
    """
    try:
        problems = list(itertools.islice(benchmark.problems(source), limit))
    except KeyError as error:
        raise DataError(f"{benchmark.name}: a record in --source {source} lacks {error}") from error
    if not problems:
        raise DataError(f"{benchmark.name}: --source {source} holds no problems")
    check(problems, benchmark.name)
    return problems


def fitted(config: Config, folder: ModelFolder, sets: dict[str, list[Problem]]) -> Config:
    """Return the configuration within what the model's folder allows: positions and pixels.

    Prompts are the benchmark's own words, so `data.instruction` is not appended.
    """
    positions = int(folder.config.text_config.max_position_embeddings)
    size = getattr(folder.processor.image_processor, "size", None) or {}
    longest = size.get("longest_edge") or config.data.max_pixels
    images = max((len(p.images) for problems in sets.values() for p in problems), default=1)
    length = min(config.generator.max_model_len, positions)
    tree = config.model_dump()
    tree["data"] |= {"instruction": "", "max_pixels": min(config.data.max_pixels, int(longest))}
    tree["generator"] |= {
        "max_model_len": length,
        "max_images": max(config.generator.max_images, images),
    }
    tree["rollout"]["max_new_tokens"] = min(config.rollout.max_new_tokens, length // 2)
    return Config.model_validate(tree)


@dataclass(frozen=True, slots=True)
class _Run:
    """One benchmark's evaluation."""

    config: Config
    folder: ModelFolder
    sampling: Sampling
    benchmark: Benchmark
    request: Request
    out: Path

    def check(self) -> None:
        """Raise ConfigError when the folder was made with other settings."""
        Kept(self.out / self.benchmark.name, self._settings())

    def evaluate(self, problems: Sequence[Problem], engine: Generator) -> dict[str, Any]:
        """Generate what is missing, score all, and return the summary that is written."""
        scored = self._part(self.benchmark.name, problems, engine, blank=False)
        result = summarise(self.benchmark, scored) | {
            "extraction": score.extractor(self.benchmark, self.request.endpoint)
        }
        if self.request.controls:
            result["vision_gain"] = self._controls(problems, engine, scored)
        benchmark_report.write_json(self.out / self.benchmark.name / "summary.json", result)
        return result

    def _controls(
        self, problems: Sequence[Problem], engine: Generator, scored: Sequence[Scored]
    ) -> dict[str, Any]:
        with_images = [p for p in problems if p.images]
        parts = {"blank": with_images, "shuffled": shuffled(problems, self.config.run.seed)}
        gains: dict[str, Any] = {}
        for name in CONTROLS:
            if not parts[name]:
                continue  # a benchmark of text alone, or of one picture
            where = f"{self.benchmark.name}/{name}"
            control = self._part(where, parts[name], engine, blank=name == "blank")
            gain = vision_gain(scored, control)
            if gain is not None:
                gains[name] = gain
        return gains

    def _part(
        self, name: str, problems: Sequence[Problem], engine: Generator, *, blank: bool
    ) -> list[Scored]:
        config = self.config
        kept = Kept(self.out / name, self._settings())
        done = kept.done()
        asker = Asker(
            engine,
            PromptRenderer(self.folder, config.data, blank=blank),
            self.sampling,
            self.benchmark.name,
            config.model.path,
            config.run.seed,
            config.generator.max_model_len - self.sampling.max_new_tokens,
        )
        wanted = jobs(problems, self.request.samples)
        left = [job for job in wanted if job.key not in done]
        print(f"{name}: {len(wanted)} responses, {len(wanted) - len(left)} of them are there")
        for records in asker.ask(left):
            kept.add(records)
        order = {job.key: i for i, job in enumerate(wanted)}
        rows = [r for r in score.read(kept.path) if (r.key, r.sample) in order]
        rows.sort(key=lambda r: order[r.key, r.sample])
        scored = score.score(self.benchmark, rows, endpoint=self.request.endpoint)
        score.write(self.out / name / "scored.jsonl", scored)
        return scored

    def _settings(self) -> dict[str, Any]:
        sampling = self.sampling
        return {
            "benchmark": self.benchmark.name,
            "model": self.config.model.path,
            "seed": self.config.run.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "presence_penalty": sampling.presence_penalty,
            "max_new_tokens": sampling.max_new_tokens,
            "min_pixels": self.config.data.min_pixels,
            "max_pixels": self.config.data.max_pixels,
        }


def summarise(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return a benchmark's figures: accuracy with its interval, counts, tables, own metrics."""
    groups, _ = score.by_problem(scored)
    means = [sum(v) / len(v) for v in groups.values()]
    average = sum(means) / len(means) if means else None
    aggregates = score.aggregate(benchmark, scored)
    reasons = [item.row.meta.get("finish_reason") for item in scored]
    return {
        "title": benchmark.title,
        "accuracy": average,
        "ci95": aggregates["average"]["ci95"],
        "problems": len(groups),
        "responses": len(scored),
        "not_asked": reasons.count(NOT_ASKED),
        "cut": reasons.count("length"),
        "no_verdict": sum(item.correct is None for item in scored),
        "aggregates": aggregates,
    }


def vision_gain(scored: Sequence[Scored], control: Sequence[Scored]) -> dict[str, Any] | None:
    """Return accuracy with the image minus accuracy with the control's, on the same problems.

    None when no problem has a verdict with both.
    """
    real, families = score.by_problem(scored)
    other, _ = score.by_problem(control)
    if not real.keys() & other.keys():
        return None
    found = passk.paired(other, real, families)
    return {
        "gain": found.difference,
        "ci95": list(found.ci95),
        "p_value": found.p_value,
        "with_image": found.second,
        "with_control": found.first,
        "problems": found.problems,
    }


def chosen_sets(config: Config) -> dict[str, list[Problem]]:
    """Return the problems that `evaluation.benchmarks` names, for `in_training`.

    Raises ConfigError for an unknown name, a missing source, or too many images in one problem.
    """
    options, sets = config.evaluation, {}
    if not options.benchmarks:
        return {}
    if options.source is None:
        raise ConfigError(
            "evaluation.benchmarks needs evaluation.source, the folder of their files"
        )
    for name in options.benchmarks:
        sets[name] = load(named(name), options.source, options.limit)
        most = max(len(problem.images) for problem in sets[name])
        if most > config.generator.max_images:
            raise ConfigError(
                f"evaluation.benchmarks: {name} has a problem with {most} images, and "
                f"generator.max_images={config.generator.max_images}"
            )
    return sets


def in_training(
    config: Config, engine: Generator, folder: ModelFolder, sets: dict[str, list[Problem]]
) -> dict[str, float]:
    """Return accuracy per benchmark with the sampler's weights: training's settings, one sample.

    Beside it NAME/not_asked: prompts that don't fit, which count as wrong.
    All ranks share the problems. Seeds come from the problems' names, and torch's random state is
    put back, so that the rollouts that follow are the ones without it.
    """
    data = config.data.model_copy(update={"instruction": ""})
    sampling = Sampling(1, 1.0, config.rollout.max_new_tokens)
    room = config.generator.max_model_len - sampling.max_new_tokens
    result = {}
    for name, problems in sets.items():
        asker = Asker(
            engine, PromptRenderer(folder, data), sampling, name, "policy", config.run.seed, room
        )
        own = jobs(problems, 1)[distributed.rank() :: distributed.world_size()]
        with torch.random.fork_rng():
            records = gather([r for chunk in asker.ask(own) for r in chunk])
        rows = [score.read_row(record, name) for record in records]
        scored = score.score(named(name), rows)
        figures = summarise(named(name), scored)
        result[name] = float("nan") if figures["accuracy"] is None else figures["accuracy"]
        result[f"{name}/not_asked"] = figures["not_asked"]
    return result


def show(result: dict[str, Any]) -> None:
    """Print the table of all benchmarks."""
    columns, rows = benchmark_report.overview(result)
    table(f"{result['model']}, sampled as {result['kind']}", columns, rows)


def _short(result: dict[str, Any]) -> dict[str, Any]:
    keep = ("accuracy", "ci95", "problems", "responses", "not_asked", "no_verdict", "vision_gain")
    return result | {
        "benchmarks": {
            name: {key: summary[key] for key in keep if key in summary}
            for name, summary in result["benchmarks"].items()
        }
    }
