"""What a picture costs before the model sees it: `bash scripts/bench_learner.sh --pictures`.

Pictures of 960 x 960 pixels, which are 900 visual tokens of a published Qwen3-VL, as PNG files.
Milliseconds of wall time per picture, median of the rounds.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import report
from sapo_vl.system.machine import prepare_environment

SIDE = 960


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench_learner.sh --pictures")
    parser.add_argument("--count", type=int, default=16, help="pictures of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.count, options.rounds)
    print(report.machine())
    print("| step | ms per picture |\n|---|---|")
    for name, milliseconds in rows:
        print(f"| {name} | {milliseconds:.1f} |")


def measure(folder: Path, count: int, rounds: int) -> list[tuple[str, float]]:
    """Return (step, milliseconds per picture)."""
    from sapo_vl import config as configs
    from sapo_vl.data import synthetic
    from sapo_vl.generator.vllm_engine import VLLMGenerator
    from sapo_vl.model import tiny
    from sapo_vl.model.assets import open_assets
    from sapo_vl.model.prompts import PromptRenderer
    from sapo_vl.model.render_ahead import RenderAhead
    from sapo_vl.training.setup import TOKENIZER_TEXTS

    tiny.build(folder / "tiny", corpus=synthetic.corpus(0, TOKENIZER_TEXTS), seed=0)
    config = configs.load(
        None,
        [
            f"model.path={folder / 'tiny'}",
            "model.dtype=float32",
            f"data.min_pixels={SIDE * SIDE}",
            f"data.max_pixels={SIDE * SIDE}",
            "rollout.max_new_tokens=8",
            "generator.max_model_len=4096",
        ],
    )
    assets = open_assets(config.model.path)
    renderer = PromptRenderer(assets, config.data)
    samples = pictures(count)
    prompts = renderer.render(samples)
    engine = VLLMGenerator(config, assets, seed=0)
    raw = [
        {"prompt_token_ids": p.token_ids, "multi_modal_data": {"image": p.images}} for p in prompts
    ]

    def ahead(threads: int) -> Callable[[], Any]:
        rendering = RenderAhead(renderer, samples, threads)

        def work() -> None:
            rendering.start(range(count))
            rendering.take(range(count))

        return work

    inputs = engine._inputs
    steps: dict[str, Callable[[], Any]] = {
        "decode, scale and cut into patches, one thread": ahead(1),
        "the same, two threads": ahead(2),
        "vLLM's own processing of the decoded picture": lambda: [
            engine._llm.renderer.render_cmpl([prompt]) for prompt in raw
        ],
        "handing over the patches instead": lambda: [
            inputs.engine_input(inputs.process(prompt)) for prompt in prompts
        ],
    }
    rows = [(name, _milliseconds(work, count, rounds)) for name, work in steps.items()]
    engine.close()
    return rows


def pictures(count: int) -> list[Any]:
    """Return samples with a picture of smooth noise each, as a PNG file."""
    import numpy as np
    from PIL import Image

    from sapo_vl.schema import IMAGE_MARK, Sample

    def one(seed: int) -> bytes:
        small = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        png = io.BytesIO()
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(png, "PNG")
        return png.getvalue()

    return [
        Sample(f"picture-{i}", "none", "none", f"{IMAGE_MARK}How many?", (one(i),), "1")
        for i in range(count)
    ]


def _milliseconds(work: Callable[[], Any], count: int, rounds: int) -> float:
    times: Sequence[float] = []
    for _ in range(rounds + 1):  # the first warms up
        begun = time.perf_counter()
        work()
        times = [*times, time.perf_counter() - begun]
    return median(times[1:]) / count * 1000


if __name__ == "__main__":
    main()
