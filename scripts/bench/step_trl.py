"""TRL's side of the whole-step benchmark: its GRPOTrainer with loss_type sapo.

TRL gets the largest batches it supports: one forward per optimizer step. Phases are timed by
wrapping methods of the trainer; time outside them counts as the update.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench import pace
from sapo_vl.algorithm import objectives
from sapo_vl.config import Config
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.schema import IMAGE_MARK, Sample


def main(options: dict[str, Any]) -> None:
    """Train; each rollout batch starts when the parent signals it."""
    config = pace.configuration(options)
    problems = list(pace.samples(options, Path(options["work_dir"]) / "data-trl"))
    rubric = build_rubric(config)
    clock = pace.PhaseClock()

    def reward(completions: list[Any], number: list[int], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        rubric.grade([(problems[n], t) for n, t in zip(number, texts, strict=True)])
        return [pace.coin(text) for text in texts]

    trainer = _trainer(config, options, problems, reward)
    state: dict[str, Any] = {"updates": 0, "lengths": [], "step": 0}

    def finish() -> None:
        lengths = state["lengths"]
        measured: dict[str, Any] = clock.seconds()
        measured |= {"tokens": sum(lengths), "mean_length": sum(lengths) / len(lengths)}
        pace.report_to_parent(measured | {"updates": state["updates"]})

    assets = open_assets(options["model"])
    renderer = PromptRenderer(assets, config.data)
    expected = [prompt.expanded_ids for prompt in renderer.render(problems[: options["prompts"]])]
    _time(trainer, clock, state, finish, expected)
    pace.report_to_parent({})
    trainer.train()
    finish()
    rubric.close()


def _trainer(config: Config, options: dict[str, Any], problems: list[Sample], reward: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    responses = options["prompts"] * options["group"]
    updates = options["mini_batches"]
    temperatures = objectives.build(config).temperatures
    assert temperatures is not None, "the main job's objective is not SAPO"
    arguments = GRPOConfig(
        output_dir=str(Path(options["work_dir"]) / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=responses // updates,
        gradient_accumulation_steps=1,
        steps_per_generation=updates,
        num_generations=options["group"],
        max_completion_length=options["max_new_tokens"],
        max_steps=updates * options["steps"],
        learning_rate=config.learner.lr,
        loss_type="sapo",
        sapo_temperature_pos=temperatures[0],
        sapo_temperature_neg=temperatures[1],
        temperature=config.rollout.temperature,
        beta=0.0,
        shuffle_dataset=False,
        save_strategy="no",
        logging_steps=updates,
        disable_tqdm=True,
        report_to=[],
    )
    return GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(options["model"], dtype=torch.float32),
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_list(
            [_record(i, s, config.data.instruction) for i, s in enumerate(problems)]
        ),
        processing_class=AutoProcessor.from_pretrained(options["model"], padding_side="left"),
    )


def _record(number: int, sample: Sample, instruction: str) -> dict[str, Any]:
    from PIL import Image

    text = sample.problem + instruction
    assert text.startswith(IMAGE_MARK), "TRL puts the image in front of the text"
    return {
        "prompt": [{"role": "user", "content": text.removeprefix(IMAGE_MARK)}],
        "image": Image.open(io.BytesIO(sample.images[0])).convert("RGB"),
        "number": number,
    }


def _time(
    trainer: Any,
    clock: pace.PhaseClock,
    state: dict[str, Any],
    finish: Any,
    expected: list[list[int]],
) -> None:
    """Time the trainer's phases, and make it wait for its turn before each rollout batch.

    `expected` are our prompt ids of the first step; TRL's must be equal.
    """
    roll_out = clock.phase("prepare", trainer._generate_and_score_completions)
    generate = clock.phase("generate", trainer._generate_single_turn)
    score = trainer._get_per_token_logps_and_entropies
    old_logprobs = clock.phase("old_logprobs", score)

    def take_turn(*arguments: Any, **named: Any) -> Any:
        if state["step"]:
            finish()
        pace.wait_for_parent()
        state.update(step=state["step"] + 1, updates=0, lengths=[])
        clock.start()
        return roll_out(*arguments, **named)

    def generate_and_count(*arguments: Any, **named: Any) -> Any:
        if state["step"] == 1:
            assert arguments[0][:: trainer.num_generations] == expected, (
                "prompt ids differ from ours"
            )
        generated = generate(*arguments, **named)
        state["lengths"] = [len(ids) for ids in generated[0]]
        return generated

    def score_and_count(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return old_logprobs(*arguments, **named)
        state["updates"] += 1
        return score(*arguments, **named)

    trainer._generate_and_score_completions = take_turn
    trainer._generate_single_turn = generate_and_count
    trainer._calculate_rewards = clock.phase("verify", trainer._calculate_rewards)
    trainer._get_per_token_logps_and_entropies = score_and_count


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
