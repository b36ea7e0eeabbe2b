"""Floor 1: the ops behind Python's operators, each with its gradient rules right under it.

    a + b, a - b, a * b, a / b, a ** b, a @ b, -x, x[index], and the sums and shapes that they need.

The file ends by giving them to Tensor. Comparisons return plain boolean arrays, which carry no
gradient.
"""

import math
import operator

import numpy as np

from scratchgen import backend
from scratchgen.tensor import Tensor, op, raw, unbroadcast


@op(elementwise=True)
def add(a, b):
    """a + b."""
    return a + b


add.rules(
    lambda g, out, a, b: g,
    lambda g, out, a, b: g)


@op(elementwise=True)
def subtract(a, b):
    """a - b."""
    return a - b


subtract.rules(
    lambda g, out, a, b: g,
    lambda g, out, a, b: -g)


@op(elementwise=True)
def multiply(a, b):
    """a * b, element by element."""
    return a * b


multiply.rules(
    lambda g, out, a, b: g * b,
    lambda g, out, a, b: g * a)


@op(elementwise=True)
def divide(a, b):
    """a / b, element by element."""
    return a / b


divide.rules(
    lambda g, out, a, b: g / b,
    lambda g, out, a, b: -g * out / b)


@op
def negative(x):
    """-x."""
    return -x


negative.rules(lambda g, out, x: -g)


@op
def log(x):
    """Natural logarithm."""
    return backend.module_of(x).log(x)


log.rules(lambda g, out, x: g / x)


@op(elementwise=True)
def power(a, b):
    """a ** b; for the gradient with respect to b, a must be positive."""
    return a ** b


power.rules(
    lambda g, out, a, b: g * (b * a ** (b - 1)),
    lambda g, out, a, b: g * (out * (math.log(a) if isinstance(a, (int, float)) else log(a))))


@op(elementwise=True)  # the leading (batch) axes broadcast
def matmul(a, b):
    """Matrix product over the last two axes: (..., n, k) @ (..., k, m) -> (..., n, m)."""
    if min(len(a.shape), len(b.shape)) < 2:
        raise ValueError("both arguments need two or more axes; reshape a vector first")
    return a @ b


matmul.rules(
    lambda g, out, a, b: g @ swap_last(b),
    lambda g, out, a, b: swap_last(a) @ g)


def swap_last(x):
    """The matrices in the last two axes, transposed: (..., n, m) -> (..., m, n)."""
    if len(x.shape) == 2:
        return x.T
    axes = list(range(len(x.shape)))
    axes[-2:] = axes[-1], axes[-2]
    return transpose(x, axes=tuple(axes))


@op
def transpose(x, *, axes=None):
    """Axes in another order (reversed without `axes`)."""
    return x.transpose(axes)


def _undo(axes):
    return axes and tuple(axes.index(i) for i in range(len(axes)))


transpose.rules(lambda g, out, x, axes=None: transpose(g, axes=_undo(axes)))


@op
def reshape(x, *, shape):
    """The same elements in another shape."""
    return x.reshape(shape)


reshape.rules(lambda g, out, x, shape: reshape(g, shape=x.shape))


@op
def sum(x, *, axis=None, keepdims=False):
    """Sum over one axis, several or all."""
    return x.sum(axis=axis, keepdims=keepdims)


sum.rules(lambda g, out, x, axis=None, keepdims=False:
          broadcast_to(reshape(g, shape=kept(x.shape, axis)), shape=x.shape))


def kept(shape, axis):
    """`shape` with the axes of a reduction kept as axes of length one."""
    if axis is None:
        return (1,) * len(shape)
    axes = {i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


@op
def broadcast_to(x, *, shape):
    """x repeated along new or length-one axes to `shape`."""
    return backend.module_of(x).broadcast_to(x, shape)


broadcast_to.rules(lambda g, out, x, shape: unbroadcast(g, x.shape))


@op
def getitem(x, *, index):
    """x[index] for integers, slices, None, ... and integer arrays on the host."""
    return x[_checked(index, x)]


getitem.rules(lambda g, out, x, index: put(g, shape=x.shape, index=index))


@op
def put(x, *, shape, index):
    """Zeros of `shape` with x added at [index]: what is picked several times adds up."""
    xp = backend.module_of(x)
    out = xp.zeros(shape, x.dtype)
    index = _checked(index, out)
    if any(hasattr(i, "dtype") for i in index):
        xp.add.at(out, index, x)
    else:
        out[index] = x  # slices name every element at most once
    return out


put.rules(lambda g, out, x, shape, index: getitem(g, index=index))


def _checked(index, x):
    """`index` as a tuple, its integer arrays within bounds (CuPy would wrap) and on x's side."""
    index = index if isinstance(index, tuple) else (index,)
    if all(type(i) is slice or i is Ellipsis for i in index):
        return index  # nothing in it can be out of bounds
    index = tuple(np.asarray(i) if isinstance(i, list) else i for i in index)
    consumed = len([i for i in index if i is not None and i is not Ellipsis])
    axis = 0
    checked = []
    for i in index:
        if isinstance(i, np.ndarray):
            if i.dtype.kind not in "iu":
                raise TypeError(f"an index array must hold integers, not {i.dtype}")
            size = x.shape[axis]
            if i.size and not (-size <= i.min() and i.max() < size):
                raise IndexError(f"index {i.min()}..{i.max()} out of range for an axis of {size}")
            i = backend.index_array(backend.module_of(x), i)
        elif hasattr(i, "dtype") and not np.isscalar(i):
            raise TypeError("index arrays must be on the host, where they can be checked")
        if i is Ellipsis:
            axis += len(x.shape) - consumed
        elif i is not None:
            axis += 1
        checked.append(i)
    return tuple(checked)


# --------------------------------------------------------------------- given to Tensor


def _method(op):
    return lambda self, other: op(self, other)


def _reflected(op):
    return lambda self, other: op(other, self)


for _name, _op in [("add", add), ("sub", subtract), ("mul", multiply), ("truediv", divide),
                   ("pow", power), ("matmul", matmul)]:
    setattr(Tensor, f"__{_name}__", _method(_op))
    setattr(Tensor, f"__r{_name}__", _reflected(_op))


def _comparison(compare):
    return lambda self, other: compare(self.data, raw(other))


for _name in ["gt", "ge", "lt", "le", "eq", "ne"]:
    setattr(Tensor, f"__{_name}__", _comparison(getattr(operator, _name)))


def _reshape(self, *shape):
    return reshape(self, shape=shape[0] if isinstance(shape[0], tuple) else shape)


Tensor.__neg__ = lambda self: negative(self)
Tensor.__getitem__ = lambda self, index: getitem(self, index=index)
Tensor.T = property(lambda self: transpose(self))
Tensor.sum = lambda self, axis=None, keepdims=False: sum(self, axis=axis, keepdims=keepdims)
Tensor.reshape = _reshape
