"""How far the policy's routing moves within a rollout batch: watched during a cell.

The share of (token, layer) pairs of the last mini-batch whose chosen experts differ between pi_old
and the policy that is about to be updated. The GSPO paper (arXiv 2507.18071) names it as what makes
token ratios of mixtures noisy: about 10 % after one update of a 48-layer model.

Left out: routing in the sampler; with equal weights and float32 on both sides it is the learner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sapo_vl.learner.engine import Learner
from sapo_vl.learner.rows import TrainRow


class RouterWatch:
    """Stands around a learner's two forward passes and compares their routers' choices."""

    def __init__(self, learner: Learner, updates: int) -> None:
        """`updates` is the number of optimizer steps per rollout batch."""
        self.changed: dict[int, float] = {}  # rollout step from 1 -> share, of its last update
        self._updates = updates
        self._calls = 0
        self._seen: list[Tensor] = []
        self._old: dict[tuple[int, ...], list[Tensor]] = {}
        self._hooks = [
            module.register_forward_hook(self._see)
            for module in learner.model.modules()
            if type(module).__name__.endswith("TopKRouter")
        ]
        fill, update = learner.fill_old_logprobs, learner.update

        def watched_fill(rows: Sequence[TrainRow]) -> None:
            self._seen = []
            fill(rows)
            self._old[_key(rows)] = self._seen

        def watched_update(rows: Sequence[TrainRow], *rest: Any) -> Any:
            self._seen = []
            report = update(rows, *rest)
            self._compare(rows)
            return report

        watched: Any = learner
        watched.fill_old_logprobs, watched.update = watched_fill, watched_update

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        chosen = output[2].detach()  # [tokens, k], the experts' numbers by falling weight
        self._seen.append(chosen.sort(dim=-1).values)

    def _compare(self, rows: Sequence[TrainRow]) -> None:
        step = self._calls // self._updates + 1
        self._calls += 1
        old = self._old.get(_key(rows))
        if old and self._seen:  # a mini-batch without a gradient has no forward
            moved = [(a != b).any(-1) for a, b in zip(old, self._seen, strict=True)]
            self.changed[step] = sum(float(m.sum()) for m in moved) / sum(m.numel() for m in moved)
        if self._calls % self._updates == 0:
            self._old.clear()


def _key(rows: Sequence[TrainRow]) -> tuple[int, ...]:
    return tuple(id(row.token_ids) for row in rows)
