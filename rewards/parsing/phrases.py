r"""Words in an answer: connectives, comparisons, sets, remarks, and answers that are words only.

`symbols` replaces what words say in mathematics by its signs and cuts what only explains, so that
the parser (answer_tree.py) reads signs:

    "x is greater than 3"                   x > 3
    "The length is 5 cm"                    5 cm
    "x>-1 and x<2"                          x>-1 AND x<2
    "5 (since x>0)"                         5
    "all real numbers except 0"             (-\infty ,\infty )\setminus\{0\}

What denies is never cut: "not 5" and "5 is impossible" stay as they are and equal no number.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sapo_vl.rewards.parsing.answer_values import AND, OR
from sapo_vl.rewards.parsing.number_sets import ALL, EMPTY

_HAS_WORD = re.compile(
    r"(?<![\\a-zA-Z])[A-Za-z]{2,}|\\text|[\u4e00-\u9fff]|\\(?:land|lor|wedge|vee)"
)
_DENIAL = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|can't|isn't|aren't|doesn't|don't|wrong|false|incorrect"
    r"|invalid|impossible|reject(?:ed)?|extraneous|except|unless|without|instead)\b|不|非|错|无|舍",
    re.IGNORECASE,
)

_COMPARISONS = [
    (re.compile(pattern, re.IGNORECASE), f" {sign} ")
    for pattern, sign in (
        (r"(?:is |are )?(?:greater|more|larger|bigger) than or (?:is )?equal to"
         r"|(?:is |are )?at least|(?:is |are )?(?:no|not) (?:less|smaller|fewer) than"
         "|大于或?等于|不小于|不少于|不低于|至少", "\\ge"),
        (r"(?:is |are )?(?:less|smaller) than or (?:is )?equal to|(?:is |are )?at most"
         r"|(?:is |are )?(?:no|not) (?:more|greater|larger) than|(?:does|do) not exceed"
         r"|小于或?等于|不大于|不超过|不多于|至多", "\\le"),
        (r"(?:is |are )?(?:strictly )?(?:greater|more|larger|bigger) than|(?:is |are )?exceeds?\b"
         r"|大于|超过|多于", ">"),
        (r"(?:is |are )?(?:strictly )?(?:less|smaller|fewer) than|小于|少于|不到|不足", "<"),
        (r"(?:is |are )?not equal to|does not equal|不等于", "\\ne"),
        (r"\b(?:is |are )?equal to|\bequals\b|等于|[=]\s*为", "="),
        (r"(?<![a-z\\])(?:approximately|approx\.?|about|roughly|nearly|almost)\s+(?=[-+$\\\d.])"
         r"|大约|约为?", "\\approx"),
    )
]  # fmt: skip
_COMPARES = re.compile(
    r"than|least|most|equal|exceed|approx|about|roughly|nearly|almost|[大小超多少约等不至]",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_JOINTS = re.compile(
    r"\s*,?\s*(?:\b(and|or)\b|(?<=[)\d}])(and|or)(?=[({\\\d-])|(和|与|及|以及|且|并且)|(或者?|或是))"
    r"\s*,?\s*|\s*\\(?:(land|wedge)|(lor|vee))(?![a-z])\s*"
)
_OPENING = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|and so|i get|we get|we have)\b|解得|得到?|故|所以|因此|即)"
    r"\s*[,:]?\s*",
    re.IGNORECASE,
)
_THERE = re.compile(r"there (?:is|are|was|were|will be)\s+(?=\S)", re.IGNORECASE)
_EXACTLY = re.compile(
    r"(?:exactly|precisely|only|just|a total of|total of|共|共有)\s+(?=[-+$\\\d.])", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"(?P<subject>[A-Za-z][^\d=<>+*/^]*?)\s+(?:is|are|was|were|will be|would be|measures|costs)"
    r"(?:\s+(?:equal to|exactly|given by))?\s*[:=]?\s+(?P<value>\S.*)",
    re.S,
)
_TEXT_SENTENCE = re.compile(
    r"\\text\s*\{\s*(?P<subject>[^{}\d]*?(?:\b(?:is|are|was|equals)|[:=]|是|为))\s*\}\s*(?P<value>\S.*)",
    re.S,
)
_HEDGED = re.compile(
    r"(?:greater|more|larger|bigger|less|smaller|fewer|at (?:least|most)|no[nt]?\b|never|between"
    r"|any|all|every|equal|strictly|approximately equal)",
    re.IGNORECASE,
)
_IS_THE_ANSWER = re.compile(
    r"\s+(?:is|are) the (?:final |correct )?(?:answer|solution|result|value)s?"
)
_CHINESE_IS = re.compile(
    r"(?P<subject>[\u4e00-\u9fffA-Za-z\\ ]{1,20}?)(?:的值)?(?:是|为):?\s*(?P<value>[-+\d(\\\[$].*)",
    re.S,
)
_REASON = re.compile(
    r"\s*[,;]?\s*\(?\s*(?:\\text\s*\{\s*)?\(?\s*"
    r"\b(?:since|because|due to|as required|given that)\b.*|\s*[,;]?\s*(?:因为|由于).*",
    re.IGNORECASE | re.S,
)
_REMARK = re.compile(
    r"(?P<value>.*[\w)}°%])\s*(?:\(\s*(?P<inner>[^()]*)\s*\)|\\text\s*\{\s*\((?P<text>[^(){}]*)\)\s*\})\s*",
    re.S,
)
_NOT_THAT = re.compile(r"\s*,?\s+(?:and\s+|but\s+)?(?:not|rather than)\s+(?=[-+$]*\d[^,]*$)")
_OUT_OF = re.compile(r"\s*(\d[\d,]*)\s+out\s+of\s+(?:the\s+)?(\d[\d,]*)\b(.*)", re.S)
_EXCEPT = re.compile(
    r"(?:\\text\s*\{\s*)?(?:x\s*(?:is|can be)\s+)?(?:all|any|every)\s+(?:real\s+)?"
    r"(?:numbers?|reals?|values?)(?:\s+of\s+[a-z])?\s*,?\s*(?:except|other than|but|besides)"
    r"(?:\s+for)?\s*(?:\}\s*)?(?:[a-zA-Z]\s*(?:=|\\ne)\s*)?(?P<points>[^a-zA-Z]*\d(?:[^a-zA-Z]|and|or)*)",
    re.IGNORECASE,
)

_PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*\.?", re.U)
_TEXT_ONLY = re.compile(r"\{?\\text\s*\{([^{}]*)\}\}?")
_TWO_LETTER_WORDS = frozenset(("no", "ok", "up", "on", "in", "to", "it", "he", "we", "is", "of"))
_SAYINGS = {
    ALL: "all real numbers|all reals|all real number|real numbers|the real numbers|all real values"
    "|the set of all real numbers|set of all real numbers|set of real numbers|any real number"
    "|every real number|the set of real numbers|all real values of x|all real x|all values of x"
    "|x is any real number|x is all real numbers|x is real"
    "|全体实数|任意实数|一切实数|实数集|所有实数",
    EMPTY: "no solution|no solutions|no real solution|no real solutions|there is no solution"
    "|there are no solutions|there is no real solution|there are no real solutions|empty set"
    "|the empty set|null set|has no solution|has no solutions|no roots|no real roots"
    "|the equation has no solution|no such x|none exist"
    "|无解|空集|方程无解|无实数解|无实数根|没有解",
    "does not exist": "does not exist|doesn't exist|dne|d.n.e|do not exist|it does not exist"
    "|the limit does not exist|不存在|limit does not exist",
    "undefined": "undefined|not defined|is undefined|it is undefined|无意义|没有意义",
    "infinitely many solutions": "infinitely many solutions|infinitely many|infinite solutions"
    "|an infinite number of solutions|infinite number of solutions|infinitely many solution"
    "|there are infinitely many solutions|无数解|无穷多解|无数个解|有无数解",
    "cannot be determined": "cannot be determined|can't be determined|can not be determined"
    "|cannot determine|not enough information|insufficient information|impossible to determine"
    "|无法确定|不能确定",
}  # fmt: skip
_SAYING = {
    spelling: saying for saying, spellings in _SAYINGS.items() for spelling in spellings.split("|")
}


def fold_words(text: str) -> str:
    """Return words in lower case with single blanks, without outer punctuation."""
    return " ".join(text.casefold().split()).strip(" .,;:!?'\"*()")


def saying(words: str) -> str:
    """Return the one spelling of a fixed phrase ("no solutions", 无解); other words unchanged."""
    return _SAYING.get(words, words)


@lru_cache(maxsize=8192)
def as_words(text: str) -> str:
    """Return the case-folded words when `text` is words and nothing else, otherwise ''."""
    if match := _TEXT_ONLY.fullmatch(text):
        content = match[1].strip()
        if any(c.isdigit() for c in content) or not any(c.isalpha() for c in content):
            return ""
        return saying(fold_words(content))
    if text == "\\emptyset":
        return EMPTY
    if "\\" in text or not _PLAIN_WORDS.fullmatch(text):
        return ""
    words = text.split()
    is_text = any(len(w) > 2 or not w.isascii() or w.lower() in _TWO_LETTER_WORDS for w in words)
    return saying(fold_words(text)) if is_text else ""


@lru_cache(maxsize=8192)
def symbols(text: str) -> str:
    """Return a cleaned text with words of mathematics as signs, without remarks and reasons."""
    if not _HAS_WORD.search(text):
        return text
    text = _without_remarks(_REASON.sub("", text) or text)
    if match := _EXCEPT.fullmatch(text):
        points = re.sub(r"\s*,?\s*(?:and|or)\s*", ", ", match["points"]).strip()
        return f"(-\\infty ,\\infty )\\setminus\\{{{points}\\}}"
    text = _value_of_sentence(text)
    if match := _OUT_OF.fullmatch(text):
        text = f"{match[1]}/{match[2]}{match[3]}"
    if _COMPARES.search(text):
        text = _TEXT.sub(lambda m: f" {m[1]} " if _COMPARES.search(m[1]) else m[0], text)
        for pattern, sign in _COMPARISONS:
            text = pattern.sub(sign.replace("\\", "\\\\"), text)
    return _with_joints(text).strip()


def _with_joints(text: str) -> str:
    """Replace connectives by AND and OR."""
    text = _TEXT.sub(lambda m: f" {m[1]} " if m[1].strip(" ,") in ("and", "or") else m[0], text)
    return _JOINTS.sub(_joint, text)


def _joint(match: re.Match[str]) -> str:
    """Return the sign of a connective: English, run into a bracket, Chinese, or a command."""
    is_and = "and" in (match[1], match[2]) or match[3] or match[5]
    return AND if is_and else OR


def _value_of_sentence(text: str) -> str:
    """Return what a sentence says its subject is; a sentence that denies is unchanged."""
    for opening in (_OPENING, _THERE, _EXACTLY):
        if match := opening.match(text):
            text = text[match.end() :]
    text = _IS_THE_ANSWER.sub("", text)
    for pattern in (_TEXT_SENTENCE, _SENTENCE, _CHINESE_IS):
        match = pattern.fullmatch(text)
        if match is None or not any(char.isdigit() or char == "\\" for char in match["value"]):
            continue
        if _DENIAL.search(match["subject"]) or _HEDGED.match(match["value"]):
            return text
        subject = match["subject"].strip()
        return f"{subject} = {match['value']}" if len(subject) == 1 else match["value"]
    return text


def _without_remarks(text: str) -> str:
    """Cut "(option C)" and ", not 6" behind a value, and turn "(cm)" into a unit."""
    match = _NOT_THAT.search(text)
    if match and any(char.isdigit() for char in text[: match.start()]):
        text = text[: match.start()]
    match = _REMARK.fullmatch(text)
    if match is None:
        return text
    inner = match["inner"] if match["inner"] is not None else match["text"]
    plain = _TEXT.sub(r"\1", inner).strip()
    if not plain or _DENIAL.search(plain) or not re.search(r"[^\W\d_]{2,}|^[a-zA-Z°]$", plain):
        return text
    if re.match(r"or\b|或", plain):
        return text  # an alternative: answer_tree.py
    if re.search(r"[=<>+*/^\\]", inner) and not _PROSE.search(plain):
        return text
    value = match["value"]
    if not value.rstrip()[-1:].isdigit() and not _PROSE.search(plain):
        return text  # `f(ab)`
    return (
        value if _PROSE.search(plain) and not _is_unit_text(plain) else f"{value} \\text{{{plain}}}"
    )


_PROSE = re.compile(r"[^\W\d_]{3,}")


def _is_unit_text(text: str) -> bool:
    return " " not in text and text.isalpha()
