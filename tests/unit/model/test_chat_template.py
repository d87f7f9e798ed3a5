"""A chat template is tried before it is used; what it opens and how a turn ends."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.errors import DataError
from sapo_vl.model.assets import open_assets
from sapo_vl.model.chat_template import ChatTemplate, response_texts
from sapo_vl.model.prompts import PromptRenderer

HEADER = "<|im_start|>assistant\n"
LIST = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
NO_PICTURES = (
    "{% for m in messages %}<|im_start|>user\n{% for p in m['content'] %}{{ p['text'] }}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture
def variant(tiny_folder, tmp_path):
    """Return a function that opens a copy of the tiny model with another template."""

    def make(template: str | None, **generation) -> object:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_folder, folder)
        if template is None:
            (folder / "chat_template.jinja").unlink()
        else:
            (folder / "chat_template.jinja").write_text(template)
        if generation:
            file = folder / "generation_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | generation))
        return open_assets(folder)

    return make


@pytest.fixture
def usual(tiny_folder) -> str:
    return (tiny_folder / "chat_template.jinja").read_text()


def opened(assets, tiny_folder) -> str:
    (prompt,) = PromptRenderer(assets, tiny_config(tiny_folder).data).render([make_sample()])
    return prompt.opening


@pytest.mark.parametrize(
    ("template", "word"),
    [
        (None, "no chat template"),
        (LIST, "made for text"),
        (NO_PICTURES, "one image token per picture"),
        ("{{ messages[0]['role'] }}", "doesn't write the problem's text"),
        ("{{ raise_exception('no user turns') }}", "no user turns"),
        ("{{ messages[0]['content'][0]['nothing']['more'] }}", "the chat template fails"),
        ("{% for", "the chat template fails"),
    ],
)
def test_a_template_that_loses_the_problem_is_refused(variant, template, word):
    with pytest.raises(DataError, match=r"model\.path=.*") as caught:
        ChatTemplate(variant(template))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_without_a_response_turn_is_refused(variant, usual):
    with pytest.raises(DataError, match="begin the response"):
        ChatTemplate(variant(usual.replace("{{ '<|im_start|>assistant\n' }}", "")))


def test_a_template_of_the_tokenizer_alone_is_used(variant, usual, tiny_folder):
    assets = variant(None)
    assets.tokenizer.chat_template = usual
    data, samples = tiny_config(tiny_folder).data, [make_sample([(32, 32)])]
    (prompt,) = PromptRenderer(assets, data).render(samples)
    (reference,) = PromptRenderer(open_assets(tiny_folder), data).render(samples)
    assert prompt.token_ids == reference.token_ids


@pytest.mark.parametrize(
    "opening", ["", "<think>\n", "<think>", "<think>\n\n</think>\n\n", "<answer>"]
)
def test_what_the_template_opens(variant, usual, tiny_folder, opening):
    assets = variant(usual.replace(HEADER, HEADER + opening))
    assert opened(assets, tiny_folder) == opening


def test_a_template_of_another_format_opens_its_thought(variant, tiny_folder):
    template = (
        "USER: {% for p in messages[0]['content'] %}{% if p['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}"
        "{% endfor %} ASSISTANT: {{ '<think>\n' }}"
    )
    assert opened(variant(template), tiny_folder) == "<think>\n"


def test_a_turn_ends_with_the_templates_own_token(variant, usual):
    tokenizer = variant(usual).tokenizer
    end, other = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert other is not None
    both = variant(usual, eos_token_id=[other, end])
    assert ChatTemplate(both).turn_end() == end
    # sampling doesn't stop at the template's token here: its first one it is
    assert ChatTemplate(variant(usual, eos_token_id=[other])).turn_end() == other


def test_a_responses_text_is_without_its_end_token_only(assets):
    tokenizer = assets.tokenizer
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    ids = tokenizer("3 + 4", add_special_tokens=False)["input_ids"]
    texts = response_texts(assets, [[*ids, end], ids, [start, *ids, end], [end], []])
    assert texts == ["3 + 4", "3 + 4", "<|im_start|>3 + 4", "", ""]
