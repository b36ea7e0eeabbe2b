"""Every gradient rule in the registry, made wrong, must be noticed by the checks of its op."""

import numpy as np
import pytest

from scratchgen import gradcheck, tensor
from scratchgen.check import GradientError, check_grads

CASES = {}
for case in gradcheck.cases(np):
    if case.kind == "op" and type(case) is gradcheck.Case and case.name in tensor.OPS:
        CASES.setdefault(case.name, []).append(case)


def rules():
    """(op name, position) of every rule, or of every result of a fused op's joint rule."""
    for name, cases in CASES.items():
        op = tensor.OPS[name]
        by_position = op.joint is None and len(op.gradients) > 0
        for position in op.gradients if by_position else range(most_arguments(cases)):
            yield name, position


def most_arguments(cases):
    return max(len(case.arrays) for case in cases)


def spoil(monkeypatch, op, position, factor):
    """Multiply one rule of `op`, until the test ends."""
    if op.joint is None:
        rule = op.gradients[position]
        monkeypatch.setitem(op.gradients, position,
                            lambda *args, **static: rule(*args, **static) * factor)
        return
    joint = op.joint

    def spoiled(g, out, saved, needed):
        gradients = list(joint(g, out, saved, needed))
        if needed[position]:
            gradients[position] = gradients[position] * factor
        return gradients
    monkeypatch.setattr(op, "joint", spoiled)


def noticed(name):
    """How many of the op's cases fail."""
    failures = 0
    for case in CASES[name]:
        try:
            check_grads(case.function, *case.arrays)
        except GradientError:
            failures += 1
    return failures


@pytest.mark.parametrize("factor", [1.001, 0.0], ids=["0.1 percent", "zero"])
@pytest.mark.parametrize("name, position", list(rules()))
def test_wrong_rule_is_noticed(monkeypatch, name, position, factor):
    assert noticed(name) == 0
    spoil(monkeypatch, tensor.OPS[name], position, factor)
    assert noticed(name) > 0
    monkeypatch.undo()
    assert noticed(name) == 0


def test_the_whole_registry_is_covered():
    """That every op has cases is test_gradcheck.py's."""
    assert {name for name, _ in rules()} == set(CASES)


def test_every_argument_of_every_case_has_a_rule_that_is_spoiled():
    """concatenate and stack: one rule for any number of arguments; where: none for argument 0."""
    spoiled = set(rules())
    for name, cases in CASES.items():
        first = 1 if name == "where" else 0
        assert spoiled >= {(name, first + i) for i in range(most_arguments(cases))}, name
