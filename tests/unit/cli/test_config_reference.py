"""`sapo-vl config`: every key of the tree, and docs/config.md as its output."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
from helpers import ROOT, environment
from pydantic import BaseModel, Field

from sapo_vl.cli import config_reference
from sapo_vl.cli.config_reference import (
    KeyEntry,
    SectionEntry,
    markdown,
    notation,
    objective_reference,
    plain,
    reference,
    select,
)
from sapo_vl.cli.parser import main
from sapo_vl.config import Config
from sapo_vl.config.keys import BUILT_IN_OBJECTIVES
from sapo_vl.errors import ConfigError


class GateSection(BaseModel):
    """How the ratio
    is damped."""

    name: Literal["sigmoid", "none"] = Field("sigmoid", description="shape | form")
    tau: float = Field(1.0, gt=0, le=2, description="temperature")


class Term(BaseModel):
    """A reward."""

    fn: str = Field(description="a verifier")


class Tree(BaseModel):
    seed: int = Field(0, ge=0, description="of everything")
    betas: tuple[float, float] = (0.9, 0.95)
    cap: float | None = Field(float("inf"), description="a limit")
    gate: GateSection = GateSection(tau=1.5)
    terms: list[Term] = [Term(fn="answer")]
    judge: GateSection | None = None
    ratio: dict[str, float] = {}
    freeze: list[Literal["vision", "language"]] = []


@pytest.fixture
def small(monkeypatch):
    """The reference of `Tree` in place of the real configuration."""
    monkeypatch.setattr(config_reference, "Config", Tree)
    return reference()


def test_every_kind_of_key_by_hand(small):
    top, gate, terms, judge = small
    assert top.keys == [
        KeyEntry("seed", "0", "int >= 0", "of everything"),
        KeyEntry("betas", "[0.9, 0.95]", "[float, float]", ""),
        KeyEntry("cap", ".inf", "float or null", "a limit"),
        KeyEntry("terms", "[{fn: answer}]", "list of sections", "A reward."),
        KeyEntry("judge", "null", "section or null", "How the ratio is damped."),
        KeyEntry("ratio", "{}", "mapping to float", ""),
        KeyEntry("freeze", "[]", "list of vision | language", ""),
    ]
    tau = "float > 0 and <= 2"
    assert gate == SectionEntry(
        "gate",
        "How the ratio is damped.",
        [
            KeyEntry("gate.name", "sigmoid", "sigmoid | none", "shape | form"),
            KeyEntry("gate.tau", "1.5", tau, "temperature"),  # the parent's default
        ],
    )
    assert terms.keys == [KeyEntry("terms[].fn", "required", "text", "a verifier")]
    assert judge.keys[1] == KeyEntry("judge.tau", "1.0", tau, "temperature")


def test_selecting_a_section_or_a_key(small):
    assert [s.name for s in select(small, "gate")] == ["gate"]
    assert select(small, "gate.tau")[0].keys == [small[1].keys[1]]
    assert [s.name for s in select(small, "terms")] == ["", "terms[]"]
    with pytest.raises(ConfigError, match=r"'gat'.*'gate'"):
        select(small, "gat")


def test_text_and_markdown(small):
    text = plain(select(small, "gate"), 40)
    assert text.splitlines()[:3] == [
        "gate: How the ratio is damped.",
        "  gate.name = sigmoid",
        "      sigmoid | none: shape | form",
    ]
    assert r"| `gate.name` | `sigmoid` | sigmoid \| none | shape \| form |" in markdown(small)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (1e-6, "1e-06"),
        (float("-inf"), "-.inf"),
        ("", "''"),
        ("sapo", "sapo"),
        (True, "true"),
        ([], "[]"),
        ({"a": 1}, "{a: 1}"),
    ],
)
def test_values_are_yaml(value, text):
    assert notation(value) == text


def test_every_key_of_the_configuration_has_a_meaning():
    entries = reference()
    without = [key.name for section in entries for key in section.keys if not key.meaning]
    assert without == []
    tops = {key.name for key in entries[0].keys} | {s.name.split(".")[0] for s in entries}
    tops = {name.removesuffix("[]") for name in tops if name}
    assert tops == Config.model_fields.keys() - {"objective_options"}


def test_the_options_of_objectives_are_sections_of_their_names():
    sections = {section.name: section for section in objective_reference()}
    assert sections.keys() == set(BUILT_IN_OBJECTIVES)
    tau = {key.name: key for key in sections["sapo"].keys}["sapo.tau_neg"]
    assert (tau.default, tau.type) == ("1.05", "float > 0")
    assert all(key.meaning for section in sections.values() for key in section.keys)


def test_a_section_of_the_tree_is_shown_without_torch():
    code = (
        "import sys; from sapo_vl.cli.parser import main; main(['config', 'learner.lr'])\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert run.returncode == 0, run.stderr
    assert "learner.lr = 1e-06" in run.stdout


def test_the_page_is_what_the_command_prints(capsys):
    main(["config", "--markdown"])
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == printed, "run: sapo-vl config --markdown > docs/config.md"


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["config", "lerner"])
    assert exit_.value.code == 2
    assert "'learner'" in capsys.readouterr().err
