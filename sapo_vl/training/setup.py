"""What must exist before training: the policy's folder and the usable records.

Both are made once per run and found again when it is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.algorithm.objectives import OBJECTIVES
from sapo_vl.config import Config
from sapo_vl.data import store, synthetic
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.errors import DataError
from sapo_vl.model import assets as model
from sapo_vl.model.assets import ModelFolder
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers.judge import JudgeConfig
from sapo_vl.runs.folder import Run
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

TOKENIZER_TEXTS = 4000
"""Procedural records whose texts the tiny model's tokenizer is trained on."""


def policy_folder(run: Run) -> ModelFolder:
    """Open model.path; 'tiny' is built in the run first."""
    path = starting_model(run.config)
    if run.config.model.path == "tiny":
        if distributed.rank() == 0 and not path.exists():
            from sapo_vl.model import tiny

            seed = run.config.run.seed
            tiny.build(path, corpus=synthetic.corpus(seed, TOKENIZER_TEXTS), seed=seed)
            distributed.say(f"built a tiny Qwen3-VL in {path}")
        distributed.barrier()
    return model.open_folder(path)


def starting_model(config: Config) -> Path:
    """Return model.path, or the folder in the run where 'tiny' is built."""
    if config.model.path == "tiny":
        return config.run.dir / f"model-seed{config.run.seed}"
    return Path(config.model.path)


def data_folder(run: Run, path: Path | None) -> Path:
    """Return `path`, or the folder in the run with the procedural data of the run's seed."""
    if path is not None:
        return path
    options = run.config.data
    sizes = f"{options.synthetic_train}-{options.synthetic_test}"
    own = run.dir / f"data-seed{run.config.run.seed}-{sizes}"
    if distributed.rank() == 0 and not own.exists():
        prepare(
            "synthetic",
            PrepareOptions(own),
            synthetic.SyntheticOptions(
                seed=run.config.run.seed,
                count=options.synthetic_train,
                test_count=options.synthetic_test,
            ),
        )
        distributed.say(
            f"drew {options.synthetic_train} training and {options.synthetic_test} held-out "
            f"problems in {own}"
        )
    distributed.barrier()
    return own


class UsableSamples(Sequence[Sample]):
    """The records of a split whose prompts fit, still lazy."""

    def __init__(self, samples: store.Samples, indices: Sequence[int]) -> None:
        self._samples = samples
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if isinstance(index, slice):
            return [self._samples[i] for i in self._indices[index]]
        return self._samples[self._indices[index]]

    def column(self, name: str) -> list[Any]:
        """Return one column of all records, in order, without their pictures."""
        values = self._samples.column(name)
        return [values[i] for i in self._indices]


def usable(
    config: Config, renderer: PromptRenderer, path: Path, split: str, key: str
) -> UsableSamples:
    """Return the split's records whose prompts fit; prompts are dropped whole, never truncated.

    What is dropped is said with the reason. Raises DataError when nothing is left.
    """
    samples = store.load(path, split)
    room = config.generator.max_model_len - config.rollout.max_new_tokens
    limit = min(config.data.max_prompt_tokens, room)
    kept, long, crowded = [], [], []
    for i, (sample, length) in enumerate(zip(samples, renderer.lengths(samples), strict=True)):
        if length > limit:
            long.append(sample.id)
        elif len(sample.images) > config.generator.max_images:
            crowded.append(sample.id)
        else:
            kept.append(i)
    reasons = (
        (long, f"longer than {limit} tokens"),
        (crowded, f"more than generator.max_images={config.generator.max_images} images"),
    )
    for ids, reason in reasons:
        if ids:
            distributed.say(
                f"{key}: {len(ids)} of {len(samples)} records left out, {reason} ({ids[0]}, ..)"
            )
    if not kept:
        raise DataError(
            f"{key}: none of the {len(samples)} records in {path} fits; raise "
            "data.max_prompt_tokens and generator.max_model_len, or lower data.max_pixels"
        )
    return UsableSamples(samples, kept)


def rubric(config: Config) -> Rubric:
    """Return the configured rubric. Raises ConfigError naming the term that can't be used."""
    judge = JudgeConfig(config.judge.url, config.judge.model) if config.judge else None
    terms = [(term.fn, term.weight) for term in config.rewards]
    if OBJECTIVES[config.objective].overlong and all(name != "overlong" for name, _ in terms):
        terms.append(("overlong", -1.0))
    return Rubric.from_terms(terms, judge=judge, max_tokens=config.rollout.max_new_tokens)


def check_gold(judged_by: Rubric, *sets: Sequence[Sample]) -> None:
    """Grade every gold answer by the run's verifier. Raises DataError for the first refused."""
    for samples in sets:
        judged_by.check_gold(samples)
    distributed.say(f"gold answers: all {sum(len(s) for s in sets)} pass the verifier")


def draw(length: int, seed: int, cursor: int, count: int) -> list[int]:
    """Return the `count` record numbers from position `cursor` on, in a new order each epoch.

    A pure function: the order of epoch e is the permutation of numpy's generator seeded (seed, e).
    """
    return [index for index, _ in zip(_stream(length, seed, cursor), range(count), strict=False)]


def _stream(length: int, seed: int, cursor: int) -> Iterator[int]:
    epoch, position = divmod(cursor, length)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(length)
        yield from (int(i) for i in order[position:])
        epoch, position = epoch + 1, 0
