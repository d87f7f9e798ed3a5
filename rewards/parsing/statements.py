"""Read the value that a sentence states: "The answer is 5, not 6.", `{"answer": 5}`, "Ответ: 5".

A sentence that denies or retracts a value ("the answer is not 5", "earlier I said 5") doesn't state
it, and an inability ("I can't tell") states nothing. Every function is linear in its text, whose
runs of blanks have been reduced (`extract.calm`).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.latex import fold

MAX_PHRASES = 8  # bounds the time on a response that repeats "the answer is" with nothing after it

_NAMES = (
    "Ответ|Відповідь|Antwort|Lösung|Ergebnis|Respuesta|Resultado|Solución|Réponse|Résultat|Risposta"
    "|Risultato|Resposta|Solução|Odpowiedź|Wynik|Odpověď|Výsledek|Svar|Svaret|Antwoord|Cevap|Yanıt"
    "|Đáp án|Đáp số|Jawaban|Jawabannya|คำตอบ|उत्तर|الإجابة|الجواب|תשובה|정답|답|答え|正解|解答|答"
)
_COPULAS = "es|ist|est|è|é|is|är|er|jest|je|adalah|là|คือ|है|هو|هي|は|은|는|равен|равно|равна"
_PHRASE = re.compile(
    r"(?:\b(?:(?:answer|ans|result|solution)\b|(?:final|numeric|integer|total)(?: \w+)? value\b)"
    r"\s*(?:\([^()\n]{0,40}\)\s*)?"
    r"(?:(?:is|are|was|would be|will be|should be|must be|equals)\b|=|:|(?=\$|\\\(|\\\[))\s*"
    r"(?::|\bequal to\b)?"
    r"|\bfinal answer\b[^\n:$\d]{0,40}[:\n]"
    r"|^\s*\**A(?:ns)?\**\s*:|(?:答案|结果|結果)\s*】?\s*(?:是|为|為|應為|应为|選|选)?\s*[:]?"
    rf"|(?<!\w)(?:{fold(_NAMES)})(?:[ ]\w{{1,12}})?\s*(?:[:=]|(?:{fold(_COPULAS)})(?=\s|[-+]?\d))"
    r"\s*:?)\s*",
    re.IGNORECASE | re.MULTILINE,
)
_HEDGE = r"(?:about|approximately|roughly|only|exactly|around|equal to|just|precisely)"
_STATED = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|equal to|gets?|so|thus|hence|therefore|makes|making|gives"
    r"|giving|about|approximately|roughly|exactly)\b"
    rf"|[=≈:])\s*(?:{_HEDGE}\s+)?(?=[-+$(]{{0,4}}[\d.])"
)
MATH_SPAN = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|\$(?P<b>[^$\n]+)\$(?!\d)"
    r"|\\\[(?P<c>[^\\]*+(?:\\[^\[\]][^\\]*+)*+)\\\]|\\\((?P<d>[^\\]*+(?:\\[^()][^\\]*+)*+)\\\)"
)
_JOINED = re.compile(r"\s*(?:, and|,|;|and|or)\s*")
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.\u00c0-\u052f])[-+]?\$?\s?(?:\d{1,3}(?:,\d{3}){1,40}(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s*/\s*\d+(?![\d/]))?(?:[eE][-+]?\d+)?\s*%?"
)
_SENTENCE_END = re.compile(r"(?<=\S)[.!?](?=\s|$)|[。！？]|\n")
_REASON = re.compile(
    r",?\s+(?:because|since|as (?:the|it|there|we)|so that|which (?:is|means|makes))\b|[，,]因为"
)
_REMARK = re.compile(
    r"\s*\(\s*(?:since|because|as|so|i\.e\.|that is|see|note|from|by|where|for|using|which|not|due"
    r"|given|rounded|earlier|assuming|if|when|after|before|option|choice|因为|因為)\b"
)
_CONTRAST = re.compile(
    r"(?:,|;|\s-+)?\s*(?:\band\s+)?\b(?:not|rather than|instead of|as opposed to|unlike|nor)\b",
    re.I,
)
_NOT_BUT = re.compile(r"\bnot\b[^.\n]{1,60}?(?:,\s*|\s)but\s+(?:rather\s+|is\s+)?", re.I)
_DENIAL = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|can't|none|wrong|incorrect|false|impossible)\b|n't\b"
    r"|不|没|沒|無法|无法|错|錯|\bnicht\b|\bkein|\bне\b|\bpas\b|\bnon\b",
    re.I,
)
_EARLIER = re.compile(
    r"\b(?:earlier|previously|initially|originally|first|before|formerly|mistakenly|wrongly"
    r"|I (?:said|thought|wrote|had|claimed|guessed|assumed)|one might|some (?:might|may|would)"
    r"|you (?:might|may)|if|suppose|claims?|says?|pretend|unless|whether)\b",
    re.I,
)
_RETRACTED = re.compile(
    r"\b(?:was|were|is|that's|that is|that was)\s+(?:a\s+|an\s+|clearly\s+|obviously\s+)?"
    r"(?:wrong|incorrect|mistaken|false|mistake|error|not right|not correct|not true)\b",
    re.I,
)
_CLAUSE_START = re.compile(r"[.!?;\n(]|\bbut\b|, (?:so|then|hence)\b")
_CLAUSE_END = re.compile(r"[.!?](?:\s|$)|\n")
_CORRECTED = re.compile(
    r"\b(?:no,? wait|wait|oops|sorry|correction|scratch that|make that|I mean|actually)\b[,:.]*\s*"
    r"(?:no,?\s*)?(?:it is|it's|it should be|it must be|that is|that's|that should be|I mean"
    r"|make that|actually)?,?\s*(?=[-+$(]{0,4}[\d.])",
    re.I,
)
_UNABLE = re.compile(
    r"\b(?:can't|cannot|can not|could(?:n't| not)|unable to|not able to"
    r"|(?:do|does)(?:n't| not) know|not possible to|impossible to|no way to"
    r"|not (?:enough|sufficient)|insufficient"
    r"|isn't enough)\b",
    re.I,
)
_GUESSED = re.compile(r"\b(?:may|might|could|perhaps|maybe|guess)\b", re.I)
_BOUND = re.compile(
    r"(?:\bat (?:least|most)|\b(?:more|less|fewer|greater|larger|smaller|lower|higher) than|\bup to"
    r"|\bno (?:more|fewer|less) than|\bnot)\s*$",
    re.I,
)
_PROSE_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}(?![\w{(])")
_FORMULAS = re.compile(r"\\text\s*+\{[^{}]*\}|\$[^$]*\$|\\[a-zA-Z]+")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox|textnormal)\s*+\{([^{}]*)\}")
_DRESS = re.compile(r"(?:\*\*|__|`+)(.+?)(?:\*\*|__|`+)", re.S)
_CHECK_MARKS = " \t✅✔✓☑\ufe0f"
_SENTENCE_CUE = re.compile(
    r"\b(?:is|are|was|were|be|equals?|answer|result|solution|since|because|not|final)\b|n't\b|\(\s*[a-z]"
    r"|[\u0400-\u04ff]",
    re.I,
)
_STOP = re.compile(
    r"\s+(?:in|on|of|at|for|from|with|to|by|as|that|which|where|when|who|shown|visible|left|here"
    r"|remaining|altogether|overall|present|so|therefore|because|since|if|after|inside|among|the"
    r"|and so|total)\b"
)
_VERB = re.compile(r"\b(?:is|are|was|were|be|equals|equal to)\b\s*:?\s*")
_SCALE_AFTER = re.compile(
    r"[ ]?(?:hundred|thousand|million|billion|trillion|dozen|tenths?|hundredths?|halves|thirds?"
    r"|quarters?|squared|cubed)\b"
)
_UNIT_AFTER = re.compile(
    r"[ ]?(?:(?P<sign>°[CF]?)|(?P<words>[a-zA-Z]{1,12}(?:/[a-zA-Z]{1,8})?)"
    r"(?:\^?\{?[23]\}?)?(?![\w(=^{]))"
)
_UNITS = frozenset(
    """
    mm cm dm m km in inch inches ft feet foot yd yard yards mi mile miles mph unit units
    millimeter millimeters centimeter centimeters centimetre centimetres meter meters metre metres
    kilometer kilometers kilometre kilometres mg g gram grams kg kilogram kilograms milligram
    milligrams lb lbs pound pounds oz t ton tons s sec second seconds min minute minutes h hr hrs
    hour hours day days week weeks month months year years yr ml mL l L liter liters litre litres
    gallon gallons deg degree degrees rad radians percent dollar dollars cent cents euro euros yuan
    """.split()  # noqa: SIM905 (a table)
)
_DIGIT_WORD = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    "|sixteen|seventeen|eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    "(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?"
)
_IN_WORDS = re.compile(
    rf"\b(?:is|are|was|were|see|count|has|have|total of|so|therefore|thus)[ ]"
    rf"(?:exactly |only )?({_DIGIT_WORD})"
    r"\b(?![ ](?:of|or|to|hundred|thousand|million|billion|dozen|and a)\b)",
    re.I,
)
_LIST_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*•])\s")
_ANNOUNCED = re.compile(
    r"\b(?:here(?:'s| is| are)|how I|counted|breakdown|as follows|explanation|they are|namely"
    r"|listed|including)\b",
    re.I,
)
_ANNOUNCED_TOTAL = re.compile(
    r"\b(?:there (?:are|is)|I (?:see|count)|total(?: of)?|shows?|is|are)\s"
)
_CHINESE_STATED = re.compile(
    r"(?:共有|一共有|总共有|总共|一共|共|合计|等于|得到|有|是|为|為|得)\s*:?\s*(?=[-+]?\d)"
)
_LEADING_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ ][^\W\d_]{2,})?[ ]?[:]?[ ](?=[-+]?\d)")
_NO_LABEL = re.compile(
    r"\b(?:minus|negative|plus|about|approx\w*|roughly|around|circa|root|sqrt|sin|cos|tan|log|ln|half"
    r"|not?|over|under|least|most|than|between|pi|and|or|не|минус|около|nicht|kein\w*|etwa|rund"
    r"|menos|moins|environ|non|pas|casi)\b",
    re.I,
)
_ENDING = re.compile(r"(?<=\d)(?:です|である|だ|입니다|이다|이에요|예요)$")
_IN_ALL = re.compile(r"[ ]?(?:[a-z]+,?[ ]){0,3}(?:in total|in all|altogether)\b")
_FOREIGN_WORD = re.compile(r"(?<=\d)[ ]?([^\W\d_]{2,})\.?$")
_FOREIGN_SCALE = re.compile(
    r"тыс|миллион|миллиард|млн|млрд|million|milliard|miljo|tausend|mille|mil$|만|억|천|백", re.I
)
_JSON_KEY = re.compile(
    r"[\"'](?:(?:final|correct|your|my)?[_ -]?(?:answer|ans|result|solution))[\"']\s*:\s*", re.I
)
_JSON_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*+)\"|'((?:[^'\\]|\\.)*+)'", re.S)
_JSON_PLAIN = re.compile(r"\[[^\[\]{}]{0,400}\]|[^,{}\[\]\n\"']{1,100}")


def is_sentence(text: str) -> bool:
    """Whether a text has words around its answer (formulas and `\\text{}` don't count)."""
    if units.is_quantity(text):
        return False  # `390.5克`, `nine tenths`
    plain = _FORMULAS.sub(" ", text)
    return len(_PROSE_WORD.findall(plain)) >= 3 or any("\u4e00" <= c <= "\u9fff" for c in plain)


def json_value(text: str, key: re.Pattern[str] = _JSON_KEY) -> str | None:
    """Return the value of the last key `answer` (or alike) of a JSON object in the text."""
    if "{" not in text:
        return None
    for match in list(key.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        if quoted := _JSON_STRING.match(text, match.end()):
            return _unescaped(quoted).strip() or None
        if plain := _JSON_PLAIN.match(text, match.end()):
            return plain[0].strip() or None
    return None


def _unescaped(quoted: re.Match[str]) -> str:
    if quoted[1] is None:
        return quoted[2]
    try:
        value = str(json.loads(quoted[0], strict=False))
    except ValueError:  # LaTeX with single backslashes
        return quoted[1]
    return value if value.isprintable() else quoted[1]  # \f and \b are eaten backslashes


@lru_cache(maxsize=65536)  # the responses of a group repeat their answers
def stated_value(answer: str) -> str:
    """Return the value that a marked answer states, if it is a short sentence; else the answer.

    `The answer is 5.`, `There are 5 cats`, `5 (since x > 0)`, `**5**` give 5, `5 cats`, 5 and 5. A
    sentence that denies something, or that states several numbers, is returned as it is.
    """
    answer = answer.strip(_CHECK_MARKS)
    if (dressed := _DRESS.fullmatch(answer)) and "**" not in dressed[1]:
        answer = dressed[1].strip()
    if answer.startswith("{") and (value := json_value(answer)) is not None:
        return value
    if len(answer) < 4 or (answer.isascii() and not _SENTENCE_CUE.search(answer)):
        return answer
    plain = " ".join(_TEXT.sub(r" \1 ", fold(answer)).split())
    return _sentence_value(plain) or answer


def _sentence_value(text: str) -> str | None:
    """Return the value that a sentence on one line states; None where no rule applies."""
    cut = _NOT_BUT.sub(" ", _without_remarks(text.rstrip(".!。 "))).strip()
    if _DENIAL.search(cut) or len(cut) > 400:
        return None
    for pattern in (_PHRASE, _CHINESE_STATED, _VERB):
        if found := list(pattern.finditer(cut)):
            rest = _STOP.split(cut[found[-1].end() :], maxsplit=1)[0].strip(" :.,;")
            is_short = len(_PROSE_WORD.findall(_FORMULAS.sub(" ", rest))) <= 3
            return (_labelled(rest) or rest) if rest and is_short else None
    if is_sentence(cut) and cut.isascii():
        return None
    return _labelled(cut) or (cut if len(cut) < len(text.rstrip(".!。 ")) else None)


def _without_remarks(text: str) -> str:
    """Cut "(since ..)", "because ..", ", not 6" and "rather than 6"."""
    if remark := _REMARK.search(text):
        closing = text.find(")", remark.end())
        text = text[: remark.start()] + (text[closing + 1 :] if closing >= 0 else "")
    if (reason := _REASON.search(text)) and reason.start() > 0:
        text = text[: reason.start()]
    contrast = _CONTRAST.search(text)
    if contrast and _NUMBER.search(text[: contrast.start()]) and not _NOT_BUT.search(text):
        text = text[: contrast.start()]
    return text


def _labelled(text: str) -> str | None:
    """Return the number of a text like `Total 5` or `Всего 5 яблок`: one label and one number."""
    word = None if text.isascii() else _FOREIGN_WORD.search(text)
    is_named = word is not None and not word[1].isascii() and word[1] < "\u3040"
    if word and is_named and not _FOREIGN_SCALE.search(text):
        text = text[: word.start()]
    label = _LEADING_WORDS.match(text)
    if label and not _NO_LABEL.search(label[0]) and len(_NUMBER.findall(text)) == 1:
        return text[label.end() :]
    return text if is_named else None


def after_phrase(text: str) -> tuple[str, str] | None:
    """Return the value after the last "the answer is" that has one, and the rule's name."""
    for match in list(_PHRASE.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        rest = text[match.end() :].lstrip(" :*\n")
        if not rest:
            continue
        sentence = _one_sentence(rest)
        if is_retracted(
            text[max(0, match.start() - 60) : match.start()], rest[: len(sentence) + 60]
        ):
            continue
        if corrected := _correction(rest):
            return corrected, "a correction"
        value = _first_value(sentence)
        if value:
            return value, f"after {' '.join(match[0].split())[:40]!r}"
    return None


def is_retracted(before: str, after: str) -> bool:
    """Whether a statement is told as an earlier or another one's, or is called wrong.

    `before` ends where the statement starts; `after` starts behind it.
    """
    before = _CLAUSE_START.split(before)[-1]
    return bool(
        _EARLIER.search(before) or _RETRACTED.search(_CLAUSE_END.split(after, maxsplit=1)[0])
    )


def _correction(rest: str) -> str | None:
    """Return the number behind "no wait," or "I mean", the last one."""
    found = list(_CORRECTED.finditer(rest))
    number = _NUMBER.match(rest, found[-1].end()) if found else None
    return _with_unit(rest, number) if number else None


def words_after_phrase(text: str) -> str | None:
    """Return the words after the last "the answer is", up to the end of the sentence."""
    for match in list(_PHRASE.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        rest = text[match.end() :].lstrip(" :*\n")
        words = _one_sentence(rest).strip(" *$\"'`")
        before = text[max(0, match.start() - 60) : match.start()]
        if words and not is_retracted(before, rest[: len(words) + 60]):
            return words
    return None


def _one_sentence(text: str) -> str:
    """Cut at the end of the sentence or at "because"; a formula at the start is kept whole."""
    formula = MATH_SPAN.match(text)
    start = formula.end() if formula else 0
    ends = [
        match.start()
        for match in (_SENTENCE_END.search(text, start), _REASON.search(text, start))
        if match
    ]
    return text[: min(ends)] if ends else text


def _first_value(text: str) -> str:
    """Return the formulas at the start, a short answer as it is, or the stated number."""
    text = _without_remarks(text.strip())
    if _DENIAL.search(text):
        text = _NOT_BUT.sub(" ", text).strip()
        if _DENIAL.search(text) and is_sentence(text):
            return ""
    spans = list(MATH_SPAN.finditer(text))
    if spans and (spans[0].start() == 0 or not _NUMBER.search(text[: spans[0].start()])):
        after = _STATED.search(text, spans[-1].end())
        if spans[0].start() > 0 and after and _NUMBER.match(text, after.end()):
            return _stated_number(text[spans[-1].end() :]) or ""
        end = 0
        while end + 1 < len(spans) and _JOINED.fullmatch(
            text[spans[end].end() : spans[end + 1].start()]
        ):
            end += 1
        return ", ".join(_inside(span) for span in spans[: end + 1])
    if len(text) > 2 and text[0] in "\"'" and text[-1] == text[0]:
        text = text[1:-1]
    text = _ENDING.sub("", text.strip(_CHECK_MARKS))
    if not is_sentence(text):
        return text
    return _stated_number(text) or ""


def _stated_number(sentence: str) -> str | None:
    """Return the last number after a verb ("... is 5"), else the first number, with its unit."""
    totals = [m for m in _NUMBER.finditer(sentence) if _IN_ALL.match(sentence, m.end())]
    if len(totals) == 1:
        return _with_unit(sentence, totals[0])
    stated = [m for m in _STATED.finditer(sentence) if _NUMBER.match(sentence, m.end())]
    number = _NUMBER.match(sentence, stated[-1].end()) if stated else _NUMBER.search(sentence)
    return _with_unit(sentence, number) if number else None


def _with_unit(text: str, number: re.Match[str]) -> str:
    """Return the number with the scale word or the known unit behind it."""
    value = number[0].strip()
    if text[number.end() : number.end() + 1] in tuple("万億亿千百만억"):
        return value + text[number.end()]
    if scale := _SCALE_AFTER.match(text, number.end()):
        return f"{value} {scale[0].strip()}"
    unit = _UNIT_AFTER.match(text, number.end())
    if unit and (unit["sign"] or set(unit["words"].split("/")) <= _UNITS):
        return f"{value} {unit[0].strip()}"
    return value


def whole_response(text: str) -> tuple[str, str]:
    """Return the answer of a response of one line that is no sentence."""
    spans = list(MATH_SPAN.finditer(text))
    is_number = len(spans) == 1 and any(char.isdigit() for char in _inside(spans[0]))
    if is_number and _PROSE_WORD.search(MATH_SPAN.sub("", text)):
        return _inside(spans[0]), "the only formula"
    text = text.strip(_CHECK_MARKS)
    return _labelled(text) or text, "the whole response"


def _inside(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()


def at_the_end(text: str) -> tuple[str | None, str]:
    """Return the last formula, or the stated number of the last sentence with a number."""
    lines = [line for line in text.split("\n") if line.strip()]
    if total := _total_before_a_list(lines):
        return total, "the total before a list"
    tail = "\n".join(lines[-12:])
    spans, numbers = list(MATH_SPAN.finditer(tail)), list(_NUMBER.finditer(tail))
    if spans and (not numbers or numbers[-1].start() < spans[-1].end()):
        return _inside(spans[-1]), "last formula"
    if numbers:
        sentence = _sentence_around(tail, numbers[-1].start())
        guess = tail[max(0, numbers[-1].start() - 200) : numbers[-1].start()]
        if _UNABLE.search(sentence) or (_GUESSED.search(sentence) and _UNABLE.search(guess)):
            return None, "the response says that it can't tell"
        if _STATED.search(sentence) and (stated := _stated_number(sentence)):
            return stated, "last number"
        if _BOUND.search(tail, max(0, numbers[-1].start() - 24), numbers[-1].start()):
            return None, "a bound is no value"
        return _with_unit(tail, numbers[-1]), "last number"
    if words := list(_IN_WORDS.finditer(tail)):
        return words[-1][1], "last number word"
    if len(text) <= 8 and any("\u4e00" <= char <= "\u9fff" for char in text):
        return text.strip("。. "), "the whole response"
    return None, "no answer found"


def _total_before_a_list(lines: list[str]) -> str | None:
    """Return N where "There are N objects. Here is how I counted:" precedes a closing list."""
    first = next((i for i, line in enumerate(lines) if _LIST_ITEM.match(line)), 0)
    if first == 0 or not _LIST_ITEM.match(lines[-1]) or not lines[first - 1].rstrip().endswith(":"):
        return None
    intro = " ".join(lines[max(0, first - 2) : first])
    if not _ANNOUNCED.search(intro[-80:]):
        return None
    found = _ANNOUNCED_TOTAL.search(intro)
    number = _NUMBER.search(intro, found.end(), found.end() + 40) if found else None
    return _with_unit(intro, number) if found and number else None


def _sentence_around(text: str, position: int) -> str:
    start = max((m.end() for m in _SENTENCE_END.finditer(text, 0, position)), default=0)
    end = _SENTENCE_END.search(text, position)
    return text[start : end.start() if end else len(text)]
