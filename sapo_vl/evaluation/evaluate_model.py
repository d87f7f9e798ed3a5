"""`sapo-vl evaluate --model DIR`: held-out accuracy of a model folder, by the code of training.

    bash scripts/eval_vl.sh --model runs/main/final
    bash scripts/eval_vl.sh --model runs/main/final evaluation.blank=true     (a control)

Without data.path the procedural held-out split is drawn, with run.seed as in training.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.evaluation.heldout import Accuracy, evaluate
from sapo_vl.generator import base as generator
from sapo_vl.model import assets as model
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs.progress import table
from sapo_vl.system import distributed
from sapo_vl.training import setup as stages


def main(config: Config, out: Path | None) -> None:
    """Print the table and one JSON line; write responses and summary.json to `out` if given."""
    distributed.start()
    rubric = stages.rubric(config)
    folder = model.open_folder(config.model.path)
    renderer = PromptRenderer(folder, config.data, blank=config.evaluation.blank)
    with tempfile.TemporaryDirectory() as scratch, closing(rubric):
        samples = stages.usable(
            config, renderer, _data(config, Path(scratch)), config.data.eval_split, "data.path"
        )[: config.evaluation.problems]
        engine = generator.build(config, folder, seed=config.run.seed)
        result = evaluate(
            engine,
            renderer,
            rubric,
            samples,
            n=config.evaluation.samples,
            temperature=1.0,
            max_new_tokens=config.rollout.max_new_tokens,
            greedy=config.evaluation.greedy,
            seed=config.run.seed,
            out=out / "responses.jsonl" if out else None,
        )
    if distributed.rank() == 0:
        show(result, config.model.path)
        if out is not None:
            (out / "summary.json").write_text(json.dumps(result.summary(), indent=2) + "\n")
        print(json.dumps({"model": config.model.path, **result.summary()}))


def show(result: Accuracy, name: str) -> None:
    """Print accuracy over all problems and by task."""
    low, high = result.ci95
    greedy = "-" if result.greedy is None else f"{100 * result.greedy:.1f} %"
    rows = [["all", f"{100 * result.avg:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", greedy]]
    rows += [[task, f"{100 * value:.1f} %", "", ""] for task, value in result.tasks.items()]
    columns = ["task", f"avg@{result.samples}", "95 % interval", "greedy"]
    table(f"{name}: {result.problems} held-out problems", columns, rows)


def _data(config: Config, scratch: Path) -> Path:
    if config.data.path is not None:
        return config.data.path
    prepare(
        "synthetic",
        PrepareOptions(scratch / "data"),
        SyntheticOptions(seed=config.run.seed, count=1, test_count=config.evaluation.problems),
    )
    return scratch / "data"
