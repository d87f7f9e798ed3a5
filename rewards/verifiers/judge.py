"""The model-based verifier: a judge behind an OpenAI-compatible endpoint (a vLLM server is one).

    judge = Judge(JudgeConfig(url="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-4B"))
    verdicts = judge.verdicts([(sample, "one half"), ...])

The judge sees the extracted answer and the gold answer as JSON strings inside a fence with a random
nonce, once in each order; both replies must agree. Only the exact last line counts as its verdict.
An answer that is empty, overlong, an instruction or a known opening phrase ("Thought process:") is
wrong without a call. endpoint.py makes the calls and bounds them. The prompt is judge.txt; with
`pictures` a problem's pictures go before it, and it is judge_pictures.txt.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sapo_vl.errors import SetupError
from sapo_vl.rewards.parsing.latex import fold
from sapo_vl.rewards.verifiers import text
from sapo_vl.rewards.verifiers.endpoint import (
    ChatEndpoint,
    ChatSession,
    Content,
    NoUsableReplyError,
)
from sapo_vl.rewards.verifiers.judge_pictures import image_parts
from sapo_vl.schema import Outcome, Sample, Verdict

PROMPT = (Path(__file__).parent / "judge.txt").read_text(encoding="utf-8")
PICTURES_PROMPT = (Path(__file__).parent / "judge_pictures.txt").read_text(encoding="utf-8")
PROMPT_HASH = hashlib.sha256(PROMPT.encode()).hexdigest()[:16]
MAX_ANSWER_CHARS = 600
MAX_REPLY_TOKENS = 256
MAX_REPLY_CHARS = 8000
CACHE_SIZE = 200_000
_LAST_LINE = re.compile(r"VERDICT: (SAME|DIFFERENT)")
_TASK = (
    r"(?:this|the|that) (?:\w+ )?(?:problem|question|equation|task|exercise|value|answer|solution)"
)
_OPENERS = re.compile(
    r"(?:the )?(?:thought process|solution|answer|final answer|answer is|explanation|reasoning"
    r"|answer explanation|step by step|to solve|to begin|we need to|here is the (?:answer|solution)"
    r"|解|解答|答案|respuesta|solución|réponse|lösung|antwort|ответ|решение|かいせつ|解説|回答|정답)"
    r"|(?:to|let's|lets|let us|first,?|(?:first,? )?(?:we|let's)(?: need to| can| will| must)?)"
    rf" (?:solve|find|answer|determine|tackle|analy[sz]e|break down) (?:{_TASK}|it)\b[^\d=]{{0,80}}"
    r"|let's (?:think|work|go|solve)(?: \w+){0,3} step by step"
    r"|(?:answer )?explanation: [^\d=]{0,200}"
    r"|(?:the )?(?:answer|solution) (?:is|can be) (?:explained|given|found|shown)\b[^\d=]{0,80}"
)
_INSTRUCTION = re.compile(
    r"<\|[^|]{1,30}\|>|\b(?:ignore|disregard)\b.{0,40}\b(?:above|previous|instructions?|prompt)\b"
    r"|(?:^|[.!?:\n]\s*)(?:dear |attention,? |note to (?:the )?|hey )?(?:grader|judge)\s*[,:!]"
    r"|\b(?:the|this) (?:grader|judge|evaluator) (?:must|should|has to|needs|will)\b"
    r"|\[?\bjudge?ment\b\]?\s*:|\bverdict\s*[:=]|\bsystem prompt\b|\bground[- ]truth\b"
    r"|\b(?:reference|gold) answer\b|[\"']correct[\"']\s*:\s*true|\banswer [12] (?:and|is)\b"
    r"|\b(?:output|return|respond|reply|print|write|say)(?: with| only| exactly| just|:)*\s*"
    r"[\"'`(\[]*(?:yes|correct|true|same|equal|verdict)\b(?=\W*$|[.,;:!\"'}\]])"
    r"|\b(?:answer|response|solution)s? (?:is|are) (?:correct|right|the same|equal|equivalent)\b"
    r"|裁判|输出|輸出",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The judge's endpoint and its limits."""

    url: str  # base URL that ends in /v1
    model: str  # served model name
    concurrency: int = 16  # requests in flight
    per_minute: float | None = None  # rate limit; None: no limit
    deadline: float = 60.0  # seconds of one call, with its retries
    retries: int = 4  # of status 429 and 5xx, a failed connection and an unreadable reply
    both_orders: bool = True  # ask (gold, answer) and (answer, gold)
    pictures: bool = False  # show the problem's pictures to the judge

    @property
    def endpoint(self) -> ChatEndpoint:
        """The endpoint's address and limits."""
        return ChatEndpoint(
            self.url,
            self.model,
            self.concurrency,
            self.per_minute,
            self.deadline,
            self.retries,
        )


class JudgeQuestion(NamedTuple):
    """What a judge is asked, and the key of its answer."""

    problem: str
    gold: str
    answer: str
    pictures: str  # digest of the pictures that are shown; empty for none


class Judge:
    """Client of a judge with a cache. `calls` counts requests from the start."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises ConfigError for an address that can't be used."""
        self.config = config
        self.endpoint = config.endpoint
        self.endpoint.check_url("judge.url")
        self.calls = 0
        self._cache: OrderedDict[JudgeQuestion, Verdict] = OrderedDict()

    def verdicts(self, items: Sequence[tuple[Sample, str]]) -> list[Verdict]:
        """Return one Verdict per (sample, extracted answer), in order."""
        shown: dict[str, tuple[bytes, ...]] = {"": ()}  # pictures by digest
        questions = [self._question(sample, answer.strip(), shown) for sample, answer in items]
        found: dict[JudgeQuestion, Verdict] = {}
        for question in dict.fromkeys(questions):
            answer = question.answer
            if reason := refusal(answer):
                found[question] = Verdict(Outcome.WRONG, 0.0, reason, answer or None, tier="judge")
            elif question in self._cache:
                found[question] = self._cache[question]
        asked = [question for question in dict.fromkeys(questions) if question not in found]
        if asked:
            verdicts = self.endpoint.run(lambda session: self._judge_all(session, asked, shown))
            found.update(zip(asked, verdicts, strict=True))
        return [found[question] for question in questions]

    def _question(
        self, sample: Sample, answer: str, shown: dict[str, tuple[bytes, ...]]
    ) -> JudgeQuestion:
        """Return the question about one answer, and add its pictures to `shown`."""
        images = sample.images if self.config.pictures else ()
        digest = pictures_digest(images)
        shown[digest] = images
        return JudgeQuestion(sample.problem, sample.answer, answer, digest)

    def check(self) -> None:
        """Raise SetupError when the endpoint doesn't respond or doesn't serve the model."""
        try:
            names = replace(self.endpoint, deadline=10.0, retries=0).served_models()
        except SetupError as error:
            raise SetupError(f"judge.url={error}") from error
        if self.config.model not in names:
            raise SetupError(
                f"judge.model={self.config.model!r} is not served at {self.config.url}; "
                f"it has {names[:20]}"
            )

    async def _judge_all(
        self,
        session: ChatSession,
        questions: Sequence[JudgeQuestion],
        shown: Mapping[str, Sequence[bytes]],
    ) -> list[Verdict]:
        try:
            return await asyncio.gather(
                *(self._judge(session, item, shown[item.pictures]) for item in questions)
            )
        finally:
            self.calls += session.calls

    async def _judge(
        self, session: ChatSession, question: JudgeQuestion, images: Sequence[bytes]
    ) -> Verdict:
        start = time.perf_counter()
        problem, gold, answer, _ = question
        orders = [(gold, answer), (answer, gold)] if self.config.both_orders else [(gold, answer)]
        replies = []
        for first, second in orders:
            try:
                content = message(problem, first, second, images)
                reply = await session.ask(content, MAX_REPLY_TOKENS)
            except NoUsableReplyError as error:
                return _verdict(Outcome.NO_VERDICT, f"judge: {error.reason}", answer, start)
            same = parse(reply)
            if same is None:
                reason = "judge: the reply has no verdict"
                return _verdict(Outcome.NO_VERDICT, reason, answer, start)
            replies.append(same)
        if len(set(replies)) > 1:
            return _verdict(Outcome.NO_VERDICT, "judge: the two orders disagree", answer, start)
        outcome = Outcome.CORRECT if replies[0] else Outcome.WRONG
        relation = "the same as" if replies[0] else "different from"
        verdict = _verdict(outcome, f"judged {relation} {gold[:80]}", answer, start)
        self._cache[question] = verdict
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return verdict


def _verdict(outcome: Outcome, reason: str, answer: str, start: float) -> Verdict:
    seconds = time.perf_counter() - start
    return Verdict(outcome, float(outcome is Outcome.CORRECT), reason, answer, seconds, "judge")


def refusal(answer: str) -> str:
    """Return why an answer is wrong without a call to the judge, or an empty string."""
    folded = " ".join(fold(answer[: MAX_ANSWER_CHARS + 1]).casefold().split())
    bare = folded.strip(" .,:;!?。：\"'*#_-()[]{}$<>/\\")
    if not any(char.isalnum() for char in folded):
        return "the answer has neither letters nor digits"
    if len(answer) > MAX_ANSWER_CHARS:
        return f"the answer is longer than {MAX_ANSWER_CHARS} characters"
    if _OPENERS.fullmatch(bare):
        return "the answer is an opening phrase"
    if _INSTRUCTION.search(folded):
        return "the answer addresses the judge"
    return ""


def pictures_digest(images: Sequence[bytes]) -> str:
    """Return what identifies pictures in their order; empty for none."""
    if not images:
        return ""
    return hashlib.sha256(b"".join(hashlib.sha256(i).digest() for i in images)).hexdigest()


def message(problem: str, first: str, second: str, images: Sequence[bytes]) -> Content:
    """Return the prompt, behind its pictures if there are any. Raises NoUsableReplyError."""
    if not images:
        return render(problem, first, second)
    text = render(problem, first, second, PICTURES_PROMPT)
    return [*image_parts(images), {"type": "text", "text": text}]


def render(problem: str, first: str, second: str, prompt: str = PROMPT) -> str:
    """Return the prompt: both answers as JSON strings between two lines with a random nonce."""
    data = json.dumps(
        {"question": problem[-4000:], "answer 1": first, "answer 2": second}, ensure_ascii=False
    ).replace("<|", "<\u200b|")
    return prompt.replace("{nonce}", f"=== {secrets.token_hex(8)} ===").replace("{data}", data)


def parse(reply: str) -> bool | None:
    """Return True for SAME, False for DIFFERENT, None for anything but the exact last line."""
    if len(reply) > MAX_REPLY_CHARS or len(_LAST_LINE.findall(reply)) != 1:
        return None
    match = _LAST_LINE.fullmatch(reply.strip().split("\n")[-1].strip())
    return match[1] == "SAME" if match else None


def judged_answer(response: str) -> str:
    """Return the answer extracted from a response for the judge; empty when there is none."""
    return text.extract_text(response).answer or ""
