"""docs/metrics.md has every key of metrics.jsonl and none that the code doesn't write."""

from __future__ import annotations

import ast
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from fake_training import steps
from helpers import ROOT, bare_prompt

from sapo_vl import sft
from sapo_vl.algorithm import telemetry
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.evaluation.heldout import Accuracy
from sapo_vl.schema import Outcome, Reward, Rollout, RolloutGroup, Verdict, VersionSpan
from sapo_vl.training import trainer

PLACEHOLDERS = ("TERM", "TASK", "AGE", "BENCHMARK")
SOURCES = ("algorithm", "learner", "training", "sft.py")
"""Where the names of metrics are written down."""

NAME = re.compile(r"[a-z_]+/[a-zA-Z0-9_.*]+(?:/[a-zA-Z0-9_.*]+)?")
NO_METRIC = {"tokens/s", "s/step", "checkpoints/step_*"}
"""What looks like a metric's name in the sources: units, folders of a run."""


def expand(name: str) -> list[str]:
    """Return the names that braces stand for: `a{,_b}/c` is a/c and a_b/c."""
    match = re.search(r"\{([^{}]*)\}", name)
    if match is None:
        return [name]
    before, after = name[: match.start()], name[match.end() :]
    return [full for part in match[1].split(",") for full in expand(before + part + after)]


def documented() -> set[str]:
    """Return the names in the page's tables, with `*` for each placeholder."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").partition("## How to")[2]
    names = set()
    for row in re.findall(r"^\|(.*?)\|", page, re.M):
        for name in re.findall(r"`([^`]+)`", row):
            names.update(expand(name))
    return {re.sub("|".join(PLACEHOLDERS), "*", name) for name in names}


def pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of the names that `name` stands for, `*` being what is filled in."""
    return re.compile(re.escape(name).replace(r"\*", r"[^/]+"))


@pytest.fixture
def rows(build, monkeypatch) -> list[dict]:
    """Return rows of all phases, with all that is optional switched on."""
    written: list[dict] = []
    writer = SimpleNamespace(write=lambda row: written.append(dict(row)))
    made = build(
        lambda i: i % 3,
        "rollout.ahead=1",
        "rollout.steps=3",
        "rollout.max_resample_rounds=1",
        "run.rollouts_every=0",
    )
    made.writer = writer
    figures = Accuracy(0.5, (0.4, 0.6), 0.5, 1, 3, 0, {}, {})
    monkeypatch.setattr(trainer, "evaluate", lambda *_: figures)
    scores = {"mathvision": 0.5, "mathvision/not_asked": 0}
    monkeypatch.setattr(trainer, "in_training", lambda *_: scores)
    steps(made, 3)
    made.evaluate("after")
    made.queue.close()
    display = SimpleNamespace(update=lambda *_: None)
    sft._log(writer, display, 1, UpdateReport(), 1e-3, 1.0)
    return written


def mixed() -> list[dict]:
    """Return statistics of an update, and a comparison, of prompts with and without pictures."""
    rollouts = []
    for images, advantage in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        rollout = Rollout(
            bare_prompt(images=images),
            [1, 2],
            generator_logprobs=-np.ones(2, np.float32),
            old_logprobs=-np.ones(2, np.float32),
            advantage=advantage,
            reward=Reward(1.0, True, True, {"boxed": Verdict(Outcome.CORRECT, 1.0, "")}),
            versions=(VersionSpan(0, 0, 2),),
        )
        rollouts.append(rollout)
    ones = np.ones(8, np.float32)
    report = UpdateReport(rollouts, 0.0, 0.0, 0.0, 1.0, False, 0 * ones, ones, ones, ones, -ones)
    groups = [RolloutGroup(rollout.prompt, [rollout]) for rollout in rollouts]
    return [
        telemetry.mini_batch_stats(report, (1.0, 1.05)),
        telemetry.mismatch([telemetry.mismatch_sums(groups)]),
    ]


@cache
def in_sources() -> set[str]:
    """Return the string constants that look like names of metrics; `*` for what is filled in."""
    names = set()
    for source in SOURCES:
        path = ROOT / "sapo_vl" / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            inner = {
                id(part)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for part in node.values
            }
            for node in ast.walk(tree):
                if id(node) not in docs and id(node) not in inner:
                    names.add(_text(node))
    return {name for name in names if NAME.fullmatch(name)} - NO_METRIC


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(p.value if isinstance(p, ast.Constant) else "*" for p in node.values)


def test_every_key_that_is_written_is_on_the_page(rows):
    keys = {key for row in [*rows, *mixed()] for key in row}
    keys |= {key for row in rows for key in row.get("mini_batches", ())}
    assert {row["phase"] for row in rows} == {"train", "eval", "sft"}
    assert len(keys) > 90
    known = [pattern(name) for name in documented()]
    missing = sorted(key for key in keys if not any(name.fullmatch(key) for name in known))
    assert missing == [], "add them to docs/metrics.md"


def test_every_name_in_the_sources_is_on_the_page():
    """This finds a metric that only some other kind of run writes."""
    page, sources = documented(), in_sources()
    assert len(sources) > 40

    def is_known(name: str) -> bool:
        # `gate/p*` is `gate/p01` on the page; `gate/max_wr` gets its sign where it is used
        return f"{name}_pos" in page or any(pattern(name).fullmatch(entry) for entry in page)

    missing = sorted(name for name in sources if not is_known(name))
    assert missing == [], "add them to docs/metrics.md"


def test_the_page_names_nothing_else(rows):
    keys = {key for row in [*rows, *mixed()] for key in row}
    known = [pattern(name) for name in in_sources()]
    invented = [
        name
        for name in documented()
        if not any(pattern(name).fullmatch(key) for key in keys)
        and not any(entry.fullmatch(name) for entry in known)
    ]
    assert sorted(invented) == [], "docs/metrics.md names what nothing writes"


def test_braces_and_placeholders():
    assert expand("gate/{p01,p05}{_pos,_neg}") == [
        "gate/p01_pos", "gate/p01_neg", "gate/p05_pos", "gate/p05_neg",
    ]  # fmt: skip
    assert expand("ratio/kl{,_text}") == ["ratio/kl", "ratio/kl_text"]
    assert {"reward/term/*/*", "gate/mean_age_*", "gate/p25_neg"} <= documented()
    assert pattern("reward/task/*").fullmatch("reward/task/count")
    assert not pattern("reward/term/*").fullmatch("reward/term/boxed/count")


def test_the_sources_are_read_with_what_is_filled_in():
    assert {"receipt/*", "response/length_*", "tokens_per_s/learner"} <= in_sources()
