"""Floor 4: sampling from PixelCNN, pixel by pixel and exactly. Read pixelcnn.py before.

The naive way runs the whole network for every sub-pixel. Here every activation is computed once:
each layer has a sampler that keeps what the layer needs of the row above and of the pixels to
the left. What depends on the rows above alone is computed for a whole row at once, as soon as
the row above is complete (`start_row`); then each pixel costs the work of that pixel alone
(`pixel`). All images of the batch go together. With several colours a pixel is computed once for
each of them, since the next colour's features see those already drawn.
"""

from scratchgen import backend
from scratchgen.nn.masked import gate
from scratchgen.nn.taps import Convolution
from scratchgen.tensor import raw


def draw_pixels(model, x, u, missing, progress):
    """Draw the `missing` sub-pixels of x (N, D) in place, as PixelCNN's `fill` should."""
    height, width = model.shape
    channels = model.channels
    sampler = model.stack.sampler(len(x), width)
    head = _Head(model)
    r = sampler.half_width
    # The images among zeros: r + 1 rows above, r columns on both sides.
    image = backend.module_of(x).zeros((len(x), r + 1 + height, width + 2 * r, channels), x.dtype)
    image[:, r + 1:, r:r + width] = model.scaled(x).reshape(-1, height, width, channels)
    missing = set(missing)
    for i in range(max(missing, default=-1) // (width * channels) + 1):
        sampler.start_row(i, image[:, i:i + r + 1])
        for j in range(width):
            seen = image[:, i + r + 1, j:j + r + 1]  # r pixels to the left, and this one
            for colour in range(channels):
                place = (i * width + j) * channels + colour
                if place in missing:
                    logits = head(sampler.pixel(j, seen), colour)
                    x[:, place] = model.draw(logits, u[place])
                    seen[:, r, colour] = model.scaled(x[:, place])
                    if progress is not None:
                        progress.update()
            if place not in missing:
                sampler.pixel(j, seen)  # pixels further right and below need its activations


class _Head:
    """The 1x1 layers after the stack for one pixel, and only one colour of the last."""

    def __init__(self, model):
        *self.layers, (weight, bias) = [_matrix(layer) for layer in model.head]
        per_colour = 1 if model.levels == 2 else model.levels
        self.last = [(weight[:, k:k + per_colour].copy(), bias[k:k + per_colour])
                     for k in range(0, len(bias), per_colour)]
        self.binary = model.levels == 2

    def __call__(self, maps, colour):
        """Maps (N, F) -> logits (N,), or (N, levels)."""
        xp = backend.module_of(maps)
        for weight, bias in [*self.layers, self.last[colour]]:
            maps = xp.maximum(maps, 0) @ weight
            maps += bias
        return maps[:, 0] if self.binary else maps


class ResidualSampler:
    """The first layer of a ResidualStack, and its blocks."""

    def __init__(self, stack, n, width):
        weight, bias = _weights(stack.first)
        self.half_width = r = -stack.first.taps[0][0]
        n_above = r * (2 * r + 1)
        self.rows_above = _RowsAbove(weight[:n_above], bias, r, width, margin=r)
        self.to_the_left = _ToTheLeft(weight[n_above:])
        self.blocks = [_BlockSampler(block, n, width) for block in stack.blocks]

    def start_row(self, i, rows):
        """`rows` (N, r + 1, r + W + r, colours) are those above row i."""
        self.above = self.rows_above(rows[:, 1:])
        for block in self.blocks:
            block.start_row()

    def pixel(self, j, seen):
        """Column j's maps (N, 2h) from the pixels to its left and its own earlier colours."""
        maps = self.to_the_left(seen)
        maps += self.above[:, j]
        for block in self.blocks:
            maps = block.pixel(j, maps)
        return maps


class _BlockSampler:
    """A residual block; `row` is what its 3x3 convolution sees, after a column of zeros."""

    def __init__(self, block, n, width):
        self.reduce, self.reduce_bias = _matrix(block.reduce)
        weight, bias = _weights(block.middle)
        self.rows_above = _RowsAbove(weight[:3], bias, 1, width)
        self.to_the_left = _ToTheLeft(weight[3:])
        self.expand, self.expand_bias = _matrix(block.expand)
        self.xp = backend.module_of(weight)
        self.row = self.xp.zeros((n, width + 1, len(bias)), weight.dtype)

    def start_row(self):
        self.above = self.rows_above(self.row[:, None, 1:])

    def pixel(self, j, x):
        maximum = self.xp.maximum
        a = maximum(x, 0) @ self.reduce
        a += self.reduce_bias
        self.row[:, j + 1] = maximum(a, 0)
        a = self.to_the_left(self.row[:, j:j + 2])
        a += self.above[:, j]
        out = maximum(a, 0) @ self.expand
        out += self.expand_bias
        out += x
        return out


class GatedSampler:
    """The layers of GatedStacks; their vertical maps are those of the row above."""

    def __init__(self, stack, n, width):
        self.half_width = r = -stack.layers[0].vertical.taps[0][0]
        first, *others = stack.layers
        self.first = _GatedLayerSampler(first, n, width, r + 1, margin=r)
        self.others = [_GatedLayerSampler(layer, n, width, 2) for layer in others]

    def start_row(self, i, rows):
        """`rows` (N, r + 1, r + W + r, colours) are those above row i; the first has none."""
        if i == 0:
            return
        vertical = self.first.start_row(rows)
        for layer in self.others:
            vertical = layer.start_row(layer.two_rows(vertical))

    def pixel(self, j, seen):
        """Column j's maps (N, h) from the pixels to its left and its own earlier colours."""
        maps = self.first.pixel(j, seen)
        for layer in self.others:
            layer.row[:, j + 1] = maps
            maps = maps + layer.pixel(j, layer.row[:, j:j + 2])
        return maps


class _GatedLayerSampler:
    """A gated layer; `vertical` and `row` are what its two convolutions see."""

    def __init__(self, layer, n, width, n_rows, margin=0):
        weight, bias = _weights(layer.vertical)
        self.rows_above = _RowsAbove(weight, bias, n_rows, width, margin)
        self.link, bias = _matrix(layer.link)
        weight, self.bias = _weights(layer.horizontal)
        self.bias = self.bias + bias
        self.to_the_left = _ToTheLeft(weight)
        self.out, self.out_bias = _matrix(layer.out)
        xp = backend.module_of(weight)
        self.vertical = xp.zeros((n, 2, width, weight.shape[1]), weight.dtype)
        self.row = xp.zeros((n, width + 1, weight.shape[1]), weight.dtype)
        self.above = xp.zeros((n, width, weight.shape[2]), weight.dtype) + self.bias

    def two_rows(self, vertical):
        """The row of vertical maps (N, W, h) that was added last time, and this one below it."""
        self.vertical[:, 0] = self.vertical[:, 1]
        self.vertical[:, 1] = vertical
        return self.vertical

    def start_row(self, rows):
        """What the rows above add to this row is kept; returns the vertical maps for the next."""
        maps = self.rows_above(rows)
        self.above = maps @ self.link + self.bias
        return gate(maps)

    def pixel(self, j, seen):
        maps = self.to_the_left(seen)
        maps += self.above[:, j]
        out = gate(maps) @ self.out
        out += self.out_bias
        return out


class _RowsAbove:
    """A convolution's taps in R rows, for the whole next row: (N, R, W, C) -> (N, W, O).

    The rows become channels, so that it is a convolution along one row; `margin` columns on
    both sides only surround the image and are left out of the result.
    """

    def __init__(self, weight, bias, n_rows, width, margin=0):
        across = len(weight) // n_rows
        weight = weight.reshape((n_rows, across) + weight.shape[1:]).transpose(1, 0, 2, 3)
        taps = tuple((0, j - across // 2) for j in range(across))
        self.convolution = Convolution(weight.reshape(across, -1, weight.shape[3]), bias, taps,
                                       width + 2 * margin)
        self.inside = slice(margin, margin + width)

    def __call__(self, rows):
        n, n_rows, width, channels = rows.shape
        stacked = rows.transpose(0, 2, 1, 3).reshape(n, 1, width, n_rows * channels)
        return self.convolution.forward(stacked)[:, 0, self.inside]


class _ToTheLeft:
    """A convolution's taps in a pixel's own row: a window (N, at least T, C) -> (N, O)."""

    def __init__(self, weight):
        self.n_taps = len(weight)
        self.matrix = weight.reshape(-1, weight.shape[2])

    def __call__(self, window):
        return window[:, :self.n_taps].reshape(len(window), -1) @ self.matrix


def _weights(layer):
    """A MaskedConv2d's weight as it acts, (T, C, O), and its bias, as plain arrays."""
    return raw(layer.effective()), raw(layer.bias)


def _matrix(layer):
    """The same of a 1x1 layer, its weight as a matrix (C, O)."""
    weight, bias = _weights(layer)
    return weight[0], bias
