"""A problem as its authors published it: `Sample.metadata["published"]` of the benchmarks' sources.

A sample's own fields are normalised for training: the answer of a choice is its letter, choices are
listed in the problem, dollar signs are stripped. A benchmark's prompt and scoring need the
original:

    {"problem_id": "2", "question": "Which is longer?", "answer": "the left one",
     "choices": ["the left one", "the right one"], "question_type": "multi_choice",
     "tables": {"grade": "elementary school", "skills": ["numeric commonsense"]}}
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Published(TypedDict):
    """The published fields of one problem; absent where the data set has no such column."""

    problem_id: str  # the authors' id, unique in the benchmark together with `variant`
    answer: Any  # text, or a list of accepted texts
    question: str  # without hint, choices or instruction
    variant: NotRequired[str]  # which version of the problem: one of DynaMath's ten
    choices: NotRequired[list[str]]  # in the order of their letters
    choice_text: NotRequired[str]  # the choices as the data set lists them, in one text
    question_type: NotRequired[str | None]
    answer_type: NotRequired[str | None]
    precision: NotRequired[int | None]  # decimals that count
    unit: NotRequired[str | None]
    query: NotRequired[str | None]  # the whole prompt, where the data set prescribes it
    context: NotRequired[str | None]  # text that goes before the question
    instruction: NotRequired[str | None]  # prompt of a contest
    image_numbers: NotRequired[list[int]]  # of the sample's images, as tags <image 1> number them
    is_multiple_answer: NotRequired[bool]
    tables: NotRequired[dict[str, Any]]  # columns that accuracy is tabulated by
