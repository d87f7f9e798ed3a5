"""What the templates show of a group: plain values and escaped text, without any reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sapo_vl.errors import DataError, printable
from sapo_vl.pages.viewer import formulas, selection
from sapo_vl.pages.viewer.files import Loaded, RolloutFiles, StoredGroup, StoredResponse
from sapo_vl.pages.viewer.pictures import Picture, picture

LIST_TEXT = 4_000
"""Characters of a response on a page with several groups."""

PAGE_TEXT = 400_000
"""Characters of a response on the page of its own group."""

TITLES = {"correct": "right", "wrong": "wrong", "no_verdict": "no verdict"}


@dataclass(frozen=True, slots=True)
class ShownTerm:
    """A reward term's verdict."""

    name: str
    outcome: str
    score: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """A response as a card shows it."""

    outcome: str  # "correct", "wrong" or "no_verdict"
    title: str
    reward: str
    advantage: str
    tokens: int
    cut: bool  # by max_new_tokens
    finish_reason: str
    confidence: str  # geometric mean of its tokens' probabilities
    confident: bool  # at least selection.CONFIDENT
    terms: tuple[ShownTerm, ...]
    text: Markup
    hidden: int  # characters that are left out


@dataclass(frozen=True, slots=True)
class Card:
    """A group as a page shows it."""

    key: str
    run: int
    step: int
    id: str
    task: str
    rank: int
    right: int
    valid: int
    mean_reward: str
    gradient: bool  # whether any advantage differs from 0
    log_ratio: str
    mismatch: str
    sampled: tuple[str, ...]  # outcome of each response, as sampled
    flags: str  # names of the filters that show it
    order: tuple[tuple[str, float], ...]  # its key in each sort
    problem: Markup = field(default_factory=Markup)
    search: str = ""
    answer: Markup = field(default_factory=Markup)
    pictures: tuple[tuple[str, Picture], ...] = ()  # address or data URI
    responses: tuple[ShownResponse, ...] = ()
    fault: str = ""  # why it can't be read
    href: str = ""  # its own page
    problem_href: str = ""  # the problem over the steps
    tokens_href: str = ""  # its tokens' numbers; empty: they are on the page
    tokens_json: Markup = field(default_factory=Markup)
    other: Card | None = None  # the compared run's group of this problem
    other_note: str = ""  # which step it is of, or that there is none


@dataclass(frozen=True, slots=True)
class Links:
    """How a page leads to others: addresses of the server, or places in a single file."""

    group: Callable[[int, StoredGroup], str]
    problem: Callable[[str], str]
    tokens: Callable[[int, StoredGroup], str]
    picture: Callable[[int, StoredGroup, int, Picture], str]


@dataclass(frozen=True, slots=True)
class CardMaker:
    """Makes the cards of a page."""

    runs: Sequence[RolloutFiles]
    links: Links
    picture_side: int
    text_limit: int = LIST_TEXT
    tokens_json: Callable[[int, Loaded], Markup] | None = None  # None: tokens are asked for

    def card(self, group: StoredGroup, run: int = 0, *, compare: bool = True) -> Card:
        """Return a group's card, with the other run's group of the same problem beside it."""
        card = self._summary(group, run)
        try:
            loaded = self.runs[run].load(group, tokens=self.tokens_json is not None)
        except DataError as error:
            return _changed(card, fault=str(error))
        shown = [picture(data, self.picture_side) for data in loaded.images]
        links = self.links
        changes: dict[str, object] = {
            "problem": formulas.problem(loaded.problem[:PAGE_TEXT]),
            "search": printable(f"{group.id} {loaded.problem[:LIST_TEXT]}").casefold(),
            "answer": formulas.rich(loaded.answer[:LIST_TEXT]),
            "pictures": tuple(
                (links.picture(run, group, i, each), each) for i, each in enumerate(shown)
            ),
            "responses": tuple(self._response(r) for r in loaded.responses),
            "href": links.group(run, group),
            "problem_href": links.problem(group.id),
            "tokens_href": links.tokens(run, group),
            "tokens_json": self.tokens_json(run, loaded) if self.tokens_json else Markup(),
        }
        if compare and run == 0 and len(self.runs) > 1:
            changes |= self._other(group)
        return _changed(card, **changes)

    def _summary(self, group: StoredGroup, run: int) -> Card:
        limit = selection.drift_limit(self.runs[run].groups(group.step))
        responses = group.responses
        return Card(
            key=group.key,
            run=run,
            step=group.step,
            id=printable(group.id)[:200],
            task=printable(group.task)[:100],
            rank=group.file.rank,
            right=sum(r.correct for r in responses if r.valid),
            valid=sum(r.valid for r in responses),
            gradient=any(r.advantage for r in responses),
            mean_reward=f"{selection.mean_reward(group):.3f}",
            log_ratio=_largest(group, "largest_log_ratio"),
            mismatch=_largest(group, "largest_mismatch"),
            sampled=tuple(_outcome(r.valid, r.correct) for r in responses),
            flags=" ".join(selection.flags(group, limit)),
            order=tuple((name, key(group)) for name, (_, key) in selection.SORTS.items()),
        )

    def _other(self, group: StoredGroup) -> dict[str, object]:
        """Return the second run's group of the problem: the same step's, else the nearest's."""
        files = self.runs[1]
        steps = sorted(files.steps_of(group.id), key=lambda s: (abs(s - group.step), s))
        for step in steps[:1]:
            found = next((g for g in files.groups(step) if g.id == group.id), None)
            if found is not None:
                note = f"step {step}" + (", the nearest" if step != group.step else "")
                return {"other": self.card(found, 1), "other_note": note}
        return {"other_note": "its rollout files don't have this problem"}

    def _response(self, response: StoredResponse) -> ShownResponse:
        summary = response.summary
        outcome = _outcome(summary.valid, summary.correct)
        mean = summary.mean_logprob
        sure = math.exp(min(mean, 0.0)) if mean is not None else None
        text = response.text
        return ShownResponse(
            outcome=outcome,
            title=TITLES[outcome],
            reward=f"{summary.reward:.3g}" if summary.valid else "",
            advantage=f"{summary.advantage:+.2f}",
            tokens=summary.tokens,
            cut=summary.finish_reason == "length",
            finish_reason=printable(summary.finish_reason)[:40],
            confidence="" if sure is None else f"{sure:.2f}",
            confident=sure is not None and sure >= selection.CONFIDENT,
            terms=tuple(
                ShownTerm(printable(n)[:60], TITLES.get(o, printable(o)[:40]), f"{s:.3g}", r[:2000])
                for n, o, s, r in response.terms
            ),
            text=formulas.rich(text[: self.text_limit]),
            hidden=max(0, len(text) - self.text_limit),
        )


def _changed(card: Card, **changes: object) -> Card:
    from dataclasses import replace

    return replace(card, **changes)  # type: ignore[arg-type]


def _outcome(valid: bool, correct: bool) -> str:
    return "no_verdict" if not valid else "correct" if correct else "wrong"


def _largest(group: StoredGroup, name: str) -> str:
    values = group.values(name)
    return f"{max(values):.3g}" if values else ""
