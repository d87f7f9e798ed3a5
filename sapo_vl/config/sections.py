"""The sections of a configuration: every key with its type, default and meaning.

The tree that holds them, and how it is read and written, is __init__.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sapo_vl.config.keys import UserPath, expand_home, service_url


class Section(BaseModel):
    """A node of the tree. Unknown keys, assignments of a wrong type, and NaN are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class RunConfig(Section):
    """The run's folder and what is recorded in it."""

    dir: UserPath = Field(Path("runs/main"), description="folder of all the run's files")
    seed: int = Field(
        0, ge=0, lt=10**9, description="seed of initialisation, data order and sampling"
    )
    tensorboard: bool = Field(True, description="write RUN/tensorboard")
    wandb: bool = Field(False, description="log to Weights & Biases; WANDB_* variables apply")
    trackio: bool = Field(False, description="log to trackio; TRACKIO_* variables apply")
    hub_repo: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="OWNER/NAME: at the end push RUN/final with a model card to this repository of "
        "the Hugging Face Hub, which is created private if it is new; null: nothing is pushed",
    )
    rollouts_every: int = Field(10, ge=0, description="write every n-th step's rollouts; 0: none")
    stall_minutes: float = Field(
        60.0, gt=0, le=100_000, description="watchdog timeout: dump stacks and exit"
    )


class LoraConfig(Section):
    """Low-rank adapters in place of full fine-tuning; rank 0 trains all weights."""

    rank: Literal[0, 8, 16, 32, 64, 128, 256] = Field(
        0, description="rank of the adapters; 0: all weights are trained"
    )
    alpha: int | None = Field(
        None, ge=1, description="an adapter counts alpha / rank times; null: alpha = rank"
    )
    targets: Literal["language", "all"] | list[str] = Field(
        "language",
        description="linear layers with adapters: of the text model, of the vision tower too, or "
        "those whose names end so, e.g. [q_proj, v_proj]",
    )
    path: UserPath | None = Field(
        None, description="a PEFT adapter folder to start from; null: adapters that change nothing"
    )

    @property
    def scale(self) -> float:
        """Return the factor of an adapter's product."""
        return (self.alpha or self.rank) / self.rank

    @model_validator(mode="after")
    def _needs_rank(self) -> LoraConfig:
        if self.rank == 0 and (self.alpha is not None or self.path is not None):
            raise ValueError("lora.alpha and lora.path need model.lora.rank above 0")
        if self.targets == []:
            raise ValueError("lora.targets is empty: name a layer")
        return self


class ModelConfig(Section):
    """The policy."""

    path: str = Field(
        "tiny",
        min_length=1,
        description="a Hugging Face folder or hub id; tiny or tiny:FAMILY: built in the run",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="type of the weights in the forward pass"
    )
    freeze: list[Literal["vision", "merger", "language"]] = Field(
        [], description="components that are not trained; vision includes the merger"
    )
    gradient_checkpointing: Literal["none", "alternate", "all"] = Field(
        "all", description="layers that recompute activations in backward: every other one, or all"
    )

    lora: LoraConfig = Field(LoraConfig(), description="low-rank adapters")

    @field_validator("path")
    @classmethod
    def _home(cls, path: str) -> str:
        return expand_home(path)


class DataConfig(Section):
    """Training and held-out data."""

    path: UserPath | None = Field(None, description="prepared data; null: procedural problems")
    train_split: str = Field("train", description="split that prompts are sampled from")
    eval_split: str = Field("test", description="held-out split")
    instruction: str = Field("", description="text appended to each problem")
    min_pixels: int = Field(4096, ge=1, description="smaller images are scaled up to this")
    max_pixels: int = Field(1_048_576, ge=1, description="larger images are scaled down to this")
    max_prompt_tokens: int = Field(2048, ge=8, description="longer prompts are left out")
    ratio: dict[str, float] = Field(
        {}, description="share of each task in every mini-batch, normalised; empty: as shuffled"
    )
    ratio_by: Literal["task", "dataset"] = Field(
        "task", description="column that holds the names in data.ratio"
    )
    rest_after: int = Field(
        0,
        ge=0,
        description="difficulty pools: a record whose last n groups of responses were all right, "
        "or all wrong, rests; 0: none does",
    )
    rest_epochs: int = Field(
        1, ge=1, le=1000, description="epochs in which it is passed over; then one group decides"
    )
    synthetic_train: int = Field(10_000, ge=1, description="number of procedural training records")
    synthetic_test: int = Field(480, ge=1, description="number of procedural held-out records")


class SftConfig(Section):
    """Supervised fine-tuning on `Sample.solution` before RL."""

    steps: int = Field(0, ge=0, description="optimizer steps; 0: no warm-up")
    data: UserPath | None = Field(None, description="data set with solutions; null: data.path")
    batch: int = Field(16, ge=1, description="records per step, over all ranks")
    lr: float = Field(1e-5, gt=0, le=1, description="peak learning rate")
    lora: bool = Field(
        True,
        description="where model.lora is on, train adapters here too, which SAPO goes on with; "
        "false: all weights, which become the base of SAPO's adapters",
    )
    lr_warmup_steps: int = Field(20, ge=0, description="steps of linear learning-rate warm-up")
    final_lr: float = Field(0.1, ge=0, le=1, description="share of lr after the cosine decay")


class RolloutConfig(Section):
    """Sampling of responses. top_p is 1 and top_k is off, so log-probs are the policy's own."""

    steps: int = Field(100, ge=0, description="rollout batches; 0: only evaluate")
    prompts: int = Field(64, ge=1, description="prompts per step, over all ranks")
    group_size: int = Field(8, ge=2, description="responses per prompt, G")
    temperature: float = Field(
        1.0,
        ge=0.01,  # vLLM samples at 0.01 where less is asked for
        description="sampling temperature; the learner's logits are divided by it too",
    )
    max_resample_rounds: int | None = Field(
        None,
        ge=0,
        description="dynamic sampling: rounds in which groups without a gradient are resampled; "
        "null: the objective's default (dapo: 3, else 0)",
    )
    max_new_tokens: int = Field(2048, ge=1, description="length limit of a response, in tokens")
    ahead: int = Field(
        0,
        ge=0,
        le=16,
        description="sample each batch by the weights of this many steps before, while the learner "
        "trains on earlier ones",
    )
    in_flight: bool = Field(
        False,
        description="servers get new weights in the middle of responses; needs rollout.ahead; such "
        "a run can't be reproduced",
    )


class RewardTerm(Section):
    """One verifier and its weight in the reward."""

    fn: str = Field(description="a verifier's name, or my/file.py:function")
    weight: float = Field(1.0, description="factor of its score in the reward")


class JudgeOptions(Section):
    """Endpoint of the LLM behind the verifiers `judge` and `answer_or_judge`."""

    url: str = Field(description="OpenAI-compatible base URL ending in /v1, e.g. a vLLM server's")
    model: str = Field(description="model name on that server")
    timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="time of one call, with its retries"
    )
    pictures: bool = Field(
        False, description="show the problem's pictures to the judge, a model that takes pictures"
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        return service_url(url)


class VerifierConfig(Section):
    """Limits on verifiers, whatever their names."""

    timeout_seconds: float = Field(
        2.0, gt=0, description="time a worker has for one response or one comparison"
    )
    max_no_verdict: float = Field(
        0.5,
        ge=0,
        le=1,
        description="stop when more than this share of the responses of three steps has no verdict",
    )


class AlgorithmConfig(Section):
    """Options shared by all objectives."""

    num_mini_batches: int = Field(4, ge=1, description="optimizer steps per rollout batch")
    normalize_advantages: bool | None = Field(
        None,
        description="divide advantages by the group's standard deviation; null: the objective's "
        "default (dr_grpo: false, else true)",
    )
    importance_cap: float | None = Field(
        2.0,
        gt=0,
        description="upper limit of the importance weight pi_old / mu (learner / sampler); "
        "null: no correction",
    )
    staleness: Literal["recompute", "gate"] = Field(
        "recompute",
        description="denominator of the importance ratio: recompute: the learner's own log-probs "
        "at the start of the step; gate: the sampler's, so that the gate sees the rollouts' age",
    )
    kl_coef: float = Field(
        0.0,
        ge=0,
        description="factor of the KL penalty to the policy that SAPO started from; 0: none",
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class LearnerConfig(Section):
    """Optimizer, micro-batches and DeepSpeed."""

    lr: float = Field(
        1e-6, gt=0, le=1, description="peak learning rate; with model.lora the default is 1e-5"
    )
    lr_warmup_steps: int = Field(3, ge=0, description="steps of linear learning-rate warm-up")
    final_lr: float = Field(0.1, ge=0, le=1, description="share of lr after the linear decay")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW's betas")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(
        1.0, ge=0, description="clip the gradient to this norm; 0: no clipping"
    )
    layout: Literal["shared_prefix", "padded"] = Field(
        "shared_prefix",
        description="shared_prefix computes a group's prompt once; padded is the slow reference",
    )
    attention: Literal["auto", "flex", "varlen"] = Field(
        "auto", description="shared_prefix on a GPU: varlen (16 bits), or flex; auto: by the model"
    )
    micro_batch_tokens: int = Field(16_384, ge=16, description="token budget of a micro-batch")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    grad_accum_dtype: Literal["float32"] | None = Field(
        None,
        description="type in which the gradients of micro-batches add up: float32 costs 2 bytes "
        "more per trained parameter under bfloat16, shared by the ranks; null: model.dtype",
    )
    offload_optimizer: bool = Field(False, description="keep optimizer state and step on the CPU")
    offload_parameters: bool = Field(False, description="keep ZeRO-3 parameters on the CPU")
    offload_while_sampling: bool = Field(
        False,
        description="move the optimizer's state to host memory while the engine samples, and with "
        "model.lora the frozen weights; raise generator.gpu_memory_utilization with it",
    )
    deepspeed: UserPath | None = Field(None, description="JSON file merged over DeepSpeed's config")
    max_bad_steps: int = Field(5, ge=1, description="stop after this many non-finite gradients")


class GeneratorConfig(Section):
    """The engine that samples rollouts."""

    backend: str = Field(
        "vllm",
        description="vllm (in this process), server (vLLM servers), transformers (slow reference), "
        "or my/engine.py:Engine",
    )
    servers: list[str] = Field(
        [],
        description="running vLLM servers, as http://host:port; their key is read from the "
        "environment variable SAPO_SERVER_KEY",
    )
    local_servers: int = Field(
        0,
        ge=0,
        description="vLLM servers started on this machine, on the GPUs that the learner leaves",
    )
    server_seconds: float = Field(
        1800,
        gt=0,
        description="deadline of a server's answer to one prompt; a server that misses it counts "
        "as dead",
    )
    max_model_len: int = Field(8192, ge=16, description="limit of prompt plus response, tokens")
    max_num_seqs: int = Field(256, ge=1, description="sequences decoded concurrently")
    max_images: int = Field(4, ge=1, description="limit of images per prompt")
    gpu_memory_utilization: float = Field(0.55, gt=0, le=1, description="vLLM's share of a GPU")
    kv_cache_mb: int = Field(256, ge=16, description="KV cache on a CPU, MiB")
    tensor_parallel: int = Field(
        1, ge=1, description="ranks sharing one engine; with backend=server GPUs of a local server"
    )
    parity_warn: float | None = Field(
        None, gt=0, description="warn above this mean |log mu - log pi_old|; null: by model.dtype"
    )
    parity_stop: float | None = Field(
        None, gt=0, description="stop above this mean |log mu - log pi_old|; null: by model.dtype"
    )


class EvaluationConfig(Section):
    """Held-out accuracy before, during and after training."""

    problems: int = Field(480, ge=1, description="number of held-out problems, the split's first")
    samples: int = Field(8, ge=1, description="responses per problem, at evaluation.temperature")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature of these responses, whatever rollouts have"
    )
    greedy: bool = Field(True, description="also one greedy response per problem")
    every: int = Field(0, ge=0, description="also every n steps; 0: before and after only")
    patience: int = Field(
        0,
        ge=0,
        description="early stop: end the run after n evaluations in a row without a new best of "
        "checkpoint.best; 0: never",
    )
    blank: bool = Field(False, description="control: replace every image by a blank one")
    benchmarks: list[str] = Field([], description="names, or my/bench.py:BENCHMARK")
    source: UserPath | None = Field(None, description="folder of the benchmarks' files")
    limit: int = Field(100, ge=1, description="number of problems per benchmark")


class CollapseConfig(Section):
    """Thresholds of the collapse detector (algorithm/collapse.py)."""

    action: Literal["continue", "stop", "ignore"] = Field(
        "continue",
        description="after an alarm, which also pins the last good checkpoint; ignore: no alarms",
    )
    patience: int = Field(3, ge=1, description="consecutive steps a rule must hold")
    entropy_low: float = Field(0.01, ge=0, description="alarm below this mean token entropy, nats")
    entropy_rise: float = Field(
        3.0, gt=1, description="alarm above this multiple of the initial entropy"
    )
    gate: float = Field(0.5, ge=0, le=1, description="alarm below this mean gate weight")
    ess: float = Field(0.3, ge=0, le=1, description="alarm below this effective sample size")
    length: float = Field(
        3.0, gt=1, description="alarm outside this factor of the initial response length"
    )
    reward_drop: float = Field(0.5, gt=0, le=1, description="alarm below best x (1 - this)")


class CheckpointConfig(Section):
    """Checkpoints for resuming a run."""

    every: int = Field(20, ge=1, description="training steps between checkpoints")
    sft_every: int = Field(500, ge=1, description="warm-up steps between checkpoints")
    keep: int = Field(2, ge=1, description="number of newest checkpoints to keep")
    best: str | None = Field(
        None,
        description="avg, greedy or a benchmark's name: keep the checkpoint with the highest value "
        "of this held-out figure as well, and export it to RUN/best; null: no such checkpoint",
    )
