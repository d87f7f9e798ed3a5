"""`sapo-vl evaluate`, `benchmark`, `score`, `compare` and `verify`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sapo_vl.cli.options import (
    add_config,
    add_judge,
    check_objective,
    endpoint,
    interruptible,
    load_config,
    names,
)
from sapo_vl.errors import ConfigError
from sapo_vl.system.machine import prepare_environment

BENCHMARK_OPTIONS = (
    *("--benchmarks", "--source", "--limit", "--kind", "--controls"),
    *("--judge", "--judge-model"),
)
"""Options of `benchmark` that have no effect on `evaluate`, which refuses them."""

UNUSED_KEYS = {
    "evaluate": (
        *("evaluation.benchmarks", "evaluation.source", "evaluation.limit", "evaluation.every"),
    ),
    "benchmark": ("evaluation.", "data.path", "data.eval_split", "data.instruction", "rewards"),
}
"""Config keys, or the beginnings of keys, that a command does not read: refused as overrides."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands of this file to `commands`."""
    evaluate = commands.add_parser("evaluate", help="accuracy of a model on the held-out split")
    evaluate.add_argument("--model", required=True, help="model folder or hub id")
    evaluate.add_argument("--out", type=Path, help="folder for responses.jsonl and summary.json")
    evaluate.add_argument(
        "--samples", type=int, help="responses per problem (default: evaluation.samples)"
    )
    for option in BENCHMARK_OPTIONS:
        evaluate.add_argument(option, action=_MovedOption, nargs="*", help=argparse.SUPPRESS)
    add_config(evaluate, "eval/synthetic.yaml")
    evaluate.set_defaults(run=_evaluate, parser=evaluate)

    _add_benchmark(commands)

    score = commands.add_parser("score", help="score existing responses to a benchmark")
    score.add_argument("name", metavar="BENCHMARK", help="a name or my/bench.py:NAME")
    score.add_argument("--responses", type=Path, required=True, help="responses, .jsonl[.gz]")
    score.add_argument("--out", type=Path, required=True, help="verdicts to write, .jsonl[.gz]")
    score.add_argument(
        "--from-extraction",
        action="store_true",
        help="judge official_extraction of each row instead of extracting from its response",
    )
    score.add_argument(
        "--rule", default="official", help="rule whose verdicts are counted (default: official)"
    )
    add_judge(score)
    score.set_defaults(run=_score, parser=score)

    compare = commands.add_parser(
        "compare", help="paired comparison of two models, or of a run's before and after"
    )
    compare.add_argument(
        "first",
        type=Path,
        metavar="A",
        help="a run, a folder that `evaluate` or `benchmark` wrote, or scored.jsonl",
    )
    compare.add_argument(
        "second",
        type=Path,
        nargs="?",
        metavar="B",
        help="the same of the other model (default: A is a run, compared before and after)",
    )
    compare.set_defaults(run=_compare, parser=compare)

    _add_verify(commands)


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    benchmark = commands.add_parser(
        "benchmark", help="accuracy of a model on published benchmarks, by their own protocols"
    )
    benchmark.add_argument("--model", required=True, help="model folder or hub id")
    benchmark.add_argument(
        "--benchmarks", metavar="a,b", required=True, help="names, or my/bench.py:NAME"
    )
    benchmark.add_argument(
        "--source",
        type=Path,
        default=Path("benchmarks"),
        help="folder with the benchmarks' original files (default: benchmarks)",
    )
    benchmark.add_argument(
        "--out", type=Path, required=True, help="folder for responses, verdicts and report"
    )
    benchmark.add_argument(
        "--samples", type=int, default=1, help="responses per problem (default: 1)"
    )
    benchmark.add_argument("--limit", type=int, help="use only the first N problems of each")
    benchmark.add_argument(
        "--kind",
        default="auto",
        help="sampling preset: instruct, thinking or policy (default: chosen by the model)",
    )
    benchmark.add_argument(
        "--controls",
        action="store_true",
        help="repeat with blank and with shuffled images, for vision_gain",
    )
    add_judge(benchmark)
    add_config(benchmark, "eval/benchmarks.yaml")
    benchmark.set_defaults(run=_benchmark, parser=benchmark)


def _add_verify(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser("verify", help="run the verifiers on a file of pairs")
    verify.add_argument("--in", dest="input", type=Path, required=True, help="pairs, .jsonl[.gz]")
    verify.add_argument("--out", type=Path, required=True, help="verdicts to write, .jsonl[.gz]")
    verify.add_argument("--workers", type=int, help="worker processes (default: up to 4)")
    verify.add_argument(
        "--deadline", type=float, default=2.0, help="seconds per symbolic comparison (default: 2)"
    )
    add_judge(verify)
    verify.set_defaults(run=_verify, parser=verify)


class _MovedOption(argparse.Action):
    """An option that only `benchmark` takes: refuse it and name that command."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.exit(
            2,
            f"{parser.prog}: {option_string} is an option of `sapo-vl benchmark`, "
            "which evaluates on published benchmarks\n",
        )


def _refuse_unused(command: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override that has no effect on the command."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(UNUSED_KEYS[command]):
            raise ConfigError(f"{key} has no effect on `sapo-vl {command}`; see its --help")


def _evaluate(arguments: argparse.Namespace) -> None:
    _refuse_unused("evaluate", arguments.overrides)
    if arguments.samples is not None:
        if any(text.startswith("evaluation.samples=") for text in arguments.overrides):
            raise ConfigError("--samples and evaluation.samples are the same; give one of them")
        samples = f"evaluation.samples={arguments.samples}"
        arguments.overrides = [*arguments.overrides, samples]
    config = load_config(arguments)
    config.model.path = arguments.model
    prepare_environment()
    check_objective(config)
    from sapo_vl.evaluation import heldout, provenance

    def action() -> None:
        with provenance.heldout_folder(config, arguments.out):
            heldout.main(config, arguments.out)

    interruptible(action)


def _benchmark(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation.benchmarks import named

    chosen = [named(name) for name in names(arguments.benchmarks)]
    _refuse_unused("benchmark", arguments.overrides)
    config = load_config(arguments)
    config.model.path = arguments.model
    judge = endpoint(arguments)
    prepare_environment()
    check_objective(config)
    from sapo_vl.evaluation import benchmark

    request = benchmark.BenchmarkRequest(
        benchmarks=chosen,
        source=arguments.source,
        out=arguments.out,
        samples=arguments.samples,
        limit=arguments.limit,
        kind=arguments.kind,
        controls=arguments.controls,
        endpoint=judge,
    )
    interruptible(lambda: benchmark.main(config, request))


def _score(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation import score

    summary = score.main(
        arguments.name,
        arguments.responses,
        arguments.out,
        from_extraction=arguments.from_extraction,
        rule=arguments.rule,
        endpoint=endpoint(arguments),
    )
    print(json.dumps(summary))


def _compare(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation import compare

    print(json.dumps(compare.main(arguments.first, arguments.second)))


def _verify(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import verify

    verify.run(arguments)
