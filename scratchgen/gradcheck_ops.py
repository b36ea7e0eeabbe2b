"""Floor 6: the ops' part of the gradient checks: for each op, functions and points to check it at.

Each entry is (name, variant, function, arrays, order). `point` makes arrays of a shape (see
gradcheck.py). Sizes differ from each other where they can, so that a wrong axis cannot hide. A
test fails for an op that has no entry here.
"""

from functools import partial

import numpy as np

from scratchgen import ops
from scratchgen.conv import conv2d, conv2d_weight, conv_transpose2d
from scratchgen.distributions import bernoulli_log_prob, categorical_log_prob
from scratchgen.models.nade import nade_logits
from scratchgen.nn.masked import Section, masked_convs, taps
from scratchgen.nn.norm import batch_norm
from scratchgen.nn.pixel_recurrent import diagonal_bilstm, row_lstm
from scratchgen.nn.recurrent import lstm


def entries(point):
    """All plain ops."""
    for name, variant, function, *arrays in _curved(point):
        yield name, variant, function, arrays, _ORDER.get(name, 2)
    for name, variant, function, *arrays in [*_piecewise(point), *_reductions(point),
                                             *_rearranging(point), *_convolutions(point)]:
        yield name, variant, _squared(function), arrays, 2


def fused_entries(point):
    """All fused ops, each to be held against its twin too: (op, arrays, static)."""
    yield bernoulli_log_prob, [point(2, 3, 5), point.fractions(3, 5)], {}
    yield categorical_log_prob, [point(2, 3, 5)], {"x": np.array([[2, 0, 2], [1, 4, 3]])}
    yield batch_norm, [point(2, 3, 4, 5), point(3), point(3)], {"eps": 0.1}
    yield nade_logits, [point(3, 5), point(5, 7), point(7), point(5, 2, 7), point(5, 2)], {}
    plan = (Section((taps(3, "A"),), relu=False),
            Section((taps(1, "B"), taps(3, "B"), taps(1, "B")), residual=True))
    shapes = [(2, 3, 4, 1), (4, 1, 5), (5,), (1, 5, 2), (2,), (5, 2, 2), (2,), (1, 2, 5), (5,)]
    yield masked_convs, [point(*shape) for shape in shapes], {"plan": plan}
    yield lstm, [point(*shape) for shape in
                 [(4, 3, 2), (3, 5), (3, 5), (20, 2), (20, 5), (20,)]], {}
    yield row_lstm, [point(*shape) for shape in [(5, 3, 3, 2), (2, 5, 8), (3, 2, 8), (8,)]], {}
    yield diagonal_bilstm, [point(*shape) for shape in
                            [(5, 3, 3, 2), (2, 5, 8), (2, 2, 2, 8), (2, 8)]], {}


_ORDER = dict.fromkeys(["exp", "expm1", "log", "log1p", "sqrt", "tanh", "sigmoid", "softplus",
                        "divide"], 3)


def _squared(function):
    """A linear op followed by a square has a second derivative that tests its rule."""
    def squared(*tensors):
        out = function(*tensors)
        return out * out
    return squared


def _curved(point):
    """Ops with second derivatives of their own."""
    for name in ["exp", "expm1", "tanh", "sigmoid", "softplus"]:
        yield name, "", getattr(ops, name), point(3, 4)
    for name in ["log", "log1p", "sqrt"]:
        yield name, "", getattr(ops, name), point.positive(3, 4)
    yield "multiply", "broadcast", ops.multiply, point(2, 1, 4), point(3, 1)
    yield "multiply", "number, x, x", lambda x: 3 * x * x, point(2, 3)
    yield "divide", "broadcast", ops.divide, point(2, 1, 4), point(3, 1)
    yield "divide", "2 / x", lambda x: 2 / x, point(2, 3)
    yield "power", "broadcast", ops.power, point.positive(3, 1), point(2, 1, 4)
    yield "power", "x ** 3", lambda x: x ** 3, point(2, 3)
    yield "power", "x ** -0.5", lambda x: x ** -0.5, point.positive(2, 3)
    yield "power", "2 ** x", lambda x: 2 ** x, point(2, 3)
    yield "matmul", "", ops.matmul, point(2, 3), point(3, 4)
    yield "matmul", "broadcast batches", ops.matmul, point(2, 1, 3, 4), point(5, 4, 6)
    yield "matmul", "matrix by batch", ops.matmul, point(2, 3), point(5, 3, 4)
    yield "linear", "", ops.linear, point(2, 5, 3), point(4, 3), point(4)
    yield "linear", "one row", ops.linear, point(3), point(4, 3), point(4)
    for axis in [-1, 0]:
        yield ("log_softmax", f"axis {axis}",
               lambda x, axis=axis: ops.log_softmax(x, axis=axis), point(2, 3, 4))
    for axis, keepdims in [(None, False), (1, False), ((0, -1), True)]:
        yield ("logsumexp", f"axis {axis}", lambda x, axis=axis, keepdims=keepdims:
               ops.logsumexp(x, axis=axis, keepdims=keepdims), point(2, 3, 4))


def _piecewise(point):
    """Linear element by element, or linear in pieces."""
    for name in ["add", "subtract", "maximum", "minimum"]:
        f = getattr(ops, name)
        yield name, "broadcast", f, point(2, 1, 4), point(3, 1)
        yield name, "x, number", lambda x, f=f: f(x, 0.1), point(3, 4)
        yield name, "number, x", lambda x, f=f: f(0.2, x), point(3, 4)
    for name in ["negative", "relu", "leaky_relu", "abs", "alias"]:
        yield name, "", getattr(ops, name), point(3, 4)
    yield "leaky_relu", "slope", lambda x: ops.leaky_relu(x, negative_slope=0.3), point(3, 4)
    yield "clip", "", lambda x: ops.clip(x, min=-0.9, max=1.1), point(5, 4)
    mask = point.mask(3, 4)
    yield ("where", "broadcast", lambda a, b: ops.where(mask, a, b), point(2, 1, 4), point(3, 1))
    yield "where", "x, number", lambda x: ops.where(mask, x, 1.0), point(4)
    yield "where", "number, x", lambda x: ops.where(mask, -1.0, x), point(4)


def _reductions(point):
    for axis, keepdims in [(None, False), (1, False), ((0, -1), True), (-2, True)]:
        for name in ["sum", "max", "mean"]:
            yield (name, f"axis {axis}", lambda x, f=getattr(ops, name), axis=axis,
                   keepdims=keepdims: f(x, axis=axis, keepdims=keepdims), point(2, 3, 4))
    yield "cumsum", "", lambda x: ops.cumsum(x, axis=-2), point(2, 3, 4)


def _convolutions(point):
    """The three convolutions; a stride, a padding and sizes that leave something over."""
    for variant, kernel, static in [("plain", (2, 3), {}),
                                    ("strided", (3, 2), {"stride": (2, 3), "padding": (1, 2)})]:
        x, weight = point(2, 3, 6, 7), point(4, 3, *kernel)
        size = conv2d(x, weight, **static).shape[2:]
        yield "conv2d", variant, partial(conv2d, **static), x, weight
        yield ("conv_transpose2d", variant, partial(conv_transpose2d, **static),
               point(2, 4, *size), weight)
        yield ("conv2d_weight", variant, partial(conv2d_weight, kernel=kernel, **static),
               x, point(2, 4, *size))


def _rearranging(point):
    """Ops that move elements to other places."""
    yield "transpose", "", ops.transpose, point(2, 3, 4)
    yield "transpose", "axes", lambda x: ops.transpose(x, axes=(2, 0, 1)), point(2, 3, 4)
    yield "reshape", "", lambda x: ops.reshape(x, shape=(4, -1)), point(2, 3, 4)
    yield "broadcast_to", "", lambda x: ops.broadcast_to(x, shape=(2, 3, 4)), point(3, 1)
    yield "flip", "", lambda x: ops.flip(x, axis=1), point(2, 3, 4)
    yield "flip", "two axes", lambda x: ops.flip(x, axis=(0, -1)), point(2, 3, 4)
    rows, columns = np.array([[2, 0], [2, -1]]), np.array([1, 3])
    for variant, index in [("basic", (slice(None, None, -2), None, Ellipsis, 1)),
                           ("repeated rows", rows),
                           ("pairs", (rows, columns)),
                           ("array after a slice", (slice(0, 2), columns)),
                           ("array after ...", (Ellipsis, rows))]:
        yield ("getitem", variant, lambda x, index=index: ops.getitem(x, index=index),
               point(3, 4))
        picked = np.empty((3, 4))[index].shape
        yield ("put", variant, lambda x, index=index: ops.put(x, shape=(3, 4), index=index),
               point(*picked))
    yield "take", "", lambda table: ops.take(table, indices=rows), point(3, 4)
    yield "pad", "", lambda x: ops.pad(x, width=((1, 2), (0, 3))), point(4, 2)
    for axis, shapes in [(0, [(2, 3, 4), (5, 3, 4), (1, 3, 4)]), (-1, [(2, 3), (2, 1), (2, 4)])]:
        yield ("concatenate", f"axis {axis}", lambda *arrays, axis=axis:
               ops.concatenate(*arrays, axis=axis), *[point(*shape) for shape in shapes])
        yield ("stack", f"axis {axis}", lambda *arrays, axis=axis:
               ops.stack(*arrays, axis=axis), point(2, 4), point(2, 4), point(2, 4))
