"""The model card of a run: README.md of a pushed model, in Markdown with the hub's metadata.

Written from the run's own files: configuration against the defaults, held-out figures before and
after, versions. Nothing of the machine goes into it: of a path only the last part, of addresses
nothing. Left out: examples, as responses come from a model and problems may not be ours to publish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config, tiny_family
from sapo_vl.config.keys import BUILT_IN_OBJECTIVES
from sapo_vl.errors import printable
from sapo_vl.evaluation.heldout import columns, shown
from sapo_vl.runs.files import read_json
from sapo_vl.runs.record import changes

PRIVATE = ("generator.servers", "judge", "run.hub_repo")
"""Keys that are left out, as they hold addresses; keys of places are no changes at all."""

LICENSE_KEYS = ("license", "license_name", "license_link")

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(config: Config, folder: Path) -> str:
    """Return the card of the model in `folder`, RUN/final or RUN/best, of a finished run."""
    run_dir = config.run.dir
    summary = read_json(run_dir / "summary.json") or {}
    step = (read_json(run_dir / f"{folder.name}.json") or {}).get("step")
    base = _base(config)
    text = yaml.safe_dump(_metadata(base, folder), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{text}---",
        f"# {_cell(run_dir.name)}",
        f"{_cell(base or _name(config.model.path))} after {step} steps of reinforcement learning "
        f"with {_cell(_name(config.objective))} by sapo_vl. Trained on {_data(config)}: "
        f"{config.rollout.prompts} prompts a step, {config.rollout.group_size} responses each.",
        _figures(summary),
    ]
    if folder.name == "best" and summary.get("best"):
        parts.append(_best(summary["best"]))
    parts += [
        "## License\n\nThis model derives from the one named above, whose license applies; so do "
        "the terms of the data that it was trained on. Look at both before you use or share it.",
        "## Configuration\n\nWhat differs from sapo_vl's defaults:\n\n"
        f"```yaml\n{_configuration(config)}```",
        _versions(read_json(run_dir / "versions.json") or {}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(base: str | None, folder: Path) -> dict[str, Any]:
    """Return the card's metadata; the license is that of the base's own card, if it has one."""
    known: dict[str, Any] = {}
    card = folder / "README.md"  # copied from the base
    if card.is_file():
        found = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
        try:
            loaded = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError:
            loaded = None
        known = loaded if isinstance(loaded, dict) else {}
    return {
        **{key: known[key] for key in LICENSE_KEYS if key in known},
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": base} if base else {}),
        "tags": ["reinforcement-learning", "vision-language", "sapo_vl"],
    }


def _base(config: Config) -> str | None:
    """Return the hub id of the model that training started from; None for a folder."""
    path = config.model.path
    if tiny_family(path) is not None or Path(path).exists() or not _HUB_ID.fullmatch(path):
        return None
    return path


def _data(config: Config) -> str:
    return "procedural problems" if config.data.path is None else _cell(config.data.path.name)


def _figures(summary: Mapping[str, Any]) -> str:
    before, after = summary.get("before"), summary.get("after")
    if not before or not after:
        return ""
    settings = after["settings"]
    rows = [
        ["held-out accuracy", *columns(settings["samples"], settings["temperature"])],
        ["---"] * 4,
        *(
            [name, *shown(figures, figures["settings"]["samples"])]
            for name, figures in (("before", before), ("after", after))
        ),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"## Held-out accuracy\n\n{after['problems']} problems of the run's own held-out split, "
        "graded by its verifiers. The interval is a bootstrap over problems. Other benchmarks, "
        f"prompts or graders give other figures.\n\n{table}"
    )


def _best(best: Mapping[str, Any]) -> str:
    return (
        f"These are the weights after {best['step']} steps, chosen for the highest "
        f"{_cell(best['metric'])} ({100 * best['value']:.1f} %) of {best['evaluations']} "
        "evaluations on the same held-out problems. A figure that was chosen for being high is too "
        "high on average; `after` in the table is that of the last step."
    )


def _configuration(config: Config) -> str:
    """Return the keys that differ from the defaults as YAML, without places and addresses."""
    default = Config(objective=config.objective)
    if config.objective in BUILT_IN_OBJECTIVES:
        default = objectives.resolve(default)  # with its options' defaults
    tree = {
        key: _public(new)
        for key, (_, new) in changes(default, config).items()
        if key not in PRIVATE
    }
    return printable_yaml(tree)


def printable_yaml(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML of printable ASCII, which can't close a Markdown fence."""
    return yaml.safe_dump(dict(tree), sort_keys=True, width=1000).replace("```", "'''")


def _public(value: Any) -> Any:
    """Return a value with only the last part of each absolute path."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return _name(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    """Return the last part of an absolute path, and any other text as it is."""
    return Path(text).name if text.startswith("/") else text


def _cell(text: object) -> str:
    """Return a text that means nothing in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", printable(text))


def _versions(versions: Mapping[str, str]) -> str:
    kept = {name: version for name, version in versions.items() if name != "platform"}
    if not kept:
        return ""
    return "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in kept.items())
