r"""Mend LaTeX whose backslash a JSON or Python writer took for an escape.

"\frac" in JSON is a form feed and "rac", "\beta" a backspace and "eta", "\times" a tab and "imes".
The control character followed by the rest of a command is certain; any other control character is
a fault of the record (`control_character`).
"""

from __future__ import annotations

import re

MENDED = "a backslash that an escape had taken, put back"
"""The note of a record that was mended."""

_COMMANDS = {
    "\f": "frac forall flat frown fbox framebox",
    "\b": "beta boxed bar begin binom bf big bigg bigcup bigcap bigoplus bigl bigr biggl biggr "
    "bullet bmod boldsymbol because bot between backslash blacksquare boxdot bigtriangleup "
    "bigstar bigcirc breve bm",
    "\t": "times text textbf textit textrm textstyle theta tau tfrac triangle triangleq "
    "triangleleft triangleright therefore tilde tanh thinspace tbinom",
    "\r": "right rangle rightarrow rceil rfloor rho rightleftharpoons rightharpoonup",
    "\n": "neq nabla notin neg nexists nmid nparallel nsubseteq",
    "\v": "vec varphi vdots vee varepsilon vert vartheta varnothing",
    "\a": "alpha angle approx arctan arcsin arccos ast",
}
"""Control character -> the commands that begin with its letter and can't be meant otherwise."""

_LETTERS = {"\f": "f", "\b": "b", "\t": "t", "\r": "r", "\n": "n", "\v": "v", "\a": "a"}
_EATEN = re.compile("[\f\b\t\r\n\v\a](?=[a-z])")
_RESTS = {
    char: re.compile(f"(?:{'|'.join(c[1:] for c in commands.split())})(?![A-Za-z])")
    for char, commands in _COMMANDS.items()
}
_TAB_IN_GOLD = re.compile("\t(?=(?:an|o|op)(?![A-Za-z]))")
_SUSPECT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]|\n(?=eq|abla|otin|eg|exists|mid|parallel|sub)")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def mend_gold(answer: str) -> str:
    r"""Mend a gold answer, where a tab before a word is no column's: \tan, \to and \top too."""
    return mend(_TAB_IN_GOLD.sub(r"\\t", answer) if "\t" in answer else answer)


def mend(text: str) -> str:
    """Return a text with each backslash back that an escape has taken, where that is certain.

    A bell, backspace or form feed before any letter would do in an answer, as the verifiers take
    it (rewards/parsing/latex.py); a problem may have the form feed of a page.
    """
    if not _SUSPECT.search(text):
        return text

    def restore(match: re.Match[str]) -> str:
        char = match[0]
        if not _RESTS[char].match(match.string, match.end()):
            return char
        return "\\" + _LETTERS[char]

    return _EATEN.sub(restore, text)


def control_character(text: str) -> str | None:
    """Return the first control character but blanks and line ends, or None."""
    found = _CONTROL.search(text)
    return found[0] if found else None
