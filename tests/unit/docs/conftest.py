"""The trainer of fakes, for the rows that a run really writes."""

from __future__ import annotations

from unit.training.conftest import build, records

__all__ = ["build", "records"]
