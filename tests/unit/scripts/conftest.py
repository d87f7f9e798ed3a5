"""Fixtures of the scripts' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from launchers import make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose python only records its arguments."""
    return make_checkout(tmp_path / "a checkout")
