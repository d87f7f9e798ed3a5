"""The command line: `sapo-vl COMMAND`. Light: heavy imports follow once the arguments are right.

Exit codes: 0 done, 2 the user's mistake (one line says which), 130 or 143 left by a signal after a
checkpoint, 1 a crash of ours with its traceback.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl import config as configs
from sapo_vl.cli import data as datacli
from sapo_vl.errors import ConfigError, UserError, nearest
from sapo_vl.system.machine import prepare_environment

if TYPE_CHECKING:
    from sapo_vl.evaluation.benchmarks.llm import Endpoint

MAIN_CONFIG = configs.CONFIGS / "train" / "main.yaml"
EVAL_CONFIG = configs.CONFIGS / "eval" / "synthetic.yaml"
BENCHMARK_CONFIG = EVAL_CONFIG.with_name("benchmarks.yaml")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = _parse(argv)
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"sapo-vl: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("sapo-vl: stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"sapo-vl: no space left on the disk of {error.filename or 'the run'}: free some; a "
            "run continues with --resume",
            file=sys.stderr,
        )
        sys.exit(2)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; overrides may stand anywhere among the options, which argparse alone refuses."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    misplaced = [word for word in rest if "=" not in word or word.startswith("-")]
    if misplaced or (rest and not hasattr(arguments, "overrides")):
        arguments.parser.error(f"unknown argument {(misplaced or rest)[0]}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sapo-vl", description="RL fine-tuning of vision-language models with SAPO."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    train = commands.add_parser("train", help="warm up, train with SAPO, evaluate before and after")
    _add_config(train)
    train.add_argument("--resume", action="store_true", help="continue the run in run.dir")
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan, train nothing"
    )
    train.set_defaults(run=_train, parser=train)

    sft = commands.add_parser("sft", help="supervised warm-up alone, into RUN/warmup/final")
    _add_config(sft)
    sft.add_argument("--resume", action="store_true", help="continue the run in run.dir")
    sft.set_defaults(run=_sft, parser=sft)

    evaluate = commands.add_parser("evaluate", help="accuracy of a model on held-out problems")
    evaluate.add_argument("--model", required=True, help="model folder or hub id")
    evaluate.add_argument("--out", type=Path, help="folder for responses and summary.json")
    evaluate.add_argument("--benchmarks", metavar="a,b", help="names (default: data.path's split)")
    evaluate.add_argument(
        "--source", type=Path, help="folder with the benchmarks' own files (default: benchmarks)"
    )
    evaluate.add_argument("--samples", type=int, default=1, help="responses per problem")
    evaluate.add_argument("--limit", type=int, help="first problems of each benchmark")
    evaluate.add_argument(
        "--kind", default="auto", help="sampling settings: instruct, thinking, policy (auto)"
    )
    evaluate.add_argument(
        "--controls", action="store_true", help="also blank and shuffled images: vision_gain"
    )
    _add_judge(evaluate)
    _add_config(evaluate, "the one of configs/eval/ for the task")
    evaluate.set_defaults(run=_evaluate, parser=evaluate)

    score = commands.add_parser("score", help="score existing responses to a benchmark")
    score.add_argument("name", metavar="BENCHMARK")
    score.add_argument("--responses", type=Path, required=True, help="rows, .jsonl[.gz]")
    score.add_argument("--out", type=Path, required=True, help="verdicts, .jsonl[.gz]")
    score.add_argument(
        "--from-extraction", action="store_true", help="start at the rows' official_extraction"
    )
    score.add_argument("--rule", default="official", help="count another named rule's verdicts")
    _add_judge(score)
    score.set_defaults(run=_score, parser=score)

    compare = commands.add_parser("compare", help="two models on the same problems, paired")
    compare.add_argument("first", type=Path, metavar="A", help="scored file or evaluate's folder")
    compare.add_argument("second", type=Path, metavar="B")
    compare.set_defaults(run=_compare, parser=compare)

    datacli.add(commands, _add_config)

    verify = commands.add_parser("verify", help="run the verifiers over a file of pairs")
    verify.add_argument("--in", dest="input", type=Path, required=True, help="pairs, .jsonl[.gz]")
    verify.add_argument("--out", type=Path, required=True, help="verdicts, .jsonl[.gz]")
    verify.add_argument("--workers", type=int, help="worker processes (default: up to 4)")
    verify.add_argument("--deadline", type=float, default=2.0, help="seconds per hard question")
    verify.add_argument("--judge", metavar="URL", help="OpenAI-compatible endpoint, ends in /v1")
    verify.add_argument("--judge-model", metavar="NAME", help="its model")
    verify.set_defaults(run=_verify, parser=verify)

    gate = commands.add_parser("gate", help="weights of a gate over the importance ratio")
    gate.add_argument("--tau", type=float, default=1.0, help="temperature (default: 1)")
    gate.add_argument("--gate", default="sigmoid", help="a name that sapo.gate takes")
    gate.set_defaults(run=_gate, parser=gate)

    lab = commands.add_parser("lab", help="grids of small runs: objectives, temperatures, ..")
    lab.add_argument("--grids", default="a,b", metavar="a,b", help="names (default: a,b)")
    lab.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, .. (default: 3)")
    lab.add_argument("--steps", type=int, help="rollout steps of a cell")
    lab.add_argument("--jobs", type=int, help="cells side by side (default: one a core)")
    lab.add_argument("--out", type=Path, required=True, help="folder of results and page")
    lab.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all cells, e.g. rollout.prompts=16"
    )
    lab.set_defaults(run=_lab, parser=lab)

    tiny = commands.add_parser("init-tiny", help="build the tiny Qwen3-VL as a model folder")
    tiny.add_argument("out", type=Path)
    tiny.add_argument("--seed", type=int, default=0)
    tiny.add_argument("--experts", type=int, default=0, help="> 0: a mixture of so many experts")
    tiny.set_defaults(run=_init_tiny, parser=tiny)

    export = commands.add_parser("export", help="write a checkpoint as a Hugging Face folder")
    export.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.add_argument("--checkpoint", help="e.g. step_000020; default: the newest")
    export.set_defaults(run=_export, parser=export)
    return parser


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, with the nearest known command or option."""

    def error(self, message: str) -> None:  # type: ignore[override]
        known = [option for action in self._actions for option in action.option_strings]
        for action in self._actions:
            if isinstance(action.choices, dict):
                known.extend(action.choices)
                if "invalid choice" in message:
                    message = "unknown command" + message.split("invalid choice:")[1].split("(")[0]
        wrong = message.split()[-1].strip("'")
        if "required" in message:  # which argparse says before it looks at what it does not know
            given = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
            wrong = next((word for word in given if word not in known), "")
        hint = nearest(wrong, known) if wrong else ""
        print(f"{self.prog}: {message.strip()}{hint}", file=sys.stderr)
        sys.exit(2)


def _add_config(parser: argparse.ArgumentParser, default: str = "configs/train/main.yaml") -> None:
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {default})")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted, e.g. sapo.tau_neg=1.1"
    )


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", metavar="URL", help="OpenAI-compatible endpoint, ends in /v1")
    parser.add_argument("--judge-model", metavar="NAME", help="its model")


def _load(arguments: argparse.Namespace, default: Path) -> configs.Config:
    return configs.load(arguments.config or default, arguments.overrides)


def _load_run(arguments: argparse.Namespace) -> configs.Config:
    """Resolve the configuration; a resumed run starts from its own saved one."""
    if not arguments.resume:
        return _load(arguments, MAIN_CONFIG)
    directory = configs.load(arguments.config or MAIN_CONFIG, arguments.overrides).run.dir
    saved = directory / "config.yaml"
    if not saved.exists():
        raise ConfigError(f"run.dir={directory} holds no run to resume")
    return configs.load(saved, arguments.overrides)


def _leaving(action: Callable[[], None]) -> None:
    """Run `action`; when a signal ends it, exit with the shell's code for that signal."""
    from sapo_vl.runs.folder import Interrupted

    try:
        action()
    except Interrupted as stop:
        print(f"sapo-vl: stopped by {stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)


def _train(arguments: argparse.Namespace) -> None:
    config = _load_run(arguments)
    prepare_environment()
    if arguments.dry_run:
        from sapo_vl.training import plan as dryrun

        dryrun.show(config)
        return
    from sapo_vl import train

    _leaving(lambda: train.main(config, resume=arguments.resume))


def _sft(arguments: argparse.Namespace) -> None:
    config = _load_run(arguments)
    if config.sft.steps == 0:
        raise ConfigError("sft.steps=0: name the number of warm-up steps")
    prepare_environment()
    from sapo_vl import train

    _leaving(lambda: train.warm_up_only(config, resume=arguments.resume))


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.benchmarks is not None:
        _evaluate_benchmarks(arguments)
        return
    for name in ("source", "limit", "judge"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} needs --benchmarks")
    config = _load(arguments, EVAL_CONFIG)
    config.model.path = arguments.model
    prepare_environment()
    from sapo_vl.evaluation import evaluate_model

    _leaving(lambda: evaluate_model.main(config, arguments.out))


def _evaluate_benchmarks(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation import benchmarks

    names = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    chosen = [benchmarks.named(name) for name in names]
    config = _load(arguments, BENCHMARK_CONFIG)
    config.model.path = arguments.model
    endpoint = _endpoint(arguments)
    prepare_environment()
    from sapo_vl.evaluation import benchmark as evaluate_benchmarks

    request = evaluate_benchmarks.Request(
        benchmarks=chosen,
        source=arguments.source or evaluate_benchmarks.SOURCE,
        out=arguments.out,
        samples=arguments.samples,
        limit=arguments.limit,
        kind=arguments.kind,
        controls=arguments.controls,
        endpoint=endpoint,
    )
    _leaving(lambda: evaluate_benchmarks.main(config, request))


def _endpoint(arguments: argparse.Namespace) -> Endpoint | None:
    from sapo_vl.evaluation.benchmarks.llm import Endpoint

    if (arguments.judge is None) != (arguments.judge_model is None):
        raise ConfigError("--judge URL and --judge-model NAME come together")
    return Endpoint(arguments.judge, arguments.judge_model) if arguments.judge else None


def _score(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation import score

    summary = score.main(
        arguments.name,
        arguments.responses,
        arguments.out,
        from_extraction=arguments.from_extraction,
        rule=arguments.rule,
        endpoint=_endpoint(arguments),
    )
    print(json.dumps(summary))


def _compare(arguments: argparse.Namespace) -> None:
    from sapo_vl.evaluation import compare

    print(json.dumps(compare.main(arguments.first, arguments.second)))


def _verify(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import verify

    verify.run(arguments)


def _gate(arguments: argparse.Namespace) -> None:
    from sapo_vl.algorithm import gates

    if arguments.gate not in gates.GATES:
        raise ConfigError(
            f"--gate {arguments.gate!r} is unknown{nearest(arguments.gate, gates.GATES)}; known: "
            + ", ".join(gates.GATES)
        )
    if not 0 < arguments.tau < float("inf"):
        raise ConfigError(f"--tau {arguments.tau:g} must be above 0")
    print(gates.table(arguments.gate, arguments.tau))


def _lab(arguments: argparse.Namespace) -> None:
    from sapo_vl.lab import grids, runner

    names = [name.strip() for name in arguments.grids.split(",") if name.strip()]
    if not names or arguments.seeds < 1 or (arguments.jobs or 1) < 1:
        raise ConfigError("--grids names at least one grid, --seeds and --jobs are at least 1")
    page = runner.main(
        names,
        arguments.seeds,
        arguments.out,
        steps=arguments.steps or grids.STEPS,
        jobs=arguments.jobs,
        overrides=arguments.overrides,
    )
    print(f"the page is {page}")


def _init_tiny(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny
    from sapo_vl.training.setup import TOKENIZER_TEXTS

    corpus = synthetic.corpus(arguments.seed, TOKENIZER_TEXTS)
    tiny.build(arguments.out, corpus=corpus, seed=arguments.seed, experts=arguments.experts)
    print(f"wrote {arguments.out}")


def _export(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.training import export

    export.main(arguments.run_dir, arguments.out, arguments.checkpoint)


if __name__ == "__main__":
    main()
