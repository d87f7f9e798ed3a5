"""Text of single tokens. A byte-level token may hold a part of a character only.

The tokenizer is read from tokenizer.json alone, by the `tokenizers` package: opening a processor
would take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sapo_vl.errors import printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"

BROKEN = "\ufffd"
"""What a decoder writes for bytes that are no whole character."""

LONGEST_CHARACTER = 8
"""Tokens that are held back for the rest of a character; then they are invalid bytes."""


class TokenText:
    """A run's tokenizer, or the reason why there is none."""

    def __init__(self, run_dir: Path) -> None:
        """Look in RUN/final, the run's own models and config.yaml's model.path, in this order."""
        self._tokenizer: Tokenizer | None = None
        self.reason = ""  # why there is none
        from tokenizers import Tokenizer

        looked = []
        for path in _places(run_dir):
            looked.append(printable(path.parent))
            if path.is_file():
                try:
                    self._tokenizer = Tokenizer.from_file(str(path))
                except Exception as error:  # the package raises Exception itself
                    self.reason = f"{printable(path)} can't be read: {printable(error)}"
                else:
                    self.reason = ""
                    return
        if not self.reason:
            self.reason = f"there is no {FILE} in {', '.join(looked) or 'the run'}"

    @property
    def available(self) -> bool:
        """Whether tokens can be decoded."""
        return self._tokenizer is not None

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return each token's text; they join to the text of all.

        A character of several tokens is at its last one, and the others have no text.
        """
        assert self._tokenizer is not None, self.reason
        pieces: list[str] = []
        start = done = 0  # tokens [start, done) precede; decoding from there keeps spaces in place
        for end in range(1, len(token_ids) + 1):
            before = self._decode(token_ids[start:done])
            text = self._decode(token_ids[start:end])
            whole = not text.endswith(BROKEN) or end - done >= LONGEST_CHARACTER
            if not whole and end < len(token_ids):
                pieces.append("")
                continue
            pieces.append(text[len(before) :])
            start, done = done, end
        return pieces

    def _decode(self, token_ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)


def _places(run_dir: Path) -> list[Path]:
    """Return where the run's tokenizer may be, the likeliest first."""
    folders = [run_dir / "final", *sorted(run_dir.glob("model-*")), run_dir / "warmup" / "final"]
    places = [folder / FILE for folder in folders]
    model = _model_path(run_dir / "config.yaml")
    if model:
        places.append(Path(model).expanduser() / FILE)
        cached = _cached(model)
        if cached is not None:
            places.append(cached)
    return places


def _model_path(config: Path) -> str:
    """Return model.path of a run of any release; empty where it can't be read."""
    try:
        path = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["path"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return ""
    return path if isinstance(path, str) else ""


def _cached(model: str) -> Path | None:
    """Return the file of a hub id in this machine's cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, FILE)
    except HFValidationError:  # a path
        return None
    return Path(found) if isinstance(found, str) else None
