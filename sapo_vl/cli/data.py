"""`sapo-vl prepare` and `sapo-vl data filter|decontaminate|stats|show|export`."""

from __future__ import annotations

import argparse
import errno
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapo_vl.data.report import Report
    from sapo_vl.data.rewrite import RecordFilter
    from sapo_vl.schema import Sample


def add(commands: argparse._SubParsersAction, overrides: Callable) -> None:
    """Add the commands `prepare` and `data`; `overrides` adds --config and key=value."""
    _add_prepare(commands)
    data = commands.add_parser("data", help="filter, decontaminate, inspect or export data sets")
    parts = data.add_subparsers(metavar="WHAT", required=True, parser_class=type(data))
    _add_filter(parts, overrides)
    _add_decontaminate(parts)

    stats = parts.add_parser("stats", help="counts by task and answer type, token histograms")
    _add_folder(stats)
    stats.set_defaults(run=_resumable(_stats), parser=stats)

    show = parts.add_parser("show", help="write an HTML page with records and their images")
    _add_folder(show)
    show.add_argument("--out", type=Path, required=True, help="HTML file to write")
    show.add_argument("--limit", type=int, default=60, help="records on the page (60)")
    show.set_defaults(run=_resumable(_show), parser=show)

    export = parts.add_parser("export", help="write the format of another trainer")
    _add_folder(export)
    export.add_argument("--to", required=True, help="easyr1, trl or verl")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_resumable(_export), parser=export)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="turn a data set into training records")
    prepare.add_argument("name", help="a known source, generic, or my/source.py:rows")
    _add_out(prepare)
    prepare.add_argument("--source", help="folder or file of the original data, or a hub id")
    prepare.add_argument("--split", help="keep only this split of the source")
    prepare.add_argument("--holdout", type=float, help="share of held-out images (0.15)")
    prepare.add_argument("--map", help="generic: problem=question,answer=label,..")
    prepare.add_argument("--limit", type=int, help="read at most this many records")
    prepare.add_argument("--max-pixels", type=int, help="scale larger images down to this area")
    prepare.add_argument(
        "--image-factor",
        type=int,
        default=32,
        help="side of a visual token in pixels: 32 for Qwen3-VL, 28 for Qwen2.5-VL (32)",
    )
    prepare.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at an invalid record (stop)"
    )
    prepare.add_argument(
        "--allow-outside",
        action="store_true",
        help="read images by paths that lead out of the source's folder",
    )
    prepare.add_argument(
        "--verifier", default="answer", help="must accept each gold answer; none: no check (answer)"
    )
    prepare.add_argument("--seed", type=int, help="synthetic: random seed (0)")
    prepare.add_argument("--count", type=int, help="synthetic: training records (10000)")
    prepare.add_argument("--test-count", type=int, help="synthetic: held-out records (480)")
    prepare.add_argument("--teacher", help="synthetic: weak or exact solutions (weak)")
    prepare.add_argument("--level", type=int, help="synthetic: 1, 2 or 3 (1)")
    prepare.set_defaults(run=_resumable(_prepare), parser=prepare)


def _add_filter(parts: argparse._SubParsersAction, overrides: Callable) -> None:
    keep = parts.add_parser("filter", help="keep the records that pass all rules")
    _add_folder(keep)
    _add_out(keep)
    keep.add_argument("--max-characters", type=int, help="of the problem's text")
    keep.add_argument("--max-visual-tokens", type=int, help="of a record's images")
    keep.add_argument("--min-pixels", type=int, help="of each image")
    keep.add_argument("--answer-types", help="keep these types only, e.g. number,choice")
    keep.add_argument("--dedupe", action="store_true", help="drop duplicates")
    keep.add_argument(
        "--pass-rate",
        metavar="LOW:HIGH",
        nargs="?",
        const="0:0.9",
        help="keep LOW < pass rate of the model <= HIGH (0:0.9)",
    )
    keep.add_argument(
        "--needs-image", action="store_true", help="drop problems the model solves blind"
    )
    keep.add_argument("--model", help="folder or hub id, for --pass-rate and --needs-image")
    keep.add_argument("--samples", type=int, default=8, help="responses per problem (8)")
    overrides(keep)
    keep.set_defaults(run=_resumable(_filter), parser=keep)


def _add_decontaminate(parts: argparse._SubParsersAction) -> None:
    clean = parts.add_parser("decontaminate", help="drop copies of evaluation records")
    _add_folder(clean)
    clean.add_argument(
        "--against", type=Path, nargs="+", required=True, help="evaluation data sets"
    )
    clean.add_argument("--split", help="of --against: only this split")
    _add_out(clean)
    clean.set_defaults(run=_resumable(_decontaminate), parser=clean)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set in --out")


def _prepare(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli.gold_check import GoldCheck
    from sapo_vl.data.prepare import PrepareOptions, prepare, refuse_inapplicable
    from sapo_vl.data.synthetic import SyntheticOptions

    drawing = {
        field.name: getattr(arguments, field.name)
        for field in fields(SyntheticOptions)
        if getattr(arguments, field.name) is not None
    }
    refuse_inapplicable(arguments.name, drawing)
    options = PrepareOptions(
        out=arguments.out,
        source=arguments.source,
        columns=arguments.map or "",
        holdout=arguments.holdout,
        split=arguments.split,
        limit=arguments.limit,
        max_pixels=arguments.max_pixels,
        image_factor=arguments.image_factor,
        on_error=arguments.on_error,
        allow_outside=arguments.allow_outside,
        overwrite=arguments.overwrite,
    )
    synthetic = SyntheticOptions(**drawing) if drawing else None
    with ExitStack() as stack:
        check = None
        if arguments.verifier != "none":
            check = stack.enter_context(closing(GoldCheck(arguments.verifier)))
        tick = stack.enter_context(_report_progress(arguments.name))
        report = prepare(arguments.name, options, synthetic, check=check, tick=tick)
    print(report.table())


def _filter(arguments: argparse.Namespace) -> None:
    from sapo_vl.data.filters.rules import (
        Duplicates,
        all_of,
        answer_types,
        at_least_pixels,
        at_most_characters,
        at_most_visual_tokens,
    )
    from sapo_vl.data.rewrite import RewriteOptions, rewrite
    from sapo_vl.data.store import count_samples
    from sapo_vl.errors import ConfigError

    limits = (
        (arguments.max_characters, at_most_characters),
        (arguments.max_visual_tokens, at_most_visual_tokens),
        (arguments.min_pixels, at_least_pixels),
    )
    filters = [make(limit) for limit, make in limits if limit is not None]
    if arguments.answer_types:
        filters.append(answer_types(arguments.answer_types.split(",")))
    if arguments.dedupe:
        filters.append(Duplicates())
    needs_model = bool(arguments.pass_rate or arguments.needs_image)
    if not filters and not needs_model:
        raise ConfigError("filter: give at least one rule, e.g. --dedupe")
    if needs_model:
        filters += _model_filters(arguments)
    unrelated = ("run", "parser", "folder", "out", "overwrite", "config")
    rules = {k: v for k, v in vars(arguments).items() if v and k not in unrelated}
    options = RewriteOptions(
        f"filter {json.dumps(rules, sort_keys=True, default=str)}",
        stateful=arguments.dedupe,
        overwrite=arguments.overwrite,
    )
    with _report_progress("filter", count_samples(arguments.folder)) as tick:
        report = rewrite(arguments.folder, arguments.out, all_of(filters), options, tick=tick)
    print(report.table())


def _model_filters(arguments: argparse.Namespace) -> list[RecordFilter]:
    """Sample responses to every problem and return the filters by their scores.

    Raises:
        ConfigError: --model is missing, or --samples or --pass-rate is out of range.
    """
    from sapo_vl.errors import ConfigError
    from sapo_vl.system.machine import prepare_environment

    if not arguments.model:
        raise ConfigError("filter: --pass-rate and --needs-image need --model")
    if arguments.samples < 1:
        raise ConfigError(f"filter: --samples {arguments.samples}; allowed: 1 or more")
    prepare_environment()
    from sapo_vl.cli.options import load_config
    from sapo_vl.data.store import count_samples, iter_samples
    from sapo_vl.evaluation.pass_rate import PassRate, needs_image, parse_range, solve, within

    bounds = parse_range(arguments.pass_rate) if arguments.pass_rate else None
    config = load_config(arguments)
    config.model.path = arguments.model

    def scores(blind: bool) -> dict[str, PassRate]:
        kind = "blind" if blind else "scores"
        cache = arguments.out.with_name(f"{arguments.out.name}.{kind}.jsonl")
        cache.parent.mkdir(parents=True, exist_ok=True)
        samples = iter_samples(arguments.folder)
        with _progress(kind, count_samples(arguments.folder)) as tick:
            return solve(config, samples, arguments.samples, cache, blind=blind, tick=tick)

    filters = [within(scores(blind=False), *bounds)] if bounds else []
    if arguments.needs_image:
        filters.append(needs_image(scores(blind=True)))
    return filters


def _decontaminate(arguments: argparse.Namespace) -> None:
    from sapo_vl.data.filters.decontaminate import Index, decontaminate
    from sapo_vl.data.rewrite import RewriteOptions
    from sapo_vl.data.shards import fingerprint, refuse_occupied
    from sapo_vl.data.store import count_samples, load, splits

    refuse_occupied(arguments.out, arguments.overwrite)
    evaluation_sets = [
        load(folder, split)
        for folder in arguments.against
        for split in ([arguments.split] if arguments.split else splits(folder))
    ]
    with _progress("hash", sum(map(len, evaluation_sets))) as show:
        index = Index(_counted(chain.from_iterable(evaluation_sets), show))
    against = [[str(folder.resolve()), fingerprint(folder)] for folder in arguments.against]
    options = RewriteOptions(
        f"decontaminate {json.dumps([against, arguments.split])}",
        stateful=True,
        overwrite=arguments.overwrite,
    )
    with _report_progress("decontaminate", count_samples(arguments.folder)) as tick:
        report = decontaminate(arguments.folder, arguments.out, index, options, tick=tick)
    print(report.table())


def _stats(arguments: argparse.Namespace) -> None:
    from sapo_vl.data.stats import stats

    done = count(1)
    with _progress("stats") as show:
        counts = stats(arguments.folder, lambda: show(next(done)))
    print(counts.text())


def _show(arguments: argparse.Namespace) -> None:
    from sapo_vl.data import show
    from sapo_vl.errors import ConfigError

    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}; allowed: 1 or more")
    number = show.write(arguments.folder, arguments.out, arguments.limit)
    print(f"wrote {number} records to {arguments.out}")


def _export(arguments: argparse.Namespace) -> None:
    from sapo_vl.data.export import export

    done = count(1)
    with _progress("export") as show:
        rows = export(arguments.folder, arguments.out, arguments.to, lambda: show(next(done)))
    for split, number in rows.items():
        print(f"wrote {number} rows to {arguments.out / split}.parquet")


def _resumable(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Return a command that reports an interruption or an inaccessible file in one line.

    A full disk is left to `parser.main`, which reports it for all commands.
    """

    def command(arguments: argparse.Namespace) -> None:
        from sapo_vl.errors import DataError

        try:
            run(arguments)
        except KeyboardInterrupt:
            print("sapo-vl: interrupted; repeat the command to resume", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except OSError as error:
            if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"{error.filename}: {error.strerror}") from error

    return command


@contextmanager
def _progress(title: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr if it is a terminal; yield show(done, dropped=0)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[dropped]} dropped"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=total, dropped=0)

        def show(done: int, dropped: int = 0) -> None:
            bar.update(task, completed=done, dropped=dropped)

        yield show


def _counted(samples: Iterable[Sample], show: Callable[[int], None]) -> Iterator[Sample]:
    for done, sample in enumerate(samples, start=1):
        yield sample
        show(done)


@contextmanager
def _report_progress(title: str, total: int | None = None) -> Iterator[Callable[[Report], None]]:
    """Show a progress bar and yield the `tick` callback of `prepare` and `rewrite`."""
    with _progress(title, total) as show:
        yield lambda report: show(report.read, report.dropped_records())
