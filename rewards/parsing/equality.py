r"""Compare two answers by their structure, part by part.

`same(gold, answer, decider)` parses two cleaned texts (latex.py) into typed values (answer_tree.py)
and compares them. Expressions without structure go to the `decider`: exact arithmetic only in the
main process, which may leave them undecided; arithmetic and sympy in a worker. The result is True,
False or None (undecided).

Conventions (docs/verifiers.md has all of them): a bare list and a set are unordered, a tuple is
ordered; `1,2` matches `(1,2)` in that order; `x = 5` matches `5`, `y = 5` does not match `x = 5`;
values with names are matched by name; an inequality matches its interval; `\pm` stands for both
values; a vector matches the tuple of its entries.
"""

from __future__ import annotations

import re

from sapo_vl.rewards.parsing import leaves
from sapo_vl.rewards.parsing.answer_tree import parse, without_domain
from sapo_vl.rewards.parsing.answer_values import (
    Alternatives,
    Approximation,
    Figure,
    Group,
    Leaf,
    Matrix,
    Named,
    Pair,
    Relation,
    Statement,
    Tristate,
    Value,
    Words,
    all_of,
    any_of,
)
from sapo_vl.rewards.parsing.brackets import is_too_deep
from sapo_vl.rewards.parsing.geometry import same_figures, same_statements
from sapo_vl.rewards.parsing.leaves import Decider
from sapo_vl.rewards.parsing.matrices import as_matrix, as_vector, is_in_units
from sapo_vl.rewards.parsing.named_values import NamedValues, match_names, named_values, one_by_one
from sapo_vl.rewards.parsing.number_sets import has_several_unknowns, is_set, number_set, same_sets
from sapo_vl.rewards.parsing.pairs import as_fraction, difference, is_time_only, same_pairs
from sapo_vl.rewards.parsing.relations import (
    canonical_name,
    is_assignment,
    is_inequality,
    is_numeric,
    is_quantity,
    same_name,
    with_argument_of,
)

_DIGIT_GAP = re.compile(r"\d \d")
_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d{1,2})(?=\s*(?:[°%€£¥]|\\text|[a-zA-Z])[^\d,]*$|$)")
_ZEROS = re.compile(r",\s*0\d")  # no number of a list starts so: `1,001`
_INDIAN = re.compile(r"(?<![\d,.])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])")
_PLAIN = re.compile(r"[+-]?\d+(?:\.\d+)?")


def same(gold: str, answer: str, decider: Decider) -> Tristate:
    """Whether two cleaned texts are the same answer; None when the decider can't tell."""
    if not answer.strip() or not gold.strip():
        return False
    if gold == answer:
        return True
    if gold.replace(" ", "") == answer.replace(" ", ""):
        gaps = [bool(_DIGIT_GAP.search(text)) for text in (gold, answer)]
        return gaps[0] == gaps[1] and (not gaps[0] or gold.split() == answer.split())
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):
        return decider.number(gold, answer)
    if is_too_deep(gold) or is_too_deep(answer):
        return None
    if _other_domain(gold, answer):
        return False
    gold_tree, answer_tree = parse(gold), parse(answer)
    result = _same(gold_tree, answer_tree, decider)
    one_is_leaf = isinstance(gold_tree, Leaf) != isinstance(answer_tree, Leaf)
    if result is not True and one_is_leaf and "," in gold + answer:
        result = _same_other_reading(gold, answer, isinstance(gold_tree, Leaf), decider) or result
    return result


def _other_domain(gold: str, answer: str) -> bool:
    """Whether both sides say what a parameter ranges over, and not the same."""
    domain = without_domain(gold)[1]
    return bool(domain) and without_domain(answer)[1] not in ("", domain)


def _same_other_reading(gold: str, answer: str, gold_is_leaf: bool, decider: Decider) -> Tristate:
    """Compare again with other meanings of the comma, when one side is a leaf and one a list.

    `100,200` may be one number or two; `1,22` may be a decimal; `1,00,000` is grouped
    as in India.
    """
    as_list = (
        (gold.replace(",", ", "), answer) if gold_is_leaf else (gold, answer.replace(",", ", "))
    )
    can_be_list = as_list != (gold, answer) and not _ZEROS.search(gold if gold_is_leaf else answer)
    if can_be_list and _same(parse(as_list[0]), parse(as_list[1]), decider):
        return True
    if _INDIAN.search(answer if gold_is_leaf else gold):
        joined = [_INDIAN.sub(lambda m: m[0].replace(",", ""), text) for text in (gold, answer)]
        return _same(parse(joined[0]), parse(joined[1]), decider)
    gold_decimal, answer_decimal = (_DECIMAL_COMMA.sub(r"\1.\2", text) for text in (gold, answer))
    is_changed = (gold_decimal, answer_decimal) != (gold, answer)
    if is_changed and not isinstance(parse(gold_decimal), Group):
        return _same(parse(gold_decimal), parse(answer_decimal), decider)
    return None


def _same(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare two values: the first kind that either side has decides the rule."""
    if isinstance(gold, Alternatives):
        return any_of(_same(value, answer, decider) for value in gold.values)
    if isinstance(answer, Alternatives):
        return all_of(_same(gold, value, decider) for value in answer.values)
    if isinstance(gold, Group) and leaves.is_one_value(gold, decider):
        return any_of(_same(value, answer, decider) for value in gold.items)
    if isinstance(gold, Approximation) or isinstance(answer, Approximation):
        return _same_approximations(gold, answer, decider)
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _same_named(gold, answer, decider)
    if is_set(gold) or is_set(answer):
        sets = number_set(gold), number_set(answer)
        if sets[0] is not None and sets[1] is not None:
            return same_sets(sets[0], sets[1], decider.number)
        if has_several_unknowns(gold) != has_several_unknowns(answer):
            return False
    gold, answer = one_by_one(gold), one_by_one(answer)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relations(gold, answer, decider)
    if isinstance(gold, Figure | Statement) or isinstance(answer, Figure | Statement):
        return _same_geometry(gold, answer, decider)
    if isinstance(gold, Pair) or isinstance(answer, Pair):
        return _same_as_pair(gold, answer, decider)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return leaves.same_words(gold, answer)
    return _same_collections(gold, answer, decider)


def _same_collections(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare leaves, matrices, vectors and groups."""
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        if is_in_units(gold) != is_in_units(answer):
            return False
        return leaves.same_leaves(gold.text, answer.text, decider)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrices(gold, answer, decider)
    if is_in_units(gold) or is_in_units(answer):
        vectors = as_vector(gold), as_vector(answer)
        if vectors[0] is None or vectors[1] is None:
            return False
        return _same_groups(vectors[0], vectors[1], decider)
    for value, counterpart in ((gold, answer), (answer, gold)):
        if isinstance(value, Group) and value.is_ordered and not isinstance(counterpart, Group):
            return False
    gold_group = gold if isinstance(gold, Group) else Group((gold,))
    answer_group = answer if isinstance(answer, Group) else Group((answer,))
    return _same_groups(gold_group, answer_group, decider)


def _same_groups(gold: Group, answer: Group, decider: Decider) -> Tristate:
    if gold.is_ordered and answer.is_ordered:
        if len(gold.items) != len(answer.items):
            return False
        same_brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        if len(gold.items) == 2 and not same_brackets:  # two intervals
            return False
        return _same_in_order(gold, answer, decider)
    names = named_values(gold), named_values(answer)
    if names[0] is not None or names[1] is not None:
        return _same_with_names(gold, answer, names, decider)
    if gold.is_ordered != answer.is_ordered:
        ordered, unordered = (gold, answer) if gold.is_ordered else (answer, gold)
        if unordered.opening or len(ordered.items) != len(unordered.items):
            # an ordered group beside a list is one element of it
            gold_items = (gold,) if gold.is_ordered else gold.items
            answer_items = (answer,) if answer.is_ordered else answer.items
            return _same_lists(gold_items, answer_items, decider)
        if ordered.opening == "[" and ordered is gold and len(ordered.items) == 2:
            return False
        return _same_in_order(gold, answer, decider)
    return _same_lists(gold.items, answer.items, decider)


def _same_in_order(gold: Group, answer: Group, decider: Decider) -> Tristate:
    if len(gold.items) != len(answer.items):
        return False
    return all_of(_same(g, a, decider) for g, a in zip(gold.items, answer.items, strict=True))


def _same_with_names(
    gold: Group,
    answer: Group,
    names: tuple[NamedValues | None, NamedValues | None],
    decider: Decider,
) -> Tristate:
    """Compare two groups of which at least one gives its values names.

    Both named: by name. Only the gold: in its order. Only the answer: a tuple in the order of the
    names (`y = 3, x = 4` is (4, 3)), a list in any order.
    """
    if any(side.opening == "[" and len(side.items) == 2 for side in (gold, answer)):
        return False  # an interval
    gold_names, answer_names = names
    if gold_names is not None and answer_names is not None:
        pairs = match_names(gold_names, answer_names)
        if pairs is None:
            return _same_lists(gold_names.values, answer_names.values, decider)
        return all_of(_same(g, a, decider) for g, a in pairs) if pairs else False
    if gold_names is not None:
        if gold_names.is_ordered and not any(isinstance(i, Relation | Named) for i in answer.items):
            return _same_in_order(Group(gold_names.values), answer, decider)
        return _same_lists(gold_names.values, answer.items, decider)
    assert answer_names is not None
    if gold.is_ordered and answer_names.is_ordered:
        return _same_in_order(gold, Group(answer_names.in_order()), decider)
    if gold.is_ordered:
        in_order = _same_in_order(gold, Group(answer_names.values), decider)
        return answer.joint != "or" and in_order
    return _same_lists(gold.items, answer_names.values, decider)


def _same_lists(gold: tuple[Value, ...], answer: tuple[Value, ...], decider: Decider) -> Tristate:
    """Match the items one to one, in any order; where the lengths differ, without duplicates."""
    gold, answer = _drop_names(gold), _drop_names(answer)
    if len(gold) != len(answer):
        gold, answer = leaves.distinct(gold), leaves.distinct(answer)
    if len(gold) != len(answer):
        return False
    if len(gold) == 1 and not (isinstance(gold[0], Group) and isinstance(answer[0], Group)):
        return _same(gold[0], answer[0], decider)
    undecided = False
    unmatched = list(answer)
    for item in gold:
        results = [_same_item(item, candidate, decider) for candidate in unmatched]
        if True in results:
            unmatched.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_item(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare two items of lists, in which a bare list (`p=5, q=2`) is a tuple."""
    if isinstance(gold, Group) and isinstance(answer, Group):
        if named_values(gold) is not None or named_values(answer) is not None:
            return _same_groups(gold, answer, decider)
        if not gold.opening:
            gold = Group(_drop_names(gold.items), "(", ")")
        if not answer.opening:
            answer = Group(_drop_names(answer.items), "(", ")")
    return _same(gold, answer, decider)


def _drop_names(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """Reduce assignments to values: `n = 2, 3, 4` is a list of values."""
    return tuple(
        parse(i.sides[-1]) if is_assignment(i) else i.value if isinstance(i, Named) else i
        for i in items
    )


def _same_named(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare `A(1,2)` or `length: 5`; two names must be the same, a missing one agrees."""
    names, values = [], []
    for value in (gold, answer):
        names += [canonical_name(value.name)] if isinstance(value, Named) else []
        values.append(value.value if isinstance(value, Named) else value)
    return len(set(names)) == 1 and _same(values[0], values[1], decider)


def _same_approximations(gold: Value, answer: Value, decider: Decider) -> Tristate:
    r"""Compare where a side is `exact \approx rounded`: either side may be meant.

    The rounded side of an answer counts only where it is the exact one, rounded: `5 \approx 3`
    claims 5.
    """
    if isinstance(answer, Approximation):
        gold_name = gold.name if isinstance(gold, Approximation) else ""
        if is_assignment(gold):
            gold_name = gold.sides[0]
        if gold_name and answer.name and not same_name(gold_name, answer.name):
            return False
        exact = _same(gold, parse(answer.exact), decider) if answer.exact else False
        if exact is True:
            return True
        rounded = _same(gold, parse(answer.rounded), decider)
        if rounded is not True or not answer.exact:
            return rounded if rounded is not False or exact is not None else None
        return leaves.is_rounded(answer.exact, answer.rounded, decider)
    assert isinstance(gold, Approximation), gold
    if is_assignment(answer) and gold.name and not same_name(gold.name, answer.sides[0]):
        return False
    value = parse(answer.sides[-1]) if is_assignment(answer) else answer
    return any_of(_same(parse(text), value, decider) for text in (gold.exact, gold.rounded) if text)


def _same_geometry(gold: Value, answer: Value, decider: Decider) -> Tristate:
    if isinstance(gold, Statement) and isinstance(answer, Statement):
        return same_statements(gold, answer)
    figures = [leaves.as_figure(value) for value in (gold, answer)]
    if isinstance(gold, Statement | Pair) or figures[0] is None or figures[1] is None:
        texts = [leaves.figure_text(value) for value in (gold, answer)]
        return decider.number(*texts) if all(texts) else False
    return same_figures(figures[0], figures[1])


def _same_as_pair(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare a time, ratio or range with another one or with a number."""
    if isinstance(gold, Pair) and isinstance(answer, Pair):
        return same_pairs(gold, answer, decider.number)
    if isinstance(gold, Pair):
        fraction = as_fraction(gold)
        if fraction is None or is_time_only(gold) or not isinstance(answer, Leaf):
            return False
        return leaves.same_leaves(fraction, answer.text, decider)
    assert isinstance(answer, Pair), answer
    if not isinstance(gold, Leaf):
        return False
    expression = as_fraction(answer) or difference(answer)
    return expression is not None and leaves.same_leaves(gold.text, expression, decider)


def _same_matrices(gold: Value, answer: Value, decider: Decider) -> Tristate:
    matrices = as_matrix(gold), as_matrix(answer)
    if matrices[0] is not None and matrices[1] is not None:
        rows = matrices[0].rows, matrices[1].rows
        if [len(r) for r in rows[0]] != [len(r) for r in rows[1]]:
            return False
        return all_of(
            leaves.same_leaves(g.text, a.text, decider)
            for gold_row, answer_row in zip(*rows, strict=True)
            for g, a in zip(gold_row, answer_row, strict=True)
        )
    vectors = as_vector(gold), as_vector(answer)
    if vectors[0] is None or vectors[1] is None:
        return False
    return _same_groups(vectors[0], vectors[1], decider)


def _same_relations(gold: Value, answer: Value, decider: Decider) -> Tristate:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, decider)
    if isinstance(gold, Relation):
        if is_inequality(gold):
            return False
        is_valued = is_quantity(gold.sides[0]) and is_numeric(gold.sides[-1])
        if is_assignment(gold) or is_valued:
            return _same(parse(gold.sides[-1]), answer, decider)
        return False
    assert isinstance(answer, Relation), answer
    if answer.operators[-1] != "=":
        return False
    is_equation = not is_assignment(answer) and not is_quantity(answer.sides[0])
    if is_equation and isinstance(gold, Leaf) and gold.text.strip() == "0":
        return False
    first, last = parse(answer.sides[0]), parse(answer.sides[-1])
    result = _same(gold, last, decider)
    if result is False and any(map(str.isdigit, answer.sides[0])):  # `5 cm = 50 mm`
        return all_of(_same(first, value, decider) for value in (gold, last))
    return result


def _two_relations(gold: Relation, answer: Relation, decider: Decider) -> Tristate:
    if is_assignment(gold) and is_assignment(answer):
        renamed = with_argument_of(gold.sides[0], answer)
        if renamed is not None:
            return _same(parse(gold.sides[-1]), parse(renamed), decider)
        if is_numeric(gold.sides[-1]) or is_numeric(answer.sides[-1]):
            return False
    if is_inequality(gold) != is_inequality(answer):
        return False
    return decider.relation(gold, answer)
