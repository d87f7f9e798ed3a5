"""`sapo-vl benchmark --model M --benchmarks a,b --source DIR --out DIR`: published benchmarks.

    sapo-vl benchmark --model runs/main/final --benchmarks mathvision,wemath --source FILES \\
        --out runs/eval --limit 100

Names, files, images and the model are checked before anything is written. Responses are stored
after each call of the engine (512 at most), so that an interrupted evaluation resumes; a folder of
other weights, settings or problems is refused, and so is one in which another evaluation runs.
Scoring reads the responses back and can be repeated with `sapo-vl score`. OUT/report.md and
OUT/report.html show the figures, OUT/BENCHMARK/ holds responses.jsonl, scored.jsonl and
summary.json. `in_training` evaluates a subset during training.

Left out: several ranks for one evaluation; generator.tensor_parallel spreads an engine over GPUs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, DataError, printable
from sapo_vl.evaluation import score
from sapo_vl.evaluation.benchmarks import named
from sapo_vl.evaluation.benchmarks.llm import Endpoint
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ScoredResponse
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.evaluation.presets import choose
from sapo_vl.evaluation.problems import load, max_images
from sapo_vl.evaluation.provenance import Settings, digest, problem_fingerprint
from sapo_vl.evaluation.report import overview, write_html, write_markdown
from sapo_vl.evaluation.responses import (
    SKIPPED_TOO_LONG,
    ResponseSampler,
    ResponseStore,
    all_requests,
    shuffle_images,
)
from sapo_vl.evaluation.stats import paired
from sapo_vl.generator.base import Generator, SamplingParams, build, engine_ranks
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.fingerprint import weights_fingerprint
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs.files import write_json
from sapo_vl.runs.lock import FolderLock
from sapo_vl.runs.progress import table
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

SOURCE = Path("benchmarks")
"""Default of --source: a folder with a subfolder per benchmark, below the current one."""

OWN, BLANK, SHUFFLED = "own", "blank", "shuffled"
"""The problems' own images and two controls, and their folders: white images, and others'."""


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """What the command line asks for."""

    benchmarks: Sequence[Benchmark]
    out: Path  # folder of the responses, verdicts and reports
    source: Path = SOURCE  # the benchmarks' own files
    samples: int = 1  # responses per problem
    limit: int | None = None  # first problems of each benchmark
    kind: str = "auto"  # sampling preset
    controls: bool = False
    endpoint: Endpoint | None = None  # LLM of the protocols that ask one


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark with its problems in memory."""

    benchmark: Benchmark
    problems: Sequence[Sample]


def main(config: Config, request: BenchmarkRequest) -> None:
    """Evaluate model.path, write OUT, print the table and one JSON line.

    Raises:
        UserError: the request, the files or the model cannot be used; nothing has been written.
    """
    _check(request)
    loaded = [
        LoadedBenchmark(benchmark, load(benchmark, request.source, request.limit))
        for benchmark in request.benchmarks
    ]
    assets = open_assets(config.model.path)
    config = fit_to_model(config, assets, max(max_images(part.problems) for part in loaded))
    limit = min(config.rollout.max_new_tokens, config.generator.max_model_len // 2)
    template = str(assets.processor.chat_template or "")
    kind, params = choose(request.kind, config.model.path, template, limit)
    print(f"sampling preset {kind}: {params}")
    weights = weights_fingerprint(config.model.path)
    runs = [BenchmarkRun(config, assets, params, part, request, weights) for part in loaded]
    with FolderLock(request.out, "--out"):
        for run in runs:
            run.check()
        distributed.init()
        generator = build(config, assets, seed=config.run.seed)
        with closing(generator):
            summaries = {run.name: run.evaluate(generator) for run in runs}
        result = {
            "model": config.model.path,
            "weights": weights,
            "kind": kind,
            "benchmarks": summaries,
        }
        _write_reports(result, loaded, request.out)


def _write_reports(result: dict[str, Any], loaded: Sequence[LoadedBenchmark], out: Path) -> None:
    """Write summary.json, report.md and report.html; print the table and the JSON line."""
    write_json(out / "summary.json", result)
    write_markdown(out / "report.md", result)
    problems = {part.benchmark.name: part.problems for part in loaded}
    write_html(out / "report.html", result, out, problems)
    figures = overview(result)
    title = f"{result['model']}, sampling preset {result['kind']}"
    table(title, figures.columns, figures.rows)
    print(json.dumps(_headline(result)))


def _check(request: BenchmarkRequest) -> None:
    if not request.source.is_dir():
        raise DataError(
            f"--source {request.source} is not a folder; name the one of the benchmarks' own files"
        )
    if not request.benchmarks:
        raise ConfigError("--benchmarks names none")
    names = [benchmark.name for benchmark in request.benchmarks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"--benchmarks: {twice} is named twice")
    score.check_folder(request.out)
    if distributed.world_size() > 1:
        raise ConfigError("benchmark runs as one process; see generator.tensor_parallel")
    if request.endpoint is not None and not any(b.llm for b in request.benchmarks):
        raise ConfigError(f"--judge: {', '.join(names)}: scored by rules alone, without an LLM")
    for name, value in (("samples", request.samples), ("limit", request.limit)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} is not a positive number")


def fit_to_model(config: Config, assets: ModelAssets, images: int) -> Config:
    """Return the configuration within the model's positions and pixels, for `images` per prompt.

    The benchmark's prompt is complete, so that data.instruction is not appended.
    """
    positions = int(assets.config.text_config.max_position_embeddings)
    size = getattr(assets.processor.image_processor, "size", None) or {}
    longest_edge = int(size.get("longest_edge") or config.data.max_pixels)  # pixels of an image
    length = min(config.generator.max_model_len, positions)
    tree = config.model_dump()
    tree["data"] |= {"instruction": "", "max_pixels": min(config.data.max_pixels, longest_edge)}
    tree["generator"] |= {
        "max_model_len": length,
        "max_images": max(config.generator.max_images, images),
    }
    tree["rollout"]["max_new_tokens"] = min(config.rollout.max_new_tokens, length // 2)
    return Config.model_validate(tree)


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """The evaluation of one model on one benchmark."""

    config: Config
    assets: ModelAssets
    params: SamplingParams
    loaded: LoadedBenchmark
    request: BenchmarkRequest
    weights: str  # fingerprint

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.loaded.benchmark.name

    @property
    def folder(self) -> Path:
        """Where responses and verdicts are written."""
        return self.request.out / self.name

    def settings(self, images: str) -> Settings:
        """Return what the responses depend on besides the problems; `images`: OWN or a control."""
        params, config = self.params, self.config
        return {
            "benchmark": self.name,
            "images": images,
            "model": config.model.path,
            "weights": self.weights,
            "revision": getattr(self.assets.config, "_commit_hash", None),  # of a hub id
            "template": digest(str(self.assets.processor.chat_template)),
            "dtype": config.model.dtype,
            "generator": config.generator.backend,
            "seed": config.run.seed,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "presence_penalty": params.presence_penalty,
            "max_new_tokens": params.max_new_tokens,
            "min_pixels": config.data.min_pixels,
            "max_pixels": config.data.max_pixels,
        }

    def check(self) -> None:
        """Refuse stored responses of other settings, weights or problems. Raises UserError."""
        self.store().done()
        for control in (BLANK, SHUFFLED) if self.request.controls else ():
            self.store(control, self._pictured(control)).done()

    def store(self, images: str = OWN, problems: Sequence[Sample] | None = None) -> ResponseStore:
        """Return the store of the responses to `problems` (default: all), with these images."""
        folder = self.folder if images == OWN else self.folder / images
        problems = self.loaded.problems if problems is None else problems
        return ResponseStore(folder, self.settings(images), problems)

    def evaluate(self, generator: Generator) -> dict[str, Any]:
        """Generate missing responses, score all, and write and return the summary."""
        benchmark, problems = self.loaded.benchmark, self.loaded.problems
        scored = self._score(problems, generator, OWN)
        result = summarise(benchmark, scored)
        result["fingerprint"] = {
            "weights": self.weights,
            "settings": digest(self.settings(OWN)),
            "problems": digest([problem_fingerprint(problem) for problem in problems]),
        }
        result["extraction"] = score.extractor(benchmark, self.request.endpoint)
        if self.request.controls:
            result["vision_gain"] = {}
            for control in (BLANK, SHUFFLED):
                gain = self._gain(control, generator, scored)
                if gain is not None:
                    result["vision_gain"][control] = gain
        write_json(self.folder / "summary.json", result)
        return result

    def _gain(
        self, control: str, generator: Generator, scored: Sequence[ScoredResponse]
    ) -> dict[str, Any] | None:
        problems = self._pictured(control)
        if not problems:
            return None  # a benchmark of text alone, or of one image
        return vision_gain(scored, self._score(problems, generator, control))

    def _pictured(self, control: str) -> list[Sample]:
        """Return a control's problems: those with images, or those whose images can be swapped."""
        problems = [problem for problem in self.loaded.problems if problem.images]
        if control == SHUFFLED:
            return shuffle_images(problems, self.config.run.seed)
        return problems

    def _score(
        self, problems: Sequence[Sample], generator: Generator, images: str
    ) -> list[ScoredResponse]:
        """Sample what is missing in the store, score its responses to `problems` in order."""
        store = self.store(images, problems)
        blank = images == BLANK
        sampler = response_sampler(self.config, self.assets, generator, self.params, blank=blank)
        requests = all_requests(problems, self.request.samples)
        done = store.done()
        missing = [request for request in requests if request.key not in done]
        folder = store.path.parent
        name = printable(folder.relative_to(self.request.out))
        print(f"{name}: {len(requests)} responses, {len(requests) - len(missing)} already stored")
        for records in sampler.sample(missing):
            store.add(records)
        order = {request.key: i for i, request in enumerate(requests)}
        responses = [
            r for r in score.read(store.path, self.loaded.benchmark) if (r.key, r.sample) in order
        ]
        responses.sort(key=lambda r: order[r.key, r.sample])
        scored = score.score(self.loaded.benchmark, responses, endpoint=self.request.endpoint)
        score.write(folder / "scored.jsonl", scored)
        for line in score.remarks(scored):
            print(f"{name}: {line}")
        return scored


def response_sampler(
    config: Config,
    assets: ModelAssets,
    generator: Generator,
    params: SamplingParams,
    *,
    model: str | None = None,
    blank: bool = False,
) -> ResponseSampler:
    """Return the sampler of benchmark prompts, which carry their own instruction.

    `model` is the name in the records, model.path by default; `blank` makes images white.
    """
    data = config.data.model_copy(update={"instruction": ""})
    engine = SampleEngine(
        generator,
        PromptRenderer(assets, data, blank=blank),
        max_prompt_tokens=config.generator.max_model_len - params.max_new_tokens,
        tensor_parallel=engine_ranks(config),
    )
    return ResponseSampler(engine, params, model or config.model.path, config.run.seed)


def summarise(benchmark: Benchmark, scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return a benchmark's figures: accuracy with its interval, counts, tables, own metrics."""
    verdicts, _ = score.by_problem(scored)
    means = [sum(v) / len(v) for v in verdicts.values()]
    aggregates = score.aggregate(benchmark, scored)
    reasons = [item.response.meta.get("finish_reason") for item in scored]
    return {
        "title": benchmark.title,
        "accuracy": sum(means) / len(means) if means else None,
        "ci95": aggregates["average"]["ci95"],
        "problems": len(verdicts),
        "responses": len(scored),
        "not_asked": reasons.count(SKIPPED_TOO_LONG),
        "cut": reasons.count("length"),
        "no_verdict": sum(item.correct is None for item in scored),
        "aggregates": aggregates,
    }


def vision_gain(
    scored: Sequence[ScoredResponse], control: Sequence[ScoredResponse]
) -> dict[str, Any] | None:
    """Return accuracy with the image minus accuracy with the control's, on common problems.

    None when no problem has a verdict with both.
    """
    with_image, families = score.by_problem(scored)
    with_control, _ = score.by_problem(control)
    if not with_image.keys() & with_control.keys():
        return None
    result = paired(with_control, with_image, families)
    return {
        "gain": result.difference,
        "ci95": list(result.ci95),
        "p_value": result.p_value,
        "with_image": result.second,
        "with_control": result.first,
        "problems": result.problems,
    }


def chosen_sets(config: Config) -> dict[str, LoadedBenchmark]:
    """Load the first problems of the benchmarks in `evaluation.benchmarks`, for `in_training`.

    Raises:
        ConfigError: a name is unknown, the source is missing, or a problem has too many images.
        DataError: as `load`.
    """
    options = config.evaluation
    if options.benchmarks and options.source is None:
        raise ConfigError(
            "evaluation.benchmarks needs evaluation.source, the folder of their files"
        )
    loaded: dict[str, LoadedBenchmark] = {}
    for text in options.benchmarks:
        benchmark = named(text, "evaluation.benchmarks")
        assert options.source is not None
        part = LoadedBenchmark(benchmark, load(benchmark, options.source, options.limit))
        images = max_images(part.problems)
        if images > config.generator.max_images:
            raise ConfigError(
                f"evaluation.benchmarks: {benchmark.name} has a problem with {images} images, and "
                f"generator.max_images={config.generator.max_images}"
            )
        loaded[benchmark.name] = part
    return loaded


def in_training(
    config: Config, generator: Generator, assets: ModelAssets, sets: Mapping[str, LoadedBenchmark]
) -> dict[str, float]:
    """Return accuracy by benchmark of the sampler's weights: training's settings, one sample.

    Also NAME/not_asked: prompts that don't fit, which count as wrong. All ranks share the problems.
    Seeds come from the problems' names and torch's random state is restored, so that the rollouts
    that follow are those of a run without benchmarks.
    """
    temperature = config.evaluation.temperature
    params = SamplingParams(1, temperature, config.rollout.max_new_tokens)
    sampler = response_sampler(config, assets, generator, params, model="policy")
    result: dict[str, float] = {}
    for name, part in sets.items():
        share = all_requests(part.problems, 1)[distributed.rank() :: distributed.world_size()]
        with torch.random.fork_rng():
            records = [record for chunk in sampler.sample(share) for record in chunk]
        records = distributed.all_gather(records)
        responses = [read_response(record, name, part.benchmark) for record in records]
        figures = summarise(part.benchmark, score.score(part.benchmark, responses))
        result[name] = float("nan") if figures["accuracy"] is None else figures["accuracy"]
        result[f"{name}/not_asked"] = figures["not_asked"]
    return result


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    keys = ("accuracy", "ci95", "problems", "responses", "not_asked", "no_verdict", "vision_gain")
    return result | {
        "benchmarks": {
            name: {key: summary[key] for key in keys if key in summary}
            for name, summary in result["benchmarks"].items()
        }
    }
