"""An autopsy's folder: what a run leaves behind when a step goes wrong.

    RUN/autopsy/step_000007-nonfinite/         with several ranks ..-rank0, ..-rank1
        README.txt       what happened, what is inside, the command that runs the batch again
        manifest.json    the same for programs: a Manifest
        config.yaml versions.json              copies of the run's
        metrics.jsonl    the run's last rows
        stacks.txt       Python stacks of all threads
        gradients.json   what the second pass found: learner/examine.py's summary
        rollouts.json    problems, gold answers, responses, rewards, for reading
        batch.npz        the rollouts bit for bit (state_file.py), without their pictures
        pictures/        these
        model/           weights, as a model's folder; with model.lora adapter/ instead

A folder is complete or absent. A part that can't be written is left out and named in README.txt.
"""

from __future__ import annotations

import faulthandler
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

from sapo_vl.errors import DataError, printable
from sapo_vl.learner.examine import json_number
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs import metrics
from sapo_vl.runs.files import atomic_write, write_json, write_text
from sapo_vl.schema import Rollout, RolloutGroup
from sapo_vl.training.rollouts import RolloutBatch
from sapo_vl.training.state_file import read_state, write_state

FOLDER = "autopsy"
"""Below the run's folder."""

LAST_ROWS = 20

LARGEST_BATCH = 512 * 2**20
"""Bytes of pictures and rollouts; a batch above it is left out."""

FREE_SHARE = 0.1
"""Share of the free disk that a bundle's batch may take, and its weights."""

ENDINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif"}
"""First bytes of a picture's file -> its usual ending."""


@dataclass(slots=True)
class Manifest:
    """What a bundle is about, and what replay needs besides the batch."""

    cause: str  # stall, collapse, nonfinite, parity or weights
    message: str  # in words
    step: int  # the step in progress, counted from 1 as in metrics.jsonl
    rank: int
    ranks: int
    seed: int  # run.seed; sampling and data order follow from it, and the pass draws no numbers
    lr: float | None = None  # the step's learning rate
    mini_batch: int | None = None  # counted from 1; null: the batch is the whole step's
    mini_batches: int | None = None
    on_policy: bool = False  # the first mini-batch, whose old log-probs are its own forward's
    denominator: float | None = None  # sum of aggregation weights over all ranks
    records: list[str] = field(default_factory=list)  # ids of the samples that were worked on
    weights: str | None = None  # model or adapter folder, relative to the bundle
    checkpoint: str | None = None  # the run's newest checkpoint
    steps_since: int = 0  # whole steps between that checkpoint and the batch's weights
    missing: list[str] = field(default_factory=list)  # parts that were left out, and why


@dataclass(slots=True)
class Content:
    """All that a bundle is made from; none of it needs a device or another rank."""

    run_dir: Path
    manifest: Manifest
    groups: Sequence[RolloutGroup] = ()
    examination: dict[str, Any] | None = None  # examine.summary


def groups_of(rollouts: Sequence[Rollout]) -> list[RolloutGroup]:
    """Return a mini-batch's rollouts as groups, in order and without fillers."""
    kept = [rollout for rollout in rollouts if not rollout.is_filler]
    runs = (list(run) for _, run in groupby(kept, key=lambda rollout: id(rollout.prompt)))
    return [RolloutGroup(run[0].prompt, run) for run in runs]


class Name(NamedTuple):
    """The name of a bundle's folder; a second one of a step and cause has a number."""

    step: int
    cause: str
    suffix: str = ""  # -rank1 where the run has several ranks

    def path(self, root: Path, number: int) -> Path:
        """Return step_000007-nonfinite-rank1 below `root`, or step_000007-nonfinite-2-rank1."""
        middle = f"-{number}" if number > 1 else ""
        return root / f"step_{self.step:06d}-{self.cause}{middle}{self.suffix}"

    def free_number(self, root: Path) -> int:
        """Return the first number that no bundle of this rank has."""
        return next(n for n in count(1) if not self.path(root, n).exists())

    def free(self, root: Path) -> Path:
        """Return the path with that number."""
        return self.path(root, self.free_number(root))


def command(bundle: Path) -> str:
    """Return the command that runs a bundle's batch again."""
    return f"sapo-vl replay {shlex.quote(str(bundle))}"


def write_bundle(path: Path, content: Content, weights: Path | None = None) -> None:
    """Write the bundle `path`; `weights` is a folder that moves into it.

    Raises OSError where not even the folder can be made.
    """
    manifest = content.manifest
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.mkdir()
        if weights is not None:
            manifest.weights = weights.name
            shutil.move(weights, partial / weights.name)
        parts: dict[str, Callable[[Path], None]] = {
            "stacks.txt": _stacks,
            "config.yaml": lambda file: _copy(content.run_dir, file),
            "versions.json": lambda file: _copy(content.run_dir, file),
            "metrics.jsonl": lambda file: _rows(content.run_dir, file),
        }
        if content.examination is not None:
            parts["gradients.json"] = lambda file: write_json(file, content.examination)
        if content.groups:
            parts["batch.npz"] = lambda file: _batch(content.groups, file)
            parts["rollouts.json"] = lambda file: write_json(file, readable(content.groups))
        for name, write in parts.items():
            try:
                write(partial / name)
            except Exception as error:  # the others may tell enough
                manifest.missing.append(f"{name}: {error or type(error).__name__}")
        write_json(partial / "manifest.json", asdict(manifest))
        write_text(partial / "README.txt", _readme(path, content))


def _stacks(file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)


def _copy(run_dir: Path, file: Path) -> None:
    shutil.copyfile(run_dir / file.name, file)


def _rows(run_dir: Path, file: Path) -> None:
    rows = metrics.read(run_dir)[-LAST_ROWS:]
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _batch(groups: Sequence[RolloutGroup], file: Path) -> None:
    """Write batch.npz and pictures/. Raises DataError for a batch that is too large."""
    size = sum(len(data) for group in groups for data in group.prompt.sample.images)
    size += sum(24 * len(r.token_ids) + 4 * len(r.text) for g in groups for r in g.rollouts)
    limit = min(LARGEST_BATCH, FREE_SHARE * shutil.disk_usage(file.parent).free)
    if size > limit:
        raise DataError(f"{size / 2**20:.0f} MB are above {limit / 2**20:.0f} MB")
    state = RolloutBatch(list(groups), 1).state_dict()
    folder = file.with_name("pictures")
    folder.mkdir()
    for i, group in enumerate(state["groups"]):
        sample, names = group["sample"], []
        for j, data in enumerate(sample.images):
            names.append(f"{i:03d}-{j}.{_ending(data)}")
            (folder / names[-1]).write_bytes(data)
        group["sample"], group["pictures"] = replace(sample, images=()), names
    write_state(file, state)


def _ending(data: bytes) -> str:
    return next((name for start, name in ENDINGS.items() if data.startswith(start)), "bin")


def readable(groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
    """Return the groups as a person reads them: texts, rewards, advantages, lengths."""
    return [
        {
            "record": group.prompt.sample.id,
            "task": group.prompt.sample.task,
            "problem": group.prompt.sample.problem,
            "answer": group.prompt.sample.answer,
            "pictures": len(group.prompt.sample.images),
            "responses": [
                {
                    "text": rollout.text,
                    "tokens": len(rollout.token_ids),
                    "finish_reason": rollout.finish_reason,
                    "reward": rollout.reward and rollout.reward.value,
                    "advantage": json_number(rollout.advantage),
                }
                for rollout in group.rollouts
            ],
        }
        for group in groups
    ]


def read_manifest(bundle: Path) -> Manifest:
    """Return a bundle's manifest. Raises DataError where the folder holds none that is whole."""
    path = bundle / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**found)
    except OSError as error:
        raise DataError(
            f"{bundle} is not an autopsy's folder: manifest.json: {error.strerror}"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    missing = {f.name for f in fields(Manifest)} - set(found)
    if missing:
        raise DataError(f"{path} is damaged: {', '.join(sorted(missing))} is missing")
    return manifest


def read_rollouts(bundle: Path, renderer: PromptRenderer, *, on_policy: bool) -> list[Rollout]:
    """Return a bundle's rollouts, in their order, their prompts rendered again.

    Those of an `on_policy` mini-batch get their old log-probs from the next forward pass, as in the
    run. Raises DataError where there are none, or the files are damaged.
    """
    path = bundle / "batch.npz"
    if not path.is_file():
        raise DataError(f"{bundle} holds no rollouts: {_why_missing(bundle)}")
    try:
        state = read_state(path)
        for group in state["groups"]:
            files = [bundle / "pictures" / Path(name).name for name in group.pop("pictures")]
            pictures = tuple(file.read_bytes() for file in files)
            group["sample"] = replace(group["sample"], images=pictures)
        batch = RolloutBatch.from_state_dict(state, renderer)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    for rollout in rollouts if on_policy else ():
        rollout.old_logprobs = None
    return rollouts


def _why_missing(bundle: Path) -> str:
    said = [line for line in read_manifest(bundle).missing if line.startswith("batch.npz")]
    return said[0] if said else "the run was not in the middle of training on any"


INSIDE = {
    "stacks.txt": "Python stacks of all threads when this was written",
    "gradients.json": "a second pass over the mini-batch: the first value that is not finite, and "
    "gradient norms by module and parameter, of this rank's loss before averaging over ranks",
    "metrics.jsonl": f"the run's last {LAST_ROWS} rows",
    "config.yaml": "the run's configuration",
    "versions.json": "versions of the packages that the run began with",
    "rollouts.json": "problems, gold answers, responses and rewards of the batch",
    "batch.npz": "the same rollouts for replay: token ids, advantages, log-probs",
    "pictures": "their pictures: number of the group, number of the picture",
    "model": "the model, with the weights of that moment",
    "adapter": "the adapter of that moment; its base is model.path",
}


def _readme(path: Path, content: Content) -> str:
    manifest, partial = content.manifest, path.with_name(f".{path.name}.partial")
    where = f"step {manifest.step}"
    if manifest.mini_batch is not None:
        where += f", mini-batch {manifest.mini_batch} of {manifest.mini_batches}"
    if manifest.ranks > 1:
        where += f", rank {manifest.rank} of {manifest.ranks} (its own share of the rollouts)"
    lines = [f"{manifest.cause} at {where}", "", printable(manifest.message), ""]
    if manifest.records:
        lines += [f"records: {', '.join(map(printable, manifest.records))}", ""]
    lines += [f"weights: {_weights(manifest)}", ""]
    if (partial / "batch.npz").exists():
        lines += ["Run the batch again:", "", f"    {command(path)}", ""]
    else:
        lines += ["There is no batch in this folder that replay could run.", ""]
    lines += [f"{name:16} {words}" for name, words in INSIDE.items() if (partial / name).exists()]
    lines += [f"left out: {reason}" for reason in manifest.missing]
    return "\n".join(lines) + "\n"


def _weights(manifest: Manifest) -> str:
    if manifest.weights is not None:
        return f"{manifest.weights}: those of that moment"
    if manifest.checkpoint is None:
        return "not kept; replay takes those that the run started from"
    return f"checkpoint {manifest.checkpoint}, which is kept; {age(manifest)}"


def age(manifest: Manifest) -> str:
    """Say how much older the checkpoint's weights are than those that the batch met."""
    steps, updates = manifest.steps_since, (manifest.mini_batch or 1) - 1
    if steps == updates == 0:
        return "its weights are those of the batch"
    return f"its weights are {steps} steps and {updates} mini-batches older than the batch"
