"""OpenAI-compatible endpoint for protocols whose extraction, or verdict, is an LLM's.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen3-4B")
    extractions = endpoint.extract(BENCHMARKS["mathvista"], responses)
    scored = endpoint.judged(scored)                                # MathVerse's second step

The short official rules are tried first; the LLM gets only what they leave open. The prompts are
ours (llm.txt, and the judge's prompt in rewards/ for verdicts), while published results come from
GPT-4 with the authors' examples: results are labelled with the model's name. The response is data
inside a fence with a random nonce, never an instruction.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapo_vl.errors import SetupError
from sapo_vl.evaluation.benchmarks.protocol import (
    SEED,
    Benchmark,
    ExtractedAnswer,
    Response,
    ScoredResponse,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.rule_extraction import IN_PLACE
from sapo_vl.evaluation.benchmarks.training_verifier import sample
from sapo_vl.rewards.verifiers.endpoint import ChatEndpoint, NoUsableReplyError
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.schema import Verdict

PROMPT = Path(__file__).with_name("llm.txt").read_text(encoding="utf-8")
_MARK = re.compile(r"\{(fence|type|question|response)\}")
MAX_RESPONSE_CHARS = 12_000
MAX_REPLY_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and limits of the LLM server."""

    url: str  # ends in /v1
    model: str  # name under which the server offers it
    concurrency: int = 16  # requests in flight
    seconds: float = 60.0  # deadline of one question, over all its attempts
    retries: int = 4

    def __post_init__(self) -> None:
        """Raises ConfigError for an address that can't be used."""
        self._chat().check_url("--judge")

    def _chat(self) -> ChatEndpoint:
        return ChatEndpoint(
            self.url,
            self.model,
            self.concurrency,
            deadline=self.seconds,
            retries=self.retries,
        )

    def extract(self, benchmark: Benchmark, responses: Sequence[Response]) -> list[ExtractedAnswer]:
        """Return an extraction per response, in order.

        A question without a usable reply gives an extraction with the reason as its `failure`: no
        verdict.

        Raises:
            SetupError: no question got a reply.
        """
        draw = random.Random(SEED)
        ruled = [benchmark.extract(response, draw) for response in responses]
        pairs = zip(responses, ruled, strict=True)
        asked = [response for response, extraction in pairs if _is_open(response, extraction)]
        replies = iter(self._ask_all(asked))
        return [
            next(replies) if _is_open(response, extraction) else extraction
            for response, extraction in zip(responses, ruled, strict=True)
        ]

    def _ask_all(self, responses: Sequence[Response]) -> list[ExtractedAnswer]:
        if not responses:
            return []
        prompts = [render(response) for response in responses]
        replies = self._chat().run(lambda session: session.ask_all(prompts, MAX_REPLY_TOKENS))
        failed = [reply for reply in replies if isinstance(reply, NoUsableReplyError)]
        if len(failed) == len(replies):
            raise SetupError(f"--judge {self.url}, model {self.model}: {failed[0].reason}")
        return [
            ExtractedAnswer(None, failure=f"no extraction by {self.model}: {reply.reason}")
            if isinstance(reply, NoUsableReplyError)
            else ExtractedAnswer(parse(response, reply), f"extracted by {self.model}")
            for response, reply in zip(responses, replies, strict=True)
        ]

    def judged(self, scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
        """Return the responses with the LLM's verdicts, and the rules' verdicts as `by_rule`.

        One request per response, as in the protocol. A reply without a verdict gives none; a
        response without an answer, or a row without a gold answer, keeps its own.
        """
        judged = [item for item in scored if _is_judged(item)]
        config = JudgeConfig(
            self.url,
            self.model,
            self.concurrency,
            deadline=self.seconds,
            retries=self.retries,
            both_orders=False,
        )
        answers = [(sample(item.response), str(item.extraction.value or "")) for item in judged]
        verdicts = iter(Judge(config).verdicts(answers))
        return [
            _with_verdict(item, next(verdicts)) if _is_judged(item) else item for item in scored
        ]


def _is_open(response: Response, ruled: ExtractedAnswer) -> bool:
    """Whether the short official rules leave the response to the LLM."""
    return ruled.note == IN_PLACE and bool(response.text.strip())


def _is_judged(item: ScoredResponse) -> bool:
    """Whether there are two answers to compare, the row's and the response's."""
    response = item.response
    has_gold = response.answer is not None and not response.unscorable
    return has_gold and not item.extraction.failure and not response.is_thinking


def _with_verdict(item: ScoredResponse, verdict: Verdict) -> ScoredResponse:
    rules = item.judgement.rules | {"by_rule": item.correct is True}
    return replace(item, judgement=from_verdict(verdict, **rules))


def render(response: Response) -> str:
    """Return the extraction prompt for a response."""
    choices = "\n".join(f"({letter}) {text}" for letter, text in response.choices.items())
    parts = {
        "fence": f"=== {secrets.token_hex(8)} ===",
        "type": response.answer_type or response.question_type or "short text",
        "question": f"{response.question}\n{choices}".strip(),
        "response": response.text[-MAX_RESPONSE_CHARS:],
    }
    data = {name: text.replace("<|", "<\u200b|") for name, text in parts.items()}
    return _MARK.sub(lambda mark: data[mark[1]], PROMPT)  # one pass: data is never a template


def parse(response: Response, reply: str) -> Any:
    """Return the extraction of a reply, in the form that the benchmark's `judge` takes."""
    line = reply.strip().split("\n")[-1].removeprefix("Extracted answer:").strip()
    if response.answer_type == "letters":
        return [c for c in line.replace(",", " ").split() if c] or ["ZZZZZ"]
    return "" if line == "NONE" else line
