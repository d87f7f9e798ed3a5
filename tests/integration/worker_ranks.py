"""One rank of test_ranks.py: updates with unequal shares, at several ZeRO stages.

helpers.torchrun starts it: worker_ranks.py MODEL MOE HYBRID OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import psutil  # noqa: E402
import torch  # noqa: E402
from helpers import (  # noqa: E402
    LOG_ADVANTAGE,
    bare_prompt,
    make_rollouts,
    make_sample,
    make_samples,
    tiny_config,
)

from sapo_vl.algorithm import objectives  # noqa: E402
from sapo_vl.config import to_yaml  # noqa: E402
from sapo_vl.evaluation.heldout import EvalSpec, evaluate  # noqa: E402
from sapo_vl.generator import sampling  # noqa: E402
from sapo_vl.generator.sampling import SampleEngine  # noqa: E402
from sapo_vl.learner import logprobs  # noqa: E402
from sapo_vl.learner.engine import Learner  # noqa: E402
from sapo_vl.model.assets import ModelAssets, open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer, Rendered  # noqa: E402
from sapo_vl.rewards.rubric import Rubric  # noqa: E402
from sapo_vl.runs.signals import StopSignal  # noqa: E402
from sapo_vl.schema import Prompt, Rollout  # noqa: E402
from sapo_vl.system import distributed  # noqa: E402
from sapo_vl.training import autopsy  # noqa: E402

CASES = (
    ("padded", 0),
    ("shared_prefix", 0),
    ("shared_prefix", 2),
    ("shared_prefix", 3),
    ("padded", 3),
)
PLAIN = ("learner.zero_stage=0",)
OFFLOADED = (
    "learner.zero_stage=3",
    "learner.offload_optimizer=true",
    "learner.offload_parameters=true",
    "model.gradient_checkpointing=all",
)
ADAPTERS = ("model.lora.rank=8", "model.lora.targets=all")
FORMS = {
    "plain": PLAIN,
    "offload-2": ("learner.zero_stage=2", "learner.offload_optimizer=true"),
    "offload-3": OFFLOADED,
    "alternate-3": ("learner.zero_stage=3", "model.gradient_checkpointing=alternate"),
    "moe-plain": PLAIN,
    "moe-offload-3": OFFLOADED,
    "moe-alternate-3": ("learner.zero_stage=3", "model.gradient_checkpointing=alternate"),
    "hybrid-plain": (*PLAIN, "model.freeze=[vision]"),
    "hybrid-all-3": (
        "learner.zero_stage=3",
        "model.gradient_checkpointing=all",
        "model.freeze=[vision]",
    ),
    "hybrid-padded-3": (
        "learner.zero_stage=3",
        "learner.layout=padded",
        "model.freeze=[vision]",
    ),
    "kl-plain": (*PLAIN, "algorithm.kl_coef=0.5"),
    "kl-3": ("learner.zero_stage=3", "algorithm.kl_coef=0.5"),
    "lora-plain": (*PLAIN, *ADAPTERS),
    "lora-all-0": (*PLAIN, "model.gradient_checkpointing=all", *ADAPTERS),
    "lora-1": ("learner.zero_stage=1", *ADAPTERS),
    "lora-all-2": ("learner.zero_stage=2", "model.gradient_checkpointing=all", *ADAPTERS),
    "lora-offload-2": ("learner.zero_stage=2", "learner.offload_optimizer=true", *ADAPTERS),
    "lora-3": ("learner.zero_stage=3", *ADAPTERS),
    "lora-offload-all-3": (*OFFLOADED, *ADAPTERS),
}
"""Ways to hold the same training, which must agree after three steps."""

LR = 1e-3


def shares(rollouts: list[Rollout], step: int) -> list[list[Rollout]]:
    """Return each rank's rollouts: 10 and 2, then those with pictures and those without."""
    if step % 2 == 0:
        return [rollouts[:10], rollouts[10:]]
    return [
        [rollout for rollout in rollouts if rollout.prompt.images],
        [rollout for rollout in rollouts if not rollout.prompt.images],
    ]


def train_case(assets: ModelAssets, layout: str, stage: int, out: Path) -> None:
    """Take two steps and export; keep the first gradient where a rank has all of it."""
    set_chunk(assets, stage)
    config = tiny_config(
        Path(assets.path),
        f"learner.layout={layout}",
        f"learner.zero_stage={stage}",
        "learner.micro_batch_tokens=200",
    )
    rendered = PromptRenderer(assets, config.data).render(make_samples())
    objective = objectives.build(config)
    learner = Learner(config, assets)
    for step in range(2):
        share = own_share(rendered, step)
        if step == 0 and stage == 0:
            keep_gradient(learner, share, objective, out)
        report = learner.update(share, objective, LR)
        assert not report.skipped
        distributed.print0(f"{out.name} step {step}: norm {report.grad_norm:.6f}")
    learner.export(out)
    if stage == 2:
        check_resume(learner, config, assets, out.with_name("saved"), rendered)
    learner.close()


def set_chunk(assets: ModelAssets, stage: int) -> None:
    """Under ZeRO-3 let the head work in chunks of 4 tokens, as a real vocabulary would make them.

    The ranks have different numbers of chunks, and each gathers the head once all the same.
    """
    chunk = 4 * assets.config.text_config.vocab_size if stage == 3 else 2**24
    logprobs.CHUNK_LOGITS["cpu"] = chunk


def own_share(prompts: list[Prompt], step: int) -> list[Rollout]:
    """Return this rank's rollouts of a step."""
    rollouts = make_rollouts(prompts, seed=step)
    parts = shares(rollouts, step) if distributed.world_size() == 2 else [rollouts]
    return parts[distributed.rank()]


def train_form(assets: ModelAssets, out: Path, overrides: tuple[str, ...]) -> None:
    """Take three steps in a form and export."""
    config = tiny_config(Path(assets.path), "learner.micro_batch_tokens=200", *overrides)
    set_chunk(assets, config.learner.zero_stage)
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    objective = objectives.build(config)
    learner = Learner(config, assets)
    if config.algorithm.kl_coef:
        learner.keep_reference()
    for step in range(3):
        share = own_share(prompts, step)
        if config.algorithm.kl_coef:
            learner.fill_reference_logprobs([share])
        assert not learner.update(share, objective, LR).skipped
    learner.export(out)
    frozen = learner.check_frozen()
    if distributed.rank() == 0:
        out.with_name(f"{out.name}-frozen").write_text(frozen.digest)
    learner.close()


def keep_gradient(learner: Learner, rollouts: list[Rollout], objective, out: Path) -> None:
    """Write the gradient of one update, as every rank has it, without taking the step."""
    step, gradients = learner._optimizer.step, {}
    learner._optimizer.step = lambda: gradients.update(
        {n: p.grad.clone() for n, p in learner.model.named_parameters()}
    )
    learner.update(rollouts, objective, LR)
    learner._optimizer.step = step
    torch.save(gradients, out.with_name(f"{out.name}-gradient-{distributed.rank()}.pt"))


def check_resume(learner, config, assets, directory: Path, rendered) -> None:
    """Save, step, load into a new learner, step: the same bits on every rank."""
    objective = objectives.build(config)
    share = make_rollouts(rendered, seed=7)[distributed.rank() :: distributed.world_size()]
    learner.save(directory)
    learner.update(share, objective, LR)
    again = Learner(config, assets)
    again.load(directory)
    again.update(share, objective, LR)
    for (name, a), (_, b) in zip(learner.weights(), again.weights(), strict=True):
        assert torch.equal(a, b), name
    again.close()
    distributed.print0("resume: exact")


def check_autopsy(assets: ModelAssets, out: Path) -> None:
    """Break rank 1's share of a mini-batch; both ranks write bundles below `out`."""
    config = tiny_config(
        Path(assets.path), f"objective={LOG_ADVANTAGE}", "learner.zero_stage=3", f"run.dir={out}"
    )
    if distributed.rank() == 0:
        out.mkdir()
        (out / "config.yaml").write_text(to_yaml(config))
    rollouts = make_rollouts(PromptRenderer(assets, config.data).render(make_samples()))
    for rollout in rollouts:
        rollout.advantage = abs(rollout.advantage)
    rollouts[5].advantage = -2.0
    share = rollouts[distributed.rank() :: 2]
    trainer = SimpleNamespace(
        learner=Learner(config, assets),
        objective=objectives.build(config),
        run=SimpleNamespace(dir=out, config=config),
        config=config,
    )
    assert trainer.learner.update(share, trainer.objective, LR).skipped
    step = SimpleNamespace(number=6, position=1, mini_batch=share, lr=LR)
    line = autopsy.at_bad_gradient(trainer, step)
    assert "response 2, token 0" in line, line  # on both ranks
    assert "step_000007-nonfinite-rank1" in line, line
    trainer.learner.close()


def check_bfloat16(assets: ModelAssets) -> None:
    """ZeRO-3 gives stage 2's log-probs to the bit: it shards weights and rounds nothing."""
    logprobs.CHUNK_LOGITS["cpu"] = 2**24
    scores = []
    for stage in (2, 3):
        config = tiny_config(
            Path(assets.path), "model.dtype=bfloat16", f"learner.zero_stage={stage}"
        )
        learner = Learner(config, assets)
        rotary = [b for n, b in learner.model.named_buffers() if n.endswith("inv_freq")]
        assert len(rotary) == 4  # text and vision, and transformers' copy of each
        assert all(buffer.dtype is torch.float32 for buffer in rotary)
        rendered = PromptRenderer(assets, config.data).render(make_samples())
        rollouts = make_rollouts(rendered, seed=0)
        learner.fill_old_logprobs(rollouts)
        scores.append([rollout.old_logprobs for rollout in rollouts])
        learner.close()
    for a, b in zip(*scores, strict=True):
        assert (a == b).all(), abs(a - b).max()


def check_all_gather_block() -> None:
    """Ranks of one engine see the requests of all of them, others only those of their rank."""
    rank, ranks = distributed.rank(), distributed.world_size()
    items = [f"{rank}:{i}" for i in range(rank + 1)]  # unequal shares
    everything = [f"{r}:{i}" for r in range(ranks) for i in range(r + 1)]
    assert distributed.all_gather_block(items, ranks) == (everything, everything.index(f"{rank}:0"))
    assert distributed.all_gather_block(items, 1) == (items, 0)


class SharedGenerator:
    """Answers 7; meets the other ranks at each call, as ranks that share an engine do."""

    def generate(self, requests):
        """Return one rollout per request."""
        block, first = distributed.all_gather_block([r.seed for r in requests], 2)
        assert block[first : first + len(requests)] == [r.seed for r in requests]
        return [[Rollout(request.prompt, [1], "\\boxed{7}")] for request in requests]


class BareRenderer:
    """Makes prompts without a model."""

    def render_usable(self, samples) -> Rendered:
        """Return a prompt per sample."""
        return Rendered([bare_prompt(name=sample.id) for sample in samples], {})


def check_calls() -> None:
    """Each rank calls the engine as often, whatever its number of problems."""
    rubric = Rubric.from_terms([("boxed", 1.0)])
    engine = SampleEngine(SharedGenerator(), BareRenderer(), rubric)
    for count in (1, 63, 64, 65, 129):
        for requests in (32, 64, 512):
            sampling.REQUESTS = requests
            samples = [make_sample(name=str(i)) for i in range(count)]
            result = evaluate(engine, samples, EvalSpec(1, 1.0, 1, greedy=True, seed=0))
            assert (result.problems, result.avg, result.greedy) == (count, 1.0, 1.0)
    sampling.REQUESTS = 512


def check_ports() -> None:
    """Neither this process nor the agent above it listens where another machine could connect."""
    for process in (psutil.Process(), psutil.Process().parent()):
        assert process is not None
        for connection in process.net_connections("tcp"):
            assert connection.status != "LISTEN" or connection.laddr.ip in ("127.0.0.1", "::1")


def main() -> None:
    """Run all cases into OUT."""
    dense, moe, hybrid, out = (Path(argument) for argument in sys.argv[1:5])
    distributed.init()
    check_all_gather_block()
    check_calls()
    check_ports()
    assets = open_assets(dense)
    for layout, stage in CASES:
        train_case(assets, layout, stage, out / f"{layout}-{stage}")
    others = {"moe": open_assets(moe), "hybrid": open_assets(hybrid)}
    for name, overrides in FORMS.items():
        if not name.endswith("plain") or distributed.world_size() == 1:
            train_form(others.get(name.split("-")[0], assets), out / name, overrides)
    if distributed.world_size() == 2:
        check_autopsy(assets, out / "broken")
    check_bfloat16(assets)
    check_bfloat16(others["hybrid"])
    stop = StopSignal()
    assert not stop.requested()
    if distributed.rank() == distributed.world_size() - 1:
        stop._signum = 15
    assert stop.requested()  # one rank was asked: all ranks know
    assert stop.error().signum == 15
    assert distributed.all_reduce_sum({"a": 1.0, "b": 2.0 * distributed.rank()}) == (
        {"a": 2.0, "b": 2.0} if distributed.world_size() == 2 else {"a": 1.0, "b": 0.0}
    )
    distributed.print0("done")


if __name__ == "__main__":
    main()
