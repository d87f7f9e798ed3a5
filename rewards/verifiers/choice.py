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

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.equality import same
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.extract import answer_part, first_turn, last_box, last_tag
from sapo_vl.rewards.parsing.latex import clean, fold
from sapo_vl.schema import Outcome, Sample, Verdict

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ONE = r"\(?\s*\[?(?<![A-Za-z])([A-Z])(?![A-Za-z'’])\s*\]?\)?"
_JOIN = r"\s*(?:,\s*(?:and\s+|or\s+)?|and|or|&|/|、|和|与|或)\s*"
_CLAIM = re.compile(rf"{_ONE}(?:{_JOIN}{_ONE})*")
_RUN = re.compile(r"(?<![A-Za-z])[A-Z]{2,8}(?![A-Za-z])")
_LOWERCASE = re.compile(r"\(?\s*([a-z])\s*(?:\)|[.,:;]|\s*$)")
_SINGLE = re.compile(r"(?<![A-Za-z])([A-Z])(?![A-Za-z'’])")
_STATEMENT = re.compile(
    r"(?:\b(?:answers?|choice|option|diagram|figure|letter|solution)\b"
    r"(?:\s+(?:letter|choice|option)s?)?"
    r"(?:\s+(?:that|which|to|for|from|in|of)\b[^.\n]{0,60}?)?"
    r"\s*(?:is|are|was|would be|should be|must be|will be|:|=)\s*"
    r"(?:answer\b|option\b|choice\b|:|the\b|\s)*"
    r"|\b(?:answer|choose|select|pick|option)\b\s*:?\s*(?:option|choice)?\s*"
    r"(?=\(?[A-Z]\)?(?:[\s.,:;)]|$))"
    r"|(?:答案|正确选项|故选|应选|应该选|选择|选)\s*】?\s*(?:应该|应)?\s*"
    r"(?:包括|选择|选项|选|是|为)?\s*(?:选项)?\s*[:]?)\s*(?:1[.)]\s+)?[*(\\$\"'/]*\s*",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    rf"{_ONE}(?:{_JOIN}{_ONE})*(?:[^.\n]{{0,40}}?)\s*"
    r"(?:(?:is|are|as|would be|seems to be)\s+(?:the\s+|most\s+likely\s+|most\s+)?"
    r"(?:correct|right|best|accurate|answer|only)\b|正确|是对的|符合)"
)
_VERB = re.compile(r"\b(?:is|are|as|would|seems)\b|正确|是对的|符合")
_NOT_BEFORE = re.compile(
    r"(?:\bnot|n't|\bnor|\bneither|\bexcept|\bthan|不是|不选|排除)\s*"
    r"(?:option|choice|the answer|be)?\s*\(?\s*$",
    re.I,
)
_NOT_AFTER = re.compile(
    r"\)?\s*(?:选项)?\s*(?:is|are|was|does|do|can|could|would|will)?\s*(?:n't|not\b|cannot\b|wrong\b|incorrect\b|false\b|错误|不正确|不符)",
    re.I,
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
_TAGS = re.compile(r"</?s>|<eo[ae]>|<\|[a-z_]{1,20}\|>|\*\*|__|`")
_WRAPPED = re.compile(
    r"(?:\\\(|\\\[|\$)?\s*\\(?:text|mathrm|mathbf|textbf)\s*\{\s*(\(?[A-Z]\)?)\s*\}\s*(?:\\\)|\\\]|\$)?"
)
_YES_NO = {"yes", "no"}


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the claimed letters are exactly the gold letters."""
    letters = LETTERS[: len(sample.choices)] if sample.choices else LETTERS[:10]
    gold = gold_letters(sample)
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
    bare = re.sub(r"[\s,;()&.]|and", "", sample.answer)
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
        if claimed or _SINGLE.search(box.answer):
            return claimed, box.reason
        text = text.replace(box.answer, "")  # a value in the box: the letter is stated elsewhere
    tag = last_tag(text)
    if tag is not None:
        return (
            (_in_marked(tag.answer, letters, choices), tag.reason)
            if tag.answer
            else (set(), tag.reason)
        )
    text = _WRAPPED.sub(r"\1", _TAGS.sub("", first_turn(fold(text)))).strip()
    for rule, claimed in _apply_rules(text, letters, choices):
        if claimed:
            return claimed, rule
    return set(), "no choice is claimed"


def _apply_rules(
    text: str, letters: str, choices: tuple[str, ...]
) -> Iterable[tuple[str, set[str]]]:
    """Yield each rule's name and the letters it extracts, in order of precedence."""
    yield "the whole response", _whole(text, letters, choices)
    yield "stated answer", _stated(text, letters, choices or _listed(text))
    yield "opens with a choice", _opens(text, letters)
    sentences = [s.strip() for s in _SENTENCE.split(text) if s and not s.strip().isdigit()]
    sentences = [s for s in sentences if s]
    if sentences and any(_SINGLE.search(option) for option in choices):
        yield "option named", _if_unique(_options_named(sentences[-1], choices))
    affirmed = [s for s in sentences if not re.search(r"\b(?:not|neither|nor)\b|n't\b", s)]
    for sentence in (affirmed or sentences)[-1:]:
        yield "last sentence", _singles(sentence, letters)
    yield "opens with an option", _opening_option(sentences[0] if sentences else "", choices)
    yield "only letter", _if_unique(_singles(text, letters))
    for sentence in sentences[:-4:-1]:
        yield "only option named at the end", _if_unique(_options_named(sentence, choices))
    yield "only option named", _if_unique(_options_named(text, choices))
    yield "yes or no", _yes_no(text, choices)


def _in_marked(content: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    content = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", clean(content)).strip("{} ")
    return (
        _whole(content, letters, choices) or _opens(content, letters) or _singles(content, letters)
    )


def _whole(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """Return the letters of a text that is nothing but letters, or exactly one option."""
    bare = re.sub(r"[\s,;.()\[\]&:]|\band\b|\bor\b", "", text)
    if bare and len(bare) <= len(letters) and (bare.isupper() or len(bare) == 1):
        claimed = set(bare.upper())
        if claimed <= set(letters) and len(claimed) == len(bare):
            return claimed
    return _if_unique(_options_equal(text, choices))


def _stated(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """Return the letters of the last "the answer is (B)", "B is correct" or 答案：B."""
    claims: list[tuple[int, set[str]]] = []
    for match in _STATEMENT.finditer(text):
        claimed = _claimed_at(text, match.end(), letters)
        if "\n" in match[0] and len(_MARKED.findall(text, match.end() - 1)) > 1:
            continue  # a list of the options follows, not an answer
        if not claimed and "answer" in match[0].casefold():
            rest = re.split(r"[.!?](?:\s|$)|\n", text[match.end() :], maxsplit=1)[0]
            claimed = _if_unique(_options_equal(rest.strip(" *$"), choices))
        if claimed and not _NOT_BEFORE.search(text[max(0, match.start() - 24) : match.end()]):
            claims.append((match.end(), claimed))
    for match in _CONFIRMED.finditer(text):
        verb = _VERB.search(match[0])
        subject = match[0][: verb.start()] if verb else match[0]
        claimed = {c for c in _SINGLE.findall(subject) if c in letters}
        before = text[max(0, match.start() - 24) : match.start()]
        negated = re.search(r"\b(?:not|neither)\b|n't|不", match[0]) or _NOT_BEFORE.search(before)
        if claimed and not negated:
            claims.append((match.start(), claimed))
    return max(claims, key=lambda item: item[0])[1] if claims else set()


def _claimed_at(text: str, position: int, letters: str) -> set[str]:
    """Return the letters right at `position`, unless an article, a negation or a word is there."""
    if run := _RUN.match(text, position):
        if set(run[0]) <= set(letters) and len(set(run[0])) == len(run[0]):
            return set(run[0])
        return set()
    match = _CLAIM.match(text, position)
    if match and not _ARTICLE.match(text, position) and not _NOT_AFTER.match(text, match.end()):
        return {c for c in _SINGLE.findall(match[0]) if c in letters}
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
    claimed = _CLAIM.match(text.lstrip("( "))
    return {c for c in _SINGLE.findall(claimed[0]) if c in letters} if claimed else {match[1]}


def _singles(sentence: str, letters: str) -> set[str]:
    """Return all letters that stand alone and are neither an article nor negated."""
    singles = set()
    for match in _SINGLE.finditer(sentence):
        before, after = sentence[max(0, match.start() - 24) : match.start()], match.end()
        if match[1] not in letters or match[1] == "I" or _ARTICLE.match(sentence, match.start()):
            continue
        if _NOT_BEFORE.search(before) or _NOT_AFTER.match(sentence, after):
            continue
        if re.search(r"[\d=+\-*/^_\\|&]\s*$", before) or re.match(
            r"\s*[\d=+*/^_|&]|-\w", sentence[after:]
        ):
            continue
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


def _plain(text: str) -> str:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", clean(text))
    text = re.sub(r"^\(?[A-Z][).:]\s*(?=\S)", "", text)
    return re.sub(r"[\s{}$]+", " ", text).strip(" .,;:'\"").casefold()


def _options_equal(text: str, choices: tuple[str, ...]) -> list[str]:
    """Return the letters of the options equal to `text`: as words, or where none is, as numbers."""
    plain = _plain(text)
    if not plain:
        return []
    matches = [LETTERS[i] for i, option in enumerate(choices) if _plain(option) == plain]
    if matches or len(text) > 80 or not any(char.isdigit() for char in plain):
        return matches
    number, decide = clean(text), ExactDecider(Tolerance())
    return [LETTERS[i] for i, o in enumerate(choices) if same(number, clean(o), decide)]


def _options_named(sentence: str, choices: tuple[str, ...]) -> list[str]:
    """Return the options named in the sentence; one that is part of a longer one doesn't count."""
    plain = " " + _plain(sentence) + " "
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
    plain = _plain(re.split(r"[,;:]", sentence)[0])
    return _if_unique(
        LETTERS[i] for i, option in enumerate(choices) if plain and _plain(option) == plain
    )


def _yes_no(text: str, choices: tuple[str, ...]) -> set[str]:
    """For the options yes and no: a negated first sentence means no, an affirmative one yes."""
    plain = [_plain(option) for option in choices]
    if set(plain) != _YES_NO or len(plain) != 2:
        return set()
    sentences = [s for s in _SENTENCE.split(text) if s and len(s.split()) > 2]
    if not sentences:
        return set()
    negated = re.search(r"\b(?:not|no|cannot|never|neither)\b|n't\b", sentences[0].casefold())
    return {LETTERS[plain.index("no" if negated else "yes")]}
