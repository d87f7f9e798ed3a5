"""The configuration: one typed tree, whose sections and defaults are in sections.py.

Precedence, lowest first: the defaults, a YAML file (`--config`), dotted overrides on the
command line (`learner.lr=1e-5`). A YAML file holds only what differs from the defaults. Unknown
keys are refused with the nearest known one. `load` needs neither torch nor vllm.

An objective's own options form a section of its name: `sapo.tau_neg=1.1`, `grpo.high=0.3`, or
`loss.delta=3` for `objective=my/loss.py:loss`. Their types live with the objective
(algorithm/objectives), which checks them at the start of a run; here they are
`Config.objective_options`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from sapo_vl.config.keys import (
    check_keys,
    last_named,
    merged_tree,
    one_line,
    read_sources,
    section_of,
    typed,
)
from sapo_vl.config.sections import (
    AlgorithmConfig,
    CheckpointConfig,
    CollapseConfig,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    JudgeOptions,
    LearnerConfig,
    ModelConfig,
    RewardTerm,
    RolloutConfig,
    RunConfig,
    Section,
    SftConfig,
    VerifierConfig,
)
from sapo_vl.errors import ConfigError
from sapo_vl.plugins import absolute_plugin

T = TypeVar("T", bound=BaseModel)

LORA_LR = 10
"""Adapters learn at this multiple of the default learning rate, where learner.lr isn't named."""

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""The shipped YAML files: train/*.yaml and eval/*.yaml (in a checkout a link to configs/)."""


class Config(Section):
    """A whole run."""

    objective: str = Field(
        "sapo", description="sapo, grpo, gspo, dapo, cispo, dr_grpo, or my/loss.py:loss"
    )
    objective_options: dict[str, Any] = Field(
        {}, description="set in a section named after the objective, e.g. sapo.tau_neg"
    )
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: list[RewardTerm] = Field([RewardTerm(fn="answer", weight=1.0)])
    judge: JudgeOptions | None = None
    verifier: VerifierConfig = VerifierConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    collapse: CollapseConfig = CollapseConfig()
    learner: LearnerConfig = LearnerConfig()
    generator: GeneratorConfig = GeneratorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.min_pixels > self.data.max_pixels:
            raise ValueError(
                f"data.min_pixels={self.data.min_pixels} is above "
                f"data.max_pixels={self.data.max_pixels}"
            )
        count = self.algorithm.num_mini_batches
        if self.rollout.prompts < count:
            raise ValueError(
                f"rollout.prompts={self.rollout.prompts} is below "
                f"algorithm.num_mini_batches={count}: each mini-batch needs a prompt"
            )
        if self.rollout.max_new_tokens >= self.generator.max_model_len:
            raise ValueError(
                f"rollout.max_new_tokens={self.rollout.max_new_tokens} leaves no room for a "
                f"prompt in generator.max_model_len={self.generator.max_model_len}"
            )
        _check_sampler(self)
        _check_best(self)
        if self.data.ratio and self.rollout.prompts % count:
            raise ValueError(
                "data.ratio needs mini-batches of one size: rollout.prompts="
                f"{self.rollout.prompts} is not a multiple of "
                f"algorithm.num_mini_batches={count}"
            )
        if self.model.lora.path is not None and self.sft.steps > 0:
            raise ValueError("model.lora.path needs sft.steps=0: a warm-up would change its base")
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one verifier")
        if self.learner.offload_parameters and self.learner.zero_stage != 3:
            raise ValueError("learner.offload_parameters needs learner.zero_stage=3")
        if self.learner.offload_optimizer and self.learner.zero_stage == 0:
            raise ValueError("learner.offload_optimizer needs learner.zero_stage of 1, 2 or 3")
        if self.learner.offload_optimizer and self.learner.offload_while_sampling:
            raise ValueError(
                "learner.offload_while_sampling moves what learner.offload_optimizer=true keeps "
                "in host memory at all times: set one of them"
            )
        if (
            self.learner.grad_accum_dtype == "float32"
            and self.model.dtype == "bfloat16"
            and self.learner.zero_stage < 2  # at stage 1 they are rounded before they add up
        ):
            raise ValueError("learner.grad_accum_dtype=float32 needs learner.zero_stage of 2 or 3")
        return self


def _check_sampler(config: Config) -> None:
    """Raise ValueError where the keys of servers contradict each other."""
    options = config.generator
    if (options.backend == "server") != bool(options.servers or options.local_servers):
        raise ValueError(
            "generator.backend=server needs generator.servers or generator.local_servers, and no "
            "other backend uses them"
        )
    if options.servers and options.local_servers:
        raise ValueError(
            "generator.servers names running servers and generator.local_servers starts some: "
            "set one of them"
        )
    if options.backend == "server" and config.learner.offload_while_sampling:
        raise ValueError(
            "learner.offload_while_sampling makes room for an engine on the learner's own GPUs, "
            "which generator.backend=server has none of: set it to false"
        )
    if config.rollout.in_flight and not (options.backend == "server" and config.rollout.ahead):
        raise ValueError(
            "rollout.in_flight needs generator.backend=server and rollout.ahead of 1 or more"
        )


def _check_best(config: Config) -> None:
    """Raise ValueError where checkpoint.best names a figure that no evaluation gives."""
    metric, evaluation = config.checkpoint.best, config.evaluation
    if metric is None:
        if evaluation.patience:
            raise ValueError(
                "evaluation.patience needs checkpoint.best, the held-out figure that it watches, "
                "e.g. checkpoint.best=avg"
            )
        return
    if evaluation.every == 0:
        raise ValueError(
            f"checkpoint.best={metric} needs evaluation.every above 0: with 0 the last checkpoint "
            "is the only one that is evaluated"
        )
    if metric == "greedy" and not evaluation.greedy:
        raise ValueError("checkpoint.best=greedy needs evaluation.greedy=true")
    if metric not in ("avg", "greedy") and not evaluation.benchmarks:
        raise ValueError(
            f"checkpoint.best={metric} is neither avg nor greedy, and evaluation.benchmarks names "
            "no benchmark"
        )


def load(path: Path | None, overrides: list[str], *, over: Path | None = None) -> Config:
    """Read defaults < YAML file < `over`, a second YAML file < overrides.

    `overrides` are `dotted.key=value` strings; the key's type decides how the value is read.
    Raises ConfigError, naming the key, the value and what is allowed.
    """
    files = [file for file in (path, over) if file is not None]
    sources = read_sources(Config, files, overrides)
    objective, tree = merged_tree(Config, sources)
    try:
        options = typed(tree.pop(section_of(objective), None), dict[str, Any]) or {}
        config = Config.model_validate(typed(tree, Config) | {"objective_options": options})
        if config.model.lora.rank and last_named(sources, "learner.lr") is None:
            config.learner.lr *= LORA_LR
        return config
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None
    except RecursionError:
        raise ConfigError(f"--config {path}: an anchor of this file refers to itself") from None


def named_run_dir(path: Path | None, overrides: list[str]) -> Path:
    """Return run.dir as a YAML file and overrides name it, without checking any other key."""
    sources = read_sources(Config, [] if path is None else [path], overrides)
    value = typed(last_named(sources, "run.dir"), Path)
    try:
        return RunConfig().dir if value is None else RunConfig(dir=value).dir
    except ValidationError as error:
        raise ConfigError(one_line(error, "run.")) from None


def absolute(config: Config) -> Config:
    """Return the config with absolute paths, so that it means the same from any folder.

    Paths of files and folders, a model.path that is a folder, and `my/file.py:NAME`.
    """
    copy = config.model_copy(deep=True)
    for section, key in (
        (copy.run, "dir"),
        (copy.data, "path"),
        (copy.sft, "data"),
        (copy.evaluation, "source"),
        (copy.learner, "deepspeed"),
    ):
        if getattr(section, key) is not None:
            setattr(section, key, getattr(section, key).absolute())
    if tiny_family(copy.model.path) is None and Path(copy.model.path).is_dir():
        copy.model.path = str(Path(copy.model.path).absolute())
    copy.objective = absolute_plugin(copy.objective)
    copy.generator.backend = absolute_plugin(copy.generator.backend)
    for term in copy.rewards:
        term.fn = absolute_plugin(term.fn)
    copy.evaluation.benchmarks = [absolute_plugin(name) for name in copy.evaluation.benchmarks]
    return copy


def tiny_family(path: str) -> str | None:
    """Return FAMILY of a model.path `tiny:FAMILY`, qwen3_vl of `tiny`, None of any other path."""
    name, _, family = path.partition(":")
    return (family or "qwen3_vl") if name == "tiny" else None


def parse_section(model: type[T], values: dict[str, Any], section: str) -> T:
    """Check a section's values against its class. Raises ConfigError, naming key and value."""
    check_keys(Config, model, values, section, "the configuration")
    try:
        parsed = model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error, f"{section}.")) from None
    for key, value in parsed:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{section}.{key}={value}: Input should be a finite number")
    return parsed


def to_yaml(config: Config) -> str:
    """Return the resolved tree as YAML that `load` reads back unchanged."""
    return yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)


def dump(config: Config) -> dict[str, Any]:
    """Return the tree as plain types, the objective's options under its own section."""
    tree = config.model_dump(mode="json")
    options = tree.pop("objective_options")
    return tree | ({section_of(config.objective): options} if options else {})
