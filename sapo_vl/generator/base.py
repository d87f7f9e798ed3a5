"""Rollouts: prompts in, sampled responses with the sampler's own log-probs out.

`Generator` is the seam. `VLLMGenerator` (vllm_engine.py) is the default; `TransformersGenerator`
(reference.py) is the slow reference that tests compare with, and the fallback where vLLM can't be
installed. Servers on other GPUs or nodes will be one more implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sapo_vl.schema import Completion

NO_VLLM = (
    "vLLM is not installed here: run scripts/setup.sh, or set generator.backend=transformers for "
    "the slow reference"
)

if TYPE_CHECKING:
    import torch

    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelFolder
    from sapo_vl.model.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. Rollouts keep the defaults: only then are log-probs those of the policy."""

    n: int  # responses per prompt
    temperature: float  # 0 is greedy
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    presence_penalty: float = 0.0


class Generator(Protocol):
    """Samples responses from its own copy of the policy."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order; `seeds` holds one a prompt."""
        ...

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over all weights (Hugging Face names) and forget everything cached with the old."""
        ...

    def sleep(self) -> None:
        """Free the accelerator's memory for the learner; nothing to do on a CPU."""
        ...

    def wake(self) -> None:
        """Undo `sleep`; weights must be updated before the next `generate`."""
        ...

    def close(self) -> None:
        """Release everything; the object is unusable afterwards."""
        ...


def build(config: Config, folder: ModelFolder, *, seed: int) -> Generator:
    """Start the configured generator on the model in `folder`.

    Raises SetupError when vLLM is asked for and not installed.
    """
    if config.generator.backend == "vllm":
        from sapo_vl.generator.vllm_engine import VLLMGenerator

        return VLLMGenerator(config, folder, seed=seed)
    from sapo_vl.generator.hf_generate import TransformersGenerator

    return TransformersGenerator(config, folder)
