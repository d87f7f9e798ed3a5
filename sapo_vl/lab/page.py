"""The laboratory's page: OUT/page.html, which needs no other file, and OUT/page.md.

Per grid: what was varied, curves, final accuracy, and two tables. The page states numbers and no
verdict. An arm with one seed is marked as no result, and what is missing is an en dash.

`write` also writes OUT/figures/*.png, OUT/summary.json and OUT/cells.csv.
"""

from __future__ import annotations

import base64
import html as markup
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapo_vl.lab import figures
from sapo_vl.lab.facets import NAMES, SHORT, Layout, distinct, layout, say, varying
from sapo_vl.lab.results import (
    MEASURES,
    WINDOW,
    Cell,
    Estimate,
    Group,
    difference,
    export,
    group,
    load,
    reference_of,
    replace,
    unfinished,
)

MISSING = "–"
ONE_SEED = "one seed: not a result"
TABLES = {
    "Gate (means over all steps; max w·r: the largest of any step)": (
        "gate_mean", "gate_p01", "below_half_pos", "below_half_neg", "max_wr_pos", "max_wr_neg",
        "gap_pos", "bound_pos", "gap_neg", "bound_neg",
    ),
    f"Ratio and policy (means over all steps; final: of the last {WINDOW})": (
        "ess", "ratio_kl", "mismatch_kl", "router_changed", "entropy_final", "length_final",
    ),
}  # fmt: skip
SHARES = ("below_half_pos", "below_half_neg", "router_changed")
EXTRA_CURVES = {
    "mismatch/kl": "KL, learner to sampler (nats)",
    "router/changed": "tokens whose experts changed",
}
READING = (
    f"Accuracies are those of the sampled responses in training: final is the mean of the last "
    f"{WINDOW} steps, best the highest mean of {WINDOW} steps in a row. Held-out is the average "
    f"accuracy on problems that were never trained on. Figures are means over seeds ± the half "
    f"width of a 95 % interval of Student's t; with three seeds that is 2.48 times the seeds' "
    f"standard deviation, so that only large differences stand out. Differences are in points "
    f"and taken seed by seed at the same updates, learning rate and clipping, from the arm named "
    f"under 'compared with': plain SAPO, or the arm without its last change. Divergence is the "
    f"step at which the collapse detector fired, seed by seed. A step's max w·r is the mean over "
    f"its mini-batches of their largest. No interval is corrected for the number of comparisons. "
    f"{MISSING} stands for what was not recorded."
)
CAPTION = (
    f"Mean over seeds, each smoothed over {figures.SMOOTH} steps, with its 95 % interval. Dashed: "
    f"{ONE_SEED}. Dotted, without interval: some seeds have ended. Cross: the collapse detector "
    f"fired in one seed."
)

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;
color:#1c2024;background:#fff}
h2{margin-top:3rem;border-top:1px solid #ddd;padding-top:1.5rem}
p{max-width:56rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-size:13px;line-height:1.35}
th,td{padding:.25rem .6rem;border-bottom:1px solid #e2e8f0;text-align:right;
font-variant-numeric:tabular-nums;vertical-align:top}
th{vertical-align:bottom;color:#475569}
td{white-space:nowrap}
th.w,td.w{text-align:left;white-space:normal}
tr.place td{border-top:2px solid #cbd5e1}
tr.one td{color:#7c8593;font-style:italic}
figure{margin:1rem 0}
figure img{max-width:100%;height:auto;background:#fff}
figcaption{color:#64748b;font-size:13px;max-width:56rem}
@media(prefers-color-scheme:dark){body{background:#16181a;color:#e6e8ea}
h2,th,td{border-color:#3a3f44}tr.place td{border-color:#5a6068}th,figcaption{color:#a3acb8}}
"""


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: list[str]
    one_seed: bool
    new_place: bool  # the first row of another learning rate or number of updates


@dataclass(frozen=True)
class Table:
    """A table whose first `words` columns are text; the others are numbers."""

    heading: str
    columns: list[str]
    lines: list[Line]
    words: int


@dataclass(frozen=True)
class Picture:
    """A figure's file under OUT and what it shows."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One grid of the page."""

    heading: str
    text: list[str]  # paragraphs
    pictures: list[Picture]
    tables: list[Table]


def write(out: Path, title: str, headings: Mapping[str, str] | None = None) -> Path:
    """Write the page of the finished cells of OUT, its data and figures; return page.html.

    `headings` names grids by what they vary; a grid without one is named after its settings.
    Raises DataError where a result can't be read or no cell is finished.
    """
    import matplotlib

    matplotlib.use("Agg")
    cells = load(out)
    groups = group(cells)
    sections = [
        _section(out, name, (headings or {}).get(name), [g for g in groups if g.grid == name])
        for name in sorted({g.grid for g in groups})
    ]
    intro = [_intro(cells, unfinished(out)), READING]
    export(out, title, cells)
    replace(out / "page.md", _markdown(out, title, intro, sections))
    replace(out / "page.html", _html(title, intro, sections))
    return out / "page.html"


def _intro(cells: Sequence[Cell], waiting: Sequence[str]) -> str:
    hours = sum(cell.seconds for cell in cells) / 3600
    text = f"{len(cells)} finished cells, {hours:.2f} hours of computing."
    if waiting:
        text += f" Begun and not finished, so not in here: {', '.join(waiting)}."
    return text


def _section(out: Path, name: str, heading: str | None, groups: list[Group]) -> Section:
    plan = layout(groups)
    settings = [member.settings for member in groups]
    vary = varying(settings)
    by = heading or " × ".join(NAMES.get(key, key) for key in vary)
    text = [_varied(plan, vary)]
    failed = [cell for member in plan.groups for cell in member.cells if cell.error]
    if failed:
        reasons = "; ".join(f"{cell.name}: {_first_line(cell.error)}" for cell in failed)
        text.append(f"Cells that an error ended, with what they recorded until then: {reasons}.")
    return Section(
        heading=f"Grid {name}: {by}" if by else f"Grid {name}",
        text=text,
        pictures=_pictures(out, name, plan),
        tables=[_accuracy_table(plan), *(_table(plan, *item) for item in TABLES.items())],
    )


def _varied(plan: Layout, vary: Sequence[str]) -> str:
    settings = [member.settings for member in plan.groups]
    parts = []
    for key in vary:
        values = sorted(
            distinct([one.get(key) for one in settings]), key=lambda v: (isinstance(v, str), v or 0)
        )
        words = ", ".join(say(key, value) for value in values)
        parts.append(f"{NAMES.get(key, key)} ({words})")
    fixed = [
        f"{NAMES.get(key, key)} {say(key, value)}"
        for key, value in settings[0].items()
        if key not in vary
    ]
    seeds = sorted({cell.seed for member in plan.groups for cell in member.cells})
    lengths = sorted({len(cell.rows) for member in plan.groups for cell in member.cells})
    steps = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    count = sum(len(member.cells) for member in plan.groups)
    return (
        f"Varied: {'; '.join(parts) or 'nothing'}. Held fixed: {', '.join(fixed) or 'nothing'}. "
        f"{len(plan.groups)} settings in {count} cells; seeds {', '.join(map(str, seeds))}; "
        f"{steps} training steps."
    )


def _first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines() or [MISSING]
    return lines[0][:200]


def _pictures(out: Path, name: str, plan: Layout) -> list[Picture]:
    folder = out / "figures"
    stem = "".join(letter if letter.isalnum() else "-" for letter in name)
    main = folder / f"{stem}-accuracy.png"
    figures.curves(main, plan, "accuracy", "sampled accuracy", share=True)
    pictures = [Picture(main, f"Grid {name}: sampled accuracy over rollout steps", CAPTION)]
    last = folder / f"{stem}-final.png"
    figures.dots(last, plan, "final", f"sampled accuracy, last {WINDOW} steps")
    caption = (
        "Filled: mean over seeds with its 95 % interval, cut at 0 and 100 %. Hollow: the seeds; "
        f"without a filled dot, {ONE_SEED}."
    )
    if plan.facets.by_arm:
        caption += " Grey: the reference."
    pictures.append(Picture(last, f"Grid {name}: final accuracy of every setting", caption))
    for key, label in EXTRA_CURVES.items():
        wanted = key != "mismatch/kl" or "mismatch" in plan.facets.color
        if wanted and any(cell.series(key) for g in plan.groups for cell in g.cells):
            path = folder / f"{stem}-{key.replace('/', '-')}.png"
            figures.curves(path, plan, key, label, share=key == "router/changed")
            pictures.append(Picture(path, f"Grid {name}: {label} over rollout steps", CAPTION))
    return pictures


def _accuracy_table(plan: Layout) -> Table:
    places = _place_keys(plan)
    columns = [
        "arm", *(SHORT.get(key, key) for key in places), "seeds", "final", "best",
        "held-out before", "held-out after", "compared with", "final, difference",
        "held-out, difference", "steps before divergence",
    ]  # fmt: skip
    lines = []
    for n, member in enumerate(plan.groups):
        base = reference_of(member, plan.groups)
        names = ("final", "best", "before", "after")
        figures_of = [_percent(member.estimate(name), member) for name in names]
        differences = [_difference(member, base, name) for name in ("final", "after")]
        name = MISSING if base is None else plan.labels[plan.groups.index(base)]
        compared = [name if base is not member else "reference", *differences]
        cells = [*_head(plan, n, places), *figures_of, *compared, divergence(member)]
        lines.append(_line(plan, n, cells))
    return Table("Accuracy", columns, lines, 1)


def _table(plan: Layout, heading: str, names: Sequence[str]) -> Table:
    """Return a table of measures, without those that no group of the grid has."""
    places = _place_keys(plan)
    shown = [n for n in names if any(member.figures(n) for member in plan.groups)]
    labels = [MEASURES[name].label for name in shown]
    columns = ["arm", *(SHORT.get(key, key) for key in places), "seeds", *labels]
    lines = []
    for n, member in enumerate(plan.groups):
        values = [
            (_percent if name in SHARES else plain)(member.estimate(name), member) for name in shown
        ]
        lines.append(_line(plan, n, [*_head(plan, n, places), *values]))
    return Table(heading, columns, lines, 1)


def _place_keys(plan: Layout) -> list[str]:
    return [key for key in (plan.facets.column, plan.facets.row) if key]


def _head(plan: Layout, n: int, places: Sequence[str]) -> list[str]:
    member = plan.groups[n]
    count = len(member.cells)
    values = [say(key, member.settings.get(key)) for key in places]
    return [plan.labels[n], *values, str(count) if count > 1 else f"1 ({ONE_SEED})"]


def _line(plan: Layout, n: int, cells: list[str]) -> Line:
    keys = _place_keys(plan)
    places = [[g.settings.get(key) for key in keys] for g in plan.groups[max(0, n - 1) : n + 1]]
    return Line(cells, len(plan.groups[n].cells) == 1, n > 0 and places[0] != places[1])


def divergence(member: Group) -> str:
    """Return the step of each seed's alarm with its rule, "none" where there was none."""
    return ", ".join(
        "none" if cell.alarm_step is None else f"{cell.alarm_step} ({cell.alarm_rule})"
        for cell in member.cells
    )


def _percent(value: Estimate | None, member: Group) -> str:
    if value is None:
        return MISSING
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return f"{100 * value.mean:.1f}{half} %{_count(value, member)}"


def plain(value: Estimate | None, member: Group) -> str:
    """Return mean ± half width, both to the half width's second digit."""
    if value is None:
        return MISSING
    middle, half = value.mean, value.half
    if half is None:
        text = f"{middle:.3g}"
    elif half < 1e-9 * abs(middle) or half == 0:  # rounding of equal values
        text = f"{middle:.3g} ± 0"
    elif abs(middle) < 1e-3:
        text = f"{middle:.1e} ± {half:.1e}"
    else:
        digits = min(6, max(0, 1 - math.floor(math.log10(half))))
        text = f"{middle:.{digits}f} ± {half:.{digits}f}"
    return text + _count(value, member)


def _difference(member: Group, base: Group | None, name: str) -> str:
    value = None if base is None or base is member else difference(member, base, name)
    if value is None:
        return MISSING
    half = f" ({ONE_SEED})" if value.half is None else f" ± {100 * value.half:.1f}"
    return f"{100 * value.mean:+.1f}{half}{_count(value, member)}"


def _count(value: Estimate, member: Group) -> str:
    return "" if value.n == len(member.cells) else f" (n = {value.n})"


def _markdown(out: Path, title: str, intro: Sequence[str], sections: Sequence[Section]) -> str:
    lines = [f"# {title}", ""]
    for paragraph in intro:
        lines += [paragraph, ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        for paragraph in section.text:
            lines += [paragraph, ""]
        for picture in section.pictures:
            link = picture.path.relative_to(out).as_posix()
            lines += [f"![{picture.alt}]({link})", "", f"*{picture.caption}*", ""]
        for table in section.tables:
            lines += [f"### {table.heading}", "", *_markdown_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    rules = [" --- " if i < table.words else " ---: " for i in range(len(table.columns))]
    rows = [table.columns, *(line.cells for line in table.lines)]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [text[0], "|" + "|".join(rules) + "|", *text[1:]]


def _html(title: str, intro: Sequence[str], sections: Sequence[Section]) -> str:
    name = markup.escape(title)
    body = [f"<h1>{name}</h1>", *(f"<p>{markup.escape(text)}</p>" for text in intro)]
    for section in sections:
        body.append(f"<h2>{markup.escape(section.heading)}</h2>")
        body += [f"<p>{markup.escape(text)}</p>" for text in section.text]
        body += [_html_picture(picture) for picture in section.pictures]
        body += [_html_table(table) for table in section.tables]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{name}</title><style>{STYLE}</style></head><body>'
        + "\n".join(body)
        + "</body></html>\n"
    )


def _html_picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    return (
        f'<figure><img alt="{markup.escape(picture.alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{markup.escape(picture.caption)}</figcaption></figure>"
    )


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=w' if i < table.words else ''}>{markup.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    body = []
    for line in table.lines:
        names = [n for n, on in (("one", line.one_seed), ("place", line.new_place)) if on]
        kind = f' class="{" ".join(names)}"' if names else ""
        body.append(f"<tr{kind}>{row(line.cells, 'td')}</tr>")
    return (
        f'<h3>{markup.escape(table.heading)}</h3><div class="wide"><table><thead><tr>'
        f"{row(table.columns, 'th')}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
