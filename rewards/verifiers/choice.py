"""Multiple choice, one letter or several: extract the letters that the response finally claims.

The first rule that applies decides: a marked answer (the last box, the last `<answer>`); the last
statement such as "the answer is (B)"; the letter or option that the response opens with; the only
letter of the last sentence; the only option whose text is named. A claim of several letters never
matches a single gold letter, "not B" claims nothing, a letter without an option is wrong, and an
option's text counts only when it is unique. With empty `sample.choices` the options are A to J.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing import statements
from sapo_vl.rewards.parsing.equality import same
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.extract import answer_part, first_turn, last_box, last_tag
from sapo_vl.rewards.parsing.latex import clean, fold
from sapo_vl.rewards.parsing.letters import (
    EITHER,
    LETTERS,
    SINGLE,
    claim_at,
    confirmed,
    denied,
    retracted,
    strike_denied,
)
from sapo_vl.schema import Outcome, Sample, Verdict

_RUN = re.compile(r"(?<![A-Za-z])[A-Z]{2,8}(?![A-Za-z])")
_LOWERCASE = re.compile(r"\(?\s*([a-z])\s*(?:\)|[.,:;]|\s*$)")
_STATEMENT = re.compile(
    r"(?:\b(?:answers?|choice|option|diagram|figure|letter|solution)\b"
    r"(?:\s+(?:letter|choice|option)s?)?"
    r"(?:\s+(?:that|which|to|for|from|in|of)\b[^.\n]{0,60}?)?"
    r"\s*(?:is|are|was|would be|should be|must be|will be|:|=)\s*"
    r"(?:answer\b|option\b|choice\b|:|the\b|\s)*"
    r"|\b(?:answer|choose|select|pick|option)\b\s*:?\s*(?:option|choice)?\s*"
    r"(?=\(?[A-Z]\)?(?:[\s.,:;)]|$))"
    r"|\b(?:must|has to|have to|can only) be\s(?:option\s|choice\s)?(?=\(?[A-Z]\)?(?:[\s.,:;)]|$))"
    r"|\b(?:leaving|leaves|left with)\s(?:us\s)?(?:with\s)?(?:only\s|just\s)?(?:option\s|choice\s)?"
    r"(?=\(?[A-Z]\)?(?:[\s.,:;)]|$))"
    r"|(?:答案|正确选项|正確選項|故选|故選|应选|應選|应该选|應該選|选择|選擇|选|選)\s*】?\s*(?:应该|应|應該|應)?\s*"
    r"(?:包括|选择|選擇|选项|選項|选|選|是|为|為)?\s*(?:选项|選項)?\s*[:]?)"
    r"\s*(?:1[.)]\s+)?[*(\\$\"'/]*\s*",
    re.IGNORECASE,
)
_OPENING = re.compile(r"\W{0,3}\(?([A-Z])\s*(?:[).:,]|$)(?!\d)")
_ARTICLE = re.compile(
    r"(?:A|I)\s+(?!(?:or|and|is|are|was|has|would|will|can|should|must|because|since|as|if|to|in|at"
    r"|represents?|shows?|corresponds?|belongs?|matches|fits|follows|does|seems|appears)\b)[a-z]"
)
_MARKED = re.compile(r"\(\s*([A-Z])\s*\)|(?:^|\n)\s*([A-Z])[.):]\s")
_SENTENCE = re.compile(
    r"(?<=[^A-Z\d])[.!?](?:\s+|$)|(?<=\d)[.!?](?=\s|$)|(?<=[A-Z])[.!?](?=\s+[A-Z][a-z]|\s*$)|[。！？]|\n"
)
_LISTED = re.compile(r"\(\s*([A-Za-z])\s*\)\s*(.*?)(?=\(\s*[A-Za-z]\s*\)|$)", re.S)
_TAGS = re.compile(r"</?s>|<eo[ae]>|<\|[a-z_]{1,20}\|>|\*\*|__|`+(?:json|text)?")
_WRAPPED = re.compile(
    r"(?:\\\(|\\\[|\$)?\s*\\(?:text|mathrm|mathbf|textbf)\s*\{\s*(\(?[A-Z]\)?)\s*\}\s*(?:\\\)|\\\]|\$)?"
)
_FORMULA_BEFORE = re.compile(r"[\d=+\-*/^_\\|&]\s*$")
_FORMULA_AFTER = re.compile(r"\s*[\d=+*/^_|&]|-\w")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_STATEMENTS = re.compile("[①-⑳]")  # numerals of statements, as in "which of ① to ④ are true?"
_STATEMENT_LIST = re.compile(r"(?:[①-⑳]|[\s,;、，和与與及&]|and)+")
_JSON_CHOICE = re.compile(
    r"[\"'](?:final|correct|your|my|selected)?[_ -]?(?:answer|choice|option|letter)[\"']\s*:\s*",
    re.I,
)
_YES_NO = {"yes", "no"}
_OPENS_YES_NO = re.compile(r"(?:\([A-Za-z]\)\s*)?(yes|no)\s*[,.:;]", re.I)
_DENIED_FACT = re.compile(r"\b(?:is|are|was|were|does|do|did|has|have)(?:\s+not|n't)\b", re.I)
_NO_ANSWER = re.compile(  # words of a sentence that denies knowledge, and not what was asked
    r"\b(?:can|could|unable|possible|impossible|clear|certain|sure|enough|sufficient|provid\w*|"
    r"specif\w*|information|context|question|determin\w*|answer\w*|know\w*)\b|\bcannot\b|n't see\b",
    re.I,
)
MAX_SINGLES = 600  # single capitals at the end of a text that are looked at
MAX_NAMED_CHARS = 2000  # of a box, or of the end of a text where an option's text is looked for


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the claimed letters are exactly the gold letters."""
    gold = gold_letters(sample)
    letters = LETTERS[: len(sample.choices)] if sample.choices else LETTERS[:10]
    claimed, reason = claim(response, letters, sample.choices)
    shown = ", ".join(sorted(claimed)) or None
    if not claimed:
        return Verdict(Outcome.WRONG, 0.0, reason)
    if claimed == gold:
        return Verdict(Outcome.CORRECT, 1.0, reason, extracted=shown)
    return Verdict(Outcome.WRONG, 0.0, f"{reason}: {shown} is not {', '.join(sorted(gold))}", shown)


def gold_letters(sample: Sample) -> set[str]:
    """Return the gold letters; the gold answer may also be an option's text.

    Raises DataError when it is neither.
    """
    if len(sample.choices) > len(LETTERS):
        raise DataError(
            f"record {sample.id!r}: {len(sample.choices)} choices; letters name at most 26"
        )
    bare = re.sub(r"[\s,;()&.、]|and", "", sample.answer)
    if sample.answer_type == "choice" and len(bare) > 1:
        options = [i for i, option in enumerate(sample.choices) if _plain(option) == _plain(bare)]
        if len(options) == 1:
            return {LETTERS[options[0]]}
    upper = bare.upper()
    if bare and all(c in LETTERS for c in upper) and (len(set(upper)) == len(upper)):
        if not sample.choices or all(LETTERS.index(c) < len(sample.choices) for c in upper):
            return set(upper)
        if len(upper) == 1:
            return {upper}
    matches = _options_equal(sample.answer, sample.choices)
    if len(matches) != 1:
        raise DataError(
            f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} is no option"
        )
    return set(matches)


def claim(response: str, letters: str, choices: tuple[str, ...] = ()) -> tuple[set[str], str]:
    """Return the letters that the response claims (none, one or several) and the deciding rule."""
    box = last_box(response)
    if box.reason == "<think> is never closed" or (box.marked and not box.answer):
        return set(), box.reason
    text = answer_part(response) or ""
    if box.answer:
        claimed = _in_marked(box.answer, letters, choices)
        if claimed or _names_a_letter(box.answer):
            return claimed, box.reason
        text = text.replace(box.answer, "")  # a value in the box: the letter is stated elsewhere
    tag = last_tag(text)
    if tag is not None:
        return _in_marked(tag.answer or "", letters, choices), tag.reason
    text = first_turn(fold(text))
    if (value := statements.json_value(text, _JSON_CHOICE)) is not None:
        return _in_marked(value, letters, choices), "the answer of a JSON object"
    text = _WRAPPED.sub(r"\1", _TAGS.sub("", text)).strip()
    if len(singles := [match.start() for match in SINGLE.finditer(text)]) > MAX_SINGLES:
        text = text[singles[-MAX_SINGLES] :]
    for rule, claimed in _apply_rules(text, letters, choices):
        if claimed:
            return claimed, rule
    lists = [run[0] for run in _STATEMENT_LIST.finditer(answer_part(response) or "")]
    numerals = [run for run in lists if _STATEMENTS.search(run)]
    return _if_unique(_options_equal(numerals[-1] if numerals else "", choices)), (
        "statements by their numerals" if numerals else "no choice is claimed"
    )


def _apply_rules(
    text: str, letters: str, choices: tuple[str, ...]
) -> Iterable[tuple[str, set[str]]]:
    """Yield each rule's name and the letters it extracts, in order of precedence."""
    yield "the whole response", _whole(text, letters, choices)
    plain, text = text, strike_denied(text)
    yield "stated answer", _stated(text, letters, choices or _listed(plain))
    yield "opens with a choice", _opens(text, letters)
    sentences = _sentences(text)
    if sentences and any(SINGLE.search(option) for option in choices):
        yield "option named", _if_unique(_options_named(sentences[-1], choices))
    affirmed = [s for s in sentences if not re.search(r"\b(?:not|neither|nor)\b|n't\b", s)]
    for sentence in (affirmed or sentences)[-1:]:
        yield "last sentence", _singles(sentence, letters)
    sentences = _sentences(plain)
    yield "opens with an option", _opening_option(sentences[0] if sentences else "", choices)
    yield "only letter", _if_unique(_singles(text, letters))
    for sentence in sentences[:-4:-1]:
        yield "only option named at the end", _if_unique(_options_named(sentence, choices))
    yield "only option named", _if_unique(_options_named(plain, choices))
    yield "yes or no", _yes_no(_sentences(plain), choices)


def _sentences(text: str) -> list[str]:
    stripped = (part.strip() for part in _SENTENCE.split(text) if part)
    return [part for part in stripped if part and not part.isdigit()]


def _in_marked(content: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """Return the letters of a box or a tag."""
    content = _TAGS.sub("", content).strip()[:MAX_NAMED_CHARS]
    if _STATEMENT_LIST.fullmatch(content) and _STATEMENTS.search(content):
        return _if_unique(_options_equal(content, choices))
    if content.startswith("{") and (value := statements.json_value(content, _JSON_CHOICE)):
        content = value
    content = _unwrapped(_TEXT.sub(r"\1", clean(content)))
    if claimed := _whole(content, letters, choices):
        return claimed
    struck = strike_denied(content)
    return (
        _stated(struck, letters, choices)
        or _opens(struck, letters)
        or _singles(struck, letters)
        or _if_unique(_options_equal(statements.stated_value(content), choices))
    )


def _unwrapped(content: str) -> str:
    """Return the content without the braces, brackets and quotes around all of it."""
    content = content.strip()
    for opening, closing in (("\\{", "\\}"), ("{", "}"), ('"', '"'), ("'", "'")):
        inner = content[len(opening) : -len(closing)]
        if content.startswith(opening) and content.endswith(closing) and "{" not in inner:
            content = inner.strip()
    return content


def _names_a_letter(content: str) -> bool:
    """Whether a capital stands in the content that is no symbol of a formula (`A = 5`)."""
    content = _TEXT.sub(r"\1", clean(content))
    return any(not _in_formula(content, m.start(), m.end()) for m in SINGLE.finditer(content))


def _in_formula(text: str, start: int, end: int) -> bool:
    before = _FORMULA_BEFORE.search(text, max(0, start - 4), start)
    return before is not None or _FORMULA_AFTER.match(text, end) is not None


def _whole(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """Return the letters of a text that is nothing but letters, or exactly one option."""
    options = _options_equal(text, choices) if len(text) > 1 else []
    if len(options) == 1 and _plain(text) == _plain(choices[LETTERS.index(options[0])]):
        return set(options)
    bare = re.sub(r"[\s,;.()\[\]&:、]|\band\b|\bor\b", "", text)
    if bare and len(bare) <= len(letters) and (bare.isupper() or len(bare) == 1):
        claimed = set(bare.upper())
        if claimed <= set(letters) and len(claimed) == len(bare):
            return claimed | ({EITHER} if re.search(r"\bor\b", text) else set())
    return _if_unique(options or _options_equal(text, choices))


def _stated(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """Return the letters of the last "the answer is (B)", "B is correct" or 答案：B."""
    found: list[tuple[int, set[str]]] = []
    for match in reversed(list(_STATEMENT.finditer(text))):
        claimed = _claimed_at(text, match.end(), letters)
        if "\n" in match[0] and len(_MARKED.findall(text, match.end() - 1)) > 1:
            continue  # a list of the options follows, not an answer
        if not claimed and "answer" in match[0].casefold():
            rest = text[match.end() : match.end() + 400]
            rest = re.split(r"[.!?](?:\s|$)|\n", rest, maxsplit=1)[0]
            claimed = _if_unique(_options_equal(rest.strip(" *$"), choices))
        if claimed and not retracted(text, match.start(), match.end()):
            found.append((match.end(), claimed))
            break
    for position, names in confirmed(text):
        claimed = {c for c in names if c in letters or c == EITHER}
        if claimed - {EITHER}:
            found.append((position, claimed))
    return max(found, key=lambda item: item[0])[1] if found else set()


def _claimed_at(text: str, position: int, letters: str) -> set[str]:
    """Return the letters right at `position`, unless an article, a negation or a word is there."""
    if run := _RUN.match(text, position):
        if set(run[0]) <= set(letters) and len(set(run[0])) == len(run[0]):
            return set(run[0])
        return set()
    found = claim_at(text, position)
    if found and not _ARTICLE.match(text, position) and not denied(text, found.start, found.end):
        return {c for c in found.letters if c in letters or c == EITHER}
    lowercase = _LOWERCASE.match(text, position)
    if lowercase and lowercase[1].upper() in letters:
        return {lowercase[1].upper()}
    return set()


def _opens(text: str, letters: str) -> set[str]:
    """Return the letter that the text opens with, or all letters of a list of options there."""
    match = _OPENING.match(text)
    if match is None or match[1] not in letters:
        return set()
    marked = {a or b for a, b in _MARKED.findall(text)} - {match[1]}
    if len(marked) >= 2 and len(text) < 120 * (len(marked) + 1):
        return marked | {match[1]}
    found = claim_at(text, match.start(1))
    return {c for c in found.letters if c in letters or c == EITHER} if found else {match[1]}


def _singles(sentence: str, letters: str) -> set[str]:
    """Return all letters that stand alone and are neither an article nor denied."""
    singles = set()
    for match in SINGLE.finditer(sentence):
        start, end = match.span()
        if (
            match[1] in singles
            or match[1] not in letters
            or match[1] == "I"
            or _ARTICLE.match(sentence, start)
        ):
            continue
        if not _in_formula(sentence, start, end) and not denied(sentence, start, end):
            singles.add(match[1])
    return singles


def _listed(text: str) -> tuple[str, ...]:
    """Return the options as the response itself repeats them: `( a ) 30 % ( b ) 40 %`."""
    options = _LISTED.findall(text)
    if len(options) < 2 or [a.upper() for a, _ in options] != list(LETTERS[: len(options)]):
        return ()
    return tuple(re.split(r"\.\s|\n|$", option)[0].strip() for _, option in options)


def _if_unique(letters: Iterable[str]) -> set[str]:
    """Return the letter as a set when there is exactly one, else an empty set."""
    unique = set(letters)
    return unique if len(unique) == 1 else set()


@lru_cache(maxsize=4096)  # the options of a group's problem
def _plain(text: str) -> str:
    if _STATEMENT_LIST.fullmatch(text) and (numerals := _STATEMENTS.findall(text)):
        return "".join(sorted(numerals))
    text = _TEXT.sub(r"\1", clean(text))
    text = re.sub(r"(?<=\w) ?- ?(?=\w)", "-", text)
    text = re.sub(r"^\(?[A-Z][).:]\s*(?=\S)", "", text)
    return re.sub(r"[\s{}$]+", " ", text).strip(" .,;:'\"").casefold()


def _options_equal(text: str, choices: tuple[str, ...]) -> list[str]:
    """Return the letters of the options equal to `text`: as words, or where none is, as numbers."""
    plain = _plain(text[:MAX_NAMED_CHARS])
    if not plain or len(text) > MAX_NAMED_CHARS:
        return []
    matches = [LETTERS[i] for i, option in enumerate(choices) if _plain(option) == plain]
    if matches or len(text) > 80 or not any(char.isdigit() for char in plain):
        return matches
    number, decide = clean(text), ExactDecider(Tolerance())
    return [LETTERS[i] for i, o in enumerate(choices) if same(number, clean(o), decide)]


def _options_named(sentence: str, choices: tuple[str, ...]) -> list[str]:
    """Return the options named in the sentence; one that is part of a longer one doesn't count."""
    plain = " " + _plain(sentence[-MAX_NAMED_CHARS:]) + " "
    spans: dict[str, tuple[int, int]] = {}
    for i, option in enumerate(choices):
        words = _plain(option)
        if not words or words in _YES_NO:
            continue
        for match in re.finditer(rf"(?<![\w.]){re.escape(words)}(?![\w]|\.\d)", plain):
            before = plain[max(0, match.start() - 12) : match.start()]
            if not re.search(r"\b(?:not|n't)\s+(?:the\s+|a\s+)?$", before):
                spans[LETTERS[i]] = match.span()
    return [
        letter
        for letter, (start, end) in spans.items()
        if not any(s <= start and end <= e and (s, e) != (start, end) for s, e in spans.values())
    ]


def _opening_option(sentence: str, choices: tuple[str, ...]) -> set[str]:
    """Return the option that the sentence opens with: `Yes, because ...` or `12 inches.`"""
    plain = _plain(re.split(r"[,;:]", sentence, maxsplit=1)[0][:MAX_NAMED_CHARS])
    return _if_unique(
        LETTERS[i] for i, option in enumerate(choices) if plain and _plain(option) == plain
    )


def _yes_no(sentences: list[str], choices: tuple[str, ...]) -> set[str]:
    """For the options yes and no: `Yes, ..` in any sentence, or a first one that denies the fact.

    A sentence that affirms something claims nothing: it need not be what was asked.
    """
    plain = [_plain(option) for option in choices]
    if set(plain) != _YES_NO or len(plain) != 2 or not sentences:
        return set()
    opened = {m[1].casefold() for m in map(_OPENS_YES_NO.match, sentences) if m}
    if not opened and _DENIED_FACT.search(sentences[0]) and not _NO_ANSWER.search(sentences[0]):
        opened = {"no"}
    return _if_unique(LETTERS[plain.index(word)] for word in opened)
