"""Floor 3: convolution over a list of taps, on plain arrays. Read conv.py before, masked.py after.

    y[n,i,j] = b + sum over t of x[n, i + a_t, j + b_t] W_t,    zeros beyond the edge,

for images (N, H, W, C), taps (a_t, b_t) and W (T, C, O). In this layout the C numbers of a tap
stand together: what one output sees is a row of T C numbers (`_columns`), the convolution one
matrix product, and a 1x1 convolution a product with x itself. Taps under a mask do not exist.

What makes it fast on a processor: the batch is cut into pieces that stay in the cache from one
step to the next, and Python threads share the pieces (NumPy lets go of the interpreter while it
computes). Products are cut into small ones, which OpenBLAS computes a quarter faster where it
has kernels that do not rearrange their arguments first, and without threads of its own.
"""

import concurrent.futures
import contextvars
import functools
import os

import numpy as np

from scratchgen.backend import module_of

CENTRE = ((0, 0),)
_PIECE = 2 ** 21  # bytes of columns
_SMALL = 2 ** 18  # multiplications in a small product
_THREADS = 2

# A training step frees what the next one allocates again. Beyond a limit glibc gives freed
# memory back to the system and then pays for every page anew, here a third of the time; the
# limit grows with the largest block freed so far, if that has less than 32 MiB.
np.empty(2 ** 25 - 2 ** 16, dtype=np.uint8)


class Convolution:
    """One convolution, prepared for images of a width: `forward` and `backward` by the piece."""

    def __init__(self, weight, bias, taps, width):
        self.shape = weight.shape
        self.taps = taps
        self.mirrored = tuple((-i, -j) for i, j in taps)
        self.matrix = weight.reshape(-1, self.shape[2])
        self.back = weight.transpose(0, 2, 1).reshape(-1, self.shape[1])
        # A bias repeated along an image row makes a long inner loop of a short one.
        self.row = module_of(bias).tile(bias, width)
        self.minus_row = -self.row

    def forward(self, x, relu=False):
        """y, or relu(y), (N, H, W, O)."""
        xp = module_of(x)
        out = _product(_columns(x, self.taps), self.matrix).reshape(x.shape[:3] + self.shape[2:])
        wide = out.reshape(-1, len(self.row))
        if relu:
            xp.maximum(wide, self.minus_row, out=wide)  # max(y + b, 0) = max(y, -b) + b
        wide += self.row
        return out

    def backward(self, x, g):
        """[dL/dx, dL/dW, dL/db] for g = dL/dy; the columns of g serve the first and the second."""
        columns = _columns(g, self.mirrored)
        g_x = _product(columns, self.back).reshape(x.shape)
        weight = _product_over_rows(x.reshape(len(columns), -1), columns)
        weight = weight.reshape(self.shape[1], self.shape[0], self.shape[2]).transpose(1, 0, 2)
        return [g_x, weight, _sum_of_rows(g)]

    def parameter_gradients(self, x, g):
        """The last two, where dL/dx is not needed: cheaper for images of few channels."""
        columns = _columns(x, self.taps)
        weight = _product_over_rows(columns, g.reshape(len(columns), -1))
        return [weight.reshape(self.shape), _sum_of_rows(g)]


def pieces(x, convolutions):
    """Slices of the batch x (N, H, W, C); on a device the whole batch is one piece."""
    size = len(x)
    if module_of(x) is np:
        widest = max(max(conv.matrix.shape) for conv in convolutions)
        size = max(1, _PIECE // (x[:1, ..., 0].nbytes * widest))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def for_each(function, *arguments):
    """[function(*a) for a in zip(*arguments)], shared between threads; the order is kept."""
    if len(arguments[0]) == 1:
        return [function(*(a[0] for a in arguments))]
    # A thread starts without its caller's np.errstate: the context carries it over.
    tasks = [_workers().submit(contextvars.copy_context().run, function, *a)
             for a in zip(*arguments)]
    return [task.result() for task in tasks]


@functools.cache
def _workers():
    return concurrent.futures.ThreadPoolExecutor(_THREADS)


os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork


def relu(x):
    """max(x, 0) as a new array; a row of zeros is twice as fast here as the number 0."""
    xp = module_of(x)
    wide = x.reshape(-1, x.shape[2] * x.shape[3])
    return xp.maximum(wide, xp.zeros(wide.shape[1], x.dtype)).reshape(x.shape)


def _product(a, b):
    """a @ b for a with many rows."""
    xp = module_of(a)
    if xp is not np:
        return a @ b
    out = np.empty((len(a), b.shape[1]), a.dtype)
    block = max(1, _SMALL // b.size)
    whole = len(a) // block * block
    np.matmul(a[:whole].reshape(-1, block, a.shape[1]), b,
              out=out[:whole].reshape(-1, block, b.shape[1]))
    np.matmul(a[whole:], b, out=out[whole:])
    return out


def _product_over_rows(a, b):
    """a.T @ b for a and b with many rows."""
    if module_of(a) is not np:
        return a.T @ b
    block = max(1, _SMALL // (a.shape[1] * b.shape[1]))
    whole = len(a) // block * block
    blocks = a[:whole].reshape(-1, block, a.shape[1]).transpose(0, 2, 1)
    total = (blocks @ b[:whole].reshape(-1, block, b.shape[1])).sum(axis=0)
    total += a[whole:].T @ b[whole:]
    return total


def _sum_of_rows(g):
    """The sum over all pixels; as a matrix product it is ten times faster."""
    rows = g.reshape(-1, g.shape[3])
    return (module_of(g).ones((1, len(rows)), g.dtype) @ rows)[0]


def _columns(x, taps):
    """What each output sees, (N H W, T C)."""
    n, height, width, channels = x.shape
    if taps == CENTRE:
        return x.reshape(-1, channels)
    columns = module_of(x).empty((n, height, width, len(taps), channels), x.dtype)
    for t, inside, neighbours, edges in _places(taps, height, width):
        columns[(*inside, t)] = x[neighbours]
        for edge in edges:
            columns[(*edge, t)] = 0
    return columns.reshape(-1, len(taps) * channels)


@functools.cache
def _places(taps, height, width):
    """For each tap the pixels with a neighbour there, these neighbours, and the other pixels."""
    every = slice(None)
    places = []
    for t, (i, j) in enumerate(taps):
        rows, from_rows, no_rows = _overlap(i, height)
        across, from_across, none_across = _overlap(j, width)
        edges = []
        if i:
            edges.append((every, no_rows, every))
        if j:
            edges.append((every, every, none_across))
        places.append((t, (every, rows, across), (every, from_rows, from_across), edges))
    return places


def _overlap(offset, size):
    """Along one axis: pixels with a neighbour at `offset`, these neighbours, the other pixels."""
    inside = max(0, size - abs(offset))
    if offset < 0:
        return slice(size - inside, size), slice(0, inside), slice(0, size - inside)
    return slice(0, inside), slice(size - inside, size), slice(inside, size)
