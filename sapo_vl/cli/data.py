"""`sapo-vl data filter|decontaminate|stats|show|export`: the arguments, and what they start."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path


def add(commands: argparse._SubParsersAction, overrides: Callable) -> None:
    """Add the command `data` with its own commands; `overrides` adds --config and key=value."""
    data = commands.add_parser("data", help="filter, decontaminate, look at or export data sets")
    parts = data.add_subparsers(metavar="WHAT", required=True, parser_class=type(data))

    some = parts.add_parser("filter", help="keep the records that pass")
    some.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")
    some.add_argument("--out", type=Path, required=True, help="folder to write")
    some.add_argument("--max-characters", type=int, help="of the problem's text")
    some.add_argument("--max-visual-tokens", type=int, help="of a record's images")
    some.add_argument("--min-pixels", type=int, help="of each image")
    some.add_argument("--answer-types", help="keep these kinds only, e.g. number,choice")
    some.add_argument("--dedupe", action="store_true", help="drop repeated problems")
    some.add_argument("--pass-rate", metavar="LOW:HIGH", nargs="?", const="0:0.9",
                      help="keep LOW < rate <= HIGH of the model (0:0.9)")  # fmt: skip
    some.add_argument("--needs-image", action="store_true", help="drop what is solved blind")
    some.add_argument("--model", help="folder or hub id, for the two filters before")
    some.add_argument("--samples", type=int, default=8, help="responses to each problem")
    some.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    overrides(some)
    some.set_defaults(run=_command(_filter), parser=some)

    clean = parts.add_parser("decontaminate", help="drop copies of evaluation records")
    clean.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")
    clean.add_argument(
        "--against", type=Path, nargs="+", required=True, help="data sets to keep out"
    )
    clean.add_argument("--split", help="of --against: only this one")
    clean.add_argument("--out", type=Path, required=True, help="folder to write")
    clean.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    clean.set_defaults(run=_command(_decontaminate), parser=clean)

    counts = parts.add_parser("stats", help="counts by task and answer, histograms of tokens")
    counts.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")
    counts.set_defaults(run=_command(_stats), parser=counts)

    sheet = parts.add_parser("show", help="write an HTML page with records and their images")
    sheet.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")
    sheet.add_argument("--out", type=Path, required=True, help="HTML file to write")
    sheet.add_argument("--limit", type=int, default=60, help="records on the page")
    sheet.set_defaults(run=_command(_show), parser=sheet)

    export = parts.add_parser("export", help="write another trainer's format")
    export.add_argument("folder", type=Path, metavar="DATA", help="a prepared data set")
    export.add_argument("--to", required=True, help="easyr1, trl or verl")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_command(_export), parser=export)


def _command(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Return a command that ends with one line when it is interrupted or may not write."""

    def command(arguments: argparse.Namespace) -> None:
        from sapo_vl.cli import data_work as datawork

        with datawork.one_line():
            run(arguments)

    return command


def _filter(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import data_work as datawork
    from sapo_vl.data.filters import rules as filters
    from sapo_vl.errors import ConfigError

    simple = (
        (arguments.max_characters, filters.at_most_characters),
        (arguments.max_visual_tokens, filters.at_most_visual_tokens),
        (arguments.min_pixels, filters.at_least_pixels),
    )
    judges = [make(limit) for limit, make in simple if limit is not None]
    if arguments.answer_types:
        judges.append(filters.answer_types(arguments.answer_types.split(",")))
    if arguments.dedupe:
        judges.append(filters.Duplicates())
    asks = bool(arguments.pass_rate or arguments.needs_image)
    if not judges and not asks:
        raise ConfigError("filter: name at least one rule, e.g. --dedupe")
    if asks:
        judges += datawork.model_judges(arguments)
    rules = {
        name: value
        for name, value in vars(arguments).items()
        if value and name not in ("run", "parser", "folder", "out", "overwrite", "config")
    }
    report = datawork.rewrite(
        arguments.folder,
        arguments.out,
        f"filter {json.dumps(rules, sort_keys=True, default=str)}",
        filters.together(judges),
        remembers=arguments.dedupe,
        overwrite=arguments.overwrite,
    )
    print(report.table())


def _decontaminate(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import data_work as datawork

    print(datawork.decontaminate(arguments).table())


def _stats(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import data_work as datawork
    from sapo_vl.data.stats import stats

    with datawork.counting("stats") as tick:
        found = stats(arguments.folder, tick)
    print(found.text())


def _show(arguments: argparse.Namespace) -> None:
    from sapo_vl.data import show
    from sapo_vl.errors import ConfigError

    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: show at least 1 record")
    number = show.write(arguments.folder, arguments.out, arguments.limit)
    print(f"wrote {number} records to {arguments.out}")


def _export(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli import data_work as datawork
    from sapo_vl.data.export import export

    with datawork.counting("export") as tick:
        counts = export(arguments.folder, arguments.out, arguments.to, tick)
    for split, rows in counts.items():
        print(f"wrote {rows} rows to {arguments.out / split}.parquet")
