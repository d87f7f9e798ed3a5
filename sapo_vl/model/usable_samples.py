"""The records of a prepared split that can be prompts within the model's and generator's limits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from sapo_vl.config import Config
from sapo_vl.data import store
from sapo_vl.errors import DataError, printable
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

_NUMBER = re.compile(r"\d+")

CHECKED_AT_ONCE = 256
"""Records in memory at a time; after each such chunk comes a heartbeat."""


class UsableSamples(Sequence[Sample]):
    """A lazy view of a split: records are read from parquet when they are indexed."""

    def __init__(
        self, samples: store.Samples, indices: Sequence[int], left_out: Sequence[str] = ()
    ) -> None:
        """`left_out` says in lines which of the split's records are not here, and why."""
        self._samples = samples
        self._indices = indices
        self.left_out = left_out

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

    def id_at(self, index: int) -> str:
        """Return a record's id without reading the record."""
        return self._samples.ids[self._indices[index]]

    def column(self, name: str) -> list[Any]:
        """Return one column of all records, in order, without reading their images."""
        values = self._samples.column(name)
        return [values[i] for i in self._indices]

    def subset(self, positions: Sequence[int]) -> UsableSamples:
        """Return the view of the records at these positions."""
        return UsableSamples(self._samples, [self._indices[i] for i in positions])


def usable_samples(
    config: Config, renderer: PromptRenderer, path: Path, split: str, key: str
) -> UsableSamples:
    """Load a split and leave out records that can't be prompts; prompts are never truncated.

    Every record's text and picture headers are read, so that a faulty one doesn't end a run at the
    step that draws it. Prints how many records were left out, by reason, with an example's id.
    `key` is the config key that names the data, for messages.

    Raises:
        DataError: no record is usable, or most have a fault of their own (a length over the limits
            is none), which means that model and data don't fit together.
    """
    samples = store.load(path, split)
    limit = min(
        config.data.max_prompt_tokens,
        config.generator.max_model_len - config.rollout.max_new_tokens,
    )
    indices: list[int] = []
    too_large = defaultdict[str, list[str]](list)  # reason -> ids
    faulty = defaultdict[str, list[str]](list)  # fault without its numbers -> ids
    examples: dict[str, str] = {}  # the same -> the fault of the first of these records
    for i, (length, images, fault) in enumerate(_records(samples, renderer)):
        if fault:
            kind = _NUMBER.sub("N", fault)
            faulty[kind].append(samples.ids[i])
            examples.setdefault(kind, fault)
        elif length > limit:
            too_large[f"longer than {limit} tokens"].append(samples.ids[i])
        elif images > config.generator.max_images:
            reason = f"more than generator.max_images={config.generator.max_images} images"
            too_large[reason].append(samples.ids[i])
        else:
            indices.append(i)
    total, left_out = len(samples), []
    for reason, ids in (too_large | faulty).items():
        reason = printable(examples.get(reason, reason))
        left_out.append(
            f"{key}: {len(ids)} of {total} records left out, {reason} ({printable(ids[0])}, ..)"
        )
        distributed.print0(left_out[-1])
    commonest = max(faulty, key=lambda reason: len(faulty[reason]), default="")
    if sum(map(len, faulty.values())) > total / 2:
        raise DataError(
            f"{key}: most of the {total} records in {path} can't be prompts of this model; record "
            f"{faulty[commonest][0]}: {examples[commonest]}"
        )
    if not indices:
        raise DataError(
            f"{key}: none of the {total} records in {path} fits; raise data.max_prompt_tokens and "
            "generator.max_model_len, or lower data.max_pixels"
        )
    return UsableSamples(samples, indices, left_out)


def _records(samples: store.Samples, renderer: PromptRenderer) -> list[tuple[int, int, str]]:
    """Return (prompt tokens, images, fault) of each record; the ranks share the work."""
    rank, ranks = distributed.rank(), distributed.world_size()
    starts = range(0, len(samples), CHECKED_AT_ONCE)
    own = [(start, list(_checked(samples, renderer, start))) for start in starts[rank::ranks]]
    blocks = distributed.all_gather(own)
    return [record for _, block in sorted(blocks) for record in block]


def _checked(
    samples: store.Samples, renderer: PromptRenderer, start: int
) -> Iterator[tuple[int, int, str]]:
    """Yield what `_records` returns of the next CHECKED_AT_ONCE records."""
    beat()
    read: dict[int, Sample] = {}
    faults: dict[int, str] = {}
    numbers = range(start, min(start + CHECKED_AT_ONCE, len(samples)))
    for i in numbers:
        try:
            read[i] = samples[i]
        except DataError as error:
            faults[i] = str(error)
    checks = dict(zip(read, renderer.check(list(read.values())), strict=True))
    for i in numbers:
        if i in faults:
            yield 0, 0, faults[i]
        else:
            yield checks[i].length, len(read[i].images), checks[i].fault
