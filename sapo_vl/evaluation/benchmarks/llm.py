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

import os
import random
import re
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sapo_vl.errors import SetupError
from sapo_vl.evaluation.benchmarks.chat import ChatClient, NoReplyError, check_url
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
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.schema import Verdict

PROMPT = Path(__file__).with_name("llm.txt").read_text(encoding="utf-8")
_MARK = re.compile(r"\{(fence|type|question|response)\}")
MAX_RESPONSE_CHARS = 12_000
MAX_REPLY_TOKENS = 128
MAX_FAILURES = 48  # in a row, over all threads
OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and limits of the LLM server."""

    url: str  # ends in /v1
    model: str  # name under which the server offers it
    concurrency: int = 16  # requests in flight
    seconds: float = 60.0  # deadline of one question, over all its attempts
    retries: int = 4

    def __post_init__(self) -> None:
        check_url(self.url)

    def extract(self, benchmark: Benchmark, responses: Sequence[Response]) -> list[ExtractedAnswer]:
        """Return an extraction per response, in order.

        A question without a usable reply gives an extraction with the reason as its `failure`: no
        verdict. After `MAX_FAILURES` of these in a row the rest are not asked.

        Raises:
            SetupError: no question got a reply.
        """
        draw = random.Random(SEED)
        ruled = [benchmark.extract(response, draw) for response in responses]
        asked = [_is_open(r, e) for r, e in zip(responses, ruled, strict=True)]
        questions = [
            response for response, is_open in zip(responses, asked, strict=True) if is_open
        ]
        replies = iter(self._ask_all(questions))
        return [
            next(replies) if is_open else extraction
            for extraction, is_open in zip(ruled, asked, strict=True)
        ]

    def _ask_all(self, responses: Sequence[Response]) -> list[ExtractedAnswer]:
        client = ChatClient(self.url, self.model, self._key(), self.seconds, self.retries)
        failures = FailureCount()
        with ThreadPoolExecutor(self.concurrency) as pool:
            found = list(pool.map(lambda r: self._extract_one(client, failures, r), responses))
        if found and all(extraction.failure for extraction in found):
            raise SetupError(f"--judge {self.url}, model {self.model}: {found[0].failure}")
        return found

    def _key(self) -> str:
        """Return the API key: the variable's, which goes to OpenAI only, or JUDGE_API_KEY."""
        is_openai = urlsplit(self.url).hostname == OPENAI_HOST
        return os.environ.get("OPENAI_API_KEY" if is_openai else "JUDGE_API_KEY", "")

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

    def _extract_one(
        self, client: ChatClient, failures: FailureCount, response: Response
    ) -> ExtractedAnswer:
        if failures.in_a_row >= MAX_FAILURES:
            reason = f"not asked: {failures.in_a_row} questions in a row had no reply"
            return ExtractedAnswer(None, failure=reason)
        try:
            text = client.ask(render(response), MAX_REPLY_TOKENS)
        except NoReplyError as error:
            failures.add(failed=True)
            return ExtractedAnswer(None, failure=f"no extraction by {self.model}: {error}")
        failures.add(failed=False)
        return ExtractedAnswer(parse(response, text), f"extracted by {self.model}")


class FailureCount:
    """Questions in a row without a reply, over all threads."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._lock = threading.Lock()

    def add(self, *, failed: bool) -> None:
        """Count a question."""
        with self._lock:
            self.in_a_row = self.in_a_row + 1 if failed else 0


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
