"""The lab's page: OUT/page.html, one self-contained file, and OUT/page.md.

Per grid: what was varied, accuracy curves, final accuracies, and three tables. The page gives
numbers and draws no conclusions. An arm with one seed is marked as no result; a missing value is an
en dash. `write` also writes OUT/figures/*.png, OUT/summary.json and OUT/cells.csv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sapo_vl.lab import figures
from sapo_vl.lab.results import (
    GROUP,
    MEASURES,
    SETTINGS,
    SHORT,
    WINDOW,
    differences,
    estimates,
    export,
    load,
    setting_text,
    varying,
)
from sapo_vl.runs.files import write_text
from sapo_vl.runs.pages import PageTable, data_uri, write_page

MISSING = "–"
ONE_SEED = "one seed: not a result"
NAMES = {
    "lr": "learning rate",
    "updates": "updates per rollout batch",
    "tau_pos": "τ of A > 0",
    "tau_neg": "τ of A < 0",
}
TABLES = {
    "Gate (means over all steps; max w·r: the largest of any step)": (
        "gate_mean", "gate_p01", "below_half_pos", "below_half_neg", "max_wr_pos", "max_wr_neg",
        "gap_pos", "bound_pos", "gap_neg", "bound_neg",
    ),
    f"Ratio and policy (means over all steps; final: of the last {WINDOW})": (
        "ess", "ratio_kl", "mismatch_kl", "entropy_final", "length_final",
    ),
}  # fmt: skip
SHARES = ("below_half_pos", "below_half_neg")
READING = (
    f"Accuracy is that of the sampled responses in training: final is the mean of the last "
    f"{WINDOW} steps, best the highest mean of {WINDOW} consecutive steps. Held-out is the average "
    f"accuracy on problems that are never trained on. Values are means over seeds ± the half width "
    f"of a 95 % interval of Student's t; with three seeds that is 2.48 times the seeds' standard "
    f"deviation, so only large differences stand out. Differences are in points and paired by "
    f"seed, at the same updates and learning rate, from the arm named under 'compared with', plain "
    f"SAPO. Divergence is the step at which the collapse detector fired, seed by seed. A step's "
    f"max w·r is the mean over its mini-batches of their largest. No interval is corrected for the "
    f"number of comparisons. {MISSING} marks a value that was not recorded."
)


@dataclass(frozen=True)
class GridSection:
    """One grid of the page."""

    heading: str
    text: list[str]  # paragraphs
    figures: dict[Path, str]  # image file -> caption
    tables: list[PageTable]

    def images(self) -> list[tuple[str, str]]:
        """Return (data URI, caption) of each figure."""
        files = self.figures.items()
        return [(data_uri(path.read_bytes(), "png"), caption) for path, caption in files]


def write(out: Path, title: str, headings: Mapping[str, str] | None = None) -> Path:
    """Write the page of OUT's finished cells with its figures and data; return page.html.

    `headings` says what a grid varies; a grid without one is named after its settings. Raises
    DataError for an unreadable result and when no cell is finished.
    """
    import matplotlib

    matplotlib.use("Agg")
    results = load(out)
    sections = [
        _section(out / "figures", str(name), (headings or {}).get(str(name)), cells, results.rows)
        for name, cells in results.cells.groupby("grid")
    ]
    hours = results.cells["seconds"].sum() / 3600
    summary = f"{len(results.cells)} finished cells, {hours:.2f} hours of computing."
    if results.unfinished:
        names = ", ".join(results.unfinished)
        summary += f" Started and not finished, so not included: {names}."
    intro = [summary, READING]
    export(out, title, results)
    write_text(out / "page.md", _markdown(title, intro, sections))
    write_page(out / "page.html", "lab.jinja", title=title, intro=intro, sections=sections)
    return out / "page.html"


def _section(
    folder: Path, name: str, heading: str | None, cells: pd.DataFrame, rows: pd.DataFrame
) -> GridSection:
    by = heading or " × ".join(NAMES.get(key, key) for key in varying(cells, SETTINGS))
    text = [_description(cells)]
    failed = cells[cells["error"].notna()]
    if len(failed):
        errors = zip(failed["name"], failed["error"].str.strip().str.split("\n"), strict=True)
        reasons = "; ".join(f"{cell}: {lines[0][:200]}" for cell, lines in errors)
        text.append(f"Cells ended by an error, with what they had recorded: {reasons}.")
    images = {}
    if cells["final"].notna().any():
        stem = "".join(letter if letter.isalnum() else "-" for letter in name)
        accuracy, final = folder / f"{stem}-accuracy.png", folder / f"{stem}-final.png"
        figures.curves(accuracy, cells, rows)
        figures.finals(final, cells)
        images = {accuracy: figures.CURVES_CAPTION, final: figures.FINALS_CAPTION}
    title = f"Grid {name}: {by}" if by else f"Grid {name}"
    return GridSection(title, text, images, grid_tables(cells))


def _description(cells: pd.DataFrame) -> str:
    keys = varying(cells, SETTINGS)
    values = {
        key: [setting_text(key, value) for value in sorted(cells[key].unique())] for key in SETTINGS
    }
    varied = [f"{NAMES.get(key, key)} ({', '.join(values[key])})" for key in keys]
    fixed = [f"{NAMES.get(key, key)} {values[key][0]}" for key in SETTINGS if key not in keys]
    seeds = ", ".join(map(str, sorted(cells["seed"].unique())))
    steps = " to ".join(map(str, sorted({cells["steps"].min(), cells["steps"].max()})))
    return (
        f"Varied: {'; '.join(varied) or 'nothing'}. Held fixed: {', '.join(fixed) or 'nothing'}. "
        f"{cells.groupby(GROUP).ngroups} settings in {len(cells)} cells; seeds {seeds}; "
        f"{steps} training steps."
    )


def grid_tables(cells: pd.DataFrame) -> list[PageTable]:
    """Return one grid's tables: accuracy, gate, and ratio and policy."""
    place = varying(cells, ["updates", "lr"])
    head_columns = ["arm", *(SHORT.get(key, key) for key in place), "seeds"]
    heads, classes, before = [], [], None
    for (_, updates, lr, label), group in cells.groupby(GROUP, sort=False):
        here = {"updates": updates, "lr": lr}
        seeds = str(len(group)) if len(group) > 1 else f"1 ({ONE_SEED})"
        heads.append([label, *(setting_text(key, here[key]) for key in place), seeds])
        row_class = ["one"] * (len(group) == 1) + ["place"] * (before not in (None, here))
        classes.append(" ".join(row_class))
        before = here

    measured, compared = estimates(cells), differences(cells)
    groups = cells.groupby(GROUP, sort=False)
    sizes = groups.size()
    reference = next(iter(cells.loc[cells["is_reference"], "label"]), MISSING)
    bases = [
        "reference" if is_reference else reference if key in compared.index else MISSING
        for key, is_reference in groups["is_reference"].first().items()
    ]
    tables = {
        "Accuracy": {
            "final": _column(measured, "final", sizes, percent),
            "best": _column(measured, "best", sizes, percent),
            "held-out before": _column(measured, "before", sizes, percent),
            "held-out after": _column(measured, "after", sizes, percent),
            "compared with": bases,
            "final, difference": _column(compared, "final", sizes, points),
            "held-out, difference": _column(compared, "after", sizes, points),
            "steps before divergence": [divergence(group) for _, group in groups],
        }
    }
    for heading, keys in TABLES.items():
        tables[heading] = {
            MEASURES[name].label: _column(
                measured, name, sizes, percent if name in SHARES else plain
            )
            for name in keys
            if measured["n", name].any()
        }
    return [
        PageTable(
            [*head_columns, *columns],
            [[*head, *(column[i] for column in columns.values())] for i, head in enumerate(heads)],
            heading,
            classes,
        )
        for heading, columns in tables.items()
    ]


def _column(
    table: pd.DataFrame, name: str, sizes: pd.Series, form: Callable[[float, float], str]
) -> list[str]:
    """Format one column of `over_seeds` for every group; `sizes` are the groups' cell counts."""
    texts = []
    for key, size in sizes.items():
        n = table.at[key, ("n", name)] if key in table.index else 0
        if n == 0:
            texts.append(MISSING)
            continue
        text = form(table.at[key, ("mean", name)], table.at[key, ("half", name)])
        texts.append(text if n == size else f"{text} (n = {n})")
    return texts


def divergence(group: pd.DataFrame) -> str:
    """Return the step and rule of each seed's collapse alarm; "none" where there was none."""
    return ", ".join(
        "none" if pd.isna(step) else f"{step} ({rule})"
        for step, rule in zip(group["alarm_step"], group["alarm_rule"], strict=True)
    )


def percent(mean: float, half: float) -> str:
    """Format a share's mean and half width; NaN for `half` leaves it out."""
    return f"{100 * mean:.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}") + " %"


def points(mean: float, half: float) -> str:
    """Format a difference of shares in points, and mark a single seed's."""
    return f"{100 * mean:+.1f}" + (f" ({ONE_SEED})" if math.isnan(half) else f" ± {100 * half:.1f}")


def plain(mean: float, half: float) -> str:
    """Format a mean and its half width, both to the half width's second digit."""
    if math.isnan(half):
        return f"{mean:.3g}"
    if half <= 1e-9 * abs(mean):  # equal values up to rounding
        return f"{mean:.3g} ± 0"
    if abs(mean) < 1e-3:
        return f"{mean:.1e} ± {half:.1e}"
    digits = min(6, max(0, 1 - math.floor(math.log10(half))))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _markdown(title: str, intro: Sequence[str], sections: Sequence[GridSection]) -> str:
    lines = [f"# {title}", ""]
    for text in intro:
        lines += [text, ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        for text in section.text:
            lines += [text, ""]
        for path, caption in section.figures.items():
            lines += [f"![{path.stem}](figures/{path.name})", "", f"*{caption}*", ""]
        for table in section.tables:
            lines += [f"### {table.heading}", "", *table.markdown()]
    return "\n".join(lines).rstrip() + "\n"
