"""Floor 3: the LSTM, written by hand. Hochreiter & Schmidhuber 1997; forget gate of Gers 2000.

    i = sigmoid(W_i x_t + U_i h_{t-1} + b_i)       what is written
    f = sigmoid(W_f x_t + U_f h_{t-1} + b_f)       what is kept
    g = tanh(W_g x_t + U_g h_{t-1} + b_g)          the candidate
    o = sigmoid(W_o x_t + U_o h_{t-1} + b_o)       what is shown
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

Weights have PyTorch's layout: weight_ih (4H, D) stacks W_i, W_f, W_g, W_o, weight_hh (4H, H)
stacks the U, and there is one bias (4H). Time comes first: x (T, N, D).

The fused op runs the whole sequence. What makes it fast: W x is one product for all steps, and
since sigmoid(a) = (1 + tanh(a/2)) / 2, a single tanh serves all four gates once the rows of the
three sigmoids are halved. Backward, only U^T dgates must wait for the next step; the gradients
of the weights are one product each over the stacked sequence.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.nn import init
from scratchgen.nn.module import Module
from scratchgen.tensor import Tensor, fused, raw


def gate_scale(hidden, like):
    """(scale, offset), each (4H): a gate is scale * tanh(scale * a) + offset, in order i f g o."""
    xp = backend.module_of(like)
    scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], dtype=like.dtype), hidden)
    return xp.asarray(scale), xp.asarray(1 - scale)


def lstm_twin(x, h0, c0, weight_ih, weight_hh, bias, *, keep=None):
    """The equations above, step by step."""
    hidden = h0.shape[1]
    h, c = h0, c0
    hs, cs = [], []
    for t in range(len(x)):
        a = ops.linear(x[t], weight_ih, bias) + h @ ops.transpose(weight_hh)
        i, f, g, o = [a[:, k * hidden:(k + 1) * hidden] for k in range(4)]
        c_next = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h_next = ops.sigmoid(o) * ops.tanh(c_next)
        if keep is not None:
            c_next = ops.where(keep[t], c_next, c)
            h_next = ops.where(keep[t], h_next, h)
        h, c = h_next, c_next
        hs.append(h)
        cs.append(c)
    return ops.stack(ops.stack(*hs), ops.stack(*cs))


@fused(twin=lstm_twin)
def lstm(x, h0, c0, weight_ih, weight_hh, bias, *, keep=None):
    """A whole sequence x (T, N, D) from h0, c0 (N, H) -> (2, T, N, H): all h, then all c.

    keep: booleans (T, N, 1) or None; where False (padding) a step leaves h and c as they are.
    """
    _check_shapes(x, h0, c0, weight_ih, weight_hh, bias)
    xp = backend.module_of(x)
    steps, batch, features = x.shape
    hidden = h0.shape[1]
    scale, offset = gate_scale(hidden, x)
    gates = x.reshape(-1, features) @ (weight_ih * scale[:, None]).T
    gates += bias * scale
    gates = gates.reshape(steps, batch, 4 * hidden)
    from_state = (weight_hh * scale[:, None]).T
    out = xp.empty((2, steps, batch, hidden), x.dtype)
    tanh_c = xp.empty((steps, batch, hidden), x.dtype)
    h, c = h0, c0
    for t in range(steps):
        a = gates[t]
        a += h @ from_state
        xp.tanh(a, out=a)
        a *= scale
        a += offset
        i, f, g, o = _split(a, hidden)
        h_next, c_next = out[0, t], out[1, t]
        xp.multiply(f, c, out=c_next)
        c_next += i * g
        xp.tanh(c_next, out=tanh_c[t])
        xp.multiply(o, tanh_c[t], out=h_next)
        if keep is not None:
            xp.copyto(c_next, c, where=~keep[t])
            xp.copyto(h_next, h, where=~keep[t])
        h, c = h_next, c_next
    return out, (x, h0, c0, weight_ih, weight_hh, gates, tanh_c, keep)


def _check_shapes(x, h0, c0, weight_ih, weight_hh, bias):
    if 0 in x.shape:
        raise ValueError("a sequence needs at least one step, one example and one feature")
    hidden = h0.shape[1]
    expected = [(x.shape[1], hidden), h0.shape, (4 * hidden, x.shape[2]), (4 * hidden, hidden),
                (4 * hidden,)]
    for name, array, shape in zip(("h0", "c0", "weight_ih", "weight_hh", "bias"),
                                  (h0, c0, weight_ih, weight_hh, bias), expected):
        if array.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} here")


def _split(a, hidden):
    """The four gates in the last axis, as views."""
    return [a[..., k * hidden:(k + 1) * hidden] for k in range(4)]


@lstm.joint_rule
def _lstm_rule(g, out, saved, needed):
    """Backpropagation through time: dh and dc are dL/dh_t and dL/dc_t, d dL/da at step t."""
    x, h0, c0, weight_ih, weight_hh, gates, tanh_c, keep = saved
    xp = backend.module_of(x)
    steps, batch, hidden = tanh_c.shape
    d_gates = xp.empty_like(gates)
    dh = xp.zeros_like(h0)
    dc = xp.zeros_like(c0)
    for t in reversed(range(steps)):
        dh += g[0, t]
        dc += g[1, t]
        skipped = None if keep is None else (dh * ~keep[t], dc * ~keep[t])
        if keep is not None:
            dh *= keep[t]
            dc *= keep[t]
        d = d_gates[t]
        gate_slopes(gates[t], hidden, d, axis=1)
        i, f, candidate, o = _split(gates[t], hidden)
        d_i, d_f, d_candidate, d_o = _split(d, hidden)
        d_o *= dh
        d_o *= tanh_c[t]
        # Through h_t = o tanh(c_t): dc += dh * o * (1 - tanh(c_t)^2).
        dh *= o
        dc += dh
        dh *= tanh_c[t]
        dh *= tanh_c[t]
        dc -= dh
        d_i *= dc
        d_i *= candidate
        d_f *= dc
        d_f *= out[1, t - 1] if t else c0
        d_candidate *= dc
        d_candidate *= i
        dc *= f
        xp.matmul(d, weight_hh, out=dh)
        if skipped is not None:
            dh += skipped[0]
            dc += skipped[1]
    d_rows = d_gates.reshape(steps * batch, 4 * hidden)
    gx = (d_rows @ weight_ih).reshape(x.shape) if needed[0] else None
    g_ih = d_rows.T @ x.reshape(steps * batch, -1) if needed[3] else None
    g_hh = g_bias = None
    if needed[4]:
        # Every step's state but the last one, after the first.
        g_hh = d_gates[0].T @ h0
        if steps > 1:
            g_hh += d_rows[batch:].T @ out[0, :-1].reshape(-1, hidden)
    if needed[5]:
        g_bias = (xp.ones((1, len(d_rows)), x.dtype) @ d_rows).reshape(-1)
    return [gx, dh, dc, g_ih, g_hh, g_bias]


def gate_slopes(gates, hidden, out, axis):
    """The derivatives of the gates i f g o (stacked along `axis`) by what they are applied to.

    s (1 - s) for a sigmoid s and 1 - t^2 for a tanh t, written into `out`.
    """
    xp = backend.module_of(gates)
    before = (slice(None),) * axis
    candidate = before + (slice(2 * hidden, 3 * hidden),)
    xp.multiply(gates, gates, out=out)
    xp.subtract(gates, out, out=out)
    xp.multiply(gates[candidate], gates[candidate], out=out[candidate])
    xp.subtract(1, out[candidate], out=out[candidate])


class LSTMCell(Module):
    """One layer in one direction: its weights, and its initial state if that is learned.

    All weights start in U[-1/sqrt(H), 1/sqrt(H)] as in PyTorch; the forget gate's bias starts
    at `forget_bias`, so that at first the cell remembers (Jozefowicz et al. 2015).
    """

    def __init__(self, input_size, hidden_size, rng, learned_initial_state=False,
                 forget_bias=1.0):
        self.hidden_size = hidden_size
        bound = hidden_size ** -0.5
        self.weight_ih = Tensor(init.uniform((4 * hidden_size, input_size), rng, bound))
        self.weight_hh = Tensor(init.uniform((4 * hidden_size, hidden_size), rng, bound))
        self.bias = Tensor(gate_bias(hidden_size, forget_bias))
        if learned_initial_state:
            self.h0 = Tensor(np.zeros(hidden_size, dtype=np.float32))
            self.c0 = Tensor(np.zeros(hidden_size, dtype=np.float32))

    def initial_state(self, batch):
        """h0 and c0, each (N, H)."""
        if hasattr(self, "h0"):
            return [ops.broadcast_to(x, shape=(batch, self.hidden_size))
                    for x in (self.h0, self.c0)]
        like = raw(self.bias)
        zeros = backend.module_of(like).zeros((batch, self.hidden_size), like.dtype)
        return [zeros, zeros]

    def forward(self, x, h0, c0, keep=None, reverse=False):
        """All h (T, N, H), and the last step's h and c, (2, N, H)."""
        if reverse:
            x = ops.flip(x, axis=0)
            keep = keep if keep is None else ops.flip(keep, axis=0)
        out = lstm(x, h0, c0, self.weight_ih, self.weight_hh, self.bias, keep=keep)
        h, last = out[0], out[:, -1]
        return (ops.flip(h, axis=0) if reverse else h), last


def gate_bias(hidden, forget_bias):
    """The bias (4H) at the start: zero, but for the forget gate."""
    bias = np.zeros(4 * hidden, dtype=np.float32)
    bias[hidden:2 * hidden] = forget_bias
    return bias


class LSTM(Module):
    """Layers of LSTM, each reading the one below, in one direction or in both.

    forward(x (T, N, D), state=None, lengths=None) -> (h of the last layer, state). h is
    (T, N, H), or (T, N, 2H) with the two directions side by side. state is (h, c), each
    (layers * directions, N, H): hand it to the next call to go on from there, through
    `detached` to cut the gradient (truncated backpropagation through time).

    lengths (N): an example's steps from its length on are padding. They leave the state as it
    is, so `state` belongs to the last real step, and their content changes nothing.
    """

    def __init__(self, input_size, hidden_size, rng, layers=1, bidirectional=False,
                 learned_initial_state=False, forget_bias=1.0):
        self.layers = layers
        self.directions = 2 if bidirectional else 1
        sizes = [input_size] + [hidden_size * self.directions] * (layers - 1)
        self.cells = [LSTMCell(size, hidden_size, rng, learned_initial_state, forget_bias)
                      for size in sizes for _ in range(self.directions)]

    def forward(self, x, state=None, lengths=None):
        keep = None if lengths is None else kept_steps(lengths, raw(x))
        last = []
        for layer in range(self.layers):
            sequences = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                h0, c0 = (self.cells[k].initial_state(x.shape[1]) if state is None
                          else (state[0][k], state[1][k]))
                h, h_and_c = self.cells[k](x, h0, c0, keep, reverse=direction == 1)
                sequences.append(h)
                last.append(h_and_c)
            x = sequences[0] if len(sequences) == 1 else ops.concatenate(*sequences, axis=2)
        last = ops.stack(*last, axis=1)
        return x, (last[0], last[1])


def detached(state):
    """The same state without its history: no gradient flows back through it."""
    return tuple(raw(x) for x in state)


def kept_steps(lengths, x):
    """Which steps of x (T, N, D) are not padding, (T, N, 1) booleans; lengths on the host."""
    steps, batch = x.shape[:2]
    lengths = np.asarray(lengths)
    if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
        raise ValueError(f"lengths must be {batch} integers, one for each example, not "
                         f"{lengths.dtype}{list(lengths.shape)}")
    if batch and not (1 <= lengths.min() and lengths.max() <= steps):
        raise ValueError(f"lengths {lengths.min()}..{lengths.max()} for sequences of {steps} "
                         f"steps: each must be 1..{steps}")
    keep = np.arange(steps)[:, None, None] < lengths[:, None]
    return backend.module_of(x).asarray(keep)
