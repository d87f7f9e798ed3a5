"""The reference policy of the KL penalty: the weights that SAPO started from, asleep on the host.

Only what training changes is kept: all trained weights (under ZeRO-3 this rank's shards), or with
adapters those alone. New adapters change nothing, so that the reference is then the base. For the
one pass of a step that needs it, the copy and the policy's weights change places, piece by piece:
no second model is built, and the device needs no more room than for one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sapo_vl.learner.host_copy import host_copies, pieces


class ReferenceWeights:
    """A copy in host memory of parameters' bytes, which can take their place."""

    def __init__(self, parameters: Sequence[Tensor], release: Callable[[], None]) -> None:
        """Copy the parameters, or the shards of those that ZeRO-3 shards.

        `release` frees what ZeRO-3 has gathered, so that the shards alone are the weights.
        """
        self._parameters, self._release = parameters, release
        self._copies = [host_copies(_bytes(parameter)) for parameter in parameters]
        self._wait()
        self.nbytes = sum(len(copy) for copies in self._copies for copy in copies)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the parameters hold the reference's weights; their own come back bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        self._release()
        self._wait()  # DeepSpeed has streams of its own
        # Looked up each time: loading a checkpoint gives shards other memory.
        for parameter, copies in zip(self._parameters, self._copies, strict=True):
            for own, copy in zip(pieces(_bytes(parameter)), copies, strict=True):
                before = own.clone()
                own.copy_(copy, non_blocking=True)
                copy.copy_(before, non_blocking=True)
        self._wait()

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _bytes(parameter: Tensor) -> Tensor:
    """Return a view of a parameter's or its shard's bytes."""
    values: Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    assert values.is_contiguous(), values.shape
    return values.reshape(-1).view(torch.uint8)
