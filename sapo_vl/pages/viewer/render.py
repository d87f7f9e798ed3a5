"""Pages of the viewer from templates: for the server, and as one file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sapo_vl.errors import printable_lines
from sapo_vl.pages.viewer.files import RolloutFiles, StoredGroup
from sapo_vl.pages.viewer.heat import HEATS, missing
from sapo_vl.pages.viewer.token_text import TokenText

ENTROPY_SCALE = 2.0
"""Nats of entropy with the strongest colour: a choice among 7 equal tokens."""

SMALLEST_SCALE = 1e-6
"""Nats of the strongest colour where all differences are smaller: rounding isn't made to glow."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The runs that a viewer shows: one, or two side by side."""

    runs: tuple[RolloutFiles, ...]
    texts: tuple[TokenText, ...]

    @property
    def names(self) -> list[str]:
        """The runs' names: their folders', with more of the path where these are the same."""
        folders = [files.run_dir.resolve() for files in self.runs]
        short = [folder.name for folder in folders]
        return short if len(set(short)) == len(short) else [str(folder) for folder in folders]

    def faults(self) -> list[tuple[str, str]]:
        """Return each file that can't be shown, with the reason."""
        return [fault for files in self.runs for fault in sorted(dict(files.faults).items())]


def heat_options(opened: Opened, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the heats for the script and the menu, with why one can't be shown.

    With several steps on a page a heat is offered if one of them has it.
    """
    options = []
    for heat in HEATS:
        reasons = [missing(heat, opened.runs[0], step, opened.texts[0]) for step in steps]
        reason = min(reasons, default="", key=len)
        options.append(
            {
                "name": heat.name,
                "label": heat.label,
                "kind": heat.kind,
                "about": heat.about,
                "missing": reason,
            }
        )
    return options


def scales(groups: Sequence[StoredGroup]) -> dict[str, float]:
    """Return the value with the strongest colour of each heat, of the groups on a page."""

    def largest(name: str) -> float:
        found = (group.largest(name) for group in groups)
        return max([SMALLEST_SCALE, *(value for value in found if math.isfinite(value))])

    return {
        "gate": 1.0,
        "ratio": largest("largest_log_ratio"),
        "mismatch": largest("largest_mismatch"),
        "entropy": ENTROPY_SCALE,
    }


def script_json(value: Any) -> Markup:
    """Return JSON for the inside of a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII alone
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def asset(name: str) -> str:
    """Return the text of style.css or script.js."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def single_file_policy() -> str:
    """Return the content security policy of a single file: its own style and script, no network."""
    style, script = (
        base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()
        for name in ("style.css", "script.js")
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sapo_vl.pages.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["script_json"] = script_json
    return environment


def page(template: str, **values: Any) -> str:
    """Render a template."""
    return _environment().get_template(template).render(values)


def tasks(groups: Sequence[StoredGroup]) -> list[str]:
    """Return the tasks of some groups, sorted."""
    return sorted({group.task for group in groups})


def summary(groups: Sequence[StoredGroup]) -> dict[str, str]:
    """Return a step's figures for its heading."""
    responses = [r for group in groups for r in group.responses]
    valid = [r for r in responses if r.valid]
    count = max(1, len(valid))
    return {
        "groups": f"{len(groups):,} group{'s' if len(groups) != 1 else ''}",
        "responses": f"{len(responses):,}",
        "accuracy": f"{sum(r.correct for r in valid) / count:.3f}" if valid else "none",
        "reward": f"{sum(r.reward for r in valid) / count:.3f}" if valid else "none",
        "cut": f"{sum(r.finish_reason == 'length' for r in responses):,}",
        "no_verdict": f"{len(responses) - len(valid):,}",
    }
