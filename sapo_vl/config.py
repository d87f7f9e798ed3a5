"""The configuration: one typed tree, defaults written once, here.

Sources, weakest first: the defaults below, a YAML file (`--config`), dotted overrides on the
command line (`sapo.tau_neg=1.1`). A YAML file holds only what differs. Unknown keys are refused
with the nearest known one. `load` needs neither torch nor vllm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sapo_vl.errors import ConfigError, nearest

CONFIGS = Path(__file__).resolve().parent / "configs"
"""The shipped YAML files: train/*.yaml and eval/*.yaml (in a checkout a link to configs/)."""


class Section(BaseModel):
    """A node of the tree; unknown keys and later assignments of wrong types are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class RunConfig(Section):
    """Where the run lives and what it records."""

    dir: Path = Field(Path("runs/main"), description="folder that holds all of the run")
    seed: int = Field(0, description="initialisation, data order, sampling")
    tensorboard: bool = Field(True, description="write RUN/tensorboard")
    wandb: bool = Field(
        False, description="log to Weights & Biases (its own variables hold the token)"
    )
    wandb_project: str = Field("sapo_vl", description="project name there")
    rollouts_every: int = Field(10, ge=0, description="keep every n-th step's rollouts; 0: none")
    stall_minutes: float = Field(
        60.0, gt=0, description="no progress for so long: stacks, then exit"
    )


class ModelConfig(Section):
    """The policy."""

    path: str = Field("tiny", description="'tiny', a Hugging Face folder or a hub id")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of weights in the forward"
    )
    freeze: list[Literal["vision", "merger", "language"]] = Field(
        [], description="components without training; 'vision' is all of model.visual"
    )
    gradient_checkpointing: bool = Field(True, description="recompute activations in backward")


class DataConfig(Section):
    """What the policy is trained on and tested with."""

    path: Path | None = Field(None, description="prepared folder; none: procedural data in the run")
    train_split: str = Field("train", description="split to sample prompts from")
    eval_split: str = Field("test", description="held-out split")
    instruction: str = Field("", description="text appended to each problem")
    min_pixels: int = Field(4096, ge=1, description="smaller images are scaled up")
    max_pixels: int = Field(1_048_576, ge=1, description="larger images are scaled down")
    max_prompt_tokens: int = Field(
        2048, ge=8, description="longer prompts are dropped, with a report"
    )
    ratio: dict[str, float] = Field(
        {}, description="share of each task in every mini-batch, in any unit; none: as drawn"
    )
    ratio_by: Literal["task", "dataset"] = Field("task", description="what data.ratio names")
    synthetic_train: int = Field(10_000, ge=1, description="procedural training records")
    synthetic_test: int = Field(480, ge=1, description="procedural held-out records")


class SftConfig(Section):
    """Supervised warm-up on `Sample.solution`; 0 steps: none."""

    steps: int = Field(0, ge=0, description="optimizer steps")
    data: Path | None = Field(None, description="records with solutions; none: those of data.path")
    batch: int = Field(16, ge=1, description="records per step, over all ranks")
    lr: float = Field(1e-5, gt=0, description="peak learning rate")
    warmup_steps: int = Field(20, ge=0, description="linear rise")
    final_lr: float = Field(
        0.1, ge=0, le=1, description="share of the peak at the end of the cosine"
    )


class RolloutConfig(Section):
    """Sampling of responses. top_p is 1 and top_k off by design: log-probs stay comparable."""

    steps: int = Field(100, ge=0, description="rollout batches; 0: evaluate only")
    prompts: int = Field(64, ge=1, description="prompts per step, over all ranks")
    group_size: int = Field(8, ge=2, description="responses per prompt, G")
    temperature: float = Field(1.0, gt=0, description="of sampling; the learner divides by it too")
    refill: int | None = Field(
        None,
        ge=0,
        description="rounds of dynamic sampling: groups without a gradient are replaced; none: the "
        "objective's own (dapo: 3, else 0)",
    )
    max_new_tokens: int = Field(2048, ge=1, description="longer responses are cut")


class RewardTerm(Section):
    """One verifier of the rubric."""

    fn: str = Field(description="a name of VERIFIERS or my/file.py:function")
    weight: float = Field(1.0, description="its share of the reward")


class JudgeOptions(Section):
    """The model-based verifier's endpoint, for the terms judge and answer_or_judge."""

    url: str = Field(description="OpenAI-compatible, ends in /v1; a vLLM server is one")
    model: str = Field(description="the name that the server knows")


ObjectiveName = Literal["sapo", "grpo", "gspo", "dapo", "cispo", "dr_grpo"]
GateName = Literal["sigmoid", "arctan", "softsign", "erf", "hard", "none"]


class SapoConfig(Section):
    """SAPO's numbers (arXiv 2511.20347); all but temperatures and gate hold for any objective."""

    tau_pos: float = Field(
        1.0, gt=0, description="gate temperature where the advantage is positive"
    )
    tau_neg: float = Field(1.05, gt=0, description="gate temperature where it is negative")
    gate: GateName = Field("sigmoid", description="see `sapo-vl gate`; sigmoid is the paper's")
    advantage_std: Literal["auto", "group", "none"] = Field(
        "auto", description="divide by the group's std; auto: as the objective does"
    )
    mini_batches: int = Field(4, ge=1, description="optimizer steps per rollout batch")
    mismatch_cap: float | None = Field(
        2.0, description="truncation of pi_old/mu, the learner's against the sampler's; none: off"
    )


class ClipConfig(Section):
    """Bounds of the ratio for the objectives that clip."""

    low: float | None = Field(
        None, ge=0, le=1, description="the ratio is bounded by 1 - low; none: the paper's"
    )
    high: float | None = Field(None, ge=0, description="and by 1 + high; none: the paper's")


class LearnerConfig(Section):
    """The optimizer and the machinery around it."""

    lr: float = Field(1e-6, gt=0, description="peak learning rate")
    warmup_steps: int = Field(3, ge=0, description="rollout steps of linear rise")
    final_lr: float = Field(0.1, ge=0, le=1, description="share of the peak after the linear decay")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    clip: float = Field(1.0, ge=0, description="gradient norm; 0: no clipping")
    packing: Literal["shared_prefix", "padded"] = Field(
        "shared_prefix", description="padded: the slow reference, each response with its own prompt"
    )
    micro_batch_tokens: int = Field(16_384, ge=16, description="token budget of one micro-batch")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    offload_optimizer: bool = Field(False, description="optimizer state and step on the CPU")
    offload_parameters: bool = Field(False, description="ZeRO-3 parameters on the CPU")
    deepspeed: Path | None = Field(None, description="JSON merged over DeepSpeed's configuration")
    max_bad_steps: int = Field(
        5, ge=1, description="non-finite steps in a row before the run stops"
    )


class GeneratorConfig(Section):
    """The sampler."""

    backend: Literal["vllm", "transformers"] = Field(
        "vllm", description="transformers: the reference"
    )
    max_model_len: int = Field(8192, ge=16, description="prompt and response together, in tokens")
    max_num_seqs: int = Field(256, ge=1, description="sequences decoded at once")
    max_images: int = Field(4, ge=1, description="images in one prompt")
    gpu_memory_utilization: float = Field(
        0.55, gt=0, le=1, description="the engine's share of a GPU"
    )
    kv_cache_mb: int = Field(256, ge=16, description="key-value cache on a CPU, MiB")
    tensor_parallel: int = Field(1, ge=1, description="ranks that share one engine")
    parity_mean: float = Field(
        0.05, gt=0, description="abort above this mean |log pi_old - log mu|"
    )
    parity_max: float = Field(float("inf"), gt=0, description="abort above this maximum of it")


class EvaluationConfig(Section):
    """Held-out accuracy: before, after, and on the way."""

    problems: int = Field(480, ge=1, description="held-out problems, the first of the split")
    samples: int = Field(8, ge=1, description="responses per problem at temperature 1")
    greedy: bool = Field(True, description="one greedy response per problem as well")
    every: int = Field(0, ge=0, description="also after every n steps; 0: before and after only")
    blank: bool = Field(False, description="replace each image by a blank one (a control)")
    benchmarks: list[str] = Field([], description="names of BENCHMARKS to evaluate as well")
    source: Path | None = Field(None, description="folder with the benchmarks' own files")
    limit: int = Field(100, ge=1, description="first problems of each benchmark")


class CollapseConfig(Section):
    """The collapse detector; collapse.py says what each rule looks at."""

    action: Literal["continue", "stop", "ignore"] = Field(
        "continue",
        description="after an alarm, which keeps the last good checkpoint; ignore: no alarm",
    )
    patience: int = Field(3, ge=1, description="steps in a row that a rule must hold")
    entropy_low: float = Field(0.01, ge=0, description="alarm below this mean entropy, nats")
    entropy_rise: float = Field(3.0, gt=1, description="alarm above so many times its start")
    gate: float = Field(0.5, ge=0, le=1, description="alarm below this mean gate weight")
    ess: float = Field(0.3, ge=0, le=1, description="alarm below this effective sample size")
    length: float = Field(3.0, gt=1, description="alarm beyond so many times the start's length")
    reward_drop: float = Field(
        0.5, gt=0, le=1, description="alarm when the reward lost this share of its best"
    )


class CheckpointConfig(Section):
    """What a run can be resumed from."""

    every: int = Field(20, ge=1, description="training steps between checkpoints")
    sft_every: int = Field(500, ge=1, description="warm-up steps between checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")


class Config(Section):
    """All of a run."""

    objective: ObjectiveName = Field("sapo", description="what the learner maximises")
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: list[RewardTerm] = [RewardTerm(fn="answer", weight=1.0)]
    judge: JudgeOptions | None = None
    sapo: SapoConfig = SapoConfig()
    clip: ClipConfig = ClipConfig()
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
        if self.rollout.prompts < self.sapo.mini_batches:
            raise ValueError(
                f"rollout.prompts={self.rollout.prompts} is below "
                f"sapo.mini_batches={self.sapo.mini_batches}: each mini-batch needs a prompt"
            )
        if self.rollout.max_new_tokens >= self.generator.max_model_len:
            raise ValueError(
                f"rollout.max_new_tokens={self.rollout.max_new_tokens} leaves no room for a "
                f"prompt in generator.max_model_len={self.generator.max_model_len}"
            )
        if self.data.ratio and self.rollout.prompts % self.sapo.mini_batches:
            raise ValueError(
                "data.ratio needs mini-batches of one size: rollout.prompts="
                f"{self.rollout.prompts} is not a multiple of "
                f"sapo.mini_batches={self.sapo.mini_batches}"
            )
        if self.objective == "sapo" and (self.clip.low, self.clip.high) != (None, None):
            raise ValueError("clip.low and clip.high need an objective that clips, not sapo")
        if self.objective != "sapo" and self.sapo.gate != "sigmoid":
            raise ValueError(f"sapo.gate={self.sapo.gate} needs objective=sapo")
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one verifier")
        if self.learner.offload_parameters and self.learner.zero_stage != 3:
            raise ValueError("learner.offload_parameters needs learner.zero_stage=3")
        if self.learner.offload_optimizer and self.learner.zero_stage == 0:
            raise ValueError("learner.offload_optimizer needs learner.zero_stage of 1, 2 or 3")
        return self


def load(path: Path | None, overrides: list[str]) -> Config:
    """Read defaults < YAML file < overrides.

    `overrides` are `dotted.key=value` strings, the value in YAML notation.
    Raises ConfigError, naming the key, the value and what is allowed.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
        _check_keys(Config, tree, "", str(path))
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep:
            raise ConfigError(
                f"'{item}' is not an override; write key=value, e.g. sapo.tau_neg=1.1"
            )
        value = _yaml_value(text, key)
        _check_keys(Config, _nested(key, value), "", "the command line")
        _merge(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def save(config: Config, path: Path) -> None:
    """Write the resolved tree as YAML that `load` reads back unchanged."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        here = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise ConfigError(f"--config {path} does not exist{nearest(str(path), here)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--config {path} can't be read: {' '.join(str(error).split())}"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"--config {path} must hold 'key: value' lines, not a {type(tree).__name__}"
        )
    return tree


def _yaml_value(text: str, key: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}={text} is not a value in YAML notation") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[leaf] = value


def _check_keys(model: type[BaseModel], tree: Any, prefix: str, where: str) -> None:
    """Refuse unknown keys before pydantic sees them, with the nearest known name."""
    if not isinstance(tree, dict):
        if prefix:
            raise ConfigError(f"{where}: '{prefix}' holds a group of keys, not a value")
        return
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in model.model_fields:
            raise ConfigError(f"{where}: unknown key '{name}'{_suggest(model, prefix, str(key))}")
        field = model.model_fields[key].annotation
        if isinstance(field, type) and issubclass(field, BaseModel):
            _check_keys(field, value, name, where)
        elif isinstance(value, list):
            (item,) = get_args(field)[:1] or (None,)
            if isinstance(item, type) and issubclass(item, BaseModel):
                for i, entry in enumerate(value):
                    _check_keys(item, entry, f"{name}[{i}]", where)


def _suggest(model: type[BaseModel], prefix: str, key: str) -> str:
    everywhere = [f"{s}.{k}" for s, f in Config.model_fields.items() for k in _fields(f.annotation)]
    same_leaf = [name for name in everywhere if name.endswith(f".{key}")]
    if same_leaf:
        return f"; did you mean '{same_leaf[0]}'?"
    if prefix and nearest(key, model.model_fields):
        return nearest(f"{prefix}.{key}", [f"{prefix}.{name}" for name in model.model_fields])
    return nearest(key, [*Config.model_fields, *everywhere]) or (
        f"; known here: {', '.join(model.model_fields)}"
    )


def _fields(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{key}={item['input']!r}: {message}" if key else message)
    return "; ".join(parts)
