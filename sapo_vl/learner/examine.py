"""Where a gradient stops being finite: one more pass over a mini-batch, with hooks everywhere.

`examine` repeats the forward and backward pass of `Learner.update` and changes nothing: a hook
makes one gradient NaN once all are measured, so that the optimizer skips the step. Ordinary steps
have no hooks and pay nothing.

The gradient norms are those of this rank's own loss, before gradients are averaged over ranks, and
of whole parameters under every ZeRO stage: hooks see a gradient before DeepSpeed cuts it up.

Legend: T response tokens of the mini-batch, its micro-batches one after the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sapo_vl.algorithm.objectives import Objective
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.learner.logprobs import LogprobHead
from sapo_vl.schema import Rollout
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.learner.engine import Learner

MAX_FAULTS = 50
"""Tokens that are listed; a forward pass that broke makes all of them faulty."""

GRADIENT = "the loss's gradient"

INPUTS = {
    "logprobs_T": "the log-prob",
    "old_logprobs_T": "the old log-prob",
    "advantages_T": "the advantage",
    "weights_T": "the weight",
    "reference_logprobs_T": "the reference's log-prob",
}
"""What a token brings into the loss: a field of LossInputs and its name in a message."""

_BLOCK = re.compile(r"^(.*?\.\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class TokenFault:
    """A response token with a value that is not finite."""

    record: str  # id of the sample
    rollout: int  # position in the mini-batch, from 0; -1 for a filler
    token: int  # position in the response, from 0
    quantities: tuple[str, ...]  # what is not finite, e.g. ("the old log-prob",)


@dataclass(frozen=True, slots=True)
class Examination:
    """What a pass over a mini-batch found on this rank."""

    loss: float  # this rank's share of the global loss
    forward: str | None  # first module whose output is not finite
    tokens: list[TokenFault]  # at most MAX_FAULTS, in the order of micro-batches
    backward: str | None  # first module in backward order with such a gradient at its output
    after: str | None  # the module before it in that order, where the gradient is finite
    norms: dict[str, float]  # parameter -> its gradient's norm: root of squares over micro-batches
    report: UpdateReport = field(default_factory=UpdateReport)

    @property
    def finite(self) -> bool:
        """Whether this rank's loss and gradients are finite."""
        return math.isfinite(self.loss) and all(map(math.isfinite, self.norms.values()))

    @property
    def culprit(self) -> str:
        """Say in words where the first value that is not finite comes from; empty if all are."""
        if self.forward is not None:
            return f"the forward pass of module {self.forward}{self._records()}"
        given = [t for t in self.tokens if t.quantities != (GRADIENT,)]
        if given:
            first = given[0]
            return f"{first.quantities[0]} of {_place(first)}, an input of the loss"
        if self.tokens:
            return f"the objective's loss at {_place(self.tokens[0])}{self._others()}"
        if self.backward is not None:
            return f"the backward pass between module {self.after} and module {self.backward}"
        broken = [name for name, norm in self.norms.items() if not math.isfinite(norm)]
        if broken:
            return f"the gradient of parameter {broken[0]}"
        return "" if math.isfinite(self.loss) else "the loss, whose gradients are finite"

    def _records(self) -> str:
        ids = sorted({fault.record for fault in self.tokens})
        return f", on record {', '.join(ids[:3])}{' ..' if ids[3:] else ''}" if ids else ""

    def _others(self) -> str:
        others = len({fault.rollout for fault in self.tokens}) - 1
        return f" and {others} other responses" if others else ""

    def by_module(self) -> dict[str, float]:
        """Return gradient norms by block of layers; NaN where one of its parameters has it."""
        squares: dict[str, float] = {}
        for name, norm in self.norms.items():
            module = module_of(name)
            squares[module] = squares.get(module, 0.0) + norm * norm
        return {module: math.sqrt(square) for module, square in squares.items()}


def _place(fault: TokenFault) -> str:
    return f"record {fault.record}, response {fault.rollout}, token {fault.token}"


def module_of(parameter: str) -> str:
    """Return the layer or, outside of numbered layers, the module that holds a parameter.

    Worked example: a.layers.3.mlp.up.weight is in a.layers.3, lm_head.weight in lm_head.
    """
    block = _BLOCK.match(parameter)
    return block[1] if block else parameter.rpartition(".")[0]


def examine(
    learner: Learner,
    rollouts: Sequence[Rollout],
    objective: Objective,
    denominator: float | None = None,
) -> Examination:
    """Pass over `rollouts`, this rank's share of a mini-batch; every rank must call it.

    Weights and optimizer state stay as they are. Rollouts without `old_logprobs` get them, as in an
    update. `denominator` replaces the sum of aggregation weights over all ranks.
    """
    probe = _Probe(learner, objective)
    try:
        probe.attach()
        watched = replace(objective, loss=probe.loss)
        report = learner.update(rollouts, watched, 0.0, denominator)
    finally:
        probe.detach()
    assert report.skipped or not report.rollouts, "an examination has changed the weights"
    return Examination(
        report.loss,
        probe.forward,
        list(probe.faults(rollouts)),
        probe.backward,
        probe.after,
        probe.norms(),
        report,
    )


class _Probe:
    """The hooks of an examination and what they have seen."""

    def __init__(self, learner: Learner, objective: Objective) -> None:
        self._learner, self._objective = learner, objective
        self._handles: list[Any] = []
        self._trained: list[Rollout] = []  # of the micro-batches so far, one after the other
        self._bad: dict[int, set[str]] = {}  # token of those -> quantities
        self._tokens = 0
        self._squares: dict[str, float] = {}
        self.forward: str | None = None
        self.backward: str | None = None
        self.after: str | None = None

    def attach(self) -> None:
        """Register all hooks."""
        policy = self._learner.policy
        self._handles.append(policy.register_forward_pre_hook(self._begin))
        for name, module in policy.model.named_modules():
            if not isinstance(module, LogprobHead):  # its output is the loss: see `loss`
                hook = partial(self._output, name)
                self._handles.append(module.register_forward_hook(hook))
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(partial(self._gradient, name)))

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def norms(self) -> dict[str, float]:
        """Return each parameter's gradient norm, without the factor of `Learner.update`."""
        ranks = distributed.world_size()
        return {name: math.sqrt(square) / ranks for name, square in self._squares.items()}

    def faults(self, rollouts: Sequence[Rollout]) -> Iterator[TokenFault]:
        """Yield the faulty tokens, each with its rollout's position in `rollouts`."""
        positions = {id(rollout): i for i, rollout in enumerate(rollouts)}
        start = 0
        for rollout in self._trained:
            for token in range(len(rollout.token_ids)):
                if start + token in self._bad:
                    record = rollout.prompt.sample.id
                    quantities = tuple(sorted(self._bad[start + token]))
                    yield TokenFault(record, positions.get(id(rollout), -1), token, quantities)
            start += len(rollout.token_ids)

    def loss(self, inputs: LossInputs) -> Surrogate:
        """Compute the objective's loss of a chunk of tokens, and look at its inputs."""
        start = self._tokens
        self._tokens += len(inputs.logprobs_T)
        for name, words in INPUTS.items():
            values_C = getattr(inputs, name)
            if values_C is not None:
                self._note(start, values_C, words)
        if self.forward is None and not _is_finite(inputs.logprobs_T):
            self.forward = "lm_head"
        inputs.logprobs_T.register_hook(lambda gradient: self._note(start, gradient, GRADIENT))
        return self._objective.loss(inputs)

    def _note(self, start: int, values_C: Tensor, words: str) -> None:
        for i in (~torch.isfinite(values_C.detach())).nonzero()[:, 0].tolist():
            if start + i in self._bad or len(self._bad) < MAX_FAULTS:
                self._bad.setdefault(start + i, set()).add(words)

    def _begin(self, policy: Any, arguments: tuple[Any, ...]) -> None:
        if len(arguments) > 1 and arguments[1] is not None:  # with an objective
            self._trained.extend(arguments[0])

    def _output(self, name: str, module: Any, arguments: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if self.forward is None and not _is_finite(tensor):
                self.forward = name
            if tensor.requires_grad and not any(module.children()):  # innermost names only
                tensor.register_hook(partial(self._flow, name))

    def _flow(self, name: str, gradient: Tensor) -> None:
        if self.backward is not None:
            return
        if _is_finite(gradient):
            self.after = name
        else:
            self.backward = name

    def _gradient(self, name: str, gradient: Tensor) -> Tensor | None:
        """Add up squares; make the first gradient NaN, so that the optimizer skips the step."""
        first = not self._squares
        square = float(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)) ** 2
        self._squares[name] = self._squares.get(name, 0.0) + square
        return torch.full_like(gradient, math.nan) if first else None


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating tensors of a module's output, whatever holds them."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


Summary = dict[str, Any]
"""An examination as JSON: numbers that are not finite are the texts nan, inf and -inf."""


def summary(found: Examination) -> Summary:
    """Return what a bundle keeps of an examination; floats come back to the last bit."""
    return {
        "loss": json_number(found.loss),
        "finite": found.finite,
        "culprit": found.culprit,
        "forward": found.forward,
        "backward": found.backward,
        "after": found.after if found.backward is not None else None,
        "tokens": [
            {
                "record": t.record,
                "rollout": t.rollout,
                "token": t.token,
                "not_finite": list(t.quantities),
            }
            for t in found.tokens
        ],
        "gradient_norms": _numbers(found.by_module()),
        "parameter_gradient_norms": _numbers(found.norms),
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | str]:
    return {name: json_number(value) for name, value in values.items()}


def json_number(value: float) -> float | str:
    """Return a finite number as it is; JSON has no other, so nan, inf and -inf become texts."""
    return value if math.isfinite(value) else str(value)
