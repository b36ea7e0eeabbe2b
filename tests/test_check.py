"""The gradient checker itself: what it accepts, what it must not accept, where it looks again."""

import numpy as np
import pytest

from scratchgen import ops
from scratchgen.check import (
    TOLERANCE, GradientError, check_adjoint, check_grads, relative_difference)
from scratchgen.tensor import OPS, op, raw


@pytest.fixture
def cube():
    """x -> x^3 as an op of its own; ops made in a test do not stay in the registry."""
    before = dict(OPS)

    @op
    def cube(x):
        return x * x * x
    cube.rules(lambda g, out, x: g * (3 * x * x))
    yield cube
    OPS.clear()
    OPS.update(before)


def points(xp, *shapes):
    rng = np.random.default_rng(5)
    return [xp.asarray(rng.standard_normal(shape)) for shape in shapes]


def test_accepts_a_right_gradient_of_any_order(xp, cube):
    for order in (1, 2, 3, 4):
        assert 0 < check_grads(cube, *points(xp, (2, 3)), order=order) < 1e-8


def test_tolerance_is_strict():
    assert TOLERANCE == 1e-6


def test_returns_the_error_and_does_not_change_the_arrays(xp, cube):
    x, = points(xp, (2, 3))
    before = x.copy()
    check_grads(cube, x)
    assert (x == before).all().item()


@pytest.mark.parametrize("factor", [1.001, 0.999, 0.0, -1.0, 1.00001])
def test_rejects_a_wrong_gradient(xp, cube, factor):
    cube.rules(lambda g, out, x: g * (3 * factor * x * x))
    with pytest.raises(GradientError, match="order 1, argument 0: relative error .* 1e-06"):
        check_grads(cube, *points(xp, (2, 3)))
    with pytest.raises(AssertionError):
        check_grads(cube, *points(xp, (2, 3)), order=2)


def test_error_is_the_size_of_the_mistake(xp, cube):
    cube.rules(lambda g, out, x: g * (3.003 * x * x))
    error = check_grads(cube, *points(xp, (2, 3)), tolerance=1)
    assert error == pytest.approx(1e-3 / 1.001, rel=1e-3)


def test_rejects_one_wrong_element_in_many(xp, cube):
    def rule(g, out, x):
        weights = np.ones((4, 5))
        weights[2, 3] = 1.001
        return g * (3 * x * x) * xp.asarray(weights)
    cube.rules(rule)
    with pytest.raises(GradientError):
        check_grads(cube, *points(xp, (4, 5)), repeats=10)


def test_rejects_a_small_error_beside_a_large_argument(xp, cube):
    """One argument at a time: moved together, the large one's slope would drown the error."""
    @op
    def product(a, b):
        return a * b
    product.rules(lambda g, out, a, b: g * b, lambda g, out, a, b: g * a * 1.001)
    with pytest.raises(GradientError, match="argument 1: relative error 9.99e-04"):
        check_grads(product, points(xp, 3)[0], 1e3 * points(xp, 3)[0])


def test_rejects_a_wrong_second_order_behind_a_right_first(xp, cube):
    """A rule that leaves the graph: right as a number, but its own derivative is lost."""
    cube.rules(lambda g, out, x: g * (3 * raw(x) * raw(x)))
    assert check_grads(cube, *points(xp, (2, 3)), order=1) < 1e-8
    with pytest.raises(GradientError, match="order 2, argument 0"):
        check_grads(cube, *points(xp, (2, 3)), order=2)


def test_softmax_with_a_zero_gradient_is_rejected(xp, monkeypatch):
    """A cotangent of ones would pass it: the entries of a softmax always sum to one."""
    monkeypatch.setitem(OPS["log_softmax"].gradients, 0, lambda g, out, x: g * 0)
    with pytest.raises(GradientError):
        check_grads(lambda x: ops.exp(ops.log_softmax(x)), *points(xp, (2, 3)))


def test_rejects_not_a_number(xp, cube):
    cube.rules(lambda g, out, x: g * x * np.nan)
    with pytest.raises(GradientError):
        check_grads(cube, *points(xp, (2, 3)))

    @op
    def nowhere(x):
        return x * np.nan
    nowhere.rules(lambda g, out, x: g)
    with pytest.raises(GradientError, match="relative error nan"):
        check_grads(nowhere, *points(xp, (2, 3)))


@pytest.mark.parametrize("function", [ops.relu, ops.abs, ops.leaky_relu,
                                      lambda x: ops.maximum(x, 0.0),
                                      lambda x: ops.clip(x, min=0.0, max=1.0)])
def test_looks_beside_a_kink(xp, function):
    """At exactly 0 no difference quotient has the gradient's value: the point is moved."""
    assert check_grads(function, xp.zeros((2, 2))) < TOLERANCE


def test_looks_beside_two_kinks_that_hide_each_other(xp):
    """Odd about the point: no jump of the slope there, but two step sizes see another slope."""
    assert check_grads(lambda x: ops.clip(x, min=-1.5e-3, max=1.5e-3), xp.zeros(1),
                       repeats=10) < TOLERANCE


def test_wrong_gradient_at_a_kink_is_still_rejected(xp, monkeypatch):
    monkeypatch.setitem(OPS["relu"].gradients, 0, lambda g, out, x: g * (x > 0) * 1.001)
    with pytest.raises(GradientError, match="relative error 9.99e-04"):
        check_grads(ops.relu, xp.zeros((2, 2)))


def test_raises_where_no_point_is_smooth(xp):
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="argument 0: no smooth point"):
        check_grads(lambda x: x * float(rng.random()), *points(xp, 3))  # new noise at each call


def test_an_argument_that_does_not_matter(xp):
    assert check_grads(lambda x, y: x * x, *points(xp, 3, 2), order=2) < TOLERANCE


def test_gradient_where_there_is_none_is_rejected(xp, cube):
    """The forward ignores its argument, the rule claims a gradient."""
    @op
    def constant(x):
        return x * 0 + 1
    constant.rules(lambda g, out, x: g)
    with pytest.raises(GradientError):
        check_grads(constant, *points(xp, 3))


def test_several_outputs(xp, cube):
    assert check_grads(lambda x, y: [cube(x), x @ y], *points(xp, (2, 3), (3, 4)), order=2) < 1e-8
    cube.rules(lambda g, out, x: g * (3.003 * x * x))
    with pytest.raises(GradientError):
        check_grads(lambda x, y: [x @ y, cube(x)], *points(xp, (2, 3), (3, 4)))


def test_same_generator_same_error(xp, cube):
    x, = points(xp, (2, 3))
    errors = [check_grads(cube, x, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert errors[0] == errors[1] != errors[2]


def test_adjoint_of_a_matrix(xp, rng):
    a = xp.asarray(rng.standard_normal((3, 4)))
    x, y = xp.asarray(rng.standard_normal(4)), xp.asarray(rng.standard_normal(3))
    assert check_adjoint(lambda x: a @ x, lambda y: a.T @ y, x, y) < 1e-14
    with pytest.raises(GradientError, match="<Ax, y> = .* but <x, A'y> = "):
        check_adjoint(lambda x: a @ x, lambda y: 1.001 * (a.T @ y), x, y)
    with pytest.raises(GradientError):
        check_adjoint(lambda x: 1.001 * (a @ x), lambda y: a.T @ y, x, y)
    with pytest.raises(GradientError):
        check_adjoint(lambda x: a @ x, lambda y: (a.T @ y) * float("nan"), x, y)


def test_relative_difference(xp):
    a, b = xp.asarray(np.array([1.0, -2.0])), xp.asarray(np.array([1.0, -2.5]))
    assert relative_difference(a, b) == relative_difference(b, a) == 0.2
    assert relative_difference(a, a) == 0
