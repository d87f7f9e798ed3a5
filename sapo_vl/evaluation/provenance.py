"""Which model, settings and problems the results in a folder come from.

    OUT/settings.json     what the results depend on, the fingerprint of the weights among it

Results of other settings are refused: a folder whose name stays while the model behind its path
changes would report the old model's accuracy. Each stored response carries the fingerprint of the
settings and of its problem, so that a changed gold answer or picture is named, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapo_vl.config import Config
from sapo_vl.data.shards import fingerprint as files_fingerprint
from sapo_vl.errors import ConfigError
from sapo_vl.model.fingerprint import weights_fingerprint
from sapo_vl.runs.files import write_json
from sapo_vl.runs.lock import FolderLock
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

SETTINGS = "settings.json"
HELDOUT_RESULTS = ("responses.jsonl", "summary.json")
Settings = dict[str, Any]  # JSON values by name


def digest(value: Any) -> str:
    """Return 16 hex digits of SHA-256 over a value as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def problem_fingerprint(problem: Sample) -> str:
    """Return 16 hex digits over everything a response to a problem and its verdict depend on.

    That is the id, the text, the gold answer, the choices, the published fields and the pictures.
    """
    published = problem.metadata.get("published")
    images = [hashlib.sha256(image).hexdigest() for image in problem.images]
    fields = (problem.id, problem.problem, problem.answer, problem.choices, published, images)
    return digest(fields)


def claim(folder: Path, settings: Settings, results: Sequence[str]) -> None:
    """Make `folder` that of `settings`: check its settings.json, or write one into a new folder.

    `results` are the files that hold results. Settings without results are replaced.

    Raises:
        ConfigError: the folder holds results of other settings, or of unknown ones.
    """
    check(folder, settings, results)
    file = folder / SETTINGS
    if not file.exists() or _read(file) != settings:
        write_json(file, settings)


def check(folder: Path, settings: Settings, results: Sequence[str]) -> None:
    """Raise ConfigError where `claim` would; write nothing."""
    found = [name for name in results if (folder / name).exists()]
    if not found:
        return
    before = _read(folder / SETTINGS)
    if before is None:
        raise ConfigError(
            f"--out: {folder} holds {found[0]} but no readable {SETTINGS}, so that nothing tells "
            "which model wrote it; name another folder or remove this one"
        )
    for key in (*settings, *(key for key in before if key not in settings)):
        if before.get(key) != settings.get(key):
            raise ConfigError(
                f"--out: {folder} was written with {key}={before.get(key)!r:.80}, not "
                f"{settings.get(key)!r:.80}; name another folder or use the same settings"
            )


def _read(file: Path) -> Settings | None:
    """Return the settings as JSON has them, None for a file that is missing or damaged."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def heldout_folder(config: Config, out: Path | None) -> Iterator[None]:
    """Hold `out` (None: nothing is written) for a held-out evaluation. The first rank does it.

    Raises:
        ConfigError: it holds results of another model or of other settings, or is in use.
    """
    if out is None or distributed.rank() != 0:
        yield
        return
    settings = heldout_settings(config)
    check(out, settings, HELDOUT_RESULTS)
    with FolderLock(out, "--out"):
        claim(out, settings, HELDOUT_RESULTS)
        yield


def heldout_settings(config: Config) -> Settings:
    """Return what held-out results depend on; the data by number, bytes and time of its files."""
    own = {"problems", "samples", "temperature", "greedy", "blank"}
    evaluation = config.evaluation.model_dump(include=own)
    settings = {
        "model": config.model.path,
        "weights": weights_fingerprint(config.model.path),
        "dtype": config.model.dtype,
        "generator": config.generator.backend,
        "seed": config.run.seed,
        "max_new_tokens": config.rollout.max_new_tokens,
        **evaluation,
        "data": config.data.model_dump(),
        "data_files": files_fingerprint(config.data.path) if config.data.path else [],
        "rewards": [term.model_dump() for term in config.rewards],
        "judge": [config.judge.url, config.judge.model] if config.judge else None,
    }
    return json.loads(json.dumps(settings, default=str))
