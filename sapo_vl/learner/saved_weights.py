"""Whole weights from a checkpoint's DeepSpeed files, without the ranks that wrote them.

ZeRO 0 to 2 keep them whole in `mp_rank_00_model_states.pt`. ZeRO 3 keeps a part per rank, which
DeepSpeed's own conversion puts together. The files are pickles; none is unpickled before it was
read by torch's restricted unpickler, which builds tensors and a few classes and runs no code.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapo_vl.errors import DataError
from sapo_vl.model.families.base import Family

WHOLE = "mp_rank_00_model_states.pt"

PREFIX = "model."
"""Of the policy module around the Hugging Face model."""


def read_safely(path: Path) -> Any:
    """Return the content of a DeepSpeed file, tensors mapped from the disk.

    Raises DataError when the file is damaged, or would run code.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        raise DataError(f"{path} is damaged, or holds code: {first_line}") from error


def check_files(folder: Path) -> None:
    """Read every DeepSpeed file of a checkpoint by `read_safely`. Raises DataError as that does."""
    for path in sorted(folder.glob("*.pt")):
        read_safely(path)


def whole_weights(folder: Path, family: Family, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole tensor) in checkpoint layout, as the learner streams them.

    Args:
        folder: the folder that DeepSpeed wrote.
        family: of the model, for the layout.
        dtype: of the learner's forward pass; ZeRO 3 keeps its weights in float32.

    A tied head is left out: the embedding covers it. Raises DataError for a damaged file.
    """
    check_files(folder)
    if (folder / WHOLE).exists():
        state = read_safely(folder / WHOLE)
        buffers = set(state["buffer_names"])
        named = {name: t for name, t in state["module"].items() if name not in buffers}
    else:
        named = _merged(folder)
    seen = set()
    for name, tensor in named.items():
        place = tensor.data_ptr() if isinstance(tensor, Tensor) else id(tensor)
        if place in seen:  # a tied head
            continue
        seen.add(place)
        short = name.removeprefix(PREFIX)
        yield short, family.to_checkpoint_layout(short, tensor.contiguous().to(dtype))


def _merged(folder: Path) -> dict[str, Any]:
    """Return ZeRO 3's weights in float32, frozen ones in their own type; lazily put together."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return get_fp32_state_dict_from_zero_checkpoint(
                str(folder.parent), tag=folder.name, lazy_mode=True
            )
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise DataError(f"{folder}: weights can't be put together: {first_line}") from error
