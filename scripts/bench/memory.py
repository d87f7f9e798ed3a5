"""How the learner's peak memory scales: `bash scripts/bench_learner.sh --memory`.

The shape of case g8-real at three vocabulary sizes and three numbers of prompts. A peak is that of
the first step in a fresh process, above model and batch. Parameter gradients, which any learner
holds, are shown separately: the remainder must not grow with the vocabulary.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from bench import report
from bench.cases import CASES, REAL_VOCABULARY
from sapo_vl.system.machine import prepare_environment

VOCABULARIES = (512, 32_768, REAL_VOCABULARY)
PROMPTS = (1, 2, 4)
VISION_WIDTH = 256


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    argparse.ArgumentParser(prog="bench_learner.sh --memory", description=__doc__).parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_environment()
    import numpy as np
    import torch

    from bench import learner, measure, needs

    torch.set_num_threads(1)
    assets = learner.tiny_assets()
    rows = []
    for vocabulary in VOCABULARIES:
        for prompts in PROMPTS:
            case = replace(CASES["g8-real"], vocabulary=vocabulary, prompts=prompts)
            batch = learner.Batch(case, assets, VISION_WIDTH, torch.device("cpu"))
            lengths = case.lengths() * prompts
            batch.old = [np.full(n, -np.log(vocabulary), np.float32) for n in lengths]
            model, made = batch.build()
            gradients = sum(p.numel() for p in model.parameters()) * 4 / 1e6
            packed, _ = needs.tokens(made)
            del model
            peak = measure.in_fork(learner.peak, batch, "shared")
            figures = (vocabulary, packed, peak, gradients, peak - gradients)
            rows.append([f"{figure:,.0f}" for figure in figures])
    columns = ["vocabulary", "packed tokens", "peak, MB", "gradients, MB", "remainder, MB"]
    print(report.markdown(columns, rows), flush=True)


if __name__ == "__main__":
    main()
