"""Generation: every response once, seeds of their own, resumed after a stop; controls; sampling."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.benchmarks.protocol import Problem, read_response
from sapo_vl.evaluation.presets import KINDS, choose
from sapo_vl.evaluation.responses import NOT_ASKED, Asker, Kept, check, jobs, shuffled
from sapo_vl.generator.base import SamplingParams
from sapo_vl.schema import Completion


class Echo:
    """A generator that answers with the seed it was given."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def generate(self, prompts, sampling, seeds):
        assert sampling.n == 1
        self.calls.append(list(seeds))
        return [
            [Completion([1], np.zeros(1), "stop", f"{p} {s}")]
            for p, s in zip(prompts, seeds, strict=True)
        ]


class Names:
    """A renderer whose prompts are ids, each as long as the problem's text."""

    def lengths(self, samples):
        return [len(s.problem) for s in samples]

    def render(self, samples):
        return [s.id for s in samples]


def problem(name: str, images: int = 0, text: str = "q", variant: str = "") -> Problem:
    return Problem(
        name, "<image>" * images + text, tuple(f"{name}{i}".encode() for i in range(images)), "g",
        options={"A": "x"}, variant=variant, meta={"level": 1},
    )  # fmt: skip


def asker(generator: Echo) -> Asker:
    return Asker(generator, Names(), SamplingParams(1, 1.0, 8), "bench", "m", seed=3, room=20)


def responses(problems, samples, done=frozenset()):
    left = [job for job in jobs(problems, samples) if job.key not in done]
    return [record for chunk in asker(Echo()).ask(left) for record in chunk]


def test_a_response_does_not_depend_on_what_was_there_before():
    problems = [problem("a"), problem("b", variant="2")]
    whole = responses(problems, 3)
    assert len({r["response"] for r in whole}) == 6
    rest = responses(problems, 3, done={("a", 0), ("a", 2), ("b#2", 1)})
    assert rest == [r for r in whole if r in rest]
    assert len(rest) == 3


def test_chunks_bound_what_a_kill_can_lose():
    generator = Echo()
    chunks = list(asker(generator).ask(jobs([problem(str(i)) for i in range(50)], 3)))
    assert [len(chunk) for chunk in chunks] == [64, 64, 22]
    assert len({seed for call in generator.calls for seed in call}) == 150


def test_a_prompt_that_does_not_fit_is_marked_and_never_cut():
    found = responses([problem("a"), problem("long", text="q" * 21)], 1)
    assert [r["finish_reason"] for r in found] == ["stop", NOT_ASKED]
    assert found[1]["response"] == ""


def test_kept_responses_survive_a_kill(tmp_path):
    settings = {"model": "m", "seed": 3}
    kept = Kept(tmp_path / "b", settings)
    kept.add(responses([problem("a"), problem("b", variant="2")], 1))
    with kept.path.open("a") as file:
        file.write('{"half')
    again = Kept(tmp_path / "b", settings)
    assert again.done() == {("a", 0), ("b#2", 0)}
    lines = [json.loads(line) for line in again.path.read_text().splitlines()]
    row = read_response(lines[1], "x")
    assert (row.problem_id, row.variant, row.gold, row.options) == ("b", "2", "g", {"A": "x"})
    assert row.meta["finish_reason"] == "stop"
    with pytest.raises(ConfigError, match="seed=3, not 4"):
        Kept(tmp_path / "b", settings | {"seed": 4})


def test_shuffled_images_are_others_of_the_same_number():
    problems = [problem("a", 1), problem("b", 1), problem("c", 2), problem("d"), problem("e", 1)]
    found = shuffled(problems, seed=0)
    assert [p.id for p in found] == ["a", "b", "e"]
    assert all(not image.decode().startswith(p.id) for p in found for image in p.images)
    assert shuffled(problems, seed=0) == found


def test_marks_and_ids_are_checked():
    with pytest.raises(DataError, match="1 image marks and 0 images"):
        check([Problem("a", "<image>q", (), "g")], "bench")
    with pytest.raises(DataError, match="the id is there twice"):
        jobs([problem("a"), problem("a")], 1)


def test_sampling_by_kind():
    assert KINDS["instruct"] == SamplingParams(1, 0.7, 32_768, 0.8, 20, 1.5)
    assert KINDS["thinking"] == SamplingParams(1, 1.0, 40_960, 0.95, 20, 0.0)
    assert choose("auto", "Qwen/Qwen3-VL-8B-Thinking", "", 99)[0] == "thinking"
    assert choose("auto", "Qwen/Qwen3-VL-8B-Instruct", "", 99)[0] == "instruct"
    assert choose("auto", "runs/x", "{{ 'assistant\n<think>' }}", 99)[0] == "thinking"
    name, sampling = choose("policy", "x", "", 99)
    assert (name, sampling.top_p, sampling.max_new_tokens) == ("policy", 1.0, 99)
    with pytest.raises(ConfigError, match="did you mean 'instruct'"):
        choose("instuct", "x", "", 1)


def test_presence_penalty_lowers_what_the_response_holds_and_not_the_prompt():
    import torch

    from sapo_vl.generator.hf_generate import Presence

    ids = torch.tensor([[5, 1, 2, 2], [5, 1, 0, 3]])  # two tokens of prompt, two of response
    found = Presence(2, 1.5)(ids, torch.zeros(2, 6))
    assert found.tolist() == [[0, 0, -1.5, 0, 0, 0], [-1.5, 0, 0, -1.5, 0, 0]]
