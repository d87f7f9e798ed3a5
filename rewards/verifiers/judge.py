"""The model-based verifier: a judge behind an OpenAI-compatible endpoint (a vLLM server is one).

    judge = Judge(JudgeConfig(url="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-4B"))
    verdicts = judge.verdicts([(sample, "one half"), ...])

The judge sees the extracted answer and the gold answer as JSON strings inside a fence with a random
nonce, once in each order; both replies must agree. Only the exact last line counts as its verdict.
An answer that is empty, overlong, an instruction or a known opening phrase ("Thought process:") is
wrong without a call. Left out: streaming and tool use; a judge needs neither. The prompt is
judge.txt.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.errors import SetupError
from sapo_vl.rewards.parsing.latex import fold
from sapo_vl.rewards.verifiers import text
from sapo_vl.schema import Outcome, Sample, Verdict

PROMPT = (Path(__file__).parent / "judge.txt").read_text(encoding="utf-8")
PROMPT_HASH = hashlib.sha256(PROMPT.encode()).hexdigest()[:16]
MAX_ANSWER_CHARS = 600
MAX_REPLY_TOKENS = 256
MAX_REPLY_CHARS = 8000
MAX_BACKOFF = 20.0
_LAST_LINE = re.compile(r"VERDICT: (SAME|DIFFERENT)")
_OPENERS = (
    "thought process", "let's solve", "lets solve", "solution", "to solve", "step by step",
    "answer", "the answer is", "final answer", "we need to", "first", "explanation",
    "answer explanation", "解", "解答", "答案", "respuesta", "solución", "réponse", "lösung",
    "antwort", "かいせつ", "解説",
)  # fmt: skip
_INSTRUCTION = re.compile(
    r"<\|[^|]{1,30}\|>|\b(?:ignore|disregard)\b.{0,40}\b(?:above|previous|instructions?)\b"
    r"|\b(?:grader|judge|judgement|judgment|verdict|system prompt|ground truth|reference answer)\b"
    r"|\b(?:output|return|respond|reply|say|answer)\b.{0,20}\b(?:yes|correct|true|same|equal)\b|裁判|输出",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The judge's endpoint and its limits."""

    url: str  # base URL that ends in /v1
    model: str  # served model name
    concurrency: int = 16  # requests in flight
    per_minute: float | None = None  # rate limit; None: no limit
    deadline: float = 60.0  # timeout of one request, seconds
    retries: int = 4  # after status 429 and 5xx only
    both_orders: bool = True  # ask (gold, answer) and (answer, gold)
    api_key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the API key, if any


class Judge:
    """Client of a judge with a cache. `calls` counts requests from the start."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.calls = 0
        self._cache: dict[tuple[str, str, str, str, str], Verdict] = {}

    def verdicts(self, items: Sequence[tuple[Sample, str]]) -> list[Verdict]:
        """Return one Verdict per (sample, extracted answer), in order."""
        verdicts: list[Verdict] = []
        thread = threading.Thread(target=lambda: verdicts.extend(asyncio.run(self._all(items))))
        thread.start()  # a thread, as the caller may run an event loop already
        thread.join()
        if len(verdicts) != len(items):
            raise RuntimeError("the judge's client failed; its traceback is above")
        return verdicts

    def check(self) -> None:
        """Raise SetupError when the endpoint doesn't respond or doesn't serve the model."""
        import openai

        try:
            client = openai.OpenAI(base_url=self.config.url, api_key=self._key(), max_retries=0)
            names = [model.id for model in client.models.list(timeout=10).data]
        except openai.OpenAIError as error:
            raise SetupError(f"judge.url={self.config.url}: {error}") from error
        if self.config.model not in names:
            raise SetupError(
                f"judge.model={self.config.model!r} is not served at {self.config.url}; "
                f"it has {names}"
            )

    def _key(self) -> str:
        return os.environ.get(self.config.api_key_variable, "") or "none"

    async def _all(self, items: Sequence[tuple[Sample, str]]) -> list[Verdict]:
        import openai

        slots = asyncio.Semaphore(self.config.concurrency)
        limiter = _RateLimiter(self.config.per_minute)
        unique = list(dict.fromkeys((s.problem, s.answer, a.strip()) for s, a in items))
        async with openai.AsyncOpenAI(
            base_url=self.config.url,
            api_key=self._key(),
            max_retries=0,
            timeout=self.config.deadline,
        ) as client:
            verdicts = await asyncio.gather(
                *(self._judge(client, slots, limiter, *question) for question in unique)
            )
        by_question = dict(zip(unique, verdicts, strict=True))
        return [by_question[s.problem, s.answer, a.strip()] for s, a in items]

    async def _judge(
        self,
        client: Any,
        slots: asyncio.Semaphore,
        limiter: _RateLimiter,
        problem: str,
        gold: str,
        answer: str,
    ) -> Verdict:
        reason = refusal(answer)
        if reason:
            return Verdict(Outcome.WRONG, 0.0, reason, extracted=answer or None, tier="judge")
        key = (self.config.model, PROMPT_HASH, problem, gold, answer)
        if key in self._cache:
            return self._cache[key]
        start = time.perf_counter()
        orders = [(gold, answer), (answer, gold)] if self.config.both_orders else [(gold, answer)]
        replies = []
        for first, second in orders:
            async with slots:
                await limiter.wait()
                same, failure = await self._ask(client, problem, first, second)
            if same is None:
                return _verdict(Outcome.NO_VERDICT, failure, answer, start)
            replies.append(same)
        if len(set(replies)) > 1:
            return _verdict(Outcome.NO_VERDICT, "the two orders disagree", answer, start)
        outcome = Outcome.CORRECT if same else Outcome.WRONG
        relation = "the same as" if same else "different from"
        verdict = _verdict(outcome, f"judged {relation} {gold[:80]}", answer, start)
        self._cache[key] = verdict
        return verdict

    async def _ask(
        self, client: Any, problem: str, first: str, second: str
    ) -> tuple[bool | None, str]:
        """Return whether the judge says SAME; None with the reason when it gives no verdict."""
        import openai

        prompt = render(problem, first, second)
        for attempt in range(self.config.retries + 1):
            self.calls += 1
            try:
                reply = await client.chat.completions.create(
                    model=self.config.model,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0.0,
                    max_tokens=MAX_REPLY_TOKENS,
                )
            except openai.APIStatusError as error:
                if (error.status_code != 429 and error.status_code < 500) or (
                    attempt == self.config.retries
                ):
                    return None, f"judge error: status {error.status_code}"
                await asyncio.sleep(min(MAX_BACKOFF, 0.5 * 2**attempt) * random.uniform(0.5, 1.5))
            except openai.OpenAIError as error:  # no connection, timeout, malformed reply
                return None, f"judge error: {type(error).__name__}"
            else:
                content = reply.choices[0].message.content if reply.choices else ""
                same = parse(content or "")
                return same, "" if same is not None else "the judge gave no verdict"
        raise AssertionError("unreachable")


class _RateLimiter:
    """Spaces requests evenly to at most `per_minute`."""

    def __init__(self, per_minute: float | None) -> None:
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self.next_slot = 0.0

    async def wait(self) -> None:
        """Wait for the next free slot."""
        now = time.monotonic()
        slot = max(now, self.next_slot)
        self.next_slot = slot + self.interval
        if slot > now:
            await asyncio.sleep(slot - now)


def _verdict(outcome: Outcome, reason: str, answer: str, start: float) -> Verdict:
    seconds = time.perf_counter() - start
    return Verdict(outcome, float(outcome is Outcome.CORRECT), reason, answer, seconds, "judge")


def refusal(answer: str) -> str:
    """Return why an answer is wrong without a call to the judge, or an empty string."""
    folded = " ".join(fold(answer).casefold().split())
    bare = folded.strip(" .,:;!?。：\"'*#_-()[]{}$<>/\\")
    if not any(char.isalnum() for char in folded):
        return "the answer has neither letters nor digits"
    if len(answer) > MAX_ANSWER_CHARS:
        return f"the answer is longer than {MAX_ANSWER_CHARS} characters"
    if bare in _OPENERS or any(
        bare.startswith(opener) and not any(char.isdigit() for char in bare) and opener.isascii()
        for opener in _OPENERS
    ):
        return "the answer is an opening phrase"
    if _INSTRUCTION.search(folded):
        return "the answer addresses the judge"
    return ""


def render(problem: str, first: str, second: str) -> str:
    """Return the prompt: both answers as JSON strings between two lines with a random nonce."""
    data = json.dumps(
        {"question": problem[-4000:], "answer 1": first, "answer 2": second}, ensure_ascii=False
    ).replace("<|", "<\u200b|")
    return PROMPT.replace("{nonce}", f"=== {secrets.token_hex(8)} ===").replace("{data}", data)


def parse(reply: str) -> bool | None:
    """Return True for SAME, False for DIFFERENT, None for anything but the exact last line."""
    if len(reply) > MAX_REPLY_CHARS or len(_LAST_LINE.findall(reply)) != 1:
        return None
    match = _LAST_LINE.fullmatch(reply.strip().split("\n")[-1].strip())
    return match[1] == "SAME" if match else None


def judged_answer(response: str) -> str:
    """Return the answer extracted from a response for the judge; empty when there is none."""
    return text.extract_text(response).answer or ""
