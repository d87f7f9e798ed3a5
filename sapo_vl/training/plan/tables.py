"""A plan as tables on the terminal."""

from __future__ import annotations

from sapo_vl.runs.progress import table
from sapo_vl.training.plan.fit import MARGIN, Change, Plan
from sapo_vl.training.plan.hardware import GIB


def print_plan(plan: Plan) -> None:
    """Print memory, disk and seconds."""
    _device(plan)
    _engine(plan)
    _host(plan)
    if not plan.hardware.is_cpu:
        _seconds(plan)
        print(f"in short: {summary(plan)}\n")


def summary(plan: Plan) -> str:
    """Return the plan in one line; config files repeat it in their comment."""
    phases = {phase.name: phase.total / GIB for phase in plan.phases}
    update = max(size for name, size in phases.items() if name.startswith(("update", "optimizer")))
    usable = plan.hardware.gpu.memory * (1 - MARGIN) / GIB
    return (
        f"per GPU {phases['sampling']:.1f} GiB while sampling, {update:.1f} in the update, of "
        f"{usable:.1f} usable; host {plan.host.peak / GIB:.0f} GiB; a checkpoint "
        f"{plan.disk.checkpoint / GIB:.0f} GiB, {plan.disk.seconds:.0f} s (estimate)"
    )


def print_changes(changes: list[Change]) -> None:
    """Print which other settings fit, the fastest first."""
    if not changes:
        print("nothing that the planner tries fits: use more or larger GPUs, or a smaller model\n")
        return
    rows = [
        [
            change.text,
            f"{change.plan.seconds.total:.0f}",
            _gib(change.plan.peak.total),
            f"{change.plan.host.peak / GIB:.0f}",
            f"{change.plan.engine.sequences:.0f}",
        ]
        for change in changes
    ]
    columns = ["what to set", "s/step", "peak GiB", "host GiB", "sequences in the KV cache"]
    table("what fits, the fastest step first (estimate)", columns, rows)


def _device(plan: Plan) -> None:
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.parts))
    used = [name for name in names if any(phase.parts.get(name) for phase in plan.phases)]
    rows = [[name, *(_gib(phase.parts.get(name, 0.0)) for phase in plan.phases)] for name in used]
    rows.append(["all", *(_gib(phase.total) for phase in plan.phases)])
    hardware, work = plan.hardware, plan.work
    if hardware.is_cpu:
        title = f"memory per rank, GiB: {hardware.ranks} ranks without GPUs"
    else:
        usable = hardware.gpu.memory * (1 - MARGIN)
        title = (
            f"memory per rank, GiB: {hardware.label}, {_gib(usable)} of "
            f"{_gib(hardware.gpu.memory)} usable (estimate)"
        )
    title += f"; micro-batches of {work.row_tokens:,} tokens"
    table(title, ["what", *(phase.name for phase in plan.phases)], rows)


def _engine(plan: Plan) -> None:
    engine = plan.engine
    if plan.config.generator.backend == "server":
        print("the engines are servers: memory and seconds are the learner's alone\n")
        return
    states = (
        [
            ["bytes of a sequence's recurrent states", f"{engine.state:,.0f}"],
            ["bytes held for them, in blocks", f"{engine.held_state:,.0f}"],
            ["tokens of a block", f"{engine.block:,}"],
        ]
        if engine.state
        else []
    )
    rows = [
        ["bytes of a token's keys and values, per rank", f"{engine.kv_per_token:,.0f}"],
        *states,
        ["tokens in the KV cache of an engine", f"{engine.kv_tokens:,.0f}"],
        ["sequences at full length in it", f"{engine.sequences:,.1f}"],
        ["generator.max_num_seqs", f"{plan.config.generator.max_num_seqs:,}"],
    ]
    table("KV cache (estimate)", ["what", "value"], rows)


def _host(plan: Plan) -> None:
    host, space = plan.host, plan.disk
    rows = [
        ["learner's states in host memory", _gib(host.states)],
        [f"engines{'' if plan.hardware.is_cpu else ', asleep'}", _gib(host.engine)],
        ["processes", _gib(host.processes)],
        ["while every rank loads the weights", _gib(host.loading)],
        ["host memory at its peak", _gib(host.peak)],
        ["disk: a checkpoint", _gib(space.checkpoint)],
        [f"disk: {space.kept} checkpoints, one being written",
         _gib(space.kept * space.checkpoint)],
        [f"disk: {space.models} final model(s)", _gib(space.models * space.final)],
        ["disk: all of run.dir", _gib(space.total)],
    ]  # fmt: skip
    here = plan.hardware.ranks_here
    table(
        f"host memory of a machine with {here} rank(s), and disk, GiB (estimate)",
        ["what", "GiB"],
        rows,
    )
    if not plan.hardware.is_cpu:
        print(
            f"a checkpoint takes about {space.seconds:.0f} s to write (3 GB/s), every "
            f"{plan.config.checkpoint.every} steps\n"
        )


def _seconds(plan: Plan) -> None:
    seconds, work = plan.seconds, plan.work
    sampling = seconds.prefill + seconds.decode
    rollout = [
        ["rollout: prompts", f"{seconds.prefill:.1f}"],
        ["rollout: decoding", f"{seconds.decode:.1f}"],
    ]
    rows = [
        *(rollout if sampling else []),
        ["old log-probs", f"{seconds.old_logprobs:.1f}"],
        *([["reference log-probs", f"{seconds.reference:.1f}"]] if seconds.reference else []),
        ["update: products of the layers", f"{seconds.products:.1f}"],
        ["update: elementwise", f"{seconds.elementwise:.1f}"],
        ["update: head", f"{seconds.head:.1f}"],
        ["update: gathers and sums over ranks", f"{seconds.collectives:.1f}"],
        ["update: optimizer", f"{seconds.optimizer:.1f}"],
        ["weight sync, sleep and waking", f"{seconds.sync:.1f}"],
        ["all", f"{seconds.total:.1f}"],
    ]
    table(
        f"seconds of a step if all {plan.config.rollout.prompts} x {work.group_size} responses "
        f"have {work.response_tokens:,} tokens, prompts {work.prompt_tokens:,} (estimate)",
        ["phase", "s"],
        rows,
    )
    rate = seconds.tokens / seconds.total
    print(
        f"{rate:,.0f} response tokens per second and GPU over the step"
        + (f", {seconds.tokens / sampling:,.0f} while sampling" if sampling else "")
        + f"; MFU of the update {seconds.utilisation(plan.hardware.gpu):.0%} (estimate)\n"
    )


def _gib(size: float) -> str:
    """Return a size in GiB, with more digits where it is small."""
    if size == 0:
        return "0"
    return f"{size / GIB:.1f}" if size >= 0.1 * GIB else f"{size / GIB:.4f}"
