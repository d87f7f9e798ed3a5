"""Two parts of the learner alone: the output head by chunk size, AdamW by threads.

    bash scripts/bench_learner.sh --parts

The head: fused loss and gradients of N tokens at the real vocabulary and width 1,024, in float32,
on one thread; a chunk's logits are the only tensor whose size depends on the chunk
(learner/logprobs.py, CHUNK_LOGITS). The best of several runs, and the peak above weights and
states. Its time is the process's own, which other work on the machine changes least. The
optimizer: torch's fused AdamW on 50 million float32 parameters, as it steps for a GPU
whose optimizer is offloaded (learner/optimizer.py).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from bench import report
from bench.cases import REAL_VOCABULARY
from sapo_vl.system.machine import prepare_environment

WIDTH, TOKENS = 1024, 448  # one chunk of 2^26 logits and a bit
CHUNKS = tuple(2**power for power in range(22, 27))
PARAMETERS = 50_000_000


def main(argv: list[str] | None = None) -> None:
    """Measure and print both tables, line by line."""
    parser = argparse.ArgumentParser(prog="bench_learner.sh --parts", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    repeats = parser.parse_args(argv).repeats
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_environment()
    from bench import measure

    print(f"head, {TOKENS} tokens, V = {REAL_VOCABULARY:,}, D = {WIDTH:,}, one thread\n")
    print(report.markdown(["logits", "tokens a chunk", "CPU ms a token", "peak, MB"], []))
    for chunk in CHUNKS:
        seconds, peak = measure.in_fork(head, chunk, repeats)
        tokens, power = chunk // REAL_VOCABULARY, chunk.bit_length() - 1
        print(f"| 2^{power} | {tokens} | {1e3 * seconds / TOKENS:.2f} | {peak:,.0f} |", flush=True)
    print(f"\nAdamW, {PARAMETERS:,} parameters, load {measure.load_average():.1f}\n")
    print(report.markdown(["threads", "ms a step"], []))
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        seconds = measure.in_fork(adam, threads, repeats)
        print(f"| {threads} | {1e3 * seconds:.0f} |", flush=True)


def best(work: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Return the shortest time of several calls, in seconds."""
    found = []
    for _ in range(repeats):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def head(chunk: int, repeats: int) -> tuple[float, float]:
    """Return CPU seconds and peak MB of the fused loss and its gradients at a chunk size."""
    import torch

    from bench import measure
    from sapo_vl.learner import logprobs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    logprobs.CHUNK_LOGITS["cpu"] = chunk
    output = logprobs.LogprobHead(WIDTH, REAL_VOCABULARY, bias=False)
    hidden_ND = torch.randn(TOKENS, WIDTH, requires_grad=True)
    targets_N = torch.randint(REAL_VOCABULARY, (TOKENS,))
    bias_V = torch.zeros(REAL_VOCABULARY)
    output.weight.grad = torch.zeros_like(output.weight)

    def chunk_loss(out: logprobs.ResponseLogprobs, _: slice) -> tuple[Any, Any]:
        return -out.logprobs_N.sum(), torch.full_like(out.logprobs_N, -1.0)

    def work() -> None:
        loss, _ = logprobs.fused_loss(output, hidden_ND, targets_N, bias_V, 1.0, chunk_loss)
        loss.backward()

    peak = measure.peak_memory(work, torch.device("cpu"))  # the first run, which warms up
    return best(work, repeats, time.process_time), peak


def adam(threads: int, repeats: int) -> float:
    """Return the seconds of an AdamW step on so many threads."""
    import torch

    torch.set_num_threads(threads)
    weight = torch.nn.Parameter(torch.randn(PARAMETERS))
    weight.grad = torch.randn(PARAMETERS)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()  # makes the moments
    return best(optimizer.step, repeats, time.perf_counter)


if __name__ == "__main__":
    main()
