"""Floor 2: the other ops, each with its gradient rule right under it.

Shapes follow NumPy. A rule sees arrays or Tensors, so it only uses ops and operators; what it
needs as a plain mask (where is x positive?) it gets from `raw` or a comparison, which carry no
gradient. Overflow is avoided in the forward, never by clipping: sigmoid, softplus and
logsumexp are exact and finite for every finite input.
"""

import math

from scratchgen.backend import module_of
from scratchgen.operators import (
    add, broadcast_to, divide, getitem, kept, log, matmul, multiply, negative, power, put,
    reshape, subtract, sum, swap_last, transpose)
from scratchgen.tensor import alias, op, raw

__all__ = [
    "abs", "add", "alias", "broadcast_to", "clip", "concatenate", "cumsum", "divide", "exp",
    "expm1", "flip", "getitem", "leaky_relu", "linear", "log", "log1p", "log_softmax",
    "logsumexp", "matmul", "max", "maximum", "mean", "minimum", "multiply", "negative", "pad",
    "power", "put", "relu", "reshape", "sigmoid", "softplus", "sqrt", "stack", "subtract", "sum",
    "swap_last", "take", "tanh", "transpose", "where"]


# ------------------------------------------------------------------ functions of one number


@op
def exp(x):
    """e ** x."""
    return module_of(x).exp(x)


exp.rules(lambda g, out, x: g * out)


@op
def expm1(x):
    """e ** x - 1, accurate near 0."""
    return module_of(x).expm1(x)


expm1.rules(lambda g, out, x: g * (out + 1))


@op
def log1p(x):
    """log(1 + x), accurate near 0."""
    return module_of(x).log1p(x)


log1p.rules(lambda g, out, x: g / (1 + x))


@op
def sqrt(x):
    """Square root."""
    return module_of(x).sqrt(x)


sqrt.rules(lambda g, out, x: g * 0.5 / out)


@op
def tanh(x):
    """Hyperbolic tangent."""
    return module_of(x).tanh(x)


tanh.rules(lambda g, out, x: g * (1 - out * out))


@op
def sigmoid(x):
    """1 / (1 + e**-x), without overflow: e**min(x, 0) / (1 + e**-|x|)."""
    xp = module_of(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-xp.abs(x)))


sigmoid.rules(lambda g, out, x: g * (out * (1 - out)))


@op
def softplus(x):
    """log(1 + e**x) = max(x, 0) + log(1 + e**-|x|)."""
    xp = module_of(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


softplus.rules(lambda g, out, x: g * sigmoid(x))


@op
def relu(x):
    """max(x, 0); the gradient at 0 is 0."""
    return module_of(x).maximum(x, 0)


relu.rules(lambda g, out, x: g * (x > 0))


@op
def leaky_relu(x, *, negative_slope=0.01):
    """x where x > 0, negative_slope * x elsewhere."""
    xp = module_of(x)
    return xp.maximum(x, 0) + negative_slope * xp.minimum(x, 0)


leaky_relu.rules(lambda g, out, x, negative_slope=0.01:
                 g * (x > 0) + negative_slope * g * (x <= 0))


@op
def abs(x):
    """|x|; the gradient at 0 is 0."""
    return module_of(x).abs(x)


abs.rules(lambda g, out, x: g * module_of(raw(x)).sign(raw(x)))


@op
def clip(x, *, min, max):
    """x limited to [min, max]; the gradient outside is 0."""
    return module_of(x).clip(x, min, max)


clip.rules(lambda g, out, x, min, max: g * ((x >= min) & (x <= max)))


# ------------------------------------------------------------------- functions of several


@op(elementwise=True)
def maximum(a, b):
    """The larger of a and b; where they are equal, each gets half the gradient."""
    return module_of(a if hasattr(a, "dtype") else b).maximum(a, b)


maximum.rules(
    lambda g, out, a, b: g * _share(a, b),
    lambda g, out, a, b: g * _share(b, a))


@op(elementwise=True)
def minimum(a, b):
    """The smaller of a and b; where they are equal, each gets half the gradient."""
    return module_of(a if hasattr(a, "dtype") else b).minimum(a, b)


minimum.rules(
    lambda g, out, a, b: g * _share(b, a),
    lambda g, out, a, b: g * _share(a, b))


def _share(a, b):
    """1 where a > b, 1/2 where they are equal, 0 elsewhere, in the dtype of the arrays."""
    a, b = raw(a), raw(b)
    dtype = a.dtype if hasattr(a, "dtype") else b.dtype
    return ((a > b).astype(dtype) + (a >= b)) * 0.5


@op(elementwise=True)
def where(condition, a, b):
    """a where the boolean array `condition` holds, b elsewhere."""
    return module_of(condition).where(condition, a, b)


where.rules(
    None,
    lambda g, out, condition, a, b: g * condition,
    lambda g, out, condition, a, b: g * ~condition)


@op
def linear(x, weight, bias):
    """x W^T + b for rows x (..., in), weight W (out, in), bias b (out) -> (..., out)."""
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"rows of {x.shape[-1]} do not fit a weight for {weight.shape[1]}")
    out = _rows(x) @ weight.T
    out += bias
    return out.reshape(x.shape[:-1] + bias.shape)


linear.rules(
    lambda g, out, x, weight, bias: (_rows(g) @ weight).reshape(x.shape),
    lambda g, out, x, weight, bias: _rows(g).T @ _rows(x),
    lambda g, out, x, weight, bias: sum(_rows(g), axis=0))


def _rows(x):
    """All leading axes as one: (..., D) -> (N, D)."""
    return x if len(x.shape) == 2 else x.reshape((-1, x.shape[-1]))


# --------------------------------------------------------------------------- reductions


def mean(x, *, axis=None, keepdims=False):
    """Mean over one axis, several or all."""
    total = sum(x, axis=axis, keepdims=keepdims)
    return total * (raw(total).size / raw(x).size)


@op
def max(x, *, axis=None, keepdims=False):
    """Maximum over one axis, several or all; equal maxima share the gradient."""
    return x.max(axis=axis, keepdims=keepdims)


def _max_rule(g, out, x, axis=None, keepdims=False):
    shape = kept(x.shape, axis)
    is_max = raw(x) == raw(out).reshape(shape)
    share = is_max / is_max.sum(axis=axis, keepdims=True).astype(raw(x).dtype)
    return reshape(g, shape=shape) * share


max.rules(_max_rule)


@op
def logsumexp(x, *, axis=None, keepdims=False):
    """log sum_i e**x_i over one axis, several or all; -inf where every x_i is."""
    xp = module_of(x)
    largest = x.max(axis=axis, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    total = xp.exp(x - largest).sum(axis=axis, keepdims=True)
    empty = total == 0
    out = xp.where(empty, -xp.inf, xp.log(total + empty) + largest)
    out = out.astype(x.dtype, copy=False)
    return out if keepdims else out.squeeze(axis)


def _logsumexp_rule(g, out, x, axis=None, keepdims=False):
    shape = kept(x.shape, axis)
    out = where(raw(out) > -math.inf, out, 0.0)  # else -inf - -inf; e**-inf is 0 as it should
    return reshape(g, shape=shape) * exp(x - reshape(out, shape=shape))


logsumexp.rules(_logsumexp_rule)


@op
def log_softmax(x, *, axis=-1):
    """x - logsumexp(x) along `axis`: logits to normalised log-probabilities."""
    xp = module_of(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


log_softmax.rules(lambda g, out, x, axis=-1: g - exp(out) * sum(g, axis=axis, keepdims=True))


@op
def cumsum(x, *, axis):
    """Running sum along `axis`."""
    return x.cumsum(axis=axis, dtype=x.dtype)


cumsum.rules(lambda g, out, x, axis: flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis))


# ------------------------------------------------------------------------- rearranging


@op
def flip(x, *, axis):
    """x with `axis` reversed."""
    return module_of(x).flip(x, axis)


flip.rules(lambda g, out, x, axis: flip(g, axis=axis))


@op
def concatenate(*arrays, axis=0):
    """Arrays joined along an existing axis."""
    return module_of(arrays[0]).concatenate(arrays, axis=axis)


@op
def stack(*arrays, axis=0):
    """Arrays of one shape joined along a new axis."""
    return module_of(arrays[0]).stack(arrays, axis=axis)


def _piece_of_concatenation(position):
    def rule(g, out, *arrays, axis=0):
        starts = [0]
        for x in arrays:
            starts.append(starts[-1] + x.shape[axis])
        return getitem(g, index=_along(axis, g, slice(starts[position], starts[position + 1])))
    return rule


def _along(axis, x, i):
    """The index that takes i along `axis` and everything along the others."""
    index = [slice(None)] * len(x.shape)
    index[axis] = i
    return tuple(index)


concatenate.rules(every=_piece_of_concatenation)
stack.rules(every=lambda position: lambda g, out, *arrays, axis=0:
            getitem(g, index=_along(axis, g, position)))


@op
def pad(x, *, width):
    """x with zeros around it; `width` holds (before, after) for each axis."""
    if len(width) != len(x.shape):
        raise ValueError(f"{len(width)} widths for {len(x.shape)} axes")
    return module_of(x).pad(x, width)


pad.rules(lambda g, out, x, width: getitem(g, index=tuple(
    slice(before, before + n) for (before, _), n in zip(width, x.shape))))


@op
def take(table, *, indices):
    """Rows of a table (an embedding look-up): (V, ...) and host integers (...) -> rows."""
    return getitem(table, index=indices)


take.rules(lambda g, out, table, indices: put(g, shape=table.shape, index=indices))
