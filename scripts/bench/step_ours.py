"""Our side of the comparison of whole steps: the loop of train.py with a clock at each phase."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import pace
from sapo_vl.algorithm import objectives
from sapo_vl.generator import base as generators
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Reward, Sample
from sapo_vl.system import distributed
from sapo_vl.training import rollouts
from sapo_vl.training import setup as stages


def main(options: dict[str, Any]) -> None:
    """Take the steps, one at the parent's word."""
    config = pace.configuration(options)
    distributed.init()
    assets = open_assets(options["model"])
    problems = pace.samples(options, Path(options["place"]) / "data-ours")
    book, rubric = pace.Book(), stages.rubric(config)
    renderer = PromptRenderer(assets, config.data)
    learner = Learner(config, assets)
    generator = generators.build(config, assets, seed=config.run.seed)
    grade = rubric.grade

    def graded(pairs: Sequence[tuple[Sample, str]], *rest: Any, **named: Any) -> list[Reward]:
        rewards = grade(pairs, *rest, **named)
        return [
            replace(reward, value=pace.coin(text), valid=True)
            for reward, (_, text) in zip(rewards, pairs, strict=True)
        ]

    timed: Any = rubric
    timed.grade = book.phase("verify", graded)
    timed = renderer
    timed.render = book.phase("prepare", renderer.render)
    timed = generator
    timed.generate = book.phase("generate", generator.generate)
    old_logprobs = book.phase("old_logprobs", learner.fill_old_logprobs)
    sync = book.phase("sync", generator.update_weights)
    objective = objectives.build(config)
    generator.update_weights(learner.weights())
    pace.say({})
    for step in range(options["steps"]):
        pace.wait()
        book.start()
        own = problems[step * options["prompts"] : (step + 1) * options["prompts"]]
        groups = rollouts.collect(generator, renderer, rubric, own, config, step)
        batches = rollouts.mini_batches(groups, config.sapo.mini_batches)
        for rows in batches[1:]:
            old_logprobs(rows)
        for rows in batches:
            learner.update(rows, objective, config.learner.lr)
        sync(learner.weights())
        figures: dict[str, Any] = book.figures()
        lengths = [len(c.token_ids) for group in groups for c in group.completions]
        figures |= {"tokens": sum(lengths), "mean_length": sum(lengths) / len(lengths)}
        pace.say(figures | {"updates": len(batches)})
    rubric.close()
    generator.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
