"""The configuration against its defaults: only the keys that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapo_vl.config import Config, dump
from sapo_vl.config.keys import section_of
from sapo_vl.config.sections import LoraConfig, Section
from sapo_vl.errors import UserError
from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.runs.pages import PageTable
from sapo_vl.runs.record import flat

PLACES = ("run.dir",)
"""Keys that differ in every run and say nothing about it."""

MISSING = "none"
"""Default of a key that this version doesn't know."""


def differing(runs: Sequence[LoadedRun]) -> PageTable:
    """Return the keys in which a run differs from the defaults: key, default, a column per run.

    A key that a run's file lacks, since it came later, had its default.
    """
    defaults = _opened(default_settings(runs))
    opened = [_opened(run.settings) for run in runs]
    keys = dict.fromkeys(key for one in opened for key in (*defaults, *one))
    rows = []
    for key in (key for key in keys if key not in PLACES):
        default = defaults.get(key, MISSING)
        values = [one.get(key, default) for one in opened]
        if any(value != default for value in values):
            rows.append([key, _text(default), *map(_text, values)])
    meanings = _meanings()
    columns = ["key", "default", *(run.name if len(runs) > 1 else "this run" for run in runs)]
    if len(runs) == 1:
        return PageTable([*columns, "meaning"], [[*row, meanings.get(row[0], "")] for row in rows])
    return PageTable(columns, rows)


def _opened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the keys of model.lora in place of the section."""
    lora = settings.get("model.lora")
    inner = {f"model.lora.{key}": v for key, v in lora.items()} if isinstance(lora, dict) else {}
    return {key: v for key, v in settings.items() if key != "model.lora" or not inner} | inner


def default_settings(runs: Sequence[LoadedRun]) -> dict[str, Any]:
    """Return {dotted key: value} of the defaults, with those of the runs' objectives' options."""
    defaults = flat(dump(Config()))
    for name in {str(run.settings.get("objective")) for run in runs}:
        defaults |= _objective_defaults(name)
    return defaults


def _objective_defaults(name: str) -> dict[str, Any]:
    """Return an objective's options; none where it isn't to be had any more. Imports torch."""
    from sapo_vl.algorithm.objectives import resolve

    try:
        options = resolve(Config(objective=name)).objective_options
    except UserError:
        return {}
    section = section_of(name)
    return {f"{section}.{key}": value for key, value in options.items()}


def _meanings() -> dict[str, str]:
    """Return each key's description."""
    found = {}
    for name, section in Config.model_fields.items():
        found[name] = section.description or ""
        model = section.annotation
        if isinstance(model, type) and issubclass(model, Section):
            fields: Mapping[str, Any] = model.model_fields
            found |= {f"{name}.{key}": field.description or "" for key, field in fields.items()}
    lora = LoraConfig.model_fields.items()
    return found | {f"model.lora.{key}": field.description or "" for key, field in lora}


def _text(value: Any) -> str:
    """Return a value in a reader's notation."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "{}"
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "[]"
    return str(value) or '""'
