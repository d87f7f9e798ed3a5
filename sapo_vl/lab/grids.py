"""The lab's grids: settings of the tiny model's training, run as cells over seeds.

A setting names what differs between cells; everything else is the main job's configuration with
smaller batches (`SIZES`). A cell is one setting with one seed. The seed determines warm-up,
problems and sampling, so cells of one seed differ only in their setting and can be compared in
pairs. Each grid's docstring says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "rollout.prompts": 32,
    "rollout.group_size": 8,
    "learner.max_grad_norm": 0.0,
    "learner.final_lr": 1.0,  # constant after the warm-up: a decay would hide the rate's effect
    "evaluation.problems": 240,
    "evaluation.samples": 4,
    "evaluation.greedy": False,
    "run.tensorboard": False,
    "run.rollouts_every": 0,
    "checkpoint.every": 1_000_000,
    "collapse.action": "continue",
    "generator.parity_warn": 1e9,  # a cell may diverge
    "generator.parity_stop": 1e9,
}
STEPS = 50
"""Default number of rollout steps of a cell."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The configuration keys that differ between cells."""

    objective: str = "sapo"
    updates: int = 16  # optimizer steps per rollout batch
    lr: float = 3e-4
    tau_pos: float = 1.0
    tau_neg: float = 1.05
    gate: str = "sigmoid"

    @property
    def arm(self) -> str:
        """The objective's name in tables; "no gate" is SAPO without a gate."""
        if self.objective != "sapo" or self.gate == "sigmoid":
            return self.objective
        return "no gate" if self.gate == "none" else f"sapo, {self.gate}"

    @property
    def name(self) -> str:
        """A folder name, distinct for every setting."""
        parts = [self.objective, f"u{self.updates}", f"lr{self.lr:g}"]
        defaults = Setting()
        for key, text in (
            ("tau_pos", f"pos{self.tau_pos:g}"),
            ("tau_neg", f"neg{self.tau_neg:g}"),
            ("gate", self.gate),
        ):
            if getattr(self, key) != getattr(defaults, key):
                parts.append(text)
        return "-".join(parts)

    def overrides(self) -> dict[str, Any]:
        """Return the setting as configuration keys."""
        keys: dict[str, Any] = {
            "objective": self.objective,
            "algorithm.num_mini_batches": self.updates,
            "learner.lr": self.lr,
        }
        if self.objective == "sapo":
            keys |= {
                "sapo.tau_pos": self.tau_pos,
                "sapo.tau_neg": self.tau_neg,
                "sapo.gate": self.gate,
            }
        return keys


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run of the lab."""

    grid: str
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """The cell's folder below OUT/cells."""
        return f"{self.grid}-{self.setting.name}-seed{self.seed}"

    def describe(self) -> dict[str, Any]:
        """Return the cell's description for result.json."""
        return {
            "name": self.name,
            "grid": self.grid,
            "arm": self.setting.arm,
            "settings": asdict(self.setting),
            "seed": self.seed,
        }

    def warm_up(self, out: Path) -> Path:
        """Return the run folder with the seed's warmed-up model and data."""
        return out / "warmup" / f"seed{self.seed}"


def _grid_a() -> list[Setting]:
    """Objective x updates x learning rate.

    Left out: other objectives at one update, where all have SAPO's gradient, and 16 updates at the
    highest rate, which already destroys the policy at 4 updates.
    """
    settings = []
    for updates, lr in product((1, 4, 16), (1e-4, 3e-4, 1e-3)):
        if (updates, lr) == (16, 1e-3):
            continue
        sapo = Setting(updates=updates, lr=lr)
        settings.append(sapo)
        if updates > 1:
            settings += [replace(sapo, objective=name) for name in ("grpo", "gspo")]
            settings.append(replace(sapo, gate="none"))
    return settings


def _grid_b() -> list[Setting]:
    """Temperatures, at 16 updates and one learning rate."""
    negative = [Setting(tau_neg=tau) for tau in (0.5, 0.95, 1.0, 1.05, 2.0)]
    return negative + [Setting(tau_pos=scale, tau_neg=1.05 * scale) for scale in (2.0, 4.0, 8.0)]


def _grid_g() -> list[Setting]:
    """Gates that bound the ratio on both sides against GRPO's one-sided bound.

    All at about the distance of GRPO's bounds: the weight is 1/2, or drops to 0, at r = 1 +- 0.25.
    The two gates also damp a token that has moved against its advantage; GRPO's minimum does not.
    """
    narrow = Setting(tau_pos=7.05, tau_neg=7.05)
    return [Setting(), narrow, replace(narrow, gate="hard"), Setting(objective="grpo")]


GRIDS: dict[str, tuple[str, Callable[[], list[Setting]]]] = {
    "a": ("objective x updates per rollout batch x learning rate, no gradient clipping", _grid_a),
    "b": ("temperatures of SAPO's gate", _grid_b),
    "g": ("a bound on both sides of 1 against GRPO's, which lets a token return", _grid_g),
}
"""Grid -> what it varies, and its settings."""


def cells(grids: list[str], seeds: list[int]) -> list[Cell]:
    """Return all cells ordered by seed, so that one sampler serves a seed's cells in a row."""
    return [
        Cell(grid, setting, seed)
        for seed in seeds
        for grid in grids
        for setting in GRIDS[grid][1]()
    ]
