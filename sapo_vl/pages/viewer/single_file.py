"""The viewer as one file: a bounded number of groups, their pictures, tokens and the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from sapo_vl.pages.viewer import render, selection
from sapo_vl.pages.viewer.cards import CardMaker, Links
from sapo_vl.pages.viewer.curve import curve
from sapo_vl.pages.viewer.files import Loaded, RolloutFiles, StoredGroup
from sapo_vl.pages.viewer.heat import LIST_TOKENS, token_data
from sapo_vl.pages.viewer.pictures import FILE_SIDE
from sapo_vl.pages.viewer.render import Opened
from sapo_vl.runs.files import user_path, write_text
from sapo_vl.runs.pages import data_uri

STEPS = 5
"""Steps that a file holds unless they are named: the first, the last, and those evenly between."""

GROUPS = 16
"""Groups of each step that a file holds unless a number is given."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds."""

    steps: int
    groups: int
    left_out: str  # what it doesn't hold, and how to get it; empty: it holds everything


def write(
    path: Path, opened: Opened, steps: Sequence[int] | None, groups: int | None = GROUPS
) -> Written:
    """Write the page with these steps (None: STEPS of them) and `groups` of each (None: all).

    Groups that are spread evenly over a step are taken, those with the largest drift among them.
    """
    files = opened.runs[0]
    chosen = list(steps) if steps is not None else evenly(list(files.steps), STEPS)
    picked = {step: pick(files, step, groups) for step in chosen}
    links = Links(
        group=lambda run, g: "" if run else f"#group-{g.key}",
        problem=lambda name: "#",
        tokens=lambda run, g: "",
        picture=lambda run, g, i, shown: data_uri(shown.data, shown.kind),
    )

    def tokens_json(run: int, loaded: Loaded) -> Markup:
        text = opened.texts[run]
        return (
            render.script_json(token_data(loaded, text, LIST_TOKENS))
            if text.available
            else Markup()
        )

    maker = CardMaker(opened.runs, links, FILE_SIDE, tokens_json=tokens_json)
    sections = [
        {
            "step": step,
            "figures": render.summary(files.groups(step)),
            "cards": [maker.card(group) for group in own],
        }
        for step, own in picked.items()
    ]
    everything = [group for own in picked.values() for group in own]
    total = sum(len(files.groups(step)) for step in chosen)
    left_out = _left_out(opened, chosen, len(everything), total)
    text = render.page(
        "single.jinja",
        single=True,
        policy=render.single_file_policy(),
        css=Markup(render.asset("style.css")),
        js=Markup(render.asset("script.js")),
        title=f"rollouts of {', '.join(opened.names)}",
        names=opened.names,
        heats=render.heat_options(opened, chosen),
        scales=render.scales(everything),
        faults=opened.faults(),
        own_page=False,
        curve=curve(opened.runs, chosen),
        step_href=lambda step: f"#step-{step}",
        query=selection.Query(),
        task_names=render.tasks(everything),
        labels=selection.LABELS,
        sorts={name: label for name, (label, _) in selection.SORTS.items()},
        steps=sections,
        left_out=left_out,
    )
    with user_path("--out", path):
        write_text(path, text)
    return Written(len(chosen), len(everything), left_out)


def evenly(items: list[int], count: int) -> list[int]:
    """Return `count` of the items, first and last among them, or all where there are fewer."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def pick(files: RolloutFiles, step: int, count: int | None) -> list[StoredGroup]:
    """Return `count` groups of a step in order: a quarter with most drift, others evenly."""
    groups = files.groups(step)
    if count is None or len(groups) <= count:
        return groups
    by_drift = sorted(range(len(groups)), key=lambda i: -selection.drift(groups[i]))
    chosen = set(by_drift[: count // 4])
    rest = [i for i in range(len(groups)) if i not in chosen]
    wanted = count - len(chosen)
    chosen |= {rest[i * len(rest) // wanted] for i in range(wanted)}
    return [groups[i] for i in sorted(chosen)]


def _left_out(opened: Opened, chosen: Sequence[int], groups: int, total: int) -> str:
    """Say which steps and groups a file doesn't hold; empty when it holds all."""
    steps = len(opened.runs[0].steps)
    if groups == total and len(chosen) == steps:
        return ""
    return (
        f"This file holds {groups} of the {total} groups of {len(chosen)} of the run's {steps} "
        f"steps ({', '.join(map(str, chosen[:20]))}{', ..' if len(chosen) > 20 else ''}). "
        "`sapo-vl view RUN --out FILE --all` writes all groups of all steps; `sapo-vl view RUN` "
        "shows them without a file."
    )
