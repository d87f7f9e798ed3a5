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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.schema import Verdict

if TYPE_CHECKING:
    import openai

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
    seconds: float = 60.0  # deadline of one request
    retries: int = 4
    api_key_variable: str = "OPENAI_API_KEY"

    def extract(self, benchmark: Benchmark, responses: Sequence[Response]) -> list[ExtractedAnswer]:
        """Return an extraction per response, in order. Raises SetupError when a request fails."""
        import openai

        draw = random.Random(SEED)
        ruled = [benchmark.extract(response, draw) for response in responses]
        key = os.environ.get(self.api_key_variable) or "none"
        with (
            openai.OpenAI(
                base_url=self.url, api_key=key, timeout=self.seconds, max_retries=self.retries
            ) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            pairs = zip(responses, ruled, strict=True)
            return list(pool.map(lambda pair: self._extract_one(client, *pair), pairs))

    def judged(self, scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
        """Return the responses with the LLM's verdicts, and the rules' verdicts as `by_rule`.

        One request per response, as in the protocol. A reply without a verdict gives none; a
        response to a problem without an answer keeps its own.
        """
        judged = [item for item in scored if item.response.answer is not None]
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
            _with_verdict(item, next(verdicts)) if item.response.answer is not None else item
            for item in scored
        ]

    def _extract_one(
        self, client: openai.OpenAI, response: Response, ruled: ExtractedAnswer
    ) -> ExtractedAnswer:
        if ruled.note != IN_PLACE or not response.text.strip():
            return ruled
        import openai

        try:
            reply = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": render(response)}],
                temperature=0.0,
                max_tokens=MAX_REPLY_TOKENS,
            )
        except openai.OpenAIError as error:
            raise SetupError(
                f"--judge {self.url}, model {self.model}: {type(error).__name__}: {error}"
            ) from error
        text = (reply.choices[0].message.content or "").strip() if reply.choices else ""
        return ExtractedAnswer(parse(response, text), f"extracted by {self.model}")


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
