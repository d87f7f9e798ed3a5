"""The data: shards that can be read, pictures that are there and whole, prompts that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from sapo_vl.config import tiny_family
from sapo_vl.data import store
from sapo_vl.errors import printable
from sapo_vl.training.doctor.findings import Finding, doubtful, fine, wrong
from sapo_vl.training.doctor.subject import Subject
from sapo_vl.training.doctor.survey import PromptNote, Survey, prompt_limit

FEW = 0.05
"""Share of the records that may be left out without a doubt."""

LOST = 0.2
"""Share of the records that may speak of a picture and have none: a text may describe a drawing."""

SHRUNK = 0.25
"""Share of its pixels below which a picture that is scaled down may lose what it shows."""

PREPARE = "copy the set again, or prepare it anew"


def check_shards(subject: Subject) -> Iterator[Finding]:
    """Open every shard and read records of all of them.

    Raises DataError for a shard that is missing or no parquet file, or fewer records than the
    set's report counts.
    """
    path = subject.config.data.path
    counts = ", ".join(f"{len(records)} {split}" for split, records in subject.splits.items())
    if path is None:
        yield fine(f"procedural problems, drawn in the run; {counts} of them tried here")
        return
    sft = subject.config.sft
    if sft.steps and sft.data is not None:
        store.load(sft.data, subject.config.data.train_split)
    found = subject.survey
    if found.unreadable:
        yield wrong(
            f"{len(found.unreadable)} of {_of(found)} can't be read: "
            f"{printable(found.unreadable[0])}",
            PREPARE,
        )
    else:
        yield fine(f"{counts} records in {path}; {_of(found)} read")


def check_pictures(subject: Subject) -> Iterator[Finding]:
    """Look for pictures that are missing, broken, or far larger than the model sees them."""
    found, budget = subject.survey, subject.config.data.max_pixels
    yield from _missing_pictures(found)
    if found.broken:
        told = f"{len(found.broken)} of {_of(found)} have a broken picture: "
        told += printable(found.broken[0])
        if 2 * len(found.broken) > found.seen:
            yield wrong(told, PREPARE)
        else:
            cure = "mend the pictures, or leave these records out"
            yield doubtful(f"{told}; they are left out", cure)
    if not found.areas:
        return
    larger = [area for area in found.areas if area > budget]
    told = (
        f"{len(found.areas)} pictures in {found.with_pictures} of {_of(found)}, "
        f"{round(median(found.areas)):,} pixels in the middle; {len(larger)} are scaled down to "
        f"data.max_pixels={budget:,}"
    )
    shrunk = sum(budget < SHRUNK * area for area in larger)
    if 2 * shrunk > len(found.areas):
        yield doubtful(
            f"pictures too large: {told}, {shrunk} of them to less than a quarter of their pixels",
            "raise data.max_pixels with data.max_prompt_tokens and generator.max_model_len if "
            "small print matters",
        )
    elif not found.broken:
        yield fine(told)


def _missing_pictures(found: Survey) -> Iterator[Finding]:
    none = not found.with_pictures
    if len(found.lost) > LOST * found.seen:
        told = (
            f"{len(found.lost)} of {_of(found)} have no picture and speak of one (record "
            f"{printable(found.lost[0])})"
        )
        cure = "prepare the set with its pictures; `sapo-vl data show` shows the records"
        if none:
            yield wrong(f"data without pictures: {told}", cure)
        else:
            yield doubtful(told, cure)
    elif none:
        yield doubtful(
            f"data without pictures: none in {_of(found)}, so that text alone is trained",
            "if pictures are meant, see how the set was prepared; else set model.freeze=[vision]",
        )


def check_lengths(subject: Subject) -> Iterator[Finding]:
    """Count the records whose prompts are too long, have too many pictures, or can't be made.

    That none can be trained on is wrong.
    """
    config, found = subject.config, subject.survey
    limit, most = prompt_limit(config), config.generator.max_images
    total = len(found.prompts)
    faulty = [note for note in found.prompts if note.fault]
    crowded = [note for note in found.prompts if not note.fault and note.pictures > most]
    long = [note for note in found.prompts if not note.fault and note.length > limit]
    for notes, reason, cure in (
        (faulty, "can't be prompts", "mend or leave out these records"),
        (
            crowded,
            f"have more pictures than generator.max_images={most}",
            f"set generator.max_images={max((n.pictures for n in crowded), default=0)}",
        ),
        (long, _too_long(long, limit, subject.assets.factor), _longer(subject, long)),
    ):
        if not notes:
            continue
        example = printable(f"{notes[0].id}: {notes[0].fault}" if notes[0].fault else notes[0].id)
        told = f"{len(notes)} of {total} records {reason} and are left out (record {example})"
        if 2 * len(notes) > total:
            yield wrong(told, cure)
        elif len(notes) > FEW * total:
            yield doubtful(told, cure)
        else:
            yield fine(told)
    if not subject.usable:
        yield wrong("no training record is left", "see the reasons above")
    elif not (faulty or crowded or long):
        lengths = [note.length for note in found.prompts]
        yield fine(
            f"{round(median(lengths))} tokens in the middle, {max(lengths)} at most, of {limit} "
            "allowed"
        )
    if config.sft.steps and config.sft.data is None and not found.solved:
        yield from _no_solutions(subject)


def _no_solutions(subject: Subject) -> Iterator[Finding]:
    told = "no training record has a solution to warm up on"
    if tiny_family(subject.config.model.path) is not None:
        yield doubtful(f"{told}: procedural ones are used", "name some in sft.data")
    else:
        yield wrong(told, "set sft.steps=0, or name records with solutions in sft.data")


def _too_long(notes: Sequence[PromptNote], limit: int, factor: int) -> str:
    pictured = sum(note.pixels > limit * factor**2 for note in notes)
    told = f"are longer than {limit} tokens"
    if pictured:
        told += f", {pictured} by their pictures alone (pictures too large)"
    return told


def _longer(subject: Subject, notes: Sequence[PromptNote]) -> str:
    """Return the limits with which the longest of these prompts would fit."""
    longest = max((note.length for note in notes), default=0)
    room = longest + subject.config.rollout.max_new_tokens
    cures = [f"data.max_prompt_tokens={longest}"]
    if room > subject.config.generator.max_model_len:
        cures.append(f"generator.max_model_len={room}")
    return f"set {' '.join(cures)} for all to fit, or lower data.max_pixels"


def _of(found: Survey) -> str:
    """Return how many records were seen, of how many."""
    if found.seen == found.total:
        return f"{found.total} records"
    return f"{found.seen} records (of {found.total}, as the time allowed)"
