"""The values of the ops: against NumPy said differently, and at the extremes.

Gradients are in test_gradcheck.py, the refusals of all ops in test_tensor.py.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scratchgen import backend, ops
from scratchgen.tensor import Tensor, grad, raw

SEEDS = st.integers(0, 2 ** 32 - 1)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
LAYOUTS = {"rows": lambda x: x,
           "columns": lambda x: np.ascontiguousarray(x.T).T,
           "backwards": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
           "every other": lambda x: np.repeat(x, 2, axis=0)[::2]}


def host(x):
    return backend.to_numpy(raw(x))


def draws(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [2 * rng.standard_normal(shape) for shape in shapes]


def moved(xp, x, layout):
    """x on the backend with the strides of a layout: the same steps taken there."""
    if xp is np:
        return LAYOUTS[layout](x)
    return xp.asarray(x.T).T if layout == "columns" else xp.asarray(x)


def check(xp, function, expected, arrays, layout="rows", rtol=1e-12):
    """function on Tensors gives the values, and the shape, of `expected`; also in float32."""
    out = function(*[Tensor(moved(xp, x, layout)) for x in arrays])
    assert out.shape == expected.shape
    np.testing.assert_allclose(host(out), expected, rtol=rtol, atol=1e-12)
    single = function(*[Tensor(xp.asarray(x.astype("float32"))) for x in arrays])
    assert single.dtype == np.float32
    np.testing.assert_allclose(host(single), expected, rtol=2e-4, atol=2e-4)


# ------------------------------------------------------------------- one number, or several


UNARY = {
    "exp": (ops.exp, lambda x: np.e ** x),
    "expm1": (ops.expm1, lambda x: 2 * np.exp(x / 2) * np.sinh(x / 2)),
    "tanh": (ops.tanh, lambda x: np.sinh(x) / np.cosh(x)),
    "sigmoid": (ops.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (ops.softplus, lambda x: np.logaddexp(0, x)),
    "relu": (ops.relu, lambda x: np.where(x > 0, x, 0)),
    "leaky_relu": (ops.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
    "leaky_relu 0.2": (lambda x: ops.leaky_relu(x, negative_slope=0.2),
                       lambda x: np.where(x > 0, x, 0.2 * x)),
    "abs": (ops.abs, lambda x: np.where(x > 0, x, -x)),
    "clip": (lambda x: ops.clip(x, min=-1, max=0.5),
             lambda x: np.where(x < -1, -1, np.where(x > 0.5, 0.5, x))),
    "negative": (ops.negative, lambda x: 0 - x),
    "alias": (ops.alias, lambda x: x),
    "log": (lambda x: ops.log(x * x + 0.1), lambda x: np.log2(x * x + 0.1) * np.log(2)),
    "log1p": (lambda x: ops.log1p(x * x), lambda x: np.log(1 + x * x)),
    "sqrt": (lambda x: ops.sqrt(x * x + 1), lambda x: np.hypot(x, 1)),
    "square": (lambda x: ops.power(x, 2), lambda x: x * x),
}


@pytest.mark.parametrize("name", UNARY)
@given(shape=SHAPES, seed=SEEDS, layout=st.sampled_from(sorted(LAYOUTS)))
def test_functions_of_one_number(xp, name, shape, seed, layout):
    function, reference = UNARY[name]
    x, = draws(seed, shape)
    check(xp, function, reference(x), [x], layout, rtol=1e-11)


BINARY = {
    "add": (ops.add, lambda a, b: a - -b),
    "subtract": (ops.subtract, lambda a, b: a + -b),
    "multiply": (ops.multiply, lambda a, b: ((a + b) ** 2 - (a - b) ** 2) / 4),
    "divide": (lambda a, b: a / (b * b + 1), lambda a, b: a * (b * b + 1) ** -1),
    "power": (lambda a, b: (a * a + 1) ** b, lambda a, b: np.exp(b * np.log(a * a + 1))),
    "maximum": (ops.maximum, lambda a, b: np.where(a > b, a, b)),
    "minimum": (ops.minimum, lambda a, b: np.where(a > b, b, a)),
}


@pytest.mark.parametrize("name", BINARY)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), seed=SEEDS)
def test_functions_of_two_numbers(xp, name, shapes, seed):
    function, reference = BINARY[name]
    a, b = draws(seed, *shapes.input_shapes)
    check(xp, function, np.asarray(reference(a, b)), [a, b], rtol=1e-11)


@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=4), seed=SEEDS)
def test_where(xp, shapes, seed):
    a, b, c = draws(seed, *shapes.input_shapes)
    condition = np.asarray(c > 0)
    check(xp, lambda a, b: ops.where(xp.asarray(condition), a, b),
          np.asarray(condition * a + (1 - condition) * b), [a, b])


def test_equal_arguments_share_the_gradient(xp):
    a, b = Tensor(xp.ones(3)), Tensor(xp.ones(3))
    for function in (ops.maximum, ops.minimum):
        by_a, by_b = grad(function(a, b).sum(), [a, b])
        np.testing.assert_array_equal(host(by_a), [0.5, 0.5, 0.5])
        np.testing.assert_array_equal(host(by_b), [0.5, 0.5, 0.5])


def test_gradients_on_the_kink(xp):
    x = Tensor(xp.zeros(1))
    assert host(grad(ops.relu(x), x)) == 0
    assert host(grad(ops.leaky_relu(x), x)) == 0.01
    assert host(grad(ops.abs(x), x)) == 0
    assert host(grad(ops.clip(x, min=0, max=1), x)) == 1
    assert host(grad(ops.clip(x, min=1, max=2), x)) == 0


# ---------------------------------------------------------------------------- matrix products


@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3),
       sizes=st.permutations([2, 3, 5]), seed=SEEDS)
def test_matmul(xp, shapes, sizes, seed):
    n, k, m = sizes
    a, b = draws(seed, shapes.input_shapes[0] + (n, k), shapes.input_shapes[1] + (k, m))
    check(xp, ops.matmul, (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2), [a, b],
          rtol=1e-10)


@given(batch=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), seed=SEEDS)
def test_linear(xp, batch, seed):
    x, weight, bias = draws(seed, batch + (3,), (5, 3), (5,))
    check(xp, ops.linear, np.einsum("...i,oi->...o", x, weight) + bias, [x, weight, bias],
          rtol=1e-10)


# --------------------------------------------------------------------------------- reductions


def axes_of(data, shape):
    """An axis, several or None, counted from either end."""
    chosen = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    signed = tuple(axis - len(shape) * data.draw(st.booleans()) for axis in chosen)
    return data.draw(st.sampled_from([None, signed, signed[0]]))


def by_blocks(function, x, axis, keepdims):
    """function of the list of numbers that each block of the reduction holds, by a plain loop."""
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    axes = {int(a) % x.ndim for a in axes}
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    blocks = {}
    for index, value in np.ndenumerate(x):
        place = tuple(0 if a in axes else i for a, i in enumerate(index))
        blocks.setdefault(place, []).append(float(value))
    out = np.empty(shape)
    for place, values in blocks.items():
        out[place] = function(values)
    return out if keepdims else out.squeeze(tuple(axes))


REDUCTIONS = {"sum": math.fsum, "mean": lambda v: math.fsum(v) / len(v), "max": max,
              "logsumexp": lambda v: math.log(math.fsum(math.exp(x) for x in v))}


@pytest.mark.parametrize("name", REDUCTIONS)
@given(shape=SHAPES, data=st.data(), seed=SEEDS, keepdims=st.booleans(),
       layout=st.sampled_from(sorted(LAYOUTS)))
def test_reductions_over_any_axes(xp, name, shape, data, seed, keepdims, layout):
    axis = axes_of(data, shape)
    x, = draws(seed, shape)
    check(xp, lambda t: getattr(ops, name)(t, axis=axis, keepdims=keepdims),
          by_blocks(REDUCTIONS[name], x, axis, keepdims), [x], layout, rtol=1e-10)


@given(shape=SHAPES, data=st.data(), seed=SEEDS)
def test_functions_along_one_axis(xp, shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, = draws(seed, shape)
    lines = np.moveaxis(x, axis, -1)
    softmax = np.exp(lines) / np.exp(lines).sum(axis=-1, keepdims=True)
    sums = np.stack([lines[..., :i + 1].sum(axis=-1) for i in range(lines.shape[-1])], axis=-1)
    for name, expected in [("log_softmax", np.log(softmax)), ("cumsum", sums),
                           ("flip", lines[..., ::-1])]:
        check(xp, lambda t, name=name: getattr(ops, name)(t, axis=axis),
              np.moveaxis(expected, -1, axis), [x], rtol=1e-9)


def test_equal_maxima_share_the_gradient(xp):
    x = Tensor(xp.asarray(np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])))
    np.testing.assert_array_equal(host(grad(ops.max(x, axis=1).sum(), x)),
                                  [[0, 0.5, 0.5], [1, 0, 0]])


# -------------------------------------------------------------------------------- rearranging


@given(shape=SHAPES, data=st.data(), seed=SEEDS, layout=st.sampled_from(sorted(LAYOUTS)))
def test_rearranging_moves_every_element_to_its_place(xp, shape, data, seed, layout):
    x, = draws(seed, shape)
    axes = data.draw(st.permutations(range(len(shape))))
    transposed = np.empty([shape[a] for a in axes])
    for index, value in np.ndenumerate(x):
        transposed[tuple(index[a] for a in axes)] = value
    check(xp, lambda t: ops.transpose(t, axes=tuple(axes)), transposed, [x], layout)
    check(xp, lambda t: ops.reshape(t, shape=(-1,)), np.array([*x.flat]), [x], layout)
    check(xp, lambda t: ops.broadcast_to(t, shape=(2, *shape)), np.stack([x, x]), [x], layout)

    width = tuple(data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in shape)
    padded = np.zeros([a + n + b for (a, b), n in zip(width, shape)])
    for index, value in np.ndenumerate(x):
        padded[tuple(i + a for i, (a, _) in zip(index, width))] = value
    check(xp, lambda t: ops.pad(t, width=width), padded, [x], layout)


@given(shape=SHAPES, data=st.data(), seed=SEEDS)
def test_joining(xp, shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shapes = [list(shape) for _ in sizes]
    for other, size in zip(shapes, sizes):
        other[axis] = size
    arrays = draws(seed, *shapes)
    joined = list(itertools.chain.from_iterable(np.moveaxis(x, axis, 0) for x in arrays))
    check(xp, lambda *ts: ops.concatenate(*ts, axis=axis),
          np.moveaxis(np.array(joined), 0, axis), arrays)
    same = draws(seed, *[shape] * len(sizes))
    place = axis if axis >= 0 else axis + len(shape) + 1
    expected = np.empty((*shape[:place], len(sizes), *shape[place:]))
    for i, x in enumerate(same):
        expected[(slice(None),) * place + (i,)] = x
    check(xp, lambda *ts: ops.stack(*ts, axis=axis), expected, same)


@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), data=st.data(), seed=SEEDS)
def test_take_and_put(xp, shape, data, seed):
    table, = draws(seed, shape)
    indices = data.draw(hnp.arrays(np.int64, hnp.array_shapes(max_dims=2, max_side=4),
                                   elements=st.integers(-shape[0], shape[0] - 1)))
    rows = np.array([table[i] for i in indices.ravel()]).reshape(indices.shape + shape[1:])
    check(xp, lambda t: ops.take(t, indices=indices), rows, [table])
    gathered = np.zeros(shape)
    for i, row in zip(indices.ravel(), rows.reshape((-1, *shape[1:]))):
        gathered[i] += row
    check(xp, lambda t: ops.put(t, shape=shape, index=indices), gathered, [rows])


def test_swap_last(xp):
    x, = draws(0, (2, 3, 4))
    check(xp, ops.swap_last, np.stack([x[0].T, x[1].T]), [x])


# ----------------------------------------------------------------- extremes: warnings are errors


DTYPES = ["float32", "float64"]


def values_and_gradients(xp, function, values, dtype):
    x = Tensor(xp.asarray(np.array(values, dtype)))
    out = function(x)
    assert out.dtype == dtype
    return host(out), host(grad(out.sum(), x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_softplus_far_out(xp, dtype):
    rtol = 10 * np.finfo(dtype).eps
    values, gradients = values_and_gradients(xp, ops.sigmoid, [-1e4, -80, 80, 1e4], dtype)
    np.testing.assert_allclose(values, [0, math.exp(-80), 1, 1], rtol=rtol)
    np.testing.assert_allclose(gradients[:2], [0, math.exp(-80)], rtol=rtol)
    assert (gradients[2:] >= 0).all() and (gradients[2:] < 1e-15).all()
    values, gradients = values_and_gradients(xp, ops.softplus, [-1e4, -80, 80, 1e4], dtype)
    np.testing.assert_allclose(values, [0, math.exp(-80), 80, 1e4], rtol=rtol)
    np.testing.assert_allclose(gradients, [0, math.exp(-80), 1, 1], rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_order_is_finite_far_out(xp, dtype):
    for function in [ops.sigmoid, ops.softplus, ops.tanh, lambda x: ops.logsumexp(x, axis=0),
                     lambda x: ops.log_softmax(x, axis=0)]:
        x = Tensor(xp.asarray(np.array([-1e4, 1e4, 0.0], dtype)))
        first = grad(function(x).sum(), x, create_graph=True)
        assert np.isfinite(host(first)).all()
        assert np.isfinite(host(grad((first * first).sum(), x))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_numbers_keep_their_digits(xp, dtype):
    x = Tensor(xp.asarray(np.array([1e-12, -1e-12], dtype)))
    for function in (ops.log1p, ops.expm1):
        np.testing.assert_allclose(host(function(x)), [1e-12, -1e-12], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row, expected, gradient", [
    ([1e4, 1e4, -1e4], 1e4 + math.log(2), [0.5, 0.5, 0]),
    ([-1e4, -1e4, -1e4], -1e4 + math.log(3), [1 / 3, 1 / 3, 1 / 3]),
    ([-math.inf, 0.0, 0.0], math.log(2), [0, 0.5, 0.5]),
    ([-math.inf, -math.inf, 3.0], 3.0, [0, 0, 1]),
    ([-math.inf, -math.inf, -math.inf], -math.inf, [0, 0, 0])])
@pytest.mark.parametrize("axis, keepdims", [(1, False), (1, True), (None, False)])
def test_logsumexp_at_extremes(xp, dtype, row, expected, gradient, axis, keepdims):
    values, gradients = values_and_gradients(
        xp, lambda x: ops.logsumexp(x, axis=axis, keepdims=keepdims), [row], dtype)
    np.testing.assert_allclose(values.reshape(-1), [expected], rtol=np.finfo(dtype).eps)
    np.testing.assert_allclose(gradients, [gradient], rtol=0.002)  # 1e4 + log 2 is rounded


@pytest.mark.parametrize("dtype", DTYPES)
def test_logsumexp_of_empty_rows_beside_others(xp, dtype):
    rows = np.array([[-math.inf, -math.inf], [0.0, math.log(2)]], dtype)
    values, gradients = values_and_gradients(xp, lambda x: ops.logsumexp(x, axis=1), rows, dtype)
    np.testing.assert_allclose(values, [-math.inf, math.log(3)], rtol=1e-6)
    np.testing.assert_allclose(gradients, [[0, 0], [1 / 3, 2 / 3]], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_softmax_at_extremes(xp, dtype):
    rows = [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, -math.inf, 0.0]]
    x = Tensor(xp.asarray(np.array(rows, dtype)))
    out = ops.log_softmax(x, axis=1)
    third, half = -math.log(3), -math.log(2)
    np.testing.assert_allclose(host(out), [[0, -2e4, -1e4], [third] * 3, [half, -math.inf, half]],
                               rtol=1e-6)
    g = host(grad(out, x, xp.asarray(np.array([[1, 0, 0]] * 3, dtype))))
    np.testing.assert_allclose(g, [[0, 0, 0], [2 / 3, -1 / 3, -1 / 3], [0.5, 0, -0.5]], rtol=1e-6)


def test_power_of_a_number_keeps_the_dtype(xp):
    x = Tensor(xp.asarray(np.array([1.0, 2.0], np.float32)))
    np.testing.assert_allclose(host(grad((2 ** x).sum(), x)), np.log(2) * np.array([2, 4]),
                               rtol=1e-6)


def test_all_names_are_there():
    assert all(callable(getattr(ops, name)) for name in ops.__all__)
    assert ops.__all__ == sorted(ops.__all__)
