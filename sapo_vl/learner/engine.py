"""The optimizer step on DeepSpeed: a mini-batch of rollouts in, one update out.

Every loss is summed with token weights that share one global denominator, and DeepSpeed's averaging
over ranks is undone by the factor `world_size`: the gradient is the same for any number of ranks,
micro-batches and layouts. A step whose gradient is not finite is skipped on all ranks.

Legend: T response tokens of a micro-batch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapo_vl.algorithm.objectives import Objective
from sapo_vl.algorithm.surrogate import Surrogate
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import Config
from sapo_vl.errors import DataError
from sapo_vl.learner.activations import recompute_activations
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.learner.host_copy import HostCopy
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.optimizer import all_cores, build_optimizer, state_tensors, undo_first_step
from sapo_vl.learner.patch_embedding import use_product
from sapo_vl.learner.policy import Policy
from sapo_vl.learner.reference import ReferenceWeights
from sapo_vl.learner.saved_weights import check_files
from sapo_vl.learner.token_constants import token_constants
from sapo_vl.model import lora
from sapo_vl.model.assets import ModelAssets
from sapo_vl.model.save import save_model
from sapo_vl.model.weights import (
    FrozenWeights,
    check_weights,
    freeze,
    frozen_weights,
    load_weights,
)
from sapo_vl.runs.files import disk_full_guard
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Rollout
from sapo_vl.system import distributed

GATHER_GROUP = 16
"""ZeRO-3 parameters gathered at once when weights are streamed out: bounded memory, few calls."""


class Learner:
    """A policy under training: DeepSpeed engine, optimizer state and forward path."""

    def __init__(self, config: Config, assets: ModelAssets) -> None:
        """Load the weights of `assets` and build the engine; every rank must do it."""
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        distributed.init()
        self._options = config.learner
        self._state: HostCopy | None = None  # the optimizer's, while it is in host memory
        self._base: HostCopy | None = None  # of frozen weights: kept once it has been made
        self._reference: ReferenceWeights | None = None  # of the KL penalty
        self.weights_away = False  # whether the frozen weights are in host memory alone
        settings = deepspeed_settings(config)
        check_weights(assets)
        if config.learner.zero_stage == 3:
            from transformers.integrations import HfDeepSpeedConfig

            # Kept alive while the weights load: from_pretrained then shards as it reads.
            sharding = HfDeepSpeedConfig(settings)
            model = load_weights(assets, config.model.dtype)
            del sharding
        else:
            model = load_weights(assets, config.model.dtype)
        use_product(model)
        freeze(model, config.model.freeze)
        self._lora = config.model.lora if config.model.lora.rank else None
        if self._lora is not None:
            lora.inject(model, self._lora, config.model.freeze, config.run.seed)
        recompute_activations(model, config.model.gradient_checkpointing)
        self.assets = assets
        self._policy = Policy(
            model,
            assets,
            config.rollout.temperature,
            config.learner.layout,
            config.learner.attention,
        )
        if self._lora is not None:
            self._policy.register_state_dict_post_hook(_adapters_only)
            self._policy.register_forward_pre_hook(self._check_awake)
        if config.learner.zero_stage == 3:
            _keep_whole(assets.family.expert_blocks(model))
        trained = [p for p in self._policy.parameters() if p.requires_grad]
        optimizer = build_optimizer(trained, config)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=self._policy, optimizer=optimizer, model_parameters=trained, config=settings
        )
        if config.learner.zero_stage == 0 and config.model.dtype == "bfloat16":
            undo_first_step(self._optimizer)
        self.frozen = self._frozen_weights()

    @property
    def model(self) -> Any:
        """The Hugging Face module; its parameters are shards under ZeRO-3.

        Frozen ones may be empty: see `weights_away`.
        """
        return self._policy.model

    @property
    def policy(self) -> Policy:
        """The module whose forward makes log-probs and loss of a micro-batch."""
        return self._policy

    @torch.no_grad()
    def fill_old_logprobs(self, rollouts: Sequence[Rollout]) -> None:
        """Set `old_logprobs` of each rollout to the current policy's; every rank must call it."""
        self._wake_weights()
        for batch in self._micro_batches(rollouts):
            beat()
            _set_logprobs(batch, self._engine(batch).out.logprobs_N, "old_logprobs")

    def keep_reference(self) -> str:
        """Keep the present weights as the reference policy's; return a digest of the policy.

        Call it on every rank before `load`. New adapters change nothing, and are left out of the
        digest.
        """
        trained = [p for p in self._policy.parameters() if p.requires_grad]
        self._reference = ReferenceWeights(trained, self._engine.empty_partition_cache)
        starts_anew = self._lora is not None and self._lora.path is None
        names = self._gathered(lambda name: not (starts_anew and lora.is_adapter(name)))
        return frozen_weights(names).digest

    @torch.no_grad()
    def fill_reference_logprobs(self, mini_batches: Iterable[Sequence[Rollout]]) -> None:
        """Set `reference_logprobs` of all rollouts; every rank must call it with as many batches.

        `keep_reference` must have been called.
        """
        assert self._reference is not None, "no reference was kept"
        self._wake_weights()
        with self._reference.awake():
            for rollouts in mini_batches:
                for batch in self._micro_batches(rollouts):
                    beat()
                    _set_logprobs(batch, self._engine(batch).out.logprobs_N, "reference_logprobs")

    def update(
        self,
        rollouts: Sequence[Rollout],
        objective: Objective,
        lr: float,
        denominator: float | None = None,
    ) -> UpdateReport:
        """Take one optimizer step on `rollouts`, this rank's share of a mini-batch.

        Tokens are weighted by the objective's aggregation with one denominator over all ranks, or
        `denominator` where one rank's share is looked at alone.
        Rollouts without `old_logprobs` are on policy: they get this forward's, detached.
        """
        if denominator is None:
            denominator = total_weight(rollouts, objective)
        report = UpdateReport()
        if denominator == 0:
            return report
        self._wake()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        tokens: dict[str, list[np.ndarray]] = defaultdict(list)
        for batch in self._micro_batches(rollouts):
            beat()
            constants = token_constants(batch, objective, denominator, distributed.device())
            out, surrogate = self._engine(
                batch,
                lambda out, chunk, constants=constants: objective.loss(
                    constants.inputs(out.logprobs_N, chunk, objective.importance_cap)
                ),
                by_token=objective.by_token,
            )
            self._engine.backward(surrogate.loss * distributed.world_size())
            if any(rollout.old_logprobs is None for rollout in batch):
                _set_logprobs(batch, out.logprobs_N, "old_logprobs")
            if not all(rollout.is_filler for rollout in batch):
                _append(report, tokens, batch, out, surrogate)
        for name, arrays in tokens.items():
            setattr(report, name, np.concatenate(arrays))
        before = self._engine.skipped_steps
        with all_cores(self._options):
            self._engine.step()
        report.skipped = self._engine.skipped_steps > before
        norm = self._engine.get_global_grad_norm()
        report.grad_norm = float(norm) if norm is not None else float("nan")
        return report

    def _micro_batches(self, rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
        """Plan this rank's micro-batches, with fillers up to the largest count of any rank."""
        batches = self._policy.layout.plan(rollouts, self._options.micro_batch_tokens)
        missing = int(distributed.all_reduce_max(len(batches))) - len(batches)
        filler = replace(min(rollouts, key=lambda rollout: rollout.length), is_filler=True)
        return batches + [[filler]] * missing

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all (name, whole tensor) in checkpoint layout, gathered under ZeRO-3.

        Adapters are merged into the weights. Every rank must exhaust the iterator. A tied head is
        not sent: the embedding covers it.
        """
        self._wake_weights()
        to_checkpoint_layout = self.assets.family.to_checkpoint_layout
        whole = self._gathered(lambda name: not lora.is_adapter(name))
        if self._lora is not None:
            adapters = {n: t.clone() for n, t in self._gathered(lora.is_adapter)}
            whole = lora.merged(whole, adapters, self._lora.scale)
        for name, tensor in whole:
            yield name, to_checkpoint_layout(name, tensor)

    def adapter(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the adapters' matrices as (PEFT name, whole tensor); collective as `weights`.

        They never leave the device, so that this works while the frozen weights are away.
        """
        for name, tensor in self._gathered(lora.is_adapter):
            yield lora.peft_name(name), tensor

    def _gathered(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name in the transformers module, whole tensor) of the wanted parameters."""
        import deepspeed

        named = [(n.removeprefix("model."), p) for n, p in self._policy.named_parameters()]
        named = [(n, p) for n, p in named if wanted(n)]
        sharded = self._options.zero_stage == 3
        for i in range(0, len(named), GATHER_GROUP):
            group = named[i : i + GATHER_GROUP]
            with deepspeed.zero.GatheredParameters([p for _, p in group], enabled=sharded):
                for name, parameter in group:
                    yield name, parameter.detach()

    def sleep(self) -> None:
        """Move the optimizer's state to host memory if learner.offload_while_sampling says so.

        With adapters the frozen weights go too, ZeRO-3's shards of them; their copy is made once.
        Without, the weights stay where they are. `update`, `save` and `load` bring all of it back,
        `fill_old_logprobs`, `weights` and `export` the weights; the sampler must have made room by
        then. `adapter` needs none of it.
        """
        if not self._options.offload_while_sampling:
            return
        if self._state is None:
            self._state = HostCopy(state_tensors(self._optimizer), distributed.device())
        if self._lora is None or self.weights_away:
            return
        if self._base is None:
            frozen = [p for p in self._policy.parameters() if not p.requires_grad]
            shards = [getattr(p, "ds_tensor", p) for p in frozen]
            self._base = HostCopy(shards, distributed.device())
        else:
            self._base.release()
        self.weights_away = True

    def _wake(self) -> None:
        self._wake_weights()
        if self._state is not None:
            self._state.restore()
            self._state = None

    def _check_awake(self, *_: Any) -> None:
        assert not self.weights_away, "the learner's frozen weights are in host memory"

    def _wake_weights(self) -> None:
        if self.weights_away:
            assert self._base is not None
            self._base.restore(keep=True)
            self.weights_away = False

    def _frozen_weights(self) -> FrozenWeights:
        """Return the digest of the frozen weights; collective as `weights`.

        Shards are gathered, so that it is the same under every ZeRO stage and number of ranks.
        """
        named = self._policy.model.named_parameters()
        frozen = {name for name, parameter in named if not parameter.requires_grad}
        return frozen_weights(self._gathered(frozen.__contains__))

    def check_frozen(self) -> FrozenWeights:
        """Return the frozen weights' digest; every rank must call it.

        Raises AssertionError when it is not that of `frozen`, taken when the learner was built.
        """
        self._wake_weights()
        found = self._frozen_weights()
        assert found == self.frozen, f"frozen weights changed: {self.frozen} -> {found}"
        return found

    def export(self, out: Path) -> None:
        """Write a plain Hugging Face folder, atomically: see model/save.py.

        With adapters the model is merged, and `out`/adapter holds them in PEFT's form. Every rank
        must call it; rank 0 writes. Raises AssertionError as `check_frozen`, SetupError when the
        disk is full.
        """
        self.check_frozen()
        if distributed.rank() == 0:
            out.parent.mkdir(parents=True, exist_ok=True)
            with disk_full_guard("the model", out.parent):
                save_model(out, self.assets.folder, self.weights())
                self._export_adapter(out / "adapter")
        else:
            for _ in chain(self.weights(), self.adapter()):
                pass
        distributed.barrier()

    def _export_adapter(self, out: Path) -> None:
        if self._lora is not None:
            lora.write_adapter(out, self.adapter(), lora.settings_of(self.model, self.assets.path))

    def save(self, directory: Path) -> None:
        """Write model and optimizer state of all ranks below `directory`.

        With adapters the frozen weights are left out: the model folder has them.
        """
        self._wake()
        self._engine.save_checkpoint(
            str(directory),
            tag="learner",
            save_latest=False,
            exclude_frozen_parameters=self._lora is not None,
        )

    def load(self, directory: Path) -> None:
        """Restore a state that `save` wrote, bit for bit, with the same number of ranks.

        Raises DataError when a file is damaged, or would run code when unpickled.
        """
        self._wake()
        check_files(directory / "learner")
        path, _ = self._engine.load_checkpoint(
            str(directory), tag="learner", load_module_strict=self._lora is None
        )
        if path is None:
            raise DataError(f"{directory / 'learner'} lacks the model's file")

    def close(self) -> None:
        """Drop the engine."""
        self._engine.destroy()
        del self._engine, self._optimizer, self._policy


def total_weight(rollouts: Sequence[Rollout], objective: Objective) -> float:
    """Return the sum of a mini-batch's aggregation weights over all ranks. Collective."""
    counted = [objective.aggregation.response(r) for r in rollouts if not r.is_filler]
    return distributed.all_reduce_sum({"weight": float(sum(counted))})["weight"]


def _adapters_only(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leave only adapters in a state dict. DeepSpeed's own exclusion forgets a tied head."""
    for name in [name for name in state if not lora.is_adapter(name)]:
        del state[name]


def _keep_whole(blocks: Sequence[torch.nn.Module]) -> None:
    """Make ZeRO-3 gather each MoE block whole: ranks route to different experts and would hang.

    (DeepSpeed #7461, #4966.)
    """
    from deepspeed.utils import set_z3_leaf_module

    for block in blocks:
        set_z3_leaf_module(block, True)


def _set_logprobs(batch: Sequence[Rollout], logprobs_N: Tensor, name: str) -> None:
    values = logprobs_N.detach().float().cpu().numpy()
    start = 0
    for rollout in batch:
        setattr(rollout, name, values[start : start + len(rollout.token_ids)])
        start += len(rollout.token_ids)


def _append(
    report: UpdateReport,
    tokens: dict[str, list[np.ndarray]],
    batch: Sequence[Rollout],
    out: ResponseLogprobs,
    surrogate: Surrogate,
) -> None:
    """Add a micro-batch to the report, and its per-token values to `tokens`."""
    report.rollouts.extend(rollout for rollout in batch if not rollout.is_filler)
    counted_T = np.repeat([not r.is_filler for r in batch], [len(r.token_ids) for r in batch])
    report.loss += float(surrogate.loss.detach())
    report.loss_centered += float(surrogate.loss_centered)
    report.clamped += float(surrogate.clamped)
    if surrogate.penalty is not None and surrogate.reference_kl_T is not None:
        report.penalty += float(surrogate.penalty)
        tokens["reference_kl_T"].append(surrogate.reference_kl_T.cpu().numpy()[counted_T])
    for name, values_T in (
        ("log_ratio_T", surrogate.log_ratio_T),
        ("gate_weight_T", surrogate.gate_weight_T),
        ("grad_coefficient_T", surrogate.grad_coefficient_T),
        ("entropy_T", out.entropy_N),
        ("logprobs_T", out.logprobs_N),
    ):
        tokens[name].append(values_T.detach().float().cpu().numpy()[counted_T])
