"""Floor 4: sampling from PixelRNN, pixel by pixel and exactly. Read pixelcnn_sampling.py before.

Every state is computed once. When a row starts, all of the row above is known, and so is all
that depends on it alone: what the first convolution and the states above add to this row's
pixels, and for a Diagonal BiLSTM the map that comes from the right, which is one row late.
Then each pixel costs the work of that pixel alone.
"""

from scratchgen.backend import module_of
from scratchgen.nn.recurrent import gate_scale
from scratchgen.tensor import raw


class RecurrentSampler:
    """The first layer of a RecurrentStack, and its LSTM layers."""

    def __init__(self, stack, n, width):
        self.half_width = stack.half_width
        self.taps = stack.first.taps
        self.weight, self.bias = raw(stack.first.effective()), raw(stack.first.bias)
        beside = [t for t, (up, _) in enumerate(self.taps) if up == 0]
        self.beside = self.weight[beside[0]:].reshape(-1, len(self.bias))
        self.n_beside = len(beside)
        self.layers = [stack.layer_sampler(layer, n, width) for layer in stack.layers]

    def start_row(self, i, rows):
        """`rows` (N, r + 1, r + W + r, colours) end with the row above row i."""
        r = self.half_width
        width = rows.shape[2] - 2 * r
        self.above = self.bias + sum(
            rows[:, r + 1 + up, r + right:r + right + width] @ self.weight[t]
            for t, (up, right) in enumerate(self.taps) if up)
        for layer in self.layers:
            layer.start_row(i)

    def pixel(self, j, seen):
        """Column j's maps (N, 2h) from the pixels to its left and its own earlier colours."""
        x = seen[:, :self.n_beside].reshape(len(seen), -1) @ self.beside
        x += self.above[:, j]
        for layer in self.layers:
            x = layer.pixel(j, x)
        return x


class _LayerSampler:
    """What both LSTM layers share: the gates' scaled weights, the cell, the way up again."""

    def __init__(self, layer):
        weights = [raw(weight) for weight in layer.lstm.weights()]
        self.hidden = weights[2].shape[-1] // 4
        self.scale, self.offset = gate_scale(self.hidden, weights[2])
        self.weight_is, self.weight_ss, self.bias = [weight * self.scale for weight in weights]
        self.up, self.up_bias = raw(layer.up.effective())[0], raw(layer.up.bias)
        self.xp = module_of(self.up)

    def zeros(self, *shape):
        return self.xp.zeros(shape, self.up.dtype)

    def cell(self, a, c_before):
        """(h, c), (N, h) each, from the scaled sums a (N, 4h), which are overwritten."""
        hidden = self.hidden
        self.xp.tanh(a, out=a)
        a *= self.scale
        a += self.offset
        c = a[:, hidden:2 * hidden] * c_before
        c += a[:, :hidden] * a[:, 2 * hidden:3 * hidden]
        return a[:, 3 * hidden:] * self.xp.tanh(c), c

    def residual(self, x, h):
        """x + up(h)."""
        out = h @ self.up
        out += self.up_bias
        out += x
        return out


class RowSampler(_LayerSampler):
    """A Row LSTM layer: `h` is a row of states between two columns of zeros."""

    def __init__(self, layer, n, width):
        super().__init__(layer)
        self.weight_is = self.weight_is.reshape(-1, 4 * self.hidden)
        self.h = self.zeros(n, width + 2, self.hidden)
        self.c = self.zeros(n, width, self.hidden)
        self.row = self.zeros(n, width + 1, self.up.shape[1])  # inputs, after a column of zeros

    def start_row(self, i):
        width = self.c.shape[1]
        self.c_above = self.c.copy()
        self.from_above = self.bias + sum(self.h[:, k:k + width] @ self.weight_ss[k]
                                          for k in range(3))

    def pixel(self, j, x):
        self.row[:, j + 1] = x
        a = self.row[:, j:j + 2].reshape(len(x), -1) @ self.weight_is
        a += self.from_above[:, j]
        h, c = self.cell(a, self.c_above[:, j])
        self.h[:, j + 1], self.c[:, j] = h, c
        return self.residual(x, h)


class DiagonalSampler(_LayerSampler):
    """A Diagonal BiLSTM layer: `h` and `c` are the left map's row, after a column of zeros."""

    def __init__(self, layer, n, width):
        super().__init__(layer)
        self.h = self.zeros(n, width + 1, self.hidden)
        self.c = self.zeros(n, width + 1, self.hidden)
        self.right = self.zeros(n, width, self.hidden)  # the right map of the row above
        self.row = self.zeros(n, width, self.up.shape[1])  # the inputs of this row

    def start_row(self, i):
        self.from_above = self.h[:, 1:] @ self.weight_ss[0, 0] + self.bias[0]
        if i:
            self._right_map()

    def _right_map(self):
        """The right map of the row just finished, from the one of the row before it."""
        a = self.right @ self.weight_ss[1, 0] + self.row @ self.weight_is[1] + self.bias[1]
        h = c = self.zeros(len(a), self.hidden)
        for j in reversed(range(a.shape[1])):
            h, c = self.cell(a[:, j] + h @ self.weight_ss[1, 1], c)
            self.right[:, j] = h

    def pixel(self, j, x):
        self.row[:, j] = x
        a = x @ self.weight_is[0]
        a += self.h[:, j] @ self.weight_ss[0, 1]
        a += self.from_above[:, j]
        h, c = self.cell(a, self.c[:, j])
        self.h[:, j + 1], self.c[:, j + 1] = h, c
        return self.residual(x, h + self.right[:, j])
