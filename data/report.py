"""What became of a source's records; printed, and stored beside the shards as report.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped, images
from sapo_vl.schema import Sample

EXAMPLES = 3
"""Dropped records that the report names for each reason."""

_JPEG = (".jpg", ".jpeg", ".jfif")
_SUFFIXES = {"PNG": (".png",), "JPEG": _JPEG, "MPO": _JPEG, "GIF": (".gif",)}


@dataclass(slots=True)
class Drops:
    """The records dropped for one cause."""

    count: int = 0
    examples: list[str] = field(default_factory=list)  # "id" or "id (detail)", the first few


@dataclass(slots=True)
class Report:
    """How a data set came about. Every record read is either kept or under `dropped`."""

    name: str  # the source, as `prepare` was asked for it
    out: str  # folder of the data set
    read: int = 0  # records the source gave
    kept: dict[str, int] = field(default_factory=dict)  # split -> samples
    dropped: dict[str, Drops] = field(default_factory=dict)  # cause -> records
    images: int = 0  # pictures stored, byte for byte as the source has them unless scaled
    image_bytes: int = 0  # their encoded size
    changed: dict[str, int] = field(default_factory=dict)  # what was or will be done -> pictures
    visual_tokens: int = 0  # of all kept records, as Qwen3-VL sees them
    most_visual_tokens: int = 0  # of one record
    seconds: float = 0.0  # it took, with the interrupted parts

    def table(self) -> str:
        """Return the report as lines for the terminal."""
        lines = [f"{self.name} -> {self.out}", f"  {'read':<10}{self.read:>9,}"]
        lines += [f"  {split:<10}{rows:>9,}" for split, rows in sorted(self.kept.items())]
        lines.append(f"  {'images':<10}{self.images:>9,}  {self.image_bytes / 2**20:.1f} MiB")
        lines += [f"  {'':<10}{n:>9,}  {what}" for what, n in sorted(self.changed.items())]
        most = f"at most {self.most_visual_tokens:,} in a record"
        lines.append(f"  {'tokens':<10}{self.visual_tokens:>9,}  visual, {most}")
        lines += [
            f"  {'dropped':<10}{drops.count:>9,}  {cause}: {', '.join(drops.examples)}"
            for cause, drops in sorted(self.dropped.items())
        ]
        return "\n".join(lines)

    def losses(self) -> str:
        """Return the causes of the drops in one line."""
        causes = [f"{d.count:,} {cause} ({d.examples[0]})" for cause, d in self.dropped.items()]
        return f"{self.read:,} records were read; " + ("; ".join(causes) or "none was left out")

    def drop(self, record: Dropped) -> None:
        """Count a dropped record under its cause, the part of the reason before a colon."""
        cause, _, detail = record.reason.partition(": ")
        drops = self.dropped.setdefault(cause, Drops())
        drops.count += 1
        if len(drops.examples) < EXAMPLES:
            drops.examples.append(f"{record.id} ({detail})" if detail else record.id)

    def change(self, what: str) -> None:
        """Count one picture under what is done to it."""
        self.changed[what] = self.changed.get(what, 0) + 1

    def keep(self, sample: Sample, tokens: int) -> None:
        """Count a kept sample's tokens, and what is special about its pictures."""
        self.visual_tokens += tokens
        self.most_visual_tokens = max(self.most_visual_tokens, tokens)
        files = sample.metadata.get("files") or []
        for i, data in enumerate(sample.images):
            for what in images.changes(data):
                self.change(what)
            suffix = Path(files[i]).suffix.lower() if i < len(files) else ""
            kind = images.kind(data)
            if suffix in sum(_SUFFIXES.values(), ()) and suffix not in _SUFFIXES.get(kind, ()):
                self.change(f"{kind} data in a {suffix} file")

    def to_json(self) -> str:
        """Return the report as the text of report.json."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Report:
        """Return the report that `asdict` gave."""
        drops = {cause: Drops(**d) for cause, d in content["dropped"].items()}
        return cls(**(content | {"dropped": drops}))
