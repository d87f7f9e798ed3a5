"""The optimizer step on DeepSpeed: micro-batches in, one update out.

Every loss is summed with weights that hold one global denominator, and DeepSpeed's average over
ranks is undone by the factor `world_size`, so that the gradient is the same for any number of
ranks, micro-batches and packings. A step whose gradient is not finite is skipped on all ranks
alike.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapo_vl.algorithm.objectives import Aggregation, Objective
from sapo_vl.algorithm.sapo import Surrogate
from sapo_vl.config import Config
from sapo_vl.errors import ConfigError
from sapo_vl.learner import patch_embedding
from sapo_vl.learner import rows as packing
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.policy import Policy, TokenObjective
from sapo_vl.learner.rows import TrainRow
from sapo_vl.model import assets as models
from sapo_vl.model.assets import ModelFolder
from sapo_vl.runs import files as disk
from sapo_vl.system import distributed

CHOICE = "patch_embedding.txt"
"""The file in a run's folder that keeps its form of the patch embedding."""

GATHER_GROUP = 16
"""ZeRO-3 parameters gathered at once when weights are streamed out: bounded memory, few calls."""


@dataclass(slots=True)
class RowTensors:
    """Per-token constants of a micro-batch's loss, on the learner's device; T response tokens."""

    advantages_T: Tensor
    weights_T: Tensor  # global aggregation weight; 0 for rows that only fill up
    old_logprobs_T: Tensor | None  # none: on policy, take the forward's own
    generator_logprobs_T: Tensor | None
    lengths_R: Tensor  # tokens of each response; of all, also in a part

    def part(self, own: slice) -> RowTensors:
        """Return the constants of a slice of the tokens."""
        old, generator = self.old_logprobs_T, self.generator_logprobs_T
        return RowTensors(
            self.advantages_T[own],
            self.weights_T[own],
            None if old is None else old[own],
            None if generator is None else generator[own],
            self.lengths_R,
        )

    def bound(self, objective: Objective) -> TokenObjective:
        """Return the objective's loss with these constants, for any slice of the tokens."""
        return lambda out, own: objective.loss(out, self.part(own))


@dataclass(slots=True)
class StepReport:
    """What one update did; arrays hold the counted response tokens of this rank, row by row."""

    rows: list[TrainRow] = field(default_factory=list)
    loss: float = 0.0  # this rank's share of the global loss
    centred: float = 0.0  # this rank's share of the centred surrogate objective
    clamped: float = 0.0  # tokens beyond the log-ratio limit on this rank
    grad_norm: float = 0.0  # before clipping, of all ranks
    skipped: bool = False  # not finite: no weight has changed
    log_ratio: list[np.ndarray] = field(default_factory=list)
    gate_weight: list[np.ndarray] = field(default_factory=list)
    coefficient: list[np.ndarray] = field(default_factory=list)
    entropy: list[np.ndarray] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)


class Learner:
    """A policy under training: DeepSpeed engine, optimizer state and forward path."""

    def __init__(self, config: Config, folder: ModelFolder) -> None:
        """Load the weights in `folder` and build the engine; every rank must do it."""
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        distributed.init()
        self._options = config.learner
        settings = deepspeed_settings(config)
        if config.learner.zero_stage == 3:
            from transformers.integrations import HfDeepSpeedConfig

            # Kept alive while the weights load: from_pretrained then shards as it reads.
            sharding = HfDeepSpeedConfig(settings)
            model = models.load(folder, config.model.dtype)
            del sharding
        else:
            model = models.load(folder, config.model.dtype)
        distributed.print0(
            patch_embedding.use_faster(model, distributed.device(), config.run.dir / CHOICE)
        )
        models.freeze(model, config.model.freeze)
        if config.model.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self.folder = folder
        self._policy = Policy(model, folder, config.rollout.temperature, config.learner.packing)
        if config.learner.zero_stage == 3:
            _keep_experts_whole(self._policy)
        trained = [p for p in self._policy.parameters() if p.requires_grad]
        optimizer = _optimizer(trained, config)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=self._policy, optimizer=optimizer, model_parameters=trained, config=settings
        )
        self._frozen = models.frozen_hash(model) if config.learner.zero_stage < 3 else ""

    @property
    def model(self) -> Any:
        """The Hugging Face module (its parameters are shards under ZeRO-3)."""
        return self._policy.model

    @torch.no_grad()
    def fill_old_logprobs(self, rows: Sequence[TrainRow]) -> None:
        """Set `old_logprobs` of each row to the current policy's, in the same micro-batches."""
        batches = self._micro_batches(rows)
        for batch in batches:
            _hand_out(batch, self._engine(batch).out.logprobs_N)

    def update(self, rows: Sequence[TrainRow], objective: Objective, lr: float) -> StepReport:
        """Take one optimizer step on `rows`, this rank's share of a mini-batch.

        Tokens are weighed by the objective's aggregation with one denominator for all ranks. Rows
        without `old_logprobs` get those of this forward, detached.
        """
        report = StepReport()
        aggregation = objective.aggregation
        counted = [aggregation.row(row) for row in rows if row.counts]
        denominator = distributed.all_reduce_sum({"weight": float(sum(counted))})["weight"]
        if denominator == 0:
            return report
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        for batch in self._micro_batches(rows):
            tensors = _row_tensors(batch, aggregation, denominator, distributed.device())
            out, surrogate = self._engine(
                batch, tensors.bound(objective), by_token=objective.by_token
            )
            self._engine.backward(surrogate.loss * distributed.world_size())
            _record(report, batch, out, surrogate)
        before = self._engine.skipped_steps
        self._engine.step()
        report.skipped = self._engine.skipped_steps > before
        norm = self._engine.get_global_grad_norm()
        report.grad_norm = float(norm) if norm is not None else float("nan")
        return report

    def _micro_batches(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """Plan this rank's micro-batches and fill up to the largest number on any rank."""
        batches = packing.PLANS[self._options.packing](rows, self._options.micro_batch_tokens)
        missing = int(distributed.all_reduce_max(len(batches))) - len(batches)
        return batches + [[packing.filler(rows)] for _ in range(missing)]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all (name, whole tensor) as a published folder has them, gathered under ZeRO-3.

        Every rank must exhaust it. A tied head is not sent: the embedding stands for it.
        """
        import deepspeed

        named = [(n.removeprefix("model."), p) for n, p in self._policy.named_parameters()]
        sharded = self._options.zero_stage == 3
        for i in range(0, len(named), GATHER_GROUP):
            group = named[i : i + GATHER_GROUP]
            with deepspeed.zero.GatheredParameters([p for _, p in group], enabled=sharded):
                for name, parameter in group:
                    yield name, models.published(name, parameter.detach())

    def export(self, out: Path) -> None:
        """Write a plain Hugging Face folder: weights, config, generation config, processor.

        Every rank must call it; rank 0 writes. Raises AssertionError when frozen weights changed,
        SetupError when the disk is full.
        """
        state = {}
        for name, tensor in self.weights():
            if distributed.rank() == 0:
                state[name] = tensor.cpu().clone()
        if self._frozen:
            assert models.frozen_hash(self._policy.model) == self._frozen, "frozen weights changed"
        if distributed.rank() == 0:
            # As it is: transformers would turn the experts back into its own layout.
            with disk.writing("the model", out.parent):
                self.model.save_pretrained(out, state_dict=state, save_original_format=False)
                self.folder.processor.save_pretrained(out)
        distributed.barrier()

    def save(self, directory: Path) -> None:
        """Write model and optimizer state of all ranks below `directory`."""
        self._engine.save_checkpoint(str(directory), tag="learner", save_latest=False)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote, bit for bit, with the same number of ranks."""
        self._engine.load_checkpoint(str(directory), tag="learner")

    def close(self) -> None:
        """Drop the engine."""
        self._engine.destroy()
        del self._engine, self._optimizer, self._policy


def deepspeed_settings(config: Config) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `learner.deepspeed` is merged over it."""
    options = config.learner
    zero: dict[str, Any] = {"stage": options.zero_stage}
    if options.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if options.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # our own denominator; every step() is a boundary
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if _own_step(config) else options.clip,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "steps_per_print": 10**9,
    }
    if options.deepspeed is not None:
        try:
            extra = json.loads(options.deepspeed.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"learner.deepspeed={options.deepspeed}: {error}") from error
        _merge(settings, extra)
    return settings


class SkippingAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0: clips, and skips a step whose gradient is not finite.

    `overflow` and `_global_grad_norm` are what DeepSpeed's engine reads of its own optimizers,
    which do the same from stage 1 on. The gradient is already summed over ranks, so all decide
    alike.
    """

    def __init__(self, *args: Any, clip: float, **kwargs: Any) -> None:
        """`clip` is the largest norm, 0 for none."""
        super().__init__(*args, **kwargs)
        self._clip = clip if clip > 0 else float("inf")
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip, check, step."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if not self.overflow:
            super().step(closure)


def _own_step(config: Config) -> bool:
    """Return whether clipping and skipping are ours: float32 without ZeRO, which has neither."""
    return config.learner.zero_stage == 0 and config.model.dtype == "float32"


def _optimizer(trained: list[torch.nn.Parameter], config: Config) -> torch.optim.Optimizer:
    options = config.learner
    shared: dict[str, Any] = {
        "lr": options.lr,
        "betas": options.betas,
        "weight_decay": options.weight_decay,
        "fused": True,  # no just-in-time build, unlike DeepSpeed's own
    }
    if _own_step(config):
        return SkippingAdamW(trained, clip=options.clip, **shared)
    return torch.optim.AdamW(trained, **shared)


def _keep_experts_whole(model: torch.nn.Module) -> None:
    """Under ZeRO-3 gather a mixture block as one: ranks route to different experts and would hang.

    (DeepSpeed #7461, #4966.)
    """
    from deepspeed.utils import set_z3_leaf_modules

    blocks = {type(m) for m in model.modules() if type(m).__name__.endswith("SparseMoeBlock")}
    if blocks:
        set_z3_leaf_modules(model, list(blocks))


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _hand_out(batch: Sequence[TrainRow], logprobs_N: Tensor) -> None:
    values = logprobs_N.detach().float().cpu().numpy()
    first = 0
    for row in batch:
        row.old_logprobs = values[first : first + len(row.token_ids)]
        first += len(row.token_ids)


def _row_tensors(
    batch: Sequence[TrainRow], aggregation: Aggregation, denominator: float, device: torch.device
) -> RowTensors:
    lengths = [len(row.token_ids) for row in batch]

    def spread(values: list[float]) -> Tensor:
        return torch.repeat_interleave(
            torch.tensor(values, dtype=torch.float32), torch.tensor(lengths)
        ).to(device)

    def joined(arrays: list[np.ndarray | None]) -> Tensor | None:
        known = [a for a in arrays if a is not None]
        if len(known) < len(arrays):
            return None
        return torch.from_numpy(np.concatenate(known)).to(device)

    return RowTensors(
        advantages_T=spread([row.advantage for row in batch]),
        weights_T=spread([aggregation.token(r) / denominator if r.counts else 0.0 for r in batch]),
        old_logprobs_T=joined([row.old_logprobs for row in batch]),
        generator_logprobs_T=joined([row.generator_logprobs for row in batch]),
        lengths_R=torch.tensor(lengths, device=device),
    )


def _record(
    report: StepReport, batch: Sequence[TrainRow], out: ResponseLogprobs, surrogate: Surrogate
) -> None:
    if any(row.old_logprobs is None for row in batch):
        _hand_out(batch, out.logprobs_N)
    report.loss += float(surrogate.loss.detach())
    report.centred += float(surrogate.centred)
    report.clamped += float(surrogate.clamped)
    lengths = [len(row.token_ids) for row in batch]
    ends = np.cumsum(lengths)[:-1]
    columns = (
        (report.log_ratio, surrogate.log_ratio_T),
        (report.gate_weight, surrogate.gate_weight_T),
        (report.coefficient, surrogate.coefficient_T),
        (report.entropy, out.entropy_N),
        (report.logprobs, out.logprobs_N),
    )
    keep = [i for i, row in enumerate(batch) if row.counts]
    report.rows.extend(batch[i] for i in keep)
    for target, tensor in columns:
        pieces = np.split(tensor.detach().float().cpu().numpy(), ends)
        target.extend(pieces[i] for i in keep)
