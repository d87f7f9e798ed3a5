"""The records of a prepared split whose prompts fit the model's and the generator's limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from sapo_vl.config import Config
from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Sample
from sapo_vl.system import distributed


class UsableSamples(Sequence[Sample]):
    """A lazy view of a split: records are read from parquet when they are indexed."""

    def __init__(self, samples: store.Samples, indices: Sequence[int]) -> None:
        self._samples = samples
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._samples[i] for i in self._indices[index]]
        return self._samples[self._indices[index]]

    def column(self, name: str) -> list[Any]:
        """Return one column of all records, in order, without reading their images."""
        values = self._samples.column(name)
        return [values[i] for i in self._indices]


def usable_samples(
    config: Config, renderer: PromptRenderer, path: Path, split: str, key: str
) -> UsableSamples:
    """Load a split and leave out records whose prompts are too long; prompts are never truncated.

    Prints how many records were left out, why, and an example's id. `key` is the config key that
    names the data, for messages. Raises DataError when no record fits.
    """
    samples = store.load(path, split)
    limit = min(
        config.data.max_prompt_tokens,
        config.generator.max_model_len - config.rollout.max_new_tokens,
    )
    indices, too_long, too_many_images = [], [], []
    for i, (sample, length) in enumerate(zip(samples, renderer.lengths(samples), strict=True)):
        if length > limit:
            too_long.append(sample.id)
        elif len(sample.images) > config.generator.max_images:
            too_many_images.append(sample.id)
        else:
            indices.append(i)
    for ids, reason in (
        (too_long, f"longer than {limit} tokens"),
        (too_many_images, f"more than generator.max_images={config.generator.max_images} images"),
    ):
        if ids:
            distributed.print0(
                f"{key}: {len(ids)} of {len(samples)} records left out, {reason} ({ids[0]}, ..)"
            )
    if not indices:
        raise DataError(
            f"{key}: none of the {len(samples)} records in {path} fits; raise "
            "data.max_prompt_tokens and generator.max_model_len, or lower data.max_pixels"
        )
    return UsableSamples(samples, indices)
