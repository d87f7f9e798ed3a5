"""A small run's folder, written by hand: what the report and compare read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from helpers import picture
from html_pages import HOSTILE

from sapo_vl.config import Config, to_yaml
from sapo_vl.runs import warning_log

# Shares right of four problems with two samples each: means 3/8 before and 7/8 after.
BEFORE: Mapping[str, Sequence[bool]] = {
    "p1": [False, False], "p2": [True, False], "p3": [True, True], "p4": [False, False],
}  # fmt: skip
AFTER: Mapping[str, Sequence[bool]] = {
    "p1": [True, True], "p2": [False, True], "p3": [True, True], "p4": [True, True],
}  # fmt: skip


def write_config(folder: Path, **sections: Mapping[str, Any]) -> None:
    """Write config.yaml of the defaults with these keys, as a run does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Config.model_validate(sections)
    config.run.dir = folder
    (folder / "config.yaml").write_text(f"{to_yaml(config)}...\n", encoding="utf-8")


def write_rows(folder: Path, *rows: Mapping[str, Any]) -> None:
    """Write metrics.jsonl."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def train_row(step: int, **values: Any) -> dict[str, Any]:
    """Return a training row; `gate__mean` stands for gate/mean."""
    return {"phase": "train", "step": step} | {
        key.replace("__", "/"): value for key, value in values.items()
    }


def write_evaluation(
    folder: Path,
    name: str,
    verdicts: Mapping[str, Sequence[bool | None]],
    *,
    step: int = 0,
    **fields: str,
) -> None:
    """Write eval/NAME.jsonl and its summary; `fields` replace those of every line."""
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": problem, "task": "odd" if problem in ("p1", "p3") else "even",
            "mode": "sampled", "correct": correct, "cause": None, "reason": f"{i} is what it says",
            "answer": "7", "response": f"\\boxed{{{7 if correct else 8}}}",
        } | fields
        for problem, samples in verdicts.items()
        for i, correct in enumerate(samples)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "eval" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    known = [v for samples in verdicts.values() for v in samples if v is not None]
    summary = {
        "avg@2": sum(known) / len(known), "ci95": [0.25, 0.75], "greedy": None, "samples": 2,
        "problems": len(verdicts), "no_verdict": 0, "causes": {}, "tasks": {}, "step": step,
        "settings": {"samples": 2, "temperature": 1.0},
    }  # fmt: skip
    (folder / "eval" / f"{name}.json").write_text(json.dumps(summary), encoding="utf-8")


def write_run(folder: Path) -> Path:
    """Write a complete run of two steps."""
    write_config(
        folder,
        rollout={"steps": 2, "max_new_tokens": 16},
        learner={"lr": 1e-4},
    )
    write_rows(
        folder,
        {"phase": "eval", "step": 0, "name": "before", "avg": 0.375, "ci95_low": 0.25,
         "ci95_high": 0.75},
        train_row(1, reward__mean=0.25, accuracy=0.25, gate__mean=0.5, seconds__rollout=2.0,
                  seconds__update=1.0),
        train_row(2, reward__mean=0.75, accuracy=0.75, gate__mean=0.7, seconds__rollout=2.0,
                  seconds__update=1.0),
        {"phase": "eval", "step": 2, "name": "after", "avg": 0.875, "ci95_low": 0.5,
         "ci95_high": 1.0},
    )  # fmt: skip
    write_evaluation(folder, "before", BEFORE)
    write_evaluation(folder, "after", AFTER, step=2)
    for name, value in (
        ("versions.json", {"python": "3.11.7", "torch": "2.13.0"}),
        ("seconds.json", {"start": 30.0, "sapo": 10.0}),
        ("final.json", {"step": 2}),
    ):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def write_rollouts(
    folder: Path,
    name: str = "step_000002.parquet",
    problem: str = "Sum?",
    images: Sequence[bytes] = (),
    **fields: str,
) -> None:
    """Write a group of three responses: right, wrong, and one without a verdict."""
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "id": "r1", "task": "sum", "problem": f"<image>{problem}", "answer": "7",
            "images": list(images) if i == 0 else [], "response": f"response {i}",
            "finish_reason": "stop" if i else "length", "reward": float(i == 0),
            "correct": i == 0, "valid": i < 2, "advantage": advantage,
            "verdicts": json.dumps({"boxed": ["correct", 1.0, f"reason {i}"]}), **fields,
        }
        for i, advantage in enumerate((1.25, -1.25, 0.0))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / name)


def write_hostile_run(folder: Path) -> Path:
    """Write a run in which every foreign text is hostile."""
    write_config(folder, model={"path": HOSTILE}, data={"path": HOSTILE}, rollout={"steps": 2})
    write_rows(
        folder,
        train_row(1, gate__mean=1.0, no_verdict={HOSTILE: 3}, **{f"reward/term/{HOSTILE}": 1.0}),
        train_row(2, **{f"reward/term/{HOSTILE}": 1.0, "reward/term/b": 0.0}),
        {"phase": "eval", "step": 2, "name": HOSTILE, f"benchmark/{HOSTILE}": 0.5},
    )
    texts = {"task": HOSTILE, "answer": HOSTILE, "response": HOSTILE, "reason": HOSTILE}
    ids = {f"{HOSTILE}{i}": samples for i, samples in enumerate(BEFORE.values())}
    write_evaluation(folder, "before", ids, **texts)
    write_evaluation(folder, "after", dict(zip(ids, AFTER.values(), strict=True)), step=2, **texts)
    warning_log.record(folder, 1, HOSTILE)
    alarm = {"rule": "gate", "step": 2, "message": HOSTILE, "checkpoint": HOSTILE}
    (folder / "collapse.json").write_text(json.dumps([alarm]))
    (folder / "versions.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (folder / "seconds.json").write_text(json.dumps({HOSTILE: 1.0}))
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    fields = {"task": HOSTILE, "answer": HOSTILE, "response": HOSTILE + "\x1b[2J\u202e"}
    verdicts = json.dumps({HOSTILE: ["wrong", 0.0, HOSTILE]})
    rows = {"id": HOSTILE, "verdicts": verdicts, "finish_reason": HOSTILE, **fields}
    write_rollouts(
        folder / "rollouts", problem=HOSTILE, images=[svg, b"\x89PNG", picture(8, 8)], **rows
    )
    return folder
