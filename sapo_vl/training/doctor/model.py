"""The model's folder, its end tokens and its chat template; prompts as the processor makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sapo_vl.config import tiny_family
from sapo_vl.errors import printable
from sapo_vl.model.assets import ModelAssets
from sapo_vl.model.weights import check_model
from sapo_vl.schema import IMAGE_MARK, Prompt
from sapo_vl.training.doctor.findings import Finding, doubtful, fine, wrong
from sapo_vl.training.doctor.subject import Subject

PROBE = "How many?"
"""A problem whose prompt is shown in part."""


def check_folder(subject: Subject) -> Iterator[Finding]:
    """Check the folder's files, names and shapes of its weights, and its positions.

    Raises DataError or ConfigError, which name the file, the weight or the key.
    """
    assets = subject.assets
    check_model(subject.config)
    made = " (built in the run)" if tiny_family(subject.config.model.path) is not None else ""
    yield fine(
        f"{assets.family.name}, {subject.shape.parameters:,} parameters, {assets.positions} "
        f"positions, {subject.config.model.dtype}{made}"
    )


def check_template(subject: Subject) -> Iterator[Finding]:
    """Check that the template writes problem and picture once. Raises DataError otherwise."""
    text = subject.renderer.template.render([{"type": "image"}, {"type": "text", "text": PROBE}])
    behind = printable(text.rpartition(PROBE)[2])
    yield fine(f"writes problem and picture once; behind them comes {behind}")


def check_end_tokens(subject: Subject) -> Iterator[Finding]:
    """Compare the ids that end a response in sampling with what the template puts behind one."""
    assets, template = subject.assets, subject.renderer.template
    ends, own = set(assets.eos_ids), assets.tokenizer.eos_token_id
    after = template.after_response()
    named = _tokens(assets, assets.eos_ids)
    file = "generation_config.json's eos_token_id"
    if after and not ends & set(after):
        first = after[0]
        yield wrong(
            f"the chat template ends a response with {_tokens(assets, after[:1])}, and sampling "
            f"ends at {named} ({file}): responses would run on to rollout.max_new_tokens",
            f"add {first} to {file}",
        )
    elif not after:
        yield doubtful(
            f"the chat template puts nothing behind a response; sampling ends at {named}",
            "see that the model was trained to write this token at its end",
        )
    elif own not in ends:
        yield doubtful(
            f"the tokenizer's end token is {_tokens(assets, [own])}, and sampling ends at {named} "
            f"({file})",
            f"add it to {file} if the model was trained to end with it",
        )
    else:
        yield fine(f"sampling ends at {named}, which the template puts behind a response")


def _tokens(assets: ModelAssets, ids: Any) -> str:
    names = assets.tokenizer.convert_ids_to_tokens(list(ids))
    return ", ".join(f"{printable(name)} ({i})" for name, i in zip(names, ids, strict=True))


def check_prompts(subject: Subject) -> Iterator[Finding]:
    """Compare some prompts' ids with those that the processor makes of messages and pictures.

    Each picture must have as many image tokens as its grid of patches says.
    """
    assets = subject.assets
    for prompt in subject.prompts:
        ours = prompt.expanded_ids
        theirs = _processor_ids(assets, prompt, subject.config.data.instruction)
        name = printable(prompt.sample.id)
        count = theirs.count(assets.image_token_id)
        grids = prompt.grid_thw.tolist() if prompt.grid_thw is not None else []
        wanted = sum(assets.family.visual_tokens(grid, assets.config) for grid in grids)
        if count != wanted:
            yield wrong(
                f"record {name}: the processor writes {count} image tokens for pictures whose "
                f"grids {grids} have {wanted}",
                "use the processor files of the base model",
            )
        elif theirs != ours:
            same = [a == b for a, b in zip(ours, theirs, strict=False)]
            at = same.index(False) if False in same else len(same)
            yield wrong(
                f"record {name}: {len(ours)} ids here and {len(theirs)} by the processor, the "
                f"first difference at {at}",
                "use the template and processor files of the base model",
            )
        else:
            yield fine(
                f"record {name}: {len(ours)} ids as the processor makes them, with {count} image "
                f"tokens of {len(grids)} picture(s)"
            )


def _processor_ids(assets: ModelAssets, prompt: Prompt, instruction: str) -> list[int]:
    """Return the ids that the processor makes by itself, of a message with the pictures in it."""
    pieces = (prompt.sample.problem + instruction).split(IMAGE_MARK)
    content: list[dict[str, Any]] = []
    for i, piece in enumerate(pieces):
        if i > 0:
            content.append({"type": "image", "image": prompt.images[i - 1]})
        if piece:
            content.append({"type": "text", "text": piece})
    processor = assets.processor
    template = getattr(processor, "chat_template", None) or assets.tokenizer.chat_template
    out = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        processor_kwargs={"images_kwargs": {"do_resize": False}},
    )
    return [int(i) for i in out["input_ids"][0]]
