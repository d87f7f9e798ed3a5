"""Counts of kept and dropped records; printed, and stored beside the shards as report.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sapo_vl.data import READING_NOTES, Dropped
from sapo_vl.data.gold_counts import GoldCounts
from sapo_vl.data.images import (
    MAX_DECODED_PIXELS,
    QWEN3_VL_FACTOR,
    count_tokens,
    decode_changes,
    file_format,
)
from sapo_vl.data.shards import Counts
from sapo_vl.errors import printable
from sapo_vl.schema import Sample

EXAMPLES = 3
"""Dropped records named per cause."""

_JPEG = (".jpg", ".jpeg", ".jfif")
_SUFFIXES = {"PNG": (".png",), "JPEG": _JPEG, "MPO": _JPEG, "GIF": (".gif",)}


@dataclass(slots=True)
class Drops:
    """The records dropped for one cause."""

    count: int = 0
    examples: list[str] = field(default_factory=list)  # "id" or "id (detail)", the first few


@dataclass(slots=True)
class Report:
    """The outcome of one preparation. Every record read is either in `kept` or in `dropped`."""

    name: str  # the source, as passed to `prepare`
    out: str  # folder of the data set
    read: int = 0  # records the source yielded
    kept: dict[str, int] = field(default_factory=dict)  # split -> samples
    dropped: dict[str, Drops] = field(default_factory=dict)  # cause -> records
    notes: dict[str, int] = field(default_factory=dict)  # what reading changed -> records
    golds: GoldCounts = field(default_factory=GoldCounts)  # how the gold answers are read
    images: int = 0  # images stored, byte for byte as in the source unless scaled
    image_bytes: int = 0  # their encoded size
    changed: dict[str, int] = field(default_factory=dict)  # change on decoding -> images
    visual_tokens: int = 0  # of all kept records
    most_visual_tokens: int = 0  # maximum of a record
    seconds: float = 0.0  # wall time, interrupted attempts up to their checkpoint included

    def table(self) -> str:
        """Format the report for the terminal."""
        title = f"{printable(self.name)} -> {printable(self.out)}"
        lines = [title, f"  {'read':<10}{self.read:>9,}"]
        lines += [f"  {split:<10}{rows:>9,}" for split, rows in sorted(self.kept.items())]
        lines.append(f"  {'images':<10}{self.images:>9,}  {self.image_bytes / 2**20:.1f} MiB")
        lines += [f"  {'':<10}{n:>9,}  {what}" for what, n in sorted(self.changed.items())]
        most = f"at most {self.most_visual_tokens:,} in a record"
        lines.append(f"  {'tokens':<10}{self.visual_tokens:>9,}  visual, {most}")
        lines += [
            f"  {'dropped':<10}{drops.count:>9,}  {cause}: {', '.join(drops.examples)}"
            for cause, drops in sorted(self.dropped.items())
        ]
        lines += [f"  {'noted':<10}{n:>9,}  {what}" for what, n in sorted(self.notes.items())]
        first = "golds"
        for line in self.golds.lines():
            lines.append(f"  {first:<10}{line}" if line[0] == " " else line)
            first = ""
        return "\n".join(lines)

    def count_written(self, counts: Counts) -> None:
        """Take over the writer's counts of samples and images."""
        self.kept, self.images = counts.rows, counts.images
        self.image_bytes = counts.image_bytes

    def losses(self) -> str:
        """Summarize the causes of drops in one line."""
        causes = [f"{d.count:,} {cause} ({d.examples[0]})" for cause, d in self.dropped.items()]
        return f"{self.read:,} records were read; " + ("; ".join(causes) or "none was dropped")

    def drop(self, record: Dropped) -> None:
        """Count a dropped record under its cause, the part of the reason before the colon."""
        cause, _, detail = printable(record.reason).partition(": ")
        name = printable(record.id)
        drops = self.dropped.setdefault(cause, Drops())
        drops.count += 1
        if len(drops.examples) < EXAMPLES:
            drops.examples.append(f"{name} ({detail})" if detail else name)

    def change(self, what: str) -> None:
        """Count one image under a change."""
        self.changed[what] = self.changed.get(what, 0) + 1

    def keep(
        self,
        sample: Sample,
        max_pixels: int = MAX_DECODED_PIXELS,
        factor: int = QWEN3_VL_FACTOR,
    ) -> None:
        """Count a kept sample's visual tokens, and its images that decoding changes.

        Raises:
            DataError: an image has no legal size, as `target_size`.
        """
        tokens = count_tokens(sample.images, max_pixels, factor)
        self.golds.add(sample)
        notes = sample.metadata.get(READING_NOTES)
        for note in notes if isinstance(notes, list) else ():
            what = printable(note)
            self.notes[what] = self.notes.get(what, 0) + 1
        self.visual_tokens += tokens
        self.most_visual_tokens = max(self.most_visual_tokens, tokens)
        files = sample.metadata.get("files") or []
        files = [str(file) for file in files] if isinstance(files, list) else []
        for i, data in enumerate(sample.images):
            for what in decode_changes(data, factor):
                self.change(what)
            suffix = Path(files[i]).suffix.lower() if i < len(files) else ""
            kind = file_format(data)
            if suffix in sum(_SUFFIXES.values(), ()) and suffix not in _SUFFIXES.get(kind, ()):
                self.change(f"{kind} data in a {suffix} file")

    def dropped_records(self) -> int:
        """Return the number of records dropped, over all causes."""
        return sum(drops.count for drops in self.dropped.values())

    def to_json(self) -> str:
        """Return the content of report.json."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Report:
        """Restore a report from `dataclasses.asdict`."""
        drops = {cause: Drops(**d) for cause, d in content["dropped"].items()}
        golds = GoldCounts.from_dict(content["golds"])
        return cls(**(content | {"dropped": drops, "golds": golds}))
