"""Two training steps in the form of each configuration, compared with the plain run.

    bash scripts/forms.sh [--ranks 1,2,4] [configs/train/*.yaml] [key=value ...]

A form is what a configuration says about everything but size: ZeRO stage, offloading, recomputed
layers, frozen components, types, layout; the family (experts, gated delta nets) and an untied head
follow from the model it names. Only the keys in `SIZES` are replaced, so a new configuration is
covered as it is. The plain run has none of it (`PLAIN`) and one rank; it is made once in the
configuration's own type and once in float32.

A float32 form must agree with the plain run within `EXACT`. A bfloat16 one may be as far from
float32 as the plain bfloat16 run, times `SLACK`: other orders of addition round differently, but
not more. The head works in chunks of `CHUNK` tokens and ranks get unequal shares, so that a
collective inside a chunk would hang or mix up tensors.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import torch  # noqa: E402
from helpers import ROOT, distance, make_rollouts, make_samples, torchrun  # noqa: E402

from sapo_vl import config as configs  # noqa: E402
from sapo_vl.algorithm import objectives  # noqa: E402
from sapo_vl.config import Config  # noqa: E402
from sapo_vl.data import synthetic  # noqa: E402
from sapo_vl.learner import logprobs  # noqa: E402
from sapo_vl.learner.engine import Learner  # noqa: E402
from sapo_vl.learner.optimizer import SkippingAdamW  # noqa: E402
from sapo_vl.model import shapes, tiny  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.runs.progress import table  # noqa: E402
from sapo_vl.schema import Rollout  # noqa: E402
from sapo_vl.system import distributed  # noqa: E402

CHUNK = 4
"""Tokens of a chunk of the head, as few as a large vocabulary would make."""

LR = 1e-3
STEPS = 2
EXACT = 1e-4
"""Largest |weights - plain weights| of a float32 form, as a share of what training changed."""

SLACK = 1.5

SIZES = {
    "data.path": "null",
    "data.instruction": "",
    "data.min_pixels": "256",
    "data.max_pixels": "16384",
    "data.max_prompt_tokens": "384",
    "rollout.max_new_tokens": "16",
    "generator.max_model_len": "512",
    "learner.micro_batch_tokens": "200",  # several micro-batches
}
"""What a form does not depend on; model.path and run.dir are replaced too."""

PLAIN = {
    "model.gradient_checkpointing": "none",
    "learner.zero_stage": "0",
    "learner.grad_accum_dtype": "null",
    "learner.offload_optimizer": "false",
    "learner.offload_parameters": "false",
    "learner.offload_while_sampling": "false",
    "learner.deepspeed": "null",
}

Tensors = dict[str, torch.Tensor]


class Trained(NamedTuple):
    """What a run leaves: the gradient of its first step and the weights after its last."""

    gradient: Tensors  # see first_moments
    start: Tensors
    end: Tensors


def all_files() -> list[Path]:
    """Return the configurations that are run by default: all of configs/train."""
    return sorted((ROOT / "configs" / "train").glob("*.yaml"))


def form(file: Path, model: Path, overrides: list[str]) -> Config:
    """Return the configuration of `file` on a tiny model, with overrides."""
    keys = {"model.path": str(model), "run.dir": str(model.parent)} | SIZES
    return objectives.resolve(configs.load(file, [*_written(keys), *overrides]))


def _written(keys: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


class Kind(NamedTuple):
    """What a configuration's model is, its size apart."""

    family: str  # model_type
    tied: bool  # whether the head is the token embedding

    def folder(self, parent: Path) -> Path:
        """Return where the tiny model of the kind lies."""
        return parent / f"{self.family}-{'tied' if self.tied else 'untied'}"


def model_kind(file: Path) -> Kind:
    """Return the kind of the configuration's model."""
    found = shapes.configuration(configs.load(file, []).model.path)
    if found is None:
        return Kind("qwen3_vl", tied=True)
    return Kind(found.model_type, found.tie_word_embeddings)


def tiny_model(folder: Path, kind: Kind) -> Path:
    """Build the tiny model of a kind below `folder`, once."""
    out = kind.folder(folder)
    if out.exists():
        return out
    tiny.build(out, corpus=synthetic.corpus(0, 600), seed=0, family=kind.family)
    if not kind.tied:
        _untie(out)
    return out


def _untie(folder: Path) -> None:
    """Give a model folder an output head of its own, which is not its token embedding."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (name,) = [n for n in weights if n.endswith("embed_tokens.weight")]
    torch.manual_seed(0)
    weights["lm_head.weight"] = torch.randn_like(weights[name]) * weights[name].std()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))


def shares(rollouts: list[Rollout], step: int, ranks: int) -> list[list[Rollout]]:
    """Return each rank's rollouts, unequal ones: by number in step 0, by pictures in step 1."""
    if step % 2:
        prompts = list(dict.fromkeys(id(rollout.prompt) for rollout in rollouts))
        return [
            [r for r in rollouts if prompts.index(id(r.prompt)) % ranks == rank]
            for rank in range(ranks)
        ]
    left = [(ranks - rank) * (ranks - rank + 1) for rank in range(ranks + 1)]
    ends = [len(rollouts) * part // left[0] for part in left]  # of 12: 5, 4, 2 and 1
    return [rollouts[start:end] for end, start in pairwise(ends)]


def train(config: Config, *, chunk: int | None) -> Trained:
    """Take `STEPS` steps, asleep in between where the configuration says so."""
    assets = open_assets(config.model.path)
    logprobs.CHUNK_LOGITS["cpu"] = (chunk or 2**20) * assets.config.text_config.vocab_size
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    objective = objectives.build(config)
    learner = Learner(config, assets)
    gradient: Tensors = {}
    start = {name: value.clone() for name, value in learner.weights()}
    for step in range(STEPS):
        learner.sleep()
        rollouts = make_rollouts(prompts, seed=step)
        share = shares(rollouts, step, distributed.world_size())[distributed.rank()]
        learner.fill_old_logprobs(share)
        report = learner.update(share, objective, LR)
        assert not report.skipped
        gradient = gradient or first_moments(learner)
    end = {name: value.clone() for name, value in learner.weights()}
    learner.close()
    return Trained(gradient, start, end)


def first_moments(learner: Learner) -> Tensors:
    """Return AdamW's first moments, whole: after one step the clipped gradient x (1 - beta 1)."""
    from deepspeed.utils import safe_get_full_optimizer_state

    trained = {n: p for n, p in learner.model.named_parameters() if p.requires_grad}
    optimizer = learner._optimizer
    if learner._options.zero_stage > 0:
        moments = [safe_get_full_optimizer_state(p, "exp_avg") for p in trained.values()]
    elif isinstance(optimizer, SkippingAdamW):
        moments = [optimizer.state[p]["exp_avg"] for p in trained.values()]
    else:  # DeepSpeed's, with float32 copies in the order of the parameters
        (copies,) = optimizer.fp32_groups
        moments = [optimizer.optimizer.state[p]["exp_avg"] for p in copies]
    return {n: m.float().clone() for n, m in zip(trained, moments, strict=True)}


class Errors(NamedTuple):
    """Relative distances of a run from the plain run in float32."""

    gradient: float
    weights: float  # as a share of the change by training

    @classmethod
    def of(cls, run: Trained, exact: Trained) -> Errors:
        """Compare a run with the exact one."""
        moved = distance(exact.end, exact.start)
        return cls(distance(run.gradient, exact.gradient), distance(run.end, exact.end) / moved)


def bounds(plain: Errors, dtype: str) -> Errors:
    """Return the largest errors that a form may have, given the plain run's in its own type."""
    if dtype == "float32":
        return Errors(EXACT, EXACT)
    return Errors(plain.gradient * SLACK, plain.weights * SLACK)


def describe(config: Config, kind: Kind) -> str:
    """Return a form in a few words."""
    learner = config.learner
    words = [f"ZeRO-{learner.zero_stage}", config.model.dtype, kind.family]
    words += ["untied"] * (not kind.tied)
    words += [f"frozen {'+'.join(config.model.freeze)}"] * bool(config.model.freeze)
    words += [f"adapters of rank {config.model.lora.rank}"] * bool(config.model.lora.rank)
    words += [f"recompute {config.model.gradient_checkpointing}"]
    words += [
        key.replace("_", " ")
        for key in ("offload_optimizer", "offload_parameters", "offload_while_sampling")
        if getattr(learner, key)
    ]
    words += [f"gradients {learner.grad_accum_dtype}"] * (learner.grad_accum_dtype is not None)
    return ", ".join(words)


def worker(folder: Path, files: list[Path], overrides: list[str]) -> None:
    """Run the forms on this rank; rank 0 writes their rows. One rank makes the plain runs too."""
    distributed.init()
    ranks = distributed.world_size()
    for file in files:
        began = time.perf_counter()
        kind = model_kind(file)
        model = kind.folder(folder)
        config = form(file, model, overrides)
        reference = folder / f"{file.stem}.pt"
        if ranks == 1:
            exact, plain = (
                train(form(file, model, [*overrides, *_written(plain_keys)]), chunk=None)
                for plain_keys in (PLAIN | {"model.dtype": "float32"}, PLAIN)
            )
            torch.save([exact._asdict(), plain._asdict()], reference)
        run = train(config, chunk=CHUNK)
        if distributed.rank() == 0:
            exact, plain = (Trained(**saved) for saved in torch.load(reference))
            found = Errors.of(run, exact)
            allowed = bounds(Errors.of(plain, exact), config.model.dtype)
            row = {
                "config": file.stem,
                "form": describe(config, kind),
                "ranks": ranks,
                "found": found,
                "allowed": allowed,
                "ok": all(a <= b for a, b in zip(found, allowed, strict=True)),
                "seconds": time.perf_counter() - began,
            }
            print(json.dumps({"row": row}), flush=True)


def rows(
    folder: Path, files: list[Path], overrides: list[str], ranks: int
) -> Iterator[dict[str, Any]]:
    """Run the workers on so many ranks and yield their rows.

    Raises RuntimeError with the end of what they printed if they fail or hang.
    """
    arguments = ["--module", "bench.forms", "--worker", folder, *files, *overrides]
    done = torchrun(ranks, *arguments, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{ranks} ranks: {done.stdout[-2000:]}{done.stderr[-6000:]}")
    for line in done.stdout.splitlines():
        if line.startswith('{"row"'):
            yield json.loads(line)["row"]


def show(found: list[dict[str, Any]]) -> None:
    """Print the table of some rows."""
    table(
        "two steps in each form: distance from the plain float32 run",
        ["config", "form", "ranks", "gradient", "allowed", "weights", "allowed", "s", ""],
        [
            [row["config"], row["form"], str(row["ranks"])]
            + [f"{row[kind][i]:.1e}" for i in (0, 1) for kind in ("found", "allowed")]
            + [f"{row['seconds']:.0f}", "ok" if row["ok"] else "DIFFERS"]
            for row in found
        ],
    )


def main() -> int:
    """Print the table; return 1 if a form disagrees with the plain run."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "forms", nargs="*", help="configurations (default: all of configs/train), and key=value"
    )
    parser.add_argument("--ranks", default="1,2,4", help="processes besides 1 (default: 1,2,4)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    overrides = [text for text in arguments.forms if "=" in text]
    files = [Path(text).resolve() for text in arguments.forms if "=" not in text] or all_files()
    if arguments.worker is not None:
        worker(arguments.worker, files, overrides)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in files:
            tiny_model(folder, model_kind(file))
        good = True
        # one rank first: it makes the plain runs
        for ranks in sorted({1, *map(int, arguments.ranks.split(","))}):
            found = list(rows(folder, files, overrides, ranks))
            good &= len(found) == len(files) and all(row["ok"] for row in found)
            show(found)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
