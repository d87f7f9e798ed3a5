"""Set-up of a training run: checked config, policy folder, data, renderer, rubric.

The tiny model and procedural data are made once per run and reused when the run is resumed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config, tiny_family
from sapo_vl.data import store, synthetic
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.errors import ConfigError, SetupError, printable
from sapo_vl.evaluation.benchmark import LoadedBenchmark, chosen_sets
from sapo_vl.generator.base import NO_VLLM, VLLM_BACKENDS, check_backend, check_tensor_parallel
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.learner.gated_delta_fla import missing_kernels
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.families import family_of
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.usable_samples import UsableSamples, usable_samples
from sapo_vl.model.weights import check_model
from sapo_vl.rewards.probe import probe
from sapo_vl.rewards.rubric import Rubric, build_rubric
from sapo_vl.runs import warning_log
from sapo_vl.runs.folder import Run
from sapo_vl.runs.progress import table
from sapo_vl.schema import Sample
from sapo_vl.system import distributed
from sapo_vl.system.machine import gpu_count
from sapo_vl.training.best import check_metric
from sapo_vl.training.hub import check_hub
from sapo_vl.training.plan.limits import check_capacity
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.prompt_sampler import PromptSampler

TOKENIZER_TEXTS = 4000
"""Procedural records whose texts the tiny model's tokenizer is trained on."""


def preflight(config: Config) -> Config:
    """Check what can be checked without weights, before the run's folder is created.

    Returns the resolved config (see objectives.resolve). Raises ConfigError, DataError or
    SetupError.
    """
    config = objectives.resolve(config)
    ranks = distributed.world_size()
    for key, value in (
        ("rollout.prompts", config.rollout.prompts),
        ("sft.batch", config.sft.batch),
    ):
        if value < ranks:
            raise ConfigError(f"{key}={value} is below the number of ranks ({ranks})")
    check_tensor_parallel(config, ranks)
    build_rubric(config).close()
    check_backend(config.generator.backend)
    if config.generator.backend in VLLM_BACKENDS and importlib.util.find_spec("vllm") is None:
        raise SetupError(NO_VLLM)
    if config.data.path is not None:
        for split in (config.data.train_split, config.data.eval_split):
            store.load(config.data.path, split)
    if config.sft.steps > 0 and config.sft.data is not None:
        store.load(config.sft.data, config.data.train_split)
    check_model(config)
    check_delta_kernels(config)
    if config.model.lora.rank:
        module_on_meta(config)  # refuses what can't have adapters
    deepspeed_settings(config)
    check_metric(config, chosen_sets(config))
    check_hub(config)
    check_capacity(config)
    return config


def check_delta_kernels(config: Config) -> None:
    """Check that a GPU has kernels for a model's gated delta nets; without a GPU none are needed.

    Prints a warning for a float32 model. Raises SetupError where the kernels are not installed.
    """
    if not gpu_count():
        return
    family = tiny_family(config.model.path)
    if family is not None:
        layers = family_of(family).tiny.text.get("layer_types")
    else:
        layers = getattr(open_assets(config.model.path).config.text_config, "layer_types", None)
    if "linear_attention" not in (layers or ()):
        return
    if config.model.dtype == "float32":
        distributed.print0(
            "warning: model.dtype=float32 runs the gated delta nets in plain PyTorch, many times "
            "slower than the kernels that bfloat16 has"
        )
        return
    missing = missing_kernels()
    if missing is not None:
        raise SetupError(missing)


@dataclass(slots=True)
class RunInputs:
    """Everything that a run trains with, besides the weights."""

    assets: ModelAssets  # of the model before the warm-up
    renderer: PromptRenderer
    rubric: Rubric
    train_set: UsableSamples
    test_set: Sequence[Sample]
    prompt_sampler: PromptSampler
    benchmarks: dict[str, LoadedBenchmark]  # evaluation.benchmarks


def load_inputs(run: Run) -> RunInputs:
    """Open the model folder and the data, and grade every gold answer with the run's verifier.

    Raises UserError for bad input, before anything is trained.
    """
    config = run.config
    rubric = build_rubric(config)
    assets = policy_assets(run)
    renderer = PromptRenderer(assets, config.data)
    benchmarks = chosen_sets(config)
    path = data_folder(run, config.data.path)
    train_set = usable_samples(config, renderer, path, config.data.train_split, "data.path")
    sampler = PromptSampler(config, train_set)
    held_out = usable_samples(config, renderer, path, config.data.eval_split, "data.path")
    test_set = held_out[: config.evaluation.problems]
    checked = [rubric.check_gold(samples) for samples in (train_set, test_set)]
    if all(checked):
        total = len(train_set) + len(test_set)
        distributed.print0(f"gold answers: all {total} pass the verifier")
    warnings = [*train_set.left_out, *held_out.left_out, *try_verifiers(rubric, train_set)]
    if len(train_set) < config.rollout.prompts:
        warnings.append(
            f"data.path: {len(train_set)} records are fewer than rollout.prompts="
            f"{config.rollout.prompts}: a step draws some of them several times"
        )
        distributed.print0(warnings[-1])
    for line in warnings:
        warning_log.record(run.dir, 0, line)
    return RunInputs(assets, renderer, rubric, train_set, test_set, sampler, benchmarks)


def try_verifiers(rubric: Rubric, samples: Sequence[Sample]) -> list[str]:
    """Try every reward term on gold answers and on junk; print the confusion and warnings.

    Returns the warnings; none on other ranks than 0, which print nothing either. Raises ConfigError
    for a term that never answers, SetupError for a judge out of reach.
    """
    results = probe(rubric, samples)
    if distributed.rank() != 0:
        return []
    golds, junk = (
        counts.right + counts.wrong + counts.none for counts in (results[0].golds, results[0].junk)
    )
    answers = ("right", "wrong", "no verdict")
    table(
        f"verifiers on {golds} gold answers and {junk} junk responses",
        ["term", *(f"golds {name}" for name in answers), *(f"junk {name}" for name in answers)],
        [
            [
                result.name,
                *(str(n) for c in (result.golds, result.junk) for n in (c.right, c.wrong, c.none)),
            ]
            for result in results
        ],
    )
    warnings = [line for result in results for line in result.warnings]
    for line in warnings:
        distributed.print0(f"warning: {printable(line)}")
    return warnings


def check_records(config: Config) -> None:
    """Make the checks of `load_inputs` that need neither weights nor a run's folder.

    Reads every record of data.path and tries the verifiers; procedural problems are drawn later and
    are ours. Raises UserError as `load_inputs` does.
    """
    if config.data.path is None or tiny_family(config.model.path) is not None:
        return
    renderer = PromptRenderer(open_assets(config.model.path), config.data)
    with closing(build_rubric(config)) as rubric:
        train_set, held_out = (
            usable_samples(config, renderer, config.data.path, split, "data.path")
            for split in (config.data.train_split, config.data.eval_split)
        )
        for samples in (train_set, held_out[: config.evaluation.problems]):
            rubric.check_gold(samples)
        try_verifiers(rubric, train_set)


def policy_assets(run: Run) -> ModelAssets:
    """Open model.path; a tiny model is built in the run's folder first."""
    path = initial_model(run.config)
    family = tiny_family(run.config.model.path)
    if family is not None:
        if distributed.rank() == 0 and not path.exists():
            from sapo_vl.model import tiny

            seed = run.config.run.seed
            corpus = synthetic.corpus(seed, TOKENIZER_TEXTS)
            tiny.build(path, corpus=corpus, seed=seed, family=family)
            distributed.print0(f"built a tiny {family_of(family).name} in {path}")
        distributed.barrier()
    return open_assets(path)


def initial_model(config: Config) -> Path:
    """Return model.path, or the folder in the run where a tiny model is built."""
    if tiny_family(config.model.path) is not None:
        return config.run.dir / f"model-seed{config.run.seed}"
    return Path(config.model.path)


@dataclass(frozen=True, slots=True)
class SapoStart:
    """What the SAPO phase starts from, after the warm-up if there is one."""

    model: Path  # folder or hub id; with adapters, their frozen base
    adapter: Path | None  # PEFT folder to go on from; None: new adapters, or none at all


def sapo_start(config: Config) -> SapoStart:
    """Return the model and adapter that the SAPO phase starts from.

    Adapters that the warm-up trained go on as they are, on the same base: merging them would round
    them to the type of the base, and the final adapter would belong to a model that nobody else
    has. A warm-up of all weights makes the model that new adapters belong to.
    """
    if config.sft.steps == 0:
        return SapoStart(initial_model(config), config.model.lora.path)
    warm = config.run.dir / "warmup" / "final"
    if config.model.lora.rank and config.sft.lora:
        return SapoStart(initial_model(config), warm / "adapter")
    return SapoStart(warm, None)


def sapo_config(config: Config) -> Config:
    """Return the learner's config for the SAPO phase: model.lora.path is what it starts from."""
    adapters = config.model.lora.model_copy(update={"path": sapo_start(config).adapter})
    model = config.model.model_copy(update={"lora": adapters})
    return config.model_copy(update={"model": model})


def data_folder(run: Run, path: Path | None) -> Path:
    """Return `path`, or the folder in the run with the procedural data of the run's seed."""
    if path is not None:
        return path
    options = run.config.data
    sizes = f"{options.synthetic_train}-{options.synthetic_test}"
    folder = run.dir / f"data-seed{run.config.run.seed}-{sizes}"
    if distributed.rank() == 0 and not folder.exists():
        prepare(
            "synthetic",
            PrepareOptions(folder),
            synthetic.SyntheticOptions(
                seed=run.config.run.seed,
                count=options.synthetic_train,
                test_count=options.synthetic_test,
            ),
        )
        distributed.print0(
            f"drew {options.synthetic_train} training and {options.synthetic_test} held-out "
            f"problems in {folder}"
        )
    distributed.barrier()
    return folder
