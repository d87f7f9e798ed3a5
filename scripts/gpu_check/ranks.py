"""Two ranks: ZeRO-3 with unequal shares, and an engine that both share (tensor parallel).

`check_ranks` and `check_tensor_parallel` start this module with torchrun; `main` is one rank.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpu_check.learning import (
    LR,
    PARITY,
    Trained,
    batch,
    configuration,
    dtype_of,
    learn,
    rendered,
    same_update,
    scores,
)
from gpu_check.outcome import Outcome, Setting, at_most, last_error

RANKS = 2
SECONDS = 300
"""Time limit of the ranks: mismatched collectives block for ever."""


def check_ranks(setting: Setting) -> Iterator[Outcome]:
    """Compare an update of ZeRO-3 on two ranks, seven rollouts and two, with ZeRO-2 on one."""
    dtype = dtype_of(setting)
    reference = learn(setting, dtype, "learner.zero_stage=2")
    found = _on_ranks(setting, "zero")
    trained = Trained(
        np.array(found["before"]), np.array(found["after"]), found["norm"], found["seconds"], 0.0
    )
    what = f"update of ZeRO-3 on {RANKS} ranks, {dtype}"
    yield same_update(what, setting, dtype, trained, reference)


def check_tensor_parallel(setting: Setting) -> Iterator[Outcome]:
    """Sample with one engine on two ranks, with unequal numbers of prompts on each."""
    found = _on_ranks(setting, "tensor-parallel")
    what = f"parity of tensor parallel {RANKS} with ZeRO-3, {dtype_of(setting)}"
    yield at_most(what, PARITY[setting.device], found["gap"], rollouts=found["rollouts"])


def _on_ranks(setting: Setting, work: str) -> dict:
    """Run `main` on two ranks, which meet in files; return what rank 0 wrote."""
    with tempfile.TemporaryDirectory() as meeting:
        out = Path(meeting) / "out.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
        command += ["--rdzv-conf", "store_type=file", "--rdzv-endpoint", f"{meeting}/rendezvous"]
        command += ["--local-addr", "127.0.0.1", "--nproc_per_node", str(RANKS)]
        command += ["--module", "gpu_check.ranks", work, setting.device, setting.folder, out]
        variables = {
            "SAPO_STORE": f"{meeting}/store",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        _run(command, variables)
        return json.loads(out.read_text(encoding="utf-8"))


def _run(command: list, variables: dict[str, str]) -> None:
    """Run a command in a session of its own; end all of it after SECONDS.

    Raises RuntimeError when it fails, with its last lines.
    """
    process = subprocess.Popen(
        [*map(str, command)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise RuntimeError(f"the ranks gave no answer within {SECONDS} s") from None
    if process.returncode != 0:
        reason = last_error(output)
        raise RuntimeError(f"a rank failed: {reason}\n{output[-8000:]}")


def main(arguments: list[str]) -> None:
    """Be one rank: WORK DEVICE FOLDER OUT."""
    from sapo_vl.system import distributed

    work, device, folder, out = arguments
    setting = Setting(device, RANKS, Path(folder), frozenset())
    distributed.init()
    found = {"zero": _zero, "tensor-parallel": _tensor_parallel}[work](setting)
    if distributed.rank() == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")


def _zero(setting: Setting) -> dict:
    from sapo_vl.algorithm import objectives
    from sapo_vl.learner.engine import Learner
    from sapo_vl.model.assets import open_assets
    from sapo_vl.system import distributed

    dtype = dtype_of(setting)
    config = configuration(setting, dtype, "learner.zero_stage=3")
    assets = open_assets(setting.folder / "model")
    everything = batch(assets, config)
    share = everything[:7] if distributed.rank() == 0 else everything[7:]
    learner = Learner(config, assets)
    before = scores(learner, everything)
    started = time.perf_counter()
    report = learner.update(share, objectives.build(config), LR)
    seconds = time.perf_counter() - started
    after = scores(learner, everything)
    learner.close()
    norm = float("nan") if report.skipped else report.grad_norm
    return {"before": before.tolist(), "after": after.tolist(), "norm": norm, "seconds": seconds}


def _tensor_parallel(setting: Setting) -> dict:
    from sapo_vl.generator.base import SamplingParams, build, requests_of
    from sapo_vl.learner.engine import Learner
    from sapo_vl.model.assets import open_assets
    from sapo_vl.system import distributed

    overrides = ("learner.zero_stage=3", f"generator.tensor_parallel={RANKS}")
    config = configuration(setting, dtype_of(setting), *overrides)
    assets = open_assets(setting.folder / "model")
    prompts = rendered(assets, config)
    prompts = prompts[:2] if distributed.rank() == 0 else prompts[2:]
    learner = Learner(config, assets)
    engine = build(config, assets, seed=0)
    engine.sleep()
    engine.update_weights(learner.weights())
    requests = requests_of(prompts, SamplingParams(4, 1.0, 16), [1] * len(prompts))
    groups = engine.generate(requests)
    rollouts = [rollout for group in groups for rollout in group]
    learner.fill_old_logprobs(rollouts)
    sums = distributed.all_reduce_sum(
        {
            "gap": float(sum(abs(r.old_logprobs - r.generator_logprobs).mean() for r in rollouts)),
            "rollouts": float(len(rollouts)),
        }
    )
    return {"gap": sums["gap"] / sums["rollouts"], "rollouts": sums["rollouts"]}


if __name__ == "__main__":
    from sapo_vl.system.machine import prepare_environment

    prepare_environment()
    main(sys.argv[1:])
