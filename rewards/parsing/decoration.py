r"""Remove what dresses an answer without changing it: colours, spacing, ticks, markdown, quotes.

    undress(r"\textcolor{red}{5}")                     5
    undress(r"**5** \quad\blacksquare")                5
    undress(r"\begin{array}{l}5\end{array}")           5

Linear in the length of the text: each rule is applied once or twice.
"""

from __future__ import annotations

import re

_COLOUR = re.compile(
    r"\\(?:textcolor|colorbox|fcolorbox\s*\{[^{}]*\}|color)(?:\s*\[[^\[\]]*\])?\s*\{[^{}]*\}"
)
_SPACING = re.compile(
    r"\\(?:hspace|vspace|hskip|kern|mkern|mskip|mspace)\s*(?:\*\s*)?"
    r"(?:\{[^{}]*\}|-?[\d.]+\s*(?:pt|em|ex|mu|cm|mm|in|px))"
)
_ROW_GAP = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|cm|mm|px|in|\\baselineskip)\s*\]")
_ROW_END = re.compile(r"\\(?:cr|tabularnewline)(?![a-zA-Z])")
_MARKS = re.compile(
    r"\\(?:checkmark|blacksquare|square|qed|qedsymbol|Box|therefore|because|noindent|par|hline"
    r"|bigskip|smallskip|medskip|nonumber|notag|allowbreak|nobreak|relax|bigstar|Huge|huge|LARGE"
    r"|small|footnotesize|tiny|normalsize|bfseries|itshape|sffamily|ttfamily|rmfamily|em"
    r"|boldmath|mathstrut|strut|null)(?![a-zA-Z])"
)
_CONTAINER = re.compile(
    r"\\(?:boxed|fbox|framebox|emph|mathord|mathrel|mathbin|smash|uline)\s*(?=\{)"
)
_TAG = re.compile(r"\\(?:tag|label|footnote|ref)\*?\s*\{[^{}]*\}")
_LAYOUT = re.compile(
    r"\\begin\s*\{(array|aligned|align\*?|gathered|gather\*?|equation\*?|split|center|matrix|tabular)\}"
    r"\s*(?:\{[lcr|@ ]*\})?((?:(?!\\(?:begin|end)\b|\\\\|&).)*)(?:\\\\\s*)?\\end\s*\{\1\}",
    re.S,
)
_ALIGNED_ONE = re.compile(
    r"\\begin\s*\{(aligned|align\*?|split|gathered)\}"
    r"((?:(?!\\(?:begin|end)\b|\\\\).)*)(?:\\\\\s*)?\\end\s*\{\1\}",
    re.S,
)
_HTML = re.compile(r"</?(?:b|i|u|em|strong|span|sub|sup|p|div|br|center|code|mark)(?:\s[^<>]*)?/?>")
_ENTITIES = {
    "&lt;": "<", "&gt;": ">", "&le;": "\\le ", "&ge;": "\\ge ", "&amp;": "&", "&nbsp;": " ",
    "&times;": "\\times ", "&minus;": "-", "&deg;": "°", "&pi;": "\\pi ", "&quot;": '"',
    "&#39;": "'", "&infin;": "\\infty ",
}  # fmt: skip
_ENTITY = re.compile("|".join(_ENTITIES))
_EMPHASIS = re.compile(r"(\*{1,3}|_{2,3}|`{1,3}|~~)(?=\S)([^*_`~]+?)(?<=\S)\1")
_QUOTED = re.compile(r"\s*([\"'])([^\"']*)\1\s*")
_STARS = re.compile(r"^\s*(?:\*{2,3}|[*•]\s)\s*(?=\S)|(?<=\S)\s*\*{2,3}\s*$")


def undress(text: str) -> str:
    """Return a folded text without decoration."""
    if "*" in text or "_" in text or "`" in text or "~~" in text:
        text = _STARS.sub("", _EMPHASIS.sub(_emphasised, text))
    if "<" in text and ">" in text:
        text = _HTML.sub(" ", text)
    if "&" in text and ";" in text:
        text = _ENTITY.sub(lambda match: _ENTITIES[match[0]], text)
    if '"' in text or "'" in text:
        text = _QUOTED.sub(r"\2", text) if _QUOTED.fullmatch(text) else text
    if "\\" not in text:
        return text
    text = _ROW_END.sub(r"\\\\ ", _ROW_GAP.sub(r"\\\\ ", text))
    text = _TAG.sub(" ", _SPACING.sub(" ", _COLOUR.sub(" ", text)))
    text = _CONTAINER.sub("", _MARKS.sub(" ", text))
    if "\\begin" in text:
        text = _LAYOUT.sub(r" \2 ", text)
        text = _ALIGNED_ONE.sub(lambda match: f" {match[2].replace('&', '')} ", text)
    return _without_row_end(text)


def _without_row_end(text: str) -> str:
    r"""`185\\` and `185\` end a line or escape nothing."""
    text = text.rstrip()
    while text.endswith("\\"):
        text = text[:-1].rstrip()
    return text


def _emphasised(match: re.Match[str]) -> str:
    """Unwrap `**5**`; `2*3*4` is mathematics."""
    if match[1].startswith("`"):
        return match[2]
    before = match.string[max(0, match.start() - 1) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    is_operand = before.isalnum() or after.isalnum() or before in (")", "}")
    return match[0] if is_operand else match[2]
