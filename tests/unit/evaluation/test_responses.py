"""Generation: every response once, with its own seed, resumed after a stop; controls; presets."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.evaluation.presets import KINDS, choose
from sapo_vl.evaluation.responses import (
    SKIPPED_TOO_LONG,
    ResponseSampler,
    ResponseStore,
    all_requests,
    shuffle_images,
)
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.schema import Rollout, Sample


class Echo:
    """A generator that answers with the prompt's record and the seed it was given."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def generate(self, requests):
        assert all(request.params.n == 1 for request in requests)
        self.calls.append([request.seed for request in requests])
        return [[Rollout(r.prompt, [1], f"{r.prompt.sample.id} {r.seed}")] for r in requests]


class Renderer:
    """A renderer whose prompts are as many tokens as the problem has characters."""

    def render(self, samples):
        return [
            SimpleNamespace(
                sample=sample, expanded_ids=[0] * len(sample.problem), images=[], opening=""
            )
            for sample in samples
        ]


def problem(name: str, images: int = 0, text: str = "q", variant: str = "") -> Sample:
    published = {
        "problem_id": name,
        "variant": variant,
        "answer": "g",
        "question": text,
        "choices": ["x"],
        "tables": {"level": 1},
    }
    files = tuple(f"{name}{i}".encode() for i in range(images))
    marked, key = "<image>" * images + text, problem_key(name, variant)
    return Sample(key, "bench", "", marked, files, "g", metadata={"published": published})


def sampler(generator: Echo) -> ResponseSampler:
    engine = SampleEngine(generator, Renderer(), max_prompt_tokens=20)
    return ResponseSampler(engine, SamplingParams(1, 1.0, 8), "m", seed=3)


def responses(problems, samples, done=frozenset()):
    missing = [request for request in all_requests(problems, samples) if request.key not in done]
    return [record for chunk in sampler(Echo()).sample(missing) for record in chunk]


def test_a_response_does_not_depend_on_earlier_ones():
    problems = [problem("a"), problem("b", variant="2")]
    complete = responses(problems, 3)
    assert len({r["response"] for r in complete}) == 6
    assert complete[0]["response"] == f"a {problem_seed(3, 'a@0')}"
    assert complete[5]["response"] == f"b#2 {problem_seed(3, 'b#2@2')}"
    rest = responses(problems, 3, done={("a", 0), ("a", 2), ("b#2", 1)})
    assert rest == [r for r in complete if r in rest]
    assert len(rest) == 3


def test_chunks_bound_what_a_kill_can_lose():
    generator = Echo()
    requests = all_requests([problem(str(i)) for i in range(350)], 3)
    assert [len(chunk) for chunk in sampler(generator).sample(requests)] == [512, 512, 26]
    assert len({seed for call in generator.calls for seed in call}) == 1050


def test_a_prompt_that_does_not_fit_is_marked_and_never_cut():
    records = responses([problem("a"), problem("long", text="q" * 21), problem("b")], 1)
    assert [r["finish_reason"] for r in records] == ["stop", SKIPPED_TOO_LONG, "stop"]
    assert [r["problem_id"] for r in records] == ["a", "long", "b"]
    assert records[1]["response"] == ""


def test_stored_responses_survive_a_kill(tmp_path):
    settings, problems = {"model": "m", "seed": 3}, [problem("a"), problem("b", variant="2")]
    store = ResponseStore(tmp_path / "b", settings, problems)
    store.add(responses(problems, 1))
    with store.path.open("a") as file:
        file.write('{"half')
    again = ResponseStore(tmp_path / "b", settings, problems)
    assert again.done() == {("a", 0), ("b#2", 0)}
    lines = [json.loads(line) for line in again.path.read_text().splitlines()]
    response = read_response(lines[1], "x")
    assert (response.problem_id, response.variant, response.answer) == ("b", "2", "g")
    assert response.choices == {"A": "x"}
    assert response.meta == {"level": 1, "finish_reason": "stop"}
    with pytest.raises(ConfigError, match="seed=3, not 4"):
        ResponseStore(tmp_path / "b", settings | {"seed": 4}, problems).done()


def stored(folder):
    problems = [problem("a", images=1), problem("b")]
    store = ResponseStore(folder, {"weights": "0a"}, problems)
    store.add(responses(problems, 1))
    return store, problems


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "<image>other"},
        {"answer": "h"},
        {"choices": ("y",)},
        {"images": (b"other",)},
        {"metadata": {"published": {"problem_id": "a", "answer": "h"}}},
    ],
)
def test_responses_to_a_problem_that_has_changed_are_refused(tmp_path, change):
    _, (first, second) = stored(tmp_path)
    changed = [replace(first, **change), second]
    with pytest.raises(DataError, match=r"responses.jsonl:1: problem 'a' had another"):
        ResponseStore(tmp_path, {"weights": "0a"}, changed).done()
    more = [first, second, problem("c")]  # --limit 3 instead of 2
    assert ResponseStore(tmp_path, {"weights": "0a"}, more).done() == {("a", 0), ("b", 0)}


def test_other_weights_and_a_lost_settings_file_are_refused(tmp_path):
    store, problems = stored(tmp_path)
    with pytest.raises(ConfigError, match="weights='0a', not '0b'"):
        ResponseStore(tmp_path, {"weights": "0b"}, problems).done()
    with pytest.raises(ConfigError, match="images=None, not 'own'"):
        ResponseStore(tmp_path, {"weights": "0a", "images": "own"}, problems).done()
    for damage in ("", "[]", "{"):
        (tmp_path / "settings.json").write_text(damage)
        with pytest.raises(ConfigError, match=r"no readable settings\.json"):
            store.done()
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ConfigError, match=r"no readable settings\.json"):
        store.add([])
    store.path.unlink()  # no results: nothing to protect
    assert store.done() == set()


def test_settings_of_another_evaluation_put_beside_the_responses_are_seen(tmp_path):
    _, problems = stored(tmp_path)
    (tmp_path / "settings.json").write_text('{"weights": "0b"}')
    with pytest.raises(DataError, match=r"responses.jsonl:1: problem 'a'"):
        ResponseStore(tmp_path, {"weights": "0b"}, problems).done()


@pytest.mark.parametrize(
    "line", ['{"problem_id": "b"}', '{"sample": 0}', '{"problem_id": [], "sample": "0"}', "[]", "{"]
)
def test_a_line_that_is_no_response_is_named(tmp_path, line):
    store, _ = stored(tmp_path)
    with store.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"responses.jsonl:3: "):
        store.done()


def test_doubled_responses_are_refused(tmp_path):
    store, _ = stored(tmp_path)
    lines = store.path.read_text()
    store.path.write_text(lines + lines.splitlines(keepends=True)[1])
    with pytest.raises(DataError, match=r"jsonl:3: problem 'b', sample 0 is also at .*jsonl:2"):
        store.done()


def test_the_cut_line_of_a_kill_may_be_long(tmp_path):
    store, _ = stored(tmp_path)
    lines = store.path.read_bytes()
    for whole in (lines, b""):
        store.path.write_bytes(whole + b"x" * 200_000)
        assert len(store.done()) == whole.count(b"\n")
        assert store.path.read_bytes() == whole


def test_shuffled_images_are_others_of_the_same_number():
    problems = [problem("a", 1), problem("b", 1), problem("c", 2), problem("d"), problem("e", 1)]
    shuffled = shuffle_images(problems, seed=0)
    assert [p.id for p in shuffled] == ["a", "b", "e"]
    assert all(not image.decode().startswith(p.id) for p in shuffled for image in p.images)
    assert shuffle_images(problems, seed=0) == shuffled


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

    from sapo_vl.generator.hf_generate import PresencePenalty

    ids = torch.tensor([[5, 1, 2, 2], [5, 1, 0, 3]])  # two tokens of prompt, two of response
    penalised = PresencePenalty(2, 1.5)(ids, torch.zeros(2, 6))
    assert penalised.tolist() == [[0, 0, -1.5, 0, 0, 0], [-1.5, 0, 0, -1.5, 0, 0]]
