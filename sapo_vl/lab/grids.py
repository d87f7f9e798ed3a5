"""What the laboratory runs: settings of the tiny model's training, sorted into grids.

A setting names what differs between cells; all else is the main job's configuration with smaller
batches (`SIZES`). A cell is a setting and a seed. The seed chooses warm-up, problems and sampling,
so that cells of one seed differ by their setting alone and can be compared pair by pair.

What each grid leaves out is said beside it.
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
    "learner.final_lr": 1.0,  # constant after the rise: a decay would hide what a rate does
    "evaluation.problems": 240,
    "evaluation.samples": 4,
    "evaluation.greedy": False,
    "run.tensorboard": False,
    "run.rollouts_every": 0,
    "checkpoint.every": 1_000_000,
    "collapse.action": "continue",
    "generator.parity_mean": 1e9,  # a cell may diverge, and grid c disturbs the sampler
    "generator.parity_max": 1e9,
}
STEPS = 50
"""Rollout steps of a cell unless the user asks for others."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What differs between cells."""

    objective: str = "sapo"
    updates: int = 16  # optimizer steps per rollout batch
    lr: float = 3e-4
    clip: float = 0.0  # gradient norm; 0: no clipping
    tau_pos: float = 1.0
    tau_neg: float = 1.05
    gate: str = "sigmoid"
    mismatch: str = "none"  # what is done to the sampler's weights, see mismatch.py
    correction: bool = True  # the truncated weight pi_old / mu
    experts: int = 0  # > 0: a mixture

    @property
    def arm(self) -> str:
        """The name of the objective in tables; 'no gate' is SAPO without one."""
        if self.objective != "sapo" or self.gate == "sigmoid":
            return self.objective
        return "no gate" if self.gate == "none" else f"sapo, {self.gate}"

    @property
    def name(self) -> str:
        """A folder name that tells settings apart."""
        parts = [self.objective, f"u{self.updates}", f"lr{self.lr:g}", f"clip{self.clip:g}"]
        defaults = Setting()
        for key, text in (
            ("tau_pos", f"pos{self.tau_pos:g}"),
            ("tau_neg", f"neg{self.tau_neg:g}"),
            ("gate", self.gate),
            ("mismatch", self.mismatch),
            ("correction", "uncorrected"),
            ("experts", f"moe{self.experts}"),
        ):
            if getattr(self, key) != getattr(defaults, key):
                parts.append(text)
        return "-".join(parts)

    def overrides(self) -> dict[str, Any]:
        """Return the configuration's keys that the setting sets."""
        return {
            "objective": self.objective,
            "sapo.mini_batches": self.updates,
            "sapo.tau_pos": self.tau_pos,
            "sapo.tau_neg": self.tau_neg,
            "sapo.gate": self.gate,
            "sapo.mismatch_cap": 2.0 if self.correction else None,
            "learner.lr": self.lr,
            "learner.clip": self.clip,
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run of the laboratory."""

    grid: str
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """Its folder below OUT/cells."""
        return f"{self.grid}-{self.setting.name}-seed{self.seed}"

    def describe(self) -> dict[str, Any]:
        """Return what result.json says of the cell."""
        settings = asdict(self.setting)
        return {"name": self.name, "grid": self.grid, "arm": self.setting.arm,
                "settings": settings, "seed": self.seed}  # fmt: skip

    def warm_up(self, out: Path) -> Path:
        """Return the run whose warmed-up model and data the cell starts from."""
        mixture = f"-moe{self.setting.experts}" if self.setting.experts else ""
        return out / "warmup" / f"seed{self.seed}{mixture}"


def _grid_a() -> list[Setting]:
    """Objective x updates x rate.

    Left out: other objectives at one update, where all have SAPO's gradient, and 16 updates at the
    highest rate, which destroys the policy at 4 already.
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
    """Temperatures, at 16 updates and one rate."""
    negative = [Setting(tau_neg=tau) for tau in (0.5, 0.95, 1.0, 1.05, 2.0)]
    return negative + [Setting(tau_pos=scale, tau_neg=1.05 * scale) for scale in (2.0, 4.0, 8.0)]


def _grid_c() -> list[Setting]:
    """A sampler that is not quite the learner, with and without the correction, at 4 updates."""
    return [
        Setting(updates=4, mismatch=mismatch, correction=correction)
        for mismatch in ("none", "bfloat16", "float8", "noise0.05")
        for correction in (True, False)
    ]


def _grid_d() -> list[Setting]:
    """A mixture of experts against dense. The mixture routes each token to 2 of 4 experts."""
    return [
        Setting(objective=name, updates=16, lr=1e-4, experts=experts)
        for name in ("sapo", "grpo", "gspo")
        for experts in (0, 4)
    ]


def _grid_e() -> list[Setting]:
    """Grid a's hardest learnable corner with the gradient's norm clipped at 1."""
    base = Setting(clip=1.0)
    names = ("sapo", "grpo", "gspo")
    return [*(replace(base, objective=name) for name in names), replace(base, gate="none")]


def _grid_f() -> list[Setting]:
    """The shape of the gate at one half-width."""
    return [Setting(gate=gate) for gate in ("sigmoid", "arctan", "softsign", "erf", "hard", "none")]


def _grid_g() -> list[Setting]:
    """A bound on both sides against one that lets a token return.

    All at about the distance of GRPO's bounds: the weight is 1/2, or falls to 0, at r = 1 +- 0.25.
    The two gates also damp a token that has moved against its advantage; GRPO's minimum does not.
    """
    narrow = Setting(tau_pos=7.05, tau_neg=7.05)
    return [Setting(), narrow, replace(narrow, gate="hard"), Setting(objective="grpo")]


GRIDS: dict[str, tuple[str, Callable[[], list[Setting]]]] = {
    "a": ("objective x updates per rollout batch x learning rate, no gradient clipping", _grid_a),
    "b": ("temperatures of SAPO's gate", _grid_b),
    "c": ("a sampler that differs from the learner, with and without correction", _grid_c),
    "d": ("mixture of experts against dense", _grid_d),
    "e": ("the same corner with gradient clipping", _grid_e),
    "f": ("shapes of the gate at equal half-width", _grid_f),
    "g": ("a bound on both sides of 1 against GRPO's, which lets a token return", _grid_g),
}
"""Grid -> what it varies, and its settings."""


def cells(grids: list[str], seeds: list[int]) -> list[Cell]:
    """Return all cells, seed by seed, so that a seed's sampler can serve one after the other."""
    return [
        Cell(grid, setting, seed)
        for seed in seeds
        for grid in grids
        for setting in GRIDS[grid][1]()
    ]
