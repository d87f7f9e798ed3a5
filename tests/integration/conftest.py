"""Fixtures that the tests of the learner share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from helpers import make_samples, tiny_config

from sapo_vl.learner.engine import Learner


@pytest.fixture
def build(assets, tiny_folder) -> Iterator[Callable[..., Learner]]:
    """Return a function that builds a learner, which is closed after the test."""
    learners = []

    def make(*overrides: str, of=assets) -> Learner:
        learners.append(Learner(tiny_config(tiny_folder, *overrides), of))
        return learners[-1]

    yield make
    for learner in learners:
        learner.close()


@pytest.fixture(scope="module")
def prompts(renderer):
    """Return the prompts of helpers.make_samples."""
    return renderer.render(make_samples())
