"""Tables of LaTeX commands for latex.py: other spellings of one command, fonts and sizes."""

from __future__ import annotations

_SPELLINGS = {
    "\\le ": "leqslant leq leqq le",
    "\\ge ": "geqslant geq geqq ge",
    "\\ne ": "neq ne",
    "<": "lt",
    ">": "gt",
    "(": "langle",
    ")": "rangle",
    "[": "lbrack",
    "]": "rbrack",
    "\\{": "lbrace",
    "\\}": "rbrace",
    "|": "mid",
    ":": "colon ratio",
    "\\binom": "dbinom tbinom",
    "\\frac": "dfrac tfrac cfrac",
    "\\setminus ": "smallsetminus backslash",
    "\\emptyset ": "varnothing O emptyset",
    "\\infty ": "infin infty",
    "\\dots ": "ldots cdots ddots dots dotsc dotsb dotsm",
    "\\epsilon ": "varepsilon",
    "\\phi ": "varphi",
    "\\approx ": "approx thickapprox simeq doteq",
    "\\mod ": "bmod pmod",
    "\\log_{10} ": "lg",
    " ": "quad qquad enspace thinspace displaystyle textstyle scriptstyle limits nolimits left"
    " right bm rm bf it large Large boldsymbol ensuremath mathop mathstrut hfill centering newline"
    " strut",
}
RENAMED = {name: plain for plain, names in _SPELLINGS.items() for name in names.split()}
"""Command -> what it is replaced by."""

SIZES = frozenset(
    f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")
) | {"left", "right", "middle"}
"""Commands that only set the size of a bracket."""

FONTS = frozenset(
    (
        *("mbox", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "mathrm"),
        *("hbox", "mathbf", "mathit", "mathsf", "mathcal", "pmb", "underline"),
    )
)
"""Commands that set a font: of words, whose content stays a text, or of symbols."""
