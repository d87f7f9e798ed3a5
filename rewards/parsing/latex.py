r"""Normalise the unicode and the LaTeX of an answer before it is compared.

`clean` returns short LaTeX without delimiters, sizes, spacing or fonts. It keeps `\frac{}{}`,
`\sqrt{}`, `\text{}` (words and units), `°`, `%`, `\{ \}`, operators and names. Linear in the
length of the text: a fixed number of passes. decoration.py removes what is there to please the eye.

Conventions: the decimal digits of every script count as digits; different circled digits in a row
are a set (`①③` is 1 and 3); `0.3̄` is the repeating decimal; currency signs move behind their
number; control, zero-width and bidi characters are removed.
"""

from __future__ import annotations

import math
import re
import unicodedata

from sapo_vl.rewards.parsing import currencies
from sapo_vl.rewards.parsing.decoration import undress
from sapo_vl.rewards.parsing.latex_commands import FONTS, RENAMED, SIZES

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₒₓₖₙₘ"
_PLAIN_SUPER = str.maketrans(_SUPERSCRIPTS, "0123456789+-()n")
_PLAIN_SUB = str.maketrans(_SUBSCRIPTS, "0123456789+-aeoxknm")
_SUPER_SIGN = re.compile("(?:^|(?<=[\\s([{,;=<>+*/-]))[⁺⁻](?=\\d)")  # `⁻7`: nothing has this power
_SUPER_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUB_RUN = re.compile(f"[{_SUBSCRIPTS}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_BARRED = re.compile("(?<=[.\\d])(?:\\d[\u0304\u0305])+")  # a bar over each repeated digit
_DOTTED = re.compile(
    "(?<=[.\\d])(\\d)\u0307(?:(\\d*)(\\d)\u0307)?"
)  # a dot over the first and last

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "ω": "omega", "Δ": "Delta", "Ω": "Omega", "η": "eta", "κ": "kappa", "ν": "nu", "ψ": "psi",
}  # fmt: skip
_SIGNS = {
    "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "∞": "\\infty ", "≤": "\\le ", "≦": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "≧": "\\ge ",
    "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "≃": "\\approx ", "≒": "\\approx ",
    "±": "\\pm ", "∓": "\\mp ", "∪": "\\cup ", "∩": "\\cap ", "∖": "\\setminus ", "∈": "\\in ",
    "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "∠": "\\angle ", "△": "\\triangle ", "∥": "\\parallel ",
    "⊥": "\\perp ", "≅": "\\cong ", "≌": "\\cong ", "⊙": "\\odot ", "⟨": "\\langle ",
    "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ", "\u2329": "\\langle ",
    "\u232a": "\\rangle ", "∴": " ", "º": "°", "˚": "°", "、": ",", "′": "'", "″": '"',
    "∶": ":", "∣": "|", "∨": " or ", "∧": " and ", "\u2009": "\\,", "\u202f": "\\,",
    "\u00a0": " ", "℃": "°C", "℉": "°F", "∑": "\\sum ", "∫": "\\int ", "“": '"', "”": '"',
    "‘": "'", "’": "'", "～": "~",
}  # fmt: skip
_TICKS = dict.fromkeys("✓✔✅☑🎉■□▪◼◻∎⬛👍💡🔥👉➡✨⭐\ufe0f", "")
_MINUS = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d\u2796", "-")
_TABLE = str.maketrans(
    _SIGNS | _TICKS | _MINUS | {char: f"\\{name} " for char, name in _GREEK.items()}
)

_EATEN = re.compile(  # begins with a set of characters, which the engine finds fast
    "[\x07\x08\x0b\x0c\t\r\n](?:(?<=[\x07\x08\x0b\x0c])(?=[A-Za-z])"  # no text has these
    "|(?<=\t)(?=imes|ext|heta|frac|riangle|an(?![a-z])|au(?![a-z])|o(?![a-z])|binom|herefore)"
    "|(?<=\r)(?=ight|angle|ho(?![a-z])|floor|ceil|m\\s*\\{|brace)"
    "|(?<=\n)(?=eq(?![a-z])|e(?=\\s*[-\\d])|abla|otin|leq|geq|i(?![a-z])|warrow|earrow))"
)
_LETTER = {
    "\x0c": "f", "\x08": "b", "\x0b": "v", "\x07": "a", "\t": "t", "\r": "r", "\n": "n",
}  # fmt: skip


def mend_escapes(text: str) -> str:
    r"""Return `text` with the LaTeX commands back that an escape has eaten.

    A string written as "\frac" without a second backslash holds a form feed and `rac`. A form feed,
    backspace, vertical tab or bell before a letter is always mended; a tab, carriage return or
    newline only before the rest of a known command.
    """
    if text.isprintable():
        return text
    return _EATEN.sub(lambda match: "\\" + _LETTER[match[0]], text)


def fold(text: str) -> str:
    """Return `text` with normalised unicode and without invisible characters."""
    text = mend_escapes(text)
    if text.isascii():
        return text if text.isprintable() else "".join(map(_visible, text))
    text = _SUPER_SIGN.sub(lambda m: "-" if m[0] == "⁻" else "+", text)
    text = _SUPER_RUN.sub(lambda m: "^{" + m[0].translate(_PLAIN_SUPER) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + m[0].translate(_PLAIN_SUB) + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    text = _BARRED.sub(lambda m: f"\\overline{{{''.join(filter(str.isdigit, m[0]))}}}", text)
    text = _DOTTED.sub(lambda m: f"\\overline{{{m[1]}{m[2] or ''}{m[3] or ''}}}", text)
    return "".join(map(_visible, text))


def _visible(char: str) -> str:
    if " " <= char <= "~":
        return char
    if char.isspace():
        return char if char == "\n" else " "
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    return "" if category in ("Cc", "Cf", "Cs", "Co", "Cn") else char


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}"


_SIMPLE = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:/[0-9]+)?")
_CIRCLED = re.compile("[①-⑳]{2,}")
_COMMENT = re.compile(r"(?<![\\\d\s}])%[^\n]*\n|^\s*%[^\n]*\n")
_PHANTOM = re.compile(r"\\[hv]?phantom\s*\{[^{}]*\}")
_BARS = re.compile(r"\\[lr]?vert")  # also directly before a letter
_RENAMABLE = re.compile(r"\\\\|\\([a-zA-Z]+)")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![a-zA-Z])\s*\.?(?=[\s()\[\]{}|\\]|$)"
)
_DIGIT_GAP = re.compile(
    r"(?<=\d)(?:,?\\!|\\[,:; ]|~|\{,\}|\{,\}\\!|,\\,) *(?=\d{3}(?!\d))|(?<=\d)\\!(?=\d)"
)
_BLANK_GROUPS = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/]| ?\\frac| \d)")
_WAVE = re.compile(r"(?<=[\d%])\s*~\s*(?=\d)")  # `10~20` is a range
_SPACES = re.compile(r"(?<!\\)\\[,;:> ]|~|\\!|\\\n")
_WORDS = re.compile(r"\\(?:mbox|textrm|textbf|textit|textsf|texttt|textnormal|mathrm|hbox|rm)\s*\{")
_FONTS = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathcal|boldsymbol|bm|pmb|underline)\s*\{([^{}]*)\}"
)
_ROMAN_MATH = re.compile(
    r"\\text\{\s*(e|i|d|ln|log|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|lcm|gcd|min|max)\s*\}"
)
_SET_BRACES = re.compile(r"\\left\s*(?=\{)|\\right\s*(?=\})")  # `\left{1,2\right}`
_CHOOSE = re.compile(r"\{\s*([^{}\\]{1,20}?)\s*\\choose\s+([^{}\\]{1,20}?)\s*\}")
_COUNTED = re.compile(
    r"(?<![A-Za-z\\])(?:\\text\s*\{\s*)?([CAP])(?:\s*\})?\s*"
    r"(?:_\s*\{?(\d{1,3})\}?\s*\^\s*\{?(\d{1,3})\}?|\^\s*\{?(\d{1,3})\}?\s*_\s*\{?(\d{1,3})\}?)"
)
_TEXT_SIGN = re.compile(r"\\text\s*\{\s*([-+])\s*\}")
_SIGNED_POWER = re.compile(
    r"\^\s*([+-])\s*(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z])|\\(?:frac|sqrt)\s*\{[^{}]*\}(?:\{[^{}]*\})?)"
)
_LONG_POWER = re.compile(r"\^\s*(\d{2,})")
_BRACKETED_POWER = re.compile(r"\^\s*(\([^()]*\))")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_PERIOD = re.compile(r"(?<![\w.])(\d+\.\d*)\((\d{1,40})\)(?=[\s,;)}\]]|$)")
_GOES_ON = re.compile(r"(?<![\d.])(\d{1,9}\.\d{0,20}?)(\d{1,6}?)\2{2,20}\s*\\dots\s*$")
_TWO_DOTS = re.compile(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?")
_ONE_BAR = re.compile(r"\\(?:overline|bar|dot)\s*(\d)")
_ANGLE_TUPLE = re.compile(r"\s*<([^<>]*,[^<>]*)>\s*")
_DELIMITERS = re.compile(r"\$+|\\\(|\\\)|\\\[|\\\](?!\d)")
_SHORT_FRAC = re.compile(
    r"\\frac\s*(?:\{([^{}]*)\}|(\d|[a-zA-Z]))\s*(?:\{([^{}]*)\}|(\d|[a-zA-Z]))"
)
_ROOT_SIGN = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[a-zA-Z])|\(([^()]*)\)|(?=\{))")
_CUBE_ROOT = re.compile(r"∛\s*(?:(\d+|[a-zA-Z])|\(([^()]*)\))")
_OPERATOR = re.compile(r"\\operatorname\s*\*?\s*\{\s*([a-zA-Z]+)\s*\}")
_OPERATOR_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arsinh", "acosh": "arcosh",
    "atanh": "artanh", "LCM": "lcm", "GCD": "gcd",
}  # fmt: skip
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|ln)(?![a-zA-Z])")
_INVERSE = re.compile(r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}")
_SUPER_FIRST = re.compile(r"(\^\s*(?:\{[^{}]*\}|\w))\s*(_\s*(?:\{[^{}]*\}|\w))")
_TEXT_AND = re.compile(r"\\text\s*\{([^{}]*?)\b(and|or)\s*\}")
_PLAIN_NAME = re.compile(
    r"(?<![a-zA-Z\\{])(sqrt|pi|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|phi|omega|bar"
    r"|sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan|frac|times|cdot)(?![a-zA-Z])"
)
_BETWEEN = re.compile(
    r"(?<=\S)\s*[,;]?\s*(?:\\q?quad|\\\\)\s*(?=[a-zA-Z](?:_\{?\w\}?)?\s*=)"
)  # equations side by side or in lines
_ESCAPED_TWICE = re.compile(r"\\\\(?=[a-zA-Z{}])")
_FUNCTION_ARGUMENT = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc|ln)(?:\s*\^\s*(?:\{?\d\}?))?)\s+([a-zA-Z]|\\(?:theta|alpha|beta|phi|pi))"
    r"(?=\s*(?:\\cdot|\\times|[-+*/}),]|$))"
)
_TEXT_NUMBER = re.compile(r"\\text\s*\{([^{}A-Za-z]*\d[^{}A-Za-z]*)\}")
_DEGREE = re.compile(
    r"\^\s*(?:\{\s*\\circ\s*\}|\\circ|°)|\\degree(?:s)?(?![a-zA-Z])|\^\s*\{\s*°\s*\}"
)
_REALS = r"(?:\\(?:mathbb|mathbf|Bbb)\s*\{?\s*R\s*\}?|\\R(?:eals)?(?![a-zA-Z]))"
_RULES = [
    ({"not"}, re.compile(r"\\not\s*="), r"\\ne "),
    ({"mathbb", "Bbb", "R", "Reals"}, re.compile(rf"{_REALS}\s*[\^_]\s*(?:\+|\{{\s*\+\s*\}})"),
     r"(0,\\infty )"),
    ({"mathbb", "Bbb", "R", "Reals"}, re.compile(rf"{_REALS}\s*[\^_]\s*(?:-|\{{\s*-\s*\}})"),
     r"(-\\infty ,0)"),
    ({"mathbb", "Bbb", "R", "Reals"}, re.compile(rf"{_REALS}(?!\s*\^)"), r"(-\\infty ,\\infty )"),
    ({"bar"}, re.compile(r"\\bar(?![a-zA-Z])\s*(?=\{[A-Za-z]+\})"), r"\\overline"),
    ({"overarc", "wideparen", "overset", "stackrel"},
     re.compile(r"\\(?:overarc|wideparen|(?:overset|stackrel)\s*\{\s*\\frown\s*\})\s*(?=\{)"),
     r"\\widehat"),
    ({"vec", "overrightarrow"},
     re.compile(r"\\(?:vec|overrightarrow)\s*\{\s*([A-Z]'?[A-Z]'?)\s*\}"), r"\\vec{\1}"),
    ({"vec", "overrightarrow", "hat"},
     re.compile(r"\\(?:hat|overrightarrow)\s*(?=\{)|\\vec\s*(?=\{)(?!\{[A-Z]'?[A-Z])"
                r"|\\(?:vec|hat)\s+(?=[a-z])"), ""),
    ({"prime"}, re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![a-zA-Z]))"), "'"),
    ({"frac", "dfrac", "tfrac", "cfrac"}, _SHORT_FRAC, None),
    ({"frac", "dfrac", "tfrac", "cfrac"}, _SHORT_FRAC, None),
    ({"sqrt"}, re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    ({"sqrt"}, re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+|[a-zA-Z]|\\pi)(?![a-zA-Z])"),
     r"\\sqrt\1{\2}"),
]  # fmt: skip
"""Commands that a rule is about, its pattern and what replaces it, in order."""
_SPACE_SIGNS = ("\\,", "\\;", "\\:", "\\>", "\\ ", "\\!", "\\\n", "~", "{,}")
_COMMAND_NAME = re.compile(r"\\([a-zA-Z]+)")
_SIGNS_OF_LETTERS = {"<=": "\\le ", ">=": "\\ge ", "!=": "\\ne ", "...": "\\dots ", "**": "^"}
_INFINITY = re.compile(r"(?<![a-zA-Z\\])(?:inf|infinity)(?![a-zA-Z])")
_BLANKS = re.compile(r"\s+")


def clean(text: str) -> str:
    """Return the normalised LaTeX of an answer; an empty string when nothing is left."""
    if _SIMPLE.fullmatch(text):
        return text
    if not text.isascii():
        text = _CIRCLED.sub(_circled, text)
    text = fold(text)
    text = _clean_latex(text)
    text = text.strip().lstrip(":").strip()
    return text if text.endswith("\\dots") else text.rstrip(".,;:。").strip()


def _circled(match: re.Match[str]) -> str:
    """Return the set of statements that different circled digits name; `②②` stays a text."""
    if len(set(match[0])) < len(match[0]):
        return match[0]
    return f"\\{{{','.join(str(ord(char) - ord('①') + 1) for char in match[0])}\\}}"


def _clean_latex(text: str) -> str:
    if "%" in text:
        text = _COMMENT.sub("", text).replace("\\%", "%")
    text = currencies.behind_numbers(undress(text))
    if "\\" in text:
        text = _escapes(text)
    if "~" in text:
        text = _WAVE.sub("-", text)
    if "^" in text:
        text = _TIMES_TEN.sub(r" \\times ", text)
    text = _PLAIN_NAME.sub(r"\\\1 ", text)
    if "√" in text or "∛" in text:
        text = _CUBE_ROOT.sub(lambda m: f"\\sqrt[3]{{{m[1] or m[2]}}}", text)
        text = _ROOT_SIGN.sub(
            lambda m: f"\\sqrt{{{m[1] or m[2]}}}" if m[0] != "√" else "\\sqrt", text
        )
    for letters, sign in _SIGNS_OF_LETTERS.items():
        text = text.replace(letters, sign)
    if "inf" in text:
        text = _INFINITY.sub(r"\\infty ", text)
    if "\\" in text:
        text = _commands(text)
    else:
        text = text.replace("{,}", ",").replace("$", " ")
        text = _ANGLE_TUPLE.sub(r"(\1)", text) if _ANGLE_TUPLE.fullmatch(text) else text
    if "^" in text or "\\degree" in text:
        text = _DEGREE.sub("°", text)
    text = _numbers(_BLANKS.sub(" ", text))
    return text.replace(" °", "°").replace("° ", "°")


def _escapes(text: str) -> str:
    r"""Undo escapes: `\$`, `\#`, and commands whose backslash is doubled."""
    text = text.replace("\\$", " ").replace("\\#", "#").replace("\\&", "&").replace("\\_", "_")
    if "\\begin" not in text:
        return _ESCAPED_TWICE.sub(r"\\", _BETWEEN.sub(", ", text))
    return text.replace("\\\\", "\\") if "\\\\begin" in text else text


def _commands(text: str) -> str:
    """Normalise the commands of a text; a rule runs only where one of its commands occurs."""
    used = set(_COMMAND_NAME.findall(text))
    if not used.isdisjoint(("phantom", "hphantom", "vphantom")):
        text = _PHANTOM.sub("", text)
    if any(sign in text for sign in _SPACE_SIGNS):
        text = _DIGIT_GAP.sub(lambda m: "," if "," in m[0].replace("\\,", "") else "", text)
        text = _SPACES.sub(" ", text)
    if not used.isdisjoint(SIZES):
        text = _SIZES.sub("", _SET_BRACES.sub(r"\\", text))
    text = _DELIMITERS.sub(" ", text)
    if "vert" in text:
        text = _BARS.sub("|", text)
    if not used.isdisjoint(RENAMED):
        text = _RENAMABLE.sub(lambda m: RENAMED.get(m[1] or "", m[0]), text)
    if not used.isdisjoint(FONTS):
        text = _FONTS.sub(r"{\1}", _WORDS.sub(r"\\text{", text))
    if "choose" in used:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "operatorname" in used:
        text = _OPERATOR.sub(lambda m: f"\\{_OPERATOR_NAMES.get(m[1], m[1])} ", text)
    if "\\text" in text:
        text = _in_text(text)
    if _FUNCTION.search(text):
        text = _FUNCTION_ARGUMENT.sub(r"\1(\2)", _INVERSE.sub(r"\\arc\1", text))
    if "^" in text and "_" in text:
        text = _SUPER_FIRST.sub(r"\2\1", text)
    for commands, pattern, plain in _RULES:
        if not used.isdisjoint(commands):
            text = pattern.sub(_braced_frac if plain is None else plain, text)
    return text


def _in_text(text: str) -> str:
    r"""Take signs, functions, numbers and connectives out of `\text{}`."""
    text = _ROMAN_MATH.sub(
        lambda m: m[1] if m[1] in "eid" else f"\\{m[1]} ", _TEXT_SIGN.sub(r"\1", text)
    )
    text = _TEXT_AND.sub(r"\\text{\1} \2 ", text)
    text = text.replace("\\text{ }", " ").replace("\\text{}", " ")
    return _TEXT_NUMBER.sub(r"\1", text)


def _numbers(text: str) -> str:
    """Normalise powers, repeating decimals, digits in groups, and counts such as `C_5^2`."""
    if "^" in text:
        text = _COUNTED.sub(_count, text)
        text = _SIGNED_POWER.sub(r"^{\1\2}", text)
        text = _BRACKETED_POWER.sub(r"^{\1}", _LONG_POWER.sub(r"^{\1}", text))
    if "." in text:
        text = _PERIOD.sub(r"\1\\overline{\2}", text)
        text = _ONE_BAR.sub(r"\\overline{\1}", _TWO_DOTS.sub(r"\\overline{\1\2\3}", text))
        text = _GOES_ON.sub(r"\1\\overline{\2}", text)
    if " " in text:
        text = _BLANK_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)
    return text


def _count(match: re.Match[str]) -> str:
    """Return the number of combinations `C_n^k` or permutations `A_n^k`."""
    n, k = int(match[2] or match[5]), int(match[3] or match[4])
    if not 0 <= k <= n:
        return match[0]
    return str(math.comb(n, k) if match[1] == "C" else math.perm(n, k))


def _braced_frac(match: re.Match[str]) -> str:
    top = match[1] if match[1] is not None else match[2]
    bottom = match[3] if match[3] is not None else match[4]
    return f"\\frac{{{top}}}{{{bottom}}}"
