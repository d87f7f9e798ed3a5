"""The generator protocol: prompts in, rollouts with the sampling policy's log-probs out.

`generator.backend` names the implementation: `vllm` (vllm_engine.py, the default), `server`
(servers/generator.py: vLLM servers), `transformers` (hf_generate.py, the slow reference that tests
compare with), or a class of your own as `my/engine.py:Engine`, constructed as
`Engine(config, assets, seed=seed)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from sapo_vl import plugins
from sapo_vl.config.sections import LoraConfig
from sapo_vl.errors import ConfigError
from sapo_vl.schema import Prompt, Rollout

NO_VLLM = (
    "vLLM is not installed here: run scripts/setup.sh, or set generator.backend=transformers for "
    "the slow reference"
)

BACKENDS = ("vllm", "server", "transformers")

VLLM_BACKENDS = ("vllm", "server")
"""Those whose engine is vLLM."""

if TYPE_CHECKING:
    import torch

    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. Training keeps top_p at 1 and top_k off, so log-probs are the policy's."""

    n: int  # responses per prompt
    temperature: float  # 0 is greedy
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A prompt with its sampling settings and seed; those of one call may differ in all three."""

    prompt: Prompt
    params: SamplingParams
    seed: int  # with the prompt, determines the responses, whatever else is in the call


class Generator(Protocol):
    """Samples responses from its own copy of the policy."""

    def generate(self, requests: Sequence[SamplingRequest]) -> list[list[Rollout]]:
        """Return `params.n` rollouts per request, in order.

        With several ranks every rank makes the same calls, with an empty list where it has no
        prompts: the ranks of one engine (generator.tensor_parallel) work in step.
        """
        ...

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """Load all weights (Hugging Face names) and drop every cache of the old ones.

        `version` counts the training steps that they have seen; rollouts carry it.
        """
        ...

    def update_adapter(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """Replace the adapter by both matrices of each layer's (PEFT names); drop every cache.

        Called in place of `update_weights` where model.lora is on. The base weights are those that
        the generator was built with.
        """
        ...

    def sleep(self) -> None:
        """Free accelerator memory for the learner until `update_weights`; a no-op on a CPU."""
        ...

    def close(self) -> None:
        """Release everything; the object is unusable afterwards."""
        ...


def requests_of(
    prompts: Sequence[Prompt], params: SamplingParams, seeds: Sequence[int]
) -> list[SamplingRequest]:
    """Return a request per prompt, all with the same settings; `seeds` holds one seed each."""
    return [
        SamplingRequest(prompt, params, seed) for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def sampler_dtype(config: Config, assets: ModelAssets) -> str:
    """Return the type of the sampler's weights: model.dtype, unless vLLM lacks it for the family.

    Raises DataError for a model that vLLM has no kernels for.
    """
    import torch

    if config.generator.backend not in VLLM_BACKENDS:
        return config.model.dtype
    options = assets.family.engine_options(assets.config, on_gpu=torch.cuda.is_available())
    return str(options.get("dtype", config.model.dtype))


def check_backend(backend: str) -> None:
    """Raise ConfigError when generator.backend is neither built in nor an existing file's name."""
    if backend not in BACKENDS:
        plugins.parse(backend, "generator.backend", BACKENDS)


def engine_ranks(config: Config) -> int:
    """Return how many ranks share an engine and send it their requests in step."""
    return 1 if config.generator.backend == "server" else config.generator.tensor_parallel


def check_tensor_parallel(config: Config, ranks: int) -> None:
    """Raise ConfigError when the ranks don't form whole engines."""
    if ranks % engine_ranks(config):
        raise ConfigError(
            f"generator.tensor_parallel={config.generator.tensor_parallel} does not divide the "
            f"number of ranks ({ranks}): change it or SAPO_RANKS"
        )


def build(config: Config, assets: ModelAssets, *, seed: int, adapter: bool = False) -> Generator:
    """Start the configured generator on the model in `assets`.

    With `adapter` it has room for model.lora's adapter and waits for `update_adapter`; without, it
    samples from the model as it is.

    Raises SetupError when vLLM is configured but not installed or has too little memory or a server
    can't be used, ConfigError for a plug-in that can't be imported or ranks that tensor_parallel
    doesn't divide.
    """
    if not adapter:
        config = _without_adapter(config)
    backend = config.generator.backend
    if backend == "vllm":
        from sapo_vl.generator.vllm_engine import VLLMGenerator

        return VLLMGenerator(config, assets, seed=seed)
    if backend == "server":
        from sapo_vl.generator.servers.generator import ServerGenerator
        from sapo_vl.generator.servers.transfer import choose

        return ServerGenerator(config, assets, seed=seed, sender=choose(config, assets))
    if backend == "transformers":
        from sapo_vl.generator.hf_generate import HFGenerator

        return HFGenerator(config, assets)
    engine = plugins.load(backend, "generator.backend", BACKENDS).value
    return cast(Callable[..., Generator], engine)(config, assets, seed=seed)


def _without_adapter(config: Config) -> Config:
    """Return the config for a whole model. Raises ConfigError where an adapter is named."""
    if config.model.lora.path is not None:
        raise ConfigError(
            f"model.lora.path={config.model.lora.path} is for training alone: name a model that "
            "the adapter is merged into, such as a run's final/"
        )
    plain = config.model.model_copy(update={"lora": LoraConfig()})
    return config.model_copy(update={"model": plain})
