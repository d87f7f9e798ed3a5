"""One pass over the records of both splits: what their pictures and prompts are like.

The pass goes through chunks of neighbouring records in a shuffled order, so that what is seen when
the time is over is spread over the whole set. A small set is seen whole.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sapo_vl.config import Config
from sapo_vl.data.images import open_image
from sapo_vl.errors import DataError
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.whole_picture import whole_size
from sapo_vl.schema import Sample

SECONDS = 20.0
"""Of a pass. At the start of a run every record is read again."""

CHUNK = 64
"""Neighbouring records that are read at a time."""

DECODED = 200
"""Pictures that are decoded; of the others the header and the end are read."""

KEPT = 256
"""Usable training records that are kept for the checks of verifiers and model."""

SPEAKS_OF_A_PICTURE = re.compile(
    r"\b(?:image|picture|diagram|photo|photograph|chart|drawing)s?\b|\bfigure\b(?! out)"
    r"|如图|图中|图片",
    re.IGNORECASE,
)


class PromptNote(NamedTuple):
    """What a record's prompt would be like."""

    id: str
    length: int  # tokens; 0 where there is a fault
    pictures: int
    pixels: int  # of all its pictures, each scaled down to data.max_pixels
    fault: str  # why it can't be a prompt; empty where it can


@dataclass(slots=True)
class Survey:
    """What a pass has seen."""

    total: int = 0  # training records, and the held-out ones of an evaluation
    seen: int = 0
    unreadable: list[str] = field(default_factory=list)  # messages that name shard and record
    with_pictures: int = 0  # records
    lost: list[str] = field(default_factory=list)  # ids: the text is of a picture, none is there
    broken: list[str] = field(default_factory=list)  # "record ID: why", one for each such record
    areas: list[int] = field(default_factory=list)  # pixels of each whole picture, as stored
    prompts: list[PromptNote] = field(default_factory=list)  # of records whose pictures are whole
    solved: int = 0  # training records with a solution
    usable: list[Sample] = field(default_factory=list)  # training records, up to KEPT


def survey(
    config: Config, splits: dict[str, Sequence[Sample]], renderer: PromptRenderer | None
) -> Survey:
    """Read the records until SECONDS have passed; `prompts` stays empty without a renderer."""
    result = Survey()
    chunks: list[tuple[str, range]] = []
    for split, records in splits.items():
        held_out = split != config.data.train_split
        count = min(len(records), config.evaluation.problems) if held_out else len(records)
        result.total += count
        chunks += [(split, range(i, min(i + CHUNK, count))) for i in range(0, count, CHUNK)]
    random.Random(0).shuffle(chunks)
    end = time.monotonic() + SECONDS
    for split, numbers in chunks:
        read = _read(result, splits[split], numbers)
        train = split == config.data.train_split
        result.solved += train * sum(bool(sample.solution) for sample in read)
        whole = [
            (sample, pixels)
            for sample in read
            if (pixels := _look_at(result, sample, config.data.max_pixels)) is not None
        ]
        if renderer is not None:
            usable = _note_prompts(result, config, renderer, whole)
            result.usable += usable[: train * (KEPT - len(result.usable))]
        if time.monotonic() > end:
            break
    return result


def prompt_limit(config: Config) -> int:
    """Return how many tokens a prompt may have."""
    room = config.generator.max_model_len - config.rollout.max_new_tokens
    return min(config.data.max_prompt_tokens, room)


def _read(result: Survey, records: Sequence[Sample], numbers: range) -> list[Sample]:
    found = []
    for number in numbers:
        result.seen += 1
        try:
            found.append(records[number])
        except DataError as error:
            result.unreadable.append(str(error))
    return found


def _look_at(result: Survey, sample: Sample, max_pixels: int) -> int | None:
    """Return the pixels of a record's pictures as the model sees them; None if one is broken."""
    result.with_pictures += bool(sample.images)
    if not sample.images and SPEAKS_OF_A_PICTURE.search(sample.problem):
        result.lost.append(sample.id)
    pixels = 0
    for data in sample.images:
        try:
            size = whole_size(data)
            if len(result.areas) < DECODED:
                open_image(data)
        except DataError as error:
            result.broken.append(f"record {sample.id}: {error}")
            return None
        result.areas.append(size.width * size.height)
        pixels += min(result.areas[-1], max_pixels)
    return pixels


def _note_prompts(
    result: Survey,
    config: Config,
    renderer: PromptRenderer,
    whole: Sequence[tuple[Sample, int]],
) -> list[Sample]:
    """Note what the records' prompts are like; return those that can be trained on."""
    usable = []
    checks = renderer.check([sample for sample, _ in whole])
    for (sample, pixels), check in zip(whole, checks, strict=True):
        count = len(sample.images)
        result.prompts.append(PromptNote(sample.id, check.length, count, pixels, check.fault))
        fits = check.length <= prompt_limit(config) and count <= config.generator.max_images
        if fits and not check.fault:
            usable.append(sample)
    return usable
