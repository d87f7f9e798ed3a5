"""Which letters of options a text claims, denies or only mentions. Linear in the text.

A claim is a list of letters joined by commas, "and" or "or": `A, B and C`. Claims are found first,
each letter once; every rule then looks at a bounded stretch before or behind a claim. A regular
expression for a whole list followed by something else would backtrack over the list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapo_vl.rewards.parsing import statements

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STRUCK = "\u2022"  # stands for a letter that the text denies
EITHER = "?"  # among claimed letters: one of several, so none of them is claimed alone
SINGLE = re.compile(r"(?<![A-Za-z])([A-Z])(?![A-Za-z'’])")
_JOIN = re.compile(
    r"[\s)\]*\"']*+(?:,\s?(?:and\b|or\b|&)?|and\b|or\b|&|/|、|和|与|與|或|及)[\s(\[*\"']*+"
)
_EITHER = re.compile(r"\bor\b|或|/")
_BEFORE = 48  # characters looked at before a claim
_AFTER = 64  # and behind it
_DENIED_BEFORE = re.compile(
    r"(?:\bnot(?! only\b)|n't|\bnor|\bneither|\bexcept(?: for)?|\bthan|\binstead of|\bunlike"
    r"|\brul(?:e|es|ed|ing) out|\bwithout"
    r"|\b(?:eliminat|exclud)(?:e|es|ed|ing)|\breject(?:s|ed|ing)?"
    r"|\bdis(?:card|miss|qualif)(?:s|es|y|ed|ies|ied|ing|ying)?|\bcross(?:es|ed|ing)? (?:out|off)"
    r"|不是|不选|不選|排除|並非|并非)"
    r"\s?(?:be |both |either |any of |the )*(?:options?|choices?|answers?|letters?|figures?"
    r"|statements?)?(?: be)?[\s(\[\"'*]*$",
    re.I,
)
_DENIED_AFTER = re.compile(
    r"[\s)\]\"'*]{0,4}(?:选项|選項|项|項|options?|choices?)?\s?"
    r"(?:(?:is|are|was|were|does|do|did|can|could|would|will|has|have)\b\s?)?"
    r"(?:(?:both|all|also|each|clearly|obviously|definitely|certainly|just|simply|thus|therefore|then"
    r"|equally|probably|plainly|均|都|也|是)\s?)*"
    r"(?:n't|not\b(?! (?:only|wrong|incorrect|false))|cannot\b|wrong\b|incorrect\b|false\b|untrue\b"
    r"|(?:ruled |crossed )?out\b|excluded\b|eliminated\b|rejected\b|discarded\b|impossible\b"
    r"|invalid\b|unlikely\b|fails?\b"
    r"|too (?:big|small|large|long|short|high|low|few|many|much|far|wide|narrow)\b"
    r"|错|錯|不|有误|有誤|可?排除|❌|✗|✘)"
    r"|[\s)\]:.\-]{0,4}(?:❌|✗|✘)",
    re.I,
)
_WALK = re.compile(
    r"[\s)\].]{0,3}[^.,;:\n]{0,30}[:\-]\s?(?:(?P<no>no|wrong|incorrect|false|not)|yes|right|correct|true)\b"
    r"(?! doubt)",
    re.I,
)
_CONFIRMED = re.compile(
    r"[^.\n]{0,40}?(?:\b(?:is|are|as|would be|seems to be|must be)\s"
    r"(?:the\s|most\slikely\s|most\s)?"
    r"(?:correct|right|best|better|accurate|answer|only)\b|正确|正確|是对的|是對的|符合"
    r"|\b(?:alone\s)?(?:remains|remain|is left|are left|it is)\b)"
)
_CONFIRMED_NOT = re.compile(r"\b(?:not|neither)\b|n't|不")


@dataclass(frozen=True, slots=True)
class Claim:
    """Letters joined in a list, and where they stand."""

    start: int
    end: int
    letters: frozenset[str]  # with EITHER where "or" joins them


def claims(text: str) -> list[Claim]:
    """Return the lists of letters in the text, in order. A repeated letter begins a new list."""
    found: list[Claim] = []
    members: list[re.Match[str]] = []
    for match in SINGLE.finditer(text):
        joined = members and _JOIN.fullmatch(text, members[-1].end(), match.start())
        if not joined or match[1] in {member[1] for member in members}:
            found += _claim(text, members)
            members = []
        members.append(match)
    return found + _claim(text, members)


def _claim(text: str, members: list[re.Match[str]]) -> list[Claim]:
    if not members:
        return []
    start, end = members[0].start(), members[-1].end()
    letters = {member[1] for member in members}
    if len(members) > 1 and _EITHER.search(text, start, end):
        letters.add(EITHER)
    return [Claim(start, end, frozenset(letters))]


def claim_at(text: str, position: int) -> Claim | None:
    """Return the list of letters that begins at `position`, behind an opening bracket or none."""
    while position < len(text) and text[position] in "([ ":
        position += 1
    first = SINGLE.match(text, position)
    if first is None:
        return None
    members = [first]
    while len(members) < len(LETTERS):
        join = _JOIN.match(text, members[-1].end())
        following = SINGLE.match(text, join.end()) if join else None
        if following is None or following[1] in {member[1] for member in members}:
            break
        members.append(following)
    return _claim(text, members)[0]


def denied(text: str, start: int, end: int) -> bool:
    """Whether "not", "rule out" stands before text[start:end], or "is wrong" behind it."""
    if _DENIED_BEFORE.search(text, max(0, start - _BEFORE), start):
        return True
    return _DENIED_AFTER.match(text, end, end + _AFTER) is not None


def strike_denied(text: str) -> str:
    """Return the text with STRUCK for every letter of a list that is denied.

    `A: no. B: yes.` denies A only where two options or more are gone through like this: alone,
    `(B): False` is an option's text.
    """
    found = claims(text)
    strikes: list[Claim] = []
    walked: list[tuple[Claim, bool]] = []
    for i, claim in enumerate(found):
        limit = found[i + 1].start if i + 1 < len(found) else len(text)
        before = max(found[i - 1].end if i else 0, claim.start - _BEFORE)
        limit = min(limit, claim.end + _AFTER)
        if _DENIED_BEFORE.search(text, before, claim.start) or _DENIED_AFTER.match(
            text, claim.end, limit
        ):
            strikes.append(claim)
        elif verdict := _WALK.match(text, claim.end, limit):
            walked.append((claim, verdict["no"] is not None))
    if len(walked) > 1 and not all(is_denied for _, is_denied in walked):
        strikes += [claim for claim, is_denied in walked if is_denied]
    pieces: list[str] = []
    position = 0
    for claim in sorted(strikes, key=lambda claim: claim.start):
        pieces += [text[position : claim.start], SINGLE.sub(STRUCK, text[claim.start : claim.end])]
        position = claim.end
    return "".join([*pieces, text[position:]])


def confirmed(text: str) -> list[tuple[int, frozenset[str]]]:
    """Return (position, letters) of every "B is correct", "A and C are right", "only C remains"."""
    found = claims(text)
    result = []
    for i, claim in enumerate(found):
        limit = found[i + 1].start if i + 1 < len(found) else len(text)
        match = _CONFIRMED.match(text, claim.end, min(limit, claim.end + 100))
        if match is None or _CONFIRMED_NOT.search(match[0]):
            continue
        if not _DENIED_BEFORE.search(text, max(0, claim.start - _BEFORE), claim.start):
            result.append((claim.start, claim.letters))
    return result


def retracted(text: str, start: int, end: int) -> bool:
    """Whether the statement at text[start:end] is told as an earlier one, or is called wrong."""
    return statements.is_retracted(text[max(0, start - 60) : start], text[end : end + 80])
