"""Held-out accuracy: avg@n at evaluation.temperature and greedy, by the training's verifiers.

    bash scripts/eval_vl.sh --model runs/main/final
    bash scripts/eval_vl.sh --model runs/main/final evaluation.blank=true     (a control)

`avg` is the mean over problems of the share of correct responses among n samples (mean pass@1); its
interval is a bootstrap over problems. Training and `sapo-vl evaluate` share `evaluate`. Without
data.path, `main` draws the procedural held-out split of run.seed, as training does.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.config import Config
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.errors import printable
from sapo_vl.evaluation.graded import GradedResponse
from sapo_vl.evaluation.stats import interval
from sapo_vl.generator.base import SamplingParams, SamplingRequest, build, engine_ranks
from sapo_vl.generator.sampling import SampleEngine, problem_seed, rendered_chunks
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.usable_samples import usable_samples
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.runs.files import write_json
from sapo_vl.runs.progress import table
from sapo_vl.schema import Outcome, Prompt, Rollout, Sample
from sapo_vl.system import distributed


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """How held-out problems are sampled."""

    samples: int  # n, responses per problem at `temperature`
    temperature: float
    max_new_tokens: int
    greedy: bool  # one greedy response per problem as well
    seed: int  # with the problem's id, seeds its responses

    @classmethod
    def of(cls, config: Config) -> EvalSpec:
        """Return the spec of a configuration: its own temperature, training's response length."""
        return cls(
            samples=config.evaluation.samples,
            temperature=config.evaluation.temperature,
            max_new_tokens=config.rollout.max_new_tokens,
            greedy=config.evaluation.greedy,
            seed=config.run.seed,
        )


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The result of one evaluation; shares between 0 and 1."""

    avg: float | None  # mean over problems of the mean over samples; None: no verdict at all
    ci95: tuple[float, float] | None  # 95 % bootstrap interval of avg over problems
    greedy: float | None  # share of problems whose greedy response is correct
    samples: int  # n
    problems: int
    no_verdict: int  # responses that no verifier could judge: left out of the means
    causes: dict[str, int]  # of these, the commonest first
    tasks: dict[str, float]  # avg by task

    def summary(self) -> dict[str, Any]:
        """Return the figures under the names of summary.json: `avg@n`, `ci95`, `greedy`, .."""
        fields = asdict(self)
        return {f"avg@{self.samples}": fields.pop("avg"), **fields}


def evaluation_settings(config: Config) -> dict[str, Any]:
    """Return what held-out figures depend on besides the weights, as JSON types."""
    return {
        **asdict(EvalSpec.of(config)),
        "problems": config.evaluation.problems,
        "blank": config.evaluation.blank,
        "rewards": [[term.fn, term.weight] for term in config.rewards],
        "benchmarks": list(config.evaluation.benchmarks),
        "limit": config.evaluation.limit,
    }


def main(config: Config, out: Path | None) -> None:
    """Evaluate model.path on the held-out split; print a table and one JSON line.

    `out` is a folder for responses.jsonl and summary.json.

    Raises:
        UserError: model, data or rewards cannot be used.
    """
    distributed.init()
    rubric = build_rubric(config)
    assets = open_assets(config.model.path)
    renderer = PromptRenderer(assets, config.data, blank=config.evaluation.blank)
    with tempfile.TemporaryDirectory() as scratch, closing(rubric):
        path = config.data.path
        if path is None:
            path = Path(scratch) / "data"
            count = config.evaluation.problems
            drawing = SyntheticOptions(seed=config.run.seed, count=1, test_count=count)
            prepare("synthetic", PrepareOptions(path), drawing)
        held_out = usable_samples(config, renderer, path, config.data.eval_split, "data.path")
        generator = build(config, assets, seed=config.run.seed)
        ranks = engine_ranks(config)
        result = evaluate(
            SampleEngine(generator, renderer, rubric, tensor_parallel=ranks),
            held_out[: config.evaluation.problems],
            EvalSpec.of(config),
            out=out / "responses.jsonl" if out else None,
        )
    if distributed.rank() == 0:
        _print_table(result, config)
        if out is not None:
            write_json(out / "summary.json", result.summary())
        print(json.dumps({"model": config.model.path, **result.summary()}))


def evaluate(
    engine: SampleEngine, samples: Sequence[Sample], spec: EvalSpec, out: Path | None = None
) -> Accuracy:
    """Sample and grade responses to the problems, shared among all ranks.

    `out` receives a JSON line per response. Seeds depend on `spec.seed` and a problem's id alone,
    so that an evaluation neither disturbs training nor depends on the order of problems. Sampled
    and greedy responses come from the same engine calls. A problem that can't be rendered is left
    out, which is said.
    """
    share = list(samples)[distributed.rank() :: distributed.world_size()]
    modes = {"sampled": SamplingParams(spec.samples, spec.temperature, spec.max_new_tokens)}
    if spec.greedy:
        modes["greedy"] = SamplingParams(1, 0.0, spec.max_new_tokens)
    records: list[GradedResponse] = []

    def render(part: Sequence[Sample]) -> list[Prompt]:
        prompts, faults = engine.renderer.render_usable(part)
        for error in faults.values():
            print(f"held-out problem left out: {printable(error)}", flush=True)
        return prompts

    for prompts in rendered_chunks(share, render, len(modes), engine.ranks):
        asked = [(mode, prompt) for mode in modes for prompt in prompts]
        groups = engine.sample(
            [
                SamplingRequest(p, modes[mode], problem_seed(spec.seed, p.sample.id))
                for mode, p in asked
            ]
        )
        for (mode, _), group in zip(asked, groups, strict=True):
            records += [_graded(rollout, mode) for rollout in group.rollouts]
    records = distributed.all_gather(records)
    if out is not None and distributed.rank() == 0:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return accuracy(records, spec.samples)


def _graded(rollout: Rollout, mode: str) -> GradedResponse:
    sample, reward = rollout.prompt.sample, rollout.verdict
    causes = [v.cause for v in reward.terms.values() if v.outcome is Outcome.NO_VERDICT]
    return {
        "id": sample.id,
        "task": sample.task,
        "mode": mode,
        "correct": reward.correct if reward.valid else None,
        "cause": causes[0] if causes else None,
        "reason": next(iter(reward.terms.values())).reason if reward.terms else "",
        "answer": sample.answer,
        "response": rollout.text,
    }


def accuracy(records: Sequence[GradedResponse], n: int) -> Accuracy:
    """Summarise graded responses, of which each problem has `n` sampled ones."""
    by_problem: dict[str, list[bool]] = defaultdict(list)
    by_task: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    greedy: list[bool] = []
    for record in records:
        correct = record["correct"]
        if correct is None:
            continue
        if record["mode"] == "greedy":
            greedy.append(correct)
        else:
            by_problem[record["id"]].append(correct)
            by_task[record["task"]][record["id"]].append(correct)
    unjudged = [record for record in records if record["correct"] is None]
    means = np.array([np.mean(verdicts) for verdicts in by_problem.values()])
    return Accuracy(
        avg=float(means.mean()) if len(means) else None,
        ci95=interval(means, list(by_problem)) if len(means) else None,
        greedy=float(np.mean(greedy)) if greedy else None,
        samples=n,
        problems=len({record["id"] for record in records}),
        no_verdict=len(unjudged),
        causes=dict(Counter(r["cause"] or "unknown" for r in unjudged).most_common()),
        tasks={
            task: float(np.mean([np.mean(verdicts) for verdicts in problems.values()]))
            for task, problems in sorted(by_task.items())
        },
    )


def shown(result: Mapping[str, Any], samples: int) -> list[str]:
    """Return a summary's figures as cells: avg@n, its interval, greedy; "-" for what is unknown."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    ci95 = result["ci95"]
    interval_text = "-" if ci95 is None else f"{100 * ci95[0]:.1f} to {100 * ci95[1]:.1f}"
    return [percent(result[f"avg@{samples}"]), interval_text, percent(result["greedy"])]


def columns(samples: int, temperature: float) -> list[str]:
    """Return the headings of the cells that `shown` returns."""
    return [f"avg@{samples} at temperature {temperature:g}", "95 % interval", "greedy"]


def _print_table(result: Accuracy, config: Config) -> None:
    rows = [["all", *shown(result.summary(), result.samples)]]
    rows += [[task, f"{100 * value:.1f} %", "", ""] for task, value in result.tasks.items()]
    table(
        f"{config.model.path}: {result.problems} held-out problems",
        ["task", *columns(result.samples, config.evaluation.temperature)],
        rows,
    )
    if result.no_verdict:
        cause, count = next(iter(result.causes.items()))
        print(
            f"{result.no_verdict} responses have no verdict and count nowhere; {count} of them: "
            f"{printable(cause)}"
        )
