"""Floor 3: the two-dimensional LSTMs of PixelRNN. Read recurrent.py and masked.py before.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks", sections 3.1
and 3.2. Both are LSTMs whose input-to-state and state-to-state products are convolutions:

    [i f g o] = [sigmoid sigmoid tanh sigmoid](K_is * x + K_ss * h_before + b)         (eq. 3)
    c = f c_before + i g,    h = o tanh(c)

Row LSTM goes down the image, a row at a time. It sees the states of the row above at the columns
j-1, j and j+1, and the input at j-1 and j: mask B of a 1x3 kernel.
Diagonal BiLSTM goes along the diagonals. It sees the states above, (i-1, j), and beside,
(i, j-1), and the input at (i, j). Its second map does the same from the right edge, where beside
is (i, j+1): that one knows the future of its row, so it is moved down by one row before the two
are added.

Maps are (C, H, W, N) here: channels first, so that each gate is one piece of memory, and the
batch last, so that all that is computed in one step, a row or a diagonal, stands together (once
the pixels are sorted by diagonal: the paper's skewing, without its padding). Then one loop,
`_scan`, serves both layers: they differ in the plan of its steps.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.nn import init
from scratchgen.nn.masked import colour_mask
from scratchgen.nn.module import Module
from scratchgen.nn.recurrent import gate_bias, gate_scale, gate_slopes
from scratchgen.tensor import Tensor, fused, raw


class RowLSTM(Module):
    """x (in, H, W, N) -> h (hidden, H, W, N).

    weight_is (2, in, 4h): the input on the left, in the centre; weight_ss (3, h, 4h): the states
    above left, above, above right; bias (4h). With several colours a state's feature of one
    colour sees at its own pixel the inputs of that colour and of those before it: mask B.
    """

    def __init__(self, in_channels, hidden, rng, colours=1, forget_bias=1.0):
        self.weight_is = _uniform((2, in_channels, 4 * hidden), rng)
        self.weight_ss = _uniform((3, hidden, 4 * hidden), rng)
        self.bias = Tensor(gate_bias(hidden, forget_bias))
        if colours > 1:
            self.constants = ("mask",)
            self.mask = np.ones(self.weight_is.shape, dtype=np.float32)
            self.mask[1] = colour_mask(in_channels, 4 * hidden, "B", colours, parts=4)

    def weights(self):
        """weight_is as it acts, zero under the mask; weight_ss; bias."""
        return _masked(self), self.weight_ss, self.bias

    def forward(self, x):
        return row_lstm(x, *self.weights())


class DiagonalBiLSTM(Module):
    """x (in, H, W, N) -> h (hidden, H, W, N), the sum of both directions.

    For each direction: weight_is (2, in, 4h); weight_ss (2, 2, h, 4h): the states above and
    beside; bias (2, 4h). Colours as in RowLSTM.
    """

    def __init__(self, in_channels, hidden, rng, colours=1, forget_bias=1.0):
        self.weight_is = _uniform((2, in_channels, 4 * hidden), rng)
        self.weight_ss = _uniform((2, 2, hidden, 4 * hidden), rng)
        self.bias = Tensor(np.stack([gate_bias(hidden, forget_bias)] * 2))
        if colours > 1:
            self.constants = ("mask",)
            self.mask = colour_mask(in_channels, 4 * hidden, "B", colours, parts=4)

    def weights(self):
        """weight_is as it acts, zero under the mask; weight_ss; bias."""
        return _masked(self), self.weight_ss, self.bias

    def forward(self, x):
        return diagonal_bilstm(x, *self.weights())


def _uniform(shape, rng):
    """U[-1/sqrt(h), 1/sqrt(h)], as in PyTorch's LSTM."""
    return Tensor(init.uniform(shape, rng, (shape[-1] // 4) ** -0.5))


def _masked(layer):
    return layer.weight_is * layer.mask if layer.constants else layer.weight_is


# ------------------------------------------------------------------------------ Row LSTM


def row_lstm_twin(x, weight_is, weight_ss, bias):
    """Pixel by pixel, from the top row to the bottom one."""
    _, height, width, _ = x.shape
    no_input, no_state = _nothing(x, bias)
    states = {}
    for i in range(height):
        for j in range(width):
            seen = [x[:, i, j - 1] if j else no_input, x[:, i, j]]
            above = [states.get((i - 1, column), no_state) for column in (j - 1, j, j + 1)]
            states[i, j] = _cell(seen, [h for h, _ in above], above[1][1],
                                 weight_is, weight_ss, bias)
    return _as_map(states, height, width)


def _cell(seen, h_before, c_before, weight_is, weight_ss, bias):
    """One pixel's (h, c), (h, N) each, from the inputs and the states that it sees."""
    hidden = bias.shape[0] // 4
    a = bias.reshape(-1, 1)
    for k, x in enumerate(seen):
        a = a + ops.transpose(weight_is[k]) @ x
    for k, h in enumerate(h_before):
        a = a + ops.transpose(weight_ss[k]) @ h
    i, f, g, o = [a[_part(k, hidden)] for k in range(4)]
    c = ops.sigmoid(f) * c_before + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def _part(k, size):
    """The k-th piece of `size` channels."""
    return slice(k * size, (k + 1) * size)


def _nothing(x, bias):
    """What stands beyond the edges: an input of zeros, and a state (h, c) of zeros."""
    xp = backend.module_of(raw(x))
    zeros = xp.zeros((bias.shape[-1] // 4, x.shape[3]), x.dtype)
    return xp.zeros((x.shape[0], x.shape[3]), x.dtype), (zeros, zeros)


def _as_map(states, height, width):
    """h of every pixel, {(i, j): (h, c)} -> (h, H, W, N)."""
    return ops.stack(*[ops.stack(*[states[i, j][0] for j in range(width)], axis=1)
                       for i in range(height)], axis=1)


@fused(twin=row_lstm_twin)
def row_lstm(x, weight_is, weight_ss, bias):
    """The map h of a Row LSTM; shapes as in RowLSTM."""
    _check(x, weight_is, weight_ss, bias, (2,), (3,), ())
    channels, height, width, n = x.shape
    plan = _row_plan(height, width, n)
    h, saved = _scan(x.reshape(1, channels, -1), weight_is, weight_ss, bias, plan)
    return h.reshape(-1, height, width, n), (saved, plan, x.shape)


@row_lstm.joint_rule
def _row_rule(g, out, saved, needed):
    saved, plan, shape = saved
    gx, *g_weights = _scan_back(g.reshape(1, g.shape[0], -1), saved, plan)
    return gx.reshape(shape), *g_weights


# ---------------------------------------------------------------------- Diagonal BiLSTM


def diagonal_bilstm_twin(x, weight_is, weight_ss, bias):
    """Pixel by pixel: one map from the left, one from the right, moved down and added."""
    _, height, width, _ = x.shape
    no_state = _nothing(x, bias)[1]
    maps = []
    for direction, beside in enumerate((-1, 1)):
        states = {}
        for i in range(height):
            for j in range(width)[::-beside]:
                h_above, _ = states.get((i - 1, j), no_state)
                h_beside, c_beside = states.get((i, j + beside), no_state)
                states[i, j] = _cell([x[:, i, j]], [h_above, h_beside], c_beside,
                                     weight_is[direction][None], weight_ss[direction],
                                     bias[direction])
        maps.append(_as_map(states, height, width))
    from_left, from_right = maps
    return from_left + ops.pad(from_right[:, :-1], width=((0, 0), (1, 0), (0, 0), (0, 0)))


@fused(twin=diagonal_bilstm_twin)
def diagonal_bilstm(x, weight_is, weight_ss, bias):
    """The map h of a Diagonal BiLSTM; shapes as in DiagonalBiLSTM."""
    _check(x, weight_is, weight_ss, bias, (2,), (2, 2), (2,))
    plan = _diagonal_plan(*x.shape[1:])
    h, saved = _scan(_by_diagonal([x, x]), weight_is, weight_ss, bias, plan)
    from_left, from_right = _as_maps(h, x.shape)
    from_left[:, 1:] += from_right[:, :-1]
    return from_left, (saved, plan, x.shape)


@diagonal_bilstm.joint_rule
def _diagonal_rule(g, out, saved, needed):
    saved, plan, shape = saved
    moved_up = backend.module_of(g).zeros_like(g)
    moved_up[:, :-1] = g[:, 1:]
    gx, *g_weights = _scan_back(_by_diagonal([g, moved_up]), saved, plan)
    from_left, from_right = _as_maps(gx, shape)
    from_left += from_right
    return from_left, *g_weights


def _by_diagonal(maps):
    """A map (C, H, W, N) for each direction -> (2, C, P N), sorted as in `_orders`."""
    xp = backend.module_of(maps[0])
    channels, height, width, n = maps[0].shape
    pixels = [xp.take(x.reshape(channels, -1, n), backend.index_array(xp, order), axis=1)
              for x, order in zip(maps, _orders(height, width))]
    return xp.stack(pixels).reshape(2, channels, -1)


def _as_maps(pixels, shape):
    """The inverse: (2, C, P N) -> for each direction a map (C, H, W, N)."""
    xp = backend.module_of(pixels)
    _, height, width, n = shape
    pixels = pixels.reshape(2, -1, height * width, n)
    return [xp.take(pixels[k], backend.index_array(xp, np.argsort(order)), axis=1)
            .reshape(-1, height, width, n) for k, order in enumerate(_orders(height, width))]


def _orders(height, width):
    """The pixels' raster indices sorted by diagonal i + j and then by row; and mirrored."""
    i, j = np.divmod(np.arange(height * width), width)
    order = np.lexsort((i, i + j))
    return order, (i * width + width - 1 - j)[order]


# ------------------------------------------------------- the loop that both layers share

# A plan is a list of steps (block, inputs, moves). A step computes the numbers of `block`, a
# slice of the axis of pixels times batch, all at once. Every pair (source, target), slices within
# a block, says where neighbours of one kind stand: the numbers `target` have theirs at `source`,
# the others have none and see zeros. `inputs` are pairs within the block itself, in weight_is's
# order, the pixel itself last; `moves` are pairs from the block before to this one, in
# weight_ss's order, and the one at CARRIED also carries the cell state on: above in a Row LSTM,
# beside in a Diagonal BiLSTM.
CARRIED = 1


def _row_plan(height, width, n):
    """One step for each row; the row before has the neighbours above left, above, above right."""
    def pair(dx):
        columns = range(max(0, -dx), min(width, width - dx))  # where j + dx exists
        return _numbers(columns, dx, n), _numbers(columns, 0, n)

    inputs = [pair(-1), pair(0)]
    moves = [pair(-1), pair(0), pair(1)]
    return [(_numbers(range(width), i * width, n), inputs, moves if i else [])
            for i in range(height)]


def _diagonal_plan(height, width, n):
    """One step for each diagonal; the one before has the neighbours above and beside.

    Diagonal d holds the rows i with 0 <= d - i < width; (i-1, j) and (i, j-1) are on d - 1.
    """
    steps = []
    start = 0
    before = range(0)
    for d in range(height + width - 1):
        rows = range(max(0, d - width + 1), min(height, d + 1))
        itself = _numbers(rows, -rows.start, n)
        moves = []
        for up in (1, 0) if d else ():
            both = range(max(rows.start, before.start + up), min(rows.stop, before.stop + up))
            moves.append((_numbers(both, -up - before.start, n), _numbers(both, -rows.start, n)))
        steps.append((_numbers(rows, start - rows.start, n), [(itself, itself)], moves))
        start += len(rows)
        before = rows
    return steps


def _numbers(pixels, offset, n):
    """A range of pixels, moved by `offset`, as a slice of an axis of pixels times batch."""
    return slice((pixels.start + offset) * n, (pixels.stop + offset) * n)


def _scan(x, weight_is, weight_ss, bias, plan):
    """Run the LSTM along a plan, all directions (B) at once: x (B, C, P N) -> h (B, h, P N).

    Also returns what the way back needs. All that a state sees, `around`, stands in one matrix
    (B, K, numbers): inputs, states before, and a one for the bias; so do the weights. Every step
    has its own arrays: slices of long ones take three to four times as long to compute with.
    """
    xp = backend.module_of(x)
    directions, channels, size = x.shape
    hidden = bias.shape[-1] // 4
    weight = xp.concatenate([w.reshape(directions, -1, 4 * hidden)
                             for w in (weight_is, weight_ss, bias)], axis=1)
    scale, _ = gate_scale(hidden, x)
    to_gates = xp.ascontiguousarray(weight.transpose(0, 2, 1) * scale[:, None])
    out = xp.empty((directions, hidden, size), x.dtype)
    steps = []
    h = c = None  # of the step before; the first step has no moves
    for block, inputs, moves in plan:
        numbers = block.stop - block.start
        around = xp.zeros((directions, weight.shape[1], numbers), x.dtype)
        c_before = xp.zeros((directions, hidden, numbers), x.dtype)
        for kind, (source, target) in enumerate(inputs):
            around[:, _part(kind, channels), target] = x[:, :, block][:, :, source]
        states = around[:, len(inputs) * channels:-1]
        for kind, (source, target) in enumerate(moves):
            states[:, _part(kind, hidden), target] = h[:, :, source]
            if kind == CARRIED:
                c_before[:, :, target] = c[:, :, source]
        around[:, -1] = 1
        a = to_gates @ around
        xp.tanh(a, out=a)
        for sigmoids in (a[:, :2 * hidden], a[:, 3 * hidden:]):
            sigmoids *= 0.5
            sigmoids += 0.5
        i, f, g, o = [a[:, _part(k, hidden)] for k in range(4)]
        c = f * c_before
        c += i * g
        tanh_c = xp.tanh(c)
        h = o * tanh_c
        out[:, :, block] = h
        steps.append((around, a, c_before, tanh_c))
    return out, (steps, weight, x.shape, (weight_is.shape, weight_ss.shape, bias.shape))


def _scan_back(g, saved, plan):
    """From dL/dh to the gradients by x, weight_is, weight_ss and bias.

    d is dL/da; dh and dc are dL/dh and dL/dc, complete once the step after, which has already
    been, has sent back what belongs to its neighbours.
    """
    steps, weight, shape, weight_shapes = saved
    xp = backend.module_of(g)
    channels, hidden = shape[1], g.shape[1]
    gx = xp.empty(shape, g.dtype)
    g_weight = xp.zeros_like(weight)
    d_states = dc_before = None  # what the step after sends back; the last step has none
    moves_after = ()
    for (block, inputs, moves), step in zip(reversed(plan), reversed(steps)):
        around, gates, c_before, tanh_c = step
        i, f, candidate, o = [gates[:, _part(k, hidden)] for k in range(4)]
        dh = g[:, :, block].copy()
        dc = xp.zeros_like(dh)
        for kind, (source, target) in enumerate(moves_after):
            dh[:, :, source] += d_states[:, _part(kind, hidden), target]
            if kind == CARRIED:
                dc[:, :, source] = dc_before[:, :, target]
        d = xp.empty_like(gates)
        gate_slopes(gates, hidden, d, axis=1)
        d_i, d_f, d_candidate, d_o = [d[:, _part(k, hidden)] for k in range(4)]
        d_o *= dh
        d_o *= tanh_c
        # Through h = o tanh(c): dc += dh o (1 - tanh(c)^2).
        dh *= o
        dc += dh
        dh *= tanh_c
        dh *= tanh_c
        dc -= dh
        d_i *= dc
        d_i *= candidate
        d_candidate *= dc
        d_candidate *= i
        d_f *= dc
        d_f *= c_before
        g_weight += around @ d.transpose(0, 2, 1)
        d_around = weight[:, :-1] @ d
        # The last kind of input is the pixel itself; the others are added to it in the cache.
        *others, own = [d_around[:, _part(kind, channels)] for kind in range(len(inputs))]
        for (source, target), other in zip(inputs, others):
            own[:, :, source] += other[:, :, target]
        gx[:, :, block] = own
        d_states = d_around[:, len(inputs) * channels:]
        dc *= f
        moves_after, dc_before = moves, dc
    ends = [len(inputs) * channels, weight.shape[1] - 1]
    parts = [g_weight[:, :ends[0]], g_weight[:, ends[0]:ends[1]], g_weight[:, ends[1]:]]
    return gx, *[part.reshape(shape) for part, shape in zip(parts, weight_shapes)]


def _check(x, weight_is, weight_ss, bias, seen, before, directions):
    if 0 in x.shape:
        raise ValueError("maps need at least one channel, row, column and example")
    gates = 4 * (bias.shape[-1] // 4)
    expected = [seen + (x.shape[0], gates), before + (gates // 4, gates), directions + (gates,)]
    for name, array, shape in zip(("weight_is", "weight_ss", "bias"),
                                  (weight_is, weight_ss, bias), expected):
        if array.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} here")
