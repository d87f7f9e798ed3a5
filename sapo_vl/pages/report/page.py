"""`sapo-vl report RUN [RUN ..]`: writes the page; training calls it at the end of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.algorithm.reward_terms import sum_by_name
from sapo_vl.errors import ConfigError
from sapo_vl.pages.report import change, curves, examples, gate, settings, timing
from sapo_vl.pages.report.change import AccuracyChange
from sapo_vl.pages.report.examples import ExampleGroup
from sapo_vl.pages.report.load import LoadedRun, load, names
from sapo_vl.runs.files import user_path
from sapo_vl.runs.pages import PageTable, write_page

FILE = "report.html"

MOST_WARNINGS = 200
"""Warnings on the page: the first ones."""


@dataclass(frozen=True)
class RunSection:
    """What the page says of one run."""

    name: str
    state: str
    facts: Sequence[str]
    change: AccuracyChange
    gate: Sequence[str]
    bars: Sequence[timing.Bars]
    warnings: Sequence[str]
    versions: PageTable
    examples: Sequence[ExampleGroup]


def write(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page and return its path: `out`, else report.html in the one run's folder.

    Raises ConfigError when a folder is no run, one is named twice, or several come without `out`.
    """
    resolved = [folder.resolve() for folder in run_dirs]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise ConfigError(f"{run_dirs[number]} is named twice")
    if out is None and len(run_dirs) > 1:
        raise ConfigError("name a file for the page of several runs: --out FILE.html")
    runs = [load(folder, name) for folder, name in zip(run_dirs, names(run_dirs), strict=True)]
    path = out or run_dirs[0] / FILE
    with user_path("--out", path):
        write_page(path, "run_report.jinja", **_values(runs))
    return path


def _values(runs: Sequence[LoadedRun]) -> dict[str, Any]:
    """Return the template's values."""
    several = len(runs) > 1
    first, *others = runs
    return {
        "title": f"Runs {', '.join(run.name for run in runs)}" if several else f"Run {first.name}",
        "several": several,
        "overview": change.overview(runs),
        "between": [
            (f"{other.name} against {first.name}", change.between(first, other)) for other in others
        ],
        "settings": settings.differing(runs),
        "charts": curves.charts(runs),
        "chart_size": (curves.WIDTH, curves.HEIGHT),
        "chart_area": (
            curves.LEFT,
            curves.TOP,
            curves.WIDTH - curves.RIGHT,
            curves.HEIGHT - curves.BOTTOM,
        ),
        "runs": [_section(run) for run in runs],
    }


def _section(run: LoadedRun) -> RunSection:
    return RunSection(
        name=run.name,
        state=_state(run),
        facts=_facts(run),
        change=change.of_run(run),
        gate=gate.explained(run),
        bars=timing.bars(run),
        warnings=_warnings(run),
        versions=_versions(run),
        examples=examples.groups(run),
    )


def _state(run: LoadedRun) -> str:
    """Say in a sentence how far the run has come."""
    done, planned = run.steps_done, run.steps_planned
    of_planned = "" if planned is None else f" of {planned}"
    if run.is_complete:
        early = planned is not None and done < planned
        why = " It ended early (evaluation.patience)." if early else ""
        return f"The run is complete: {done}{of_planned} training steps.{why}"
    if done:
        return (
            f"The run is not complete: {done}{of_planned} training steps are done. It is still at "
            "work, was stopped, or failed; --resume continues it."
        )
    warm = run.of_phase("sft")
    if warm:
        steps = run.settings.get("sft.steps", "?")
        return (
            f"Supervised warm-up only: {warm[-1]['step']} of {steps} steps, no SAPO step. The "
            f"model is in {run.dir / 'warmup' / 'final'} when they are done."
        )
    return "The run has taken no step yet."


def _facts(run: LoadedRun) -> list[str]:
    """Return what a reader wants to know first, each as a short phrase."""
    get = run.settings.get
    facts = [f"objective {get('objective', '?')}", f"model {get('model.path', '?')}"]
    lora = get("model.lora")
    if isinstance(lora, dict) and lora.get("rank"):
        facts.append(f"adapters of rank {lora['rank']} (LoRA); the base is frozen")
    facts.append(f"data {get('data.path') or 'procedural problems'}")
    facts.append(f"{get('rollout.prompts', '?')} prompts x {get('rollout.group_size', '?')} a step")
    if get("rollout.ahead"):
        facts.append(f"sampled {get('rollout.ahead')} steps ahead (rollout.ahead)")
    if get("sft.steps"):
        facts.append(f"after {get('sft.steps')} steps of supervised warm-up")
    best = run.summary.get("best")
    if isinstance(best, dict):
        facts.append(
            f"best by {best.get('metric')}: step {best.get('step')}, "
            f"{100 * float(best.get('value') or 0):.1f} %, the highest of "
            f"{best.get('evaluations')} evaluations and so too high on average"
        )
    kept = sorted(path.name for path in run.dir.glob("config-step_*.yaml"))
    if kept:
        facts.append(f"settings changed while it ran, see {', '.join(kept)}")
    return facts


def _warnings(run: LoadedRun) -> list[str]:
    """Return everything that was out of order, in the order of steps, each on a line."""
    found: list[tuple[int, str]] = [(one.step, one.text) for one in run.warnings]
    for alarm in run.alarms:
        good = alarm.get("checkpoint")
        kept = f"checkpoint {good} is kept" if good else "there was no checkpoint before it"
        found.append((_step(alarm), f"collapse: {alarm.get('message', '?')}; {kept}"))
    for folder in sorted((run.dir / "autopsy").glob("step_*-*")):
        text = f"an autopsy is in {folder}: sapo-vl replay {folder} runs its batch again"
        if not any(folder.name in said for _, said in found):
            found.append((_step_of_name(folder.name), text))
    train = run.of_phase("train")
    counts = sum_by_name([_causes(row) for row in train])
    for cause, number in sorted(counts.items(), key=lambda item: -item[1]):
        first = next(row for row in train if cause in _causes(row))
        found.append((_step(first), f"no verdict on {number:.0f} responses in all: {cause}"))
    said = {step for step, text in found if "gradient not finite" in text}
    for row in train:
        if "grad_norm" in row and row["grad_norm"] is None and row["step"] not in said:
            found.append((row["step"], "the gradient of an update was not finite"))
    lines = [
        text if text.startswith(f"step {step}") or not step else f"step {step}: {text}"
        for step, text in sorted(found, key=lambda pair: pair[0])
    ]
    if len(lines) > MOST_WARNINGS:
        lines = [*lines[:MOST_WARNINGS], f"and {len(lines) - MOST_WARNINGS} more"]
    return [*lines, *(f"this report lacks a part: {fault}" for fault in run.faults)]


def _causes(row: dict[str, Any]) -> dict[str, float]:
    causes = row.get("no_verdict")
    return causes if isinstance(causes, dict) else {}


def _step(row: Any) -> int:
    step = row.get("step")
    return step if isinstance(step, int) else 0


def _step_of_name(name: str) -> int:
    """Return the step of a name such as step_000007-nonfinite."""
    digits = name.removeprefix("step_").partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _versions(run: LoadedRun) -> PageTable:
    rows = [[name, str(version)] for name, version in run.versions.items()]
    return PageTable(["package", "version"], rows)
