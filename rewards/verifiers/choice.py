"""Multiple choice, one letter or several: which letters does the response claim in the end?

A marked place decides (the last box, the last `<answer>`); else the last statement such as "the
answer is (B)"; else the letter or option the response opens with; else the only letter of the last
sentence; else the only option whose text is named. A claim of several letters never matches a
single gold letter, "not B" claims nothing, a letter without an option is wrong, and an option's
text counts only when it is unique. `sample.choices` may be empty: then A to J are options.
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
_SMALL = re.compile(r"\(?\s*([a-z])\s*(?:\)|[.,:;]|\s*$)")
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
    """Return the gold letters, also for an option's text. Raises DataError when there are none."""
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
    """Return the letters the response ends up claiming (none, one or several) and how."""
    box = last_box(response)
    if box.reason == "<think> is never closed" or (box.marked and not box.answer):
        return set(), box.reason
    text = answer_part(response) or ""
    if box.answer:
        found = _in_marked(box.answer, letters, choices)
        if found or _SINGLE.search(box.answer):
            return found, box.reason
        text = text.replace(box.answer, "")  # a value in a box: the letter is stated elsewhere
    tag = last_tag(text)
    if tag is not None:
        return (
            (_in_marked(tag.answer, letters, choices), tag.reason)
            if tag.answer
            else (set(), tag.reason)
        )
    text = _WRAPPED.sub(r"\1", _TAGS.sub("", first_turn(fold(text)))).strip()
    for reason, found in _ways(text, letters, choices):
        if found:
            return found, reason
    return set(), "no choice is claimed"


def _ways(text: str, letters: str, choices: tuple[str, ...]) -> Iterable[tuple[str, set[str]]]:
    yield "the whole response", _whole(text, letters, choices)
    yield "stated answer", _stated(text, letters, choices or _listed(text))
    yield "opens with a choice", _opens(text, letters)
    sentences = [s.strip() for s in _SENTENCE.split(text) if s and not s.strip().isdigit()]
    sentences = [s for s in sentences if s]
    if sentences and any(_SINGLE.search(option) for option in choices):
        yield "option named", _only(_options_named(sentences[-1], choices))
    affirmed = [s for s in sentences if not re.search(r"\b(?:not|neither|nor)\b|n't\b", s)]
    for sentence in (affirmed or sentences)[-1:]:
        yield "last sentence", _singles(sentence, letters)
    yield "opens with an option", _opening_option(sentences[0] if sentences else "", choices)
    yield "only letter", _only(_singles(text, letters))
    for sentence in sentences[:-4:-1]:
        yield "only option named at the end", _only(_options_named(sentence, choices))
    yield "only option named", _only(_options_named(text, choices))
    yield "yes or no", _yes_no(text, choices)


def _in_marked(content: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    content = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", clean(content)).strip("{} ")
    return (
        _whole(content, letters, choices) or _opens(content, letters) or _singles(content, letters)
    )


def _whole(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """A text that is nothing but letters, or exactly one option."""
    bare = re.sub(r"[\s,;.()\[\]&:]|\band\b|\bor\b", "", text)
    if bare and len(bare) <= len(letters) and (bare.isupper() or len(bare) == 1):
        found = set(bare.upper())
        if found <= set(letters) and len(found) == len(bare):
            return found
    return _only(_options_equal(text, choices))


def _stated(text: str, letters: str, choices: tuple[str, ...]) -> set[str]:
    """The last "the answer is (B)", "B is correct" or 答案：B."""
    claims: list[tuple[int, set[str]]] = []
    for match in _STATEMENT.finditer(text):
        found = _claimed_at(text, match.end(), letters)
        if "\n" in match[0] and len(_MARKED.findall(text, match.end() - 1)) > 1:
            continue  # a list of the options follows, not an answer
        if not found and "answer" in match[0].casefold():
            rest = re.split(r"[.!?](?:\s|$)|\n", text[match.end() :], maxsplit=1)[0]
            found = _only(_options_equal(rest.strip(" *$"), choices))
        if found and not _NOT_BEFORE.search(text[max(0, match.start() - 24) : match.end()]):
            claims.append((match.end(), found))
    for match in _CONFIRMED.finditer(text):
        found = {c for c in _SINGLE.findall(match[0][: _first_verb(match[0])]) if c in letters}
        before = text[max(0, match.start() - 24) : match.start()]
        denied = re.search(r"\b(?:not|neither)\b|n't|不", match[0]) or _NOT_BEFORE.search(before)
        if found and not denied:
            claims.append((match.start(), found))
    return max(claims, key=lambda item: item[0])[1] if claims else set()


def _first_verb(text: str) -> int:
    match = re.search(r"\b(?:is|are|as|would|seems)\b|正确|是对的|符合", text)
    return match.start() if match else len(text)


def _claimed_at(text: str, position: int, letters: str) -> set[str]:
    """The letters right at `position`, unless an article, a negation or a word stands there."""
    if run := _RUN.match(text, position):
        if set(run[0]) <= set(letters) and len(set(run[0])) == len(run[0]):
            return set(run[0])
        return set()
    match = _CLAIM.match(text, position)
    if match and not _ARTICLE.match(text, position) and not _NOT_AFTER.match(text, match.end()):
        return {c for c in _SINGLE.findall(match[0]) if c in letters}
    small = _SMALL.match(text, position)
    if small and small[1].upper() in letters:
        return {small[1].upper()}
    return set()


def _opens(text: str, letters: str) -> set[str]:
    match = _OPENING.match(text)
    if match is None or match[1] not in letters:
        return set()
    marked = {a or b for a, b in _MARKED.findall(text)} - {match[1]}
    if len(marked) >= 2 and len(text) < 120 * (len(marked) + 1):
        return marked | {match[1]}
    claimed = _CLAIM.match(text.lstrip("( "))
    return {c for c in _SINGLE.findall(claimed[0]) if c in letters} if claimed else {match[1]}


def _singles(sentence: str, letters: str) -> set[str]:
    """All letters that stand alone and are neither an article nor denied."""
    found = set()
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
        found.add(match[1])
    return found


def _listed(text: str) -> tuple[str, ...]:
    """The options as the response itself repeats them: `( a ) 30 % ( b ) 40 %`."""
    found = _LISTED.findall(text)
    if len(found) < 2 or [letter.upper() for letter, _ in found] != list(LETTERS[: len(found)]):
        return ()
    return tuple(re.split(r"\.\s|\n|$", option)[0].strip() for _, option in found)


def _only(found: Iterable[str]) -> set[str]:
    unique = set(found)
    return unique if len(unique) == 1 else set()


def _plain(text: str) -> str:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", clean(text))
    text = re.sub(r"^\(?[A-Z][).:]\s*(?=\S)", "", text)
    return re.sub(r"[\s{}$]+", " ", text).strip(" .,;:'\"").casefold()


def _options_equal(text: str, choices: tuple[str, ...]) -> list[str]:
    """The options that say what `text` says: as words, or where none does, as numbers."""
    wanted = _plain(text)
    if not wanted:
        return []
    found = [LETTERS[i] for i, option in enumerate(choices) if _plain(option) == wanted]
    if found or len(text) > 80 or not any(char.isdigit() for char in wanted):
        return found
    number, decide = clean(text), ExactDecider(Tolerance())
    return [LETTERS[i] for i, o in enumerate(choices) if same(number, clean(o), decide)]


def _options_named(sentence: str, choices: tuple[str, ...]) -> list[str]:
    """The options whose text stands in the sentence; one inside a longer one does not count."""
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
    """`Yes, because ...` and `12 inches.` open with their option."""
    plain = _plain(re.split(r"[,;:]", sentence)[0])
    return _only(
        LETTERS[i] for i, option in enumerate(choices) if plain and _plain(option) == plain
    )


def _yes_no(text: str, choices: tuple[str, ...]) -> set[str]:
    """With the options yes and no, a sentence that denies is a no and one that states is a yes."""
    plain = [_plain(option) for option in choices]
    if set(plain) != _YES_NO or len(plain) != 2:
        return set()
    sentences = [s for s in _SENTENCE.split(text) if s and len(s.split()) > 2]
    if not sentences:
        return set()
    denies = re.search(r"\b(?:not|no|cannot|never|neither)\b|n't\b", sentences[0].casefold())
    return {LETTERS[plain.index("no" if denies else "yes")]}
