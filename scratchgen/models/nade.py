"""Floor 4: NADE, the neural autoregressive distribution estimator. Read belief_net.py before.

A hidden layer for every sub-pixel, all sharing one input weight, so that each follows from
the one before by adding a single column (Larochelle & Murray 2011, eqs. 7-10):

    a_1 = c,   a_{i+1} = a_i + x_i W_i,   h_i = sigmoid(a_i),   logits_i = b_i + V_i h_i.

All D hidden layers of a batch are D N H numbers, too many for the cache. The fused op goes
through them in blocks of positions; its twin, below it, writes the same thing in plain ops.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.models.autoregressive import AutoregressiveModel
from scratchgen.nn import init
from scratchgen.tensor import Tensor, fused, raw

_BLOCK = 2 ** 17  # numbers of a hidden block: half a megabyte, so that it stays in the cache


class NADE(AutoregressiveModel):
    """weight W (D, H), hidden_bias c (H), out_weight V (D, outputs, H), out_bias (D, outputs).

    outputs is 1 for 2 levels and K for K levels. log_odds (D,): as in the belief net.
    """

    def __init__(self, dim, rng, hidden=500, levels=2, log_odds=None):
        super().__init__(dim, levels)
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {hidden}")
        self.weight = Tensor(init.xavier_uniform((hidden, dim), rng).T.copy())
        self.hidden_bias = Tensor(np.zeros(hidden, dtype=np.float32))
        out = init.xavier_uniform((dim * self.outputs, hidden), rng)
        self.out_weight = Tensor(out.reshape(dim, self.outputs, hidden))
        self.out_bias = Tensor(self.first_bias(log_odds))

    def logits(self, x):
        out = nade_logits(self.scaled(x), self.weight, self.hidden_bias, self.out_weight,
                          self.out_bias)
        return out[:, :, 0] if self.levels == 2 else out

    def fill(self, x, u, missing, progress=None):
        weight, c, out_weight, b = [raw(p) for p in self.parameters()]
        a = backend.module_of(x).zeros((len(x), len(c)), x.dtype) + c
        for i in range(self.dim):
            if i in missing:
                logits = ops.linear(ops.sigmoid(a), out_weight[i], b[i])
                x[:, i] = self.draw(logits[:, 0] if self.levels == 2 else logits, u[i])
                if progress is not None:
                    progress.update()
            a += self.scaled(x[:, i:i + 1]) * weight[i]


def nade_logits_twin(x, weight, c, out_weight, b):
    """The logits (N, D, outputs) from all hidden layers (N, D, H) at once."""
    terms = ops.reshape(x, shape=(*x.shape, 1)) * weight
    before = ops.cumsum(terms, axis=1) - terms
    h = ops.transpose(ops.sigmoid(before + c), axes=(1, 0, 2))
    logits = h @ ops.swap_last(out_weight)
    return ops.transpose(logits, axes=(1, 0, 2)) + b


@fused(twin=nade_logits_twin)
def nade_logits(x, weight, c, out_weight, b):
    """x (N, D), weight (D, H), c (H), out_weight (D, outputs, H), b (D, outputs)."""
    xp = backend.module_of(x)
    (n, dim), hidden = x.shape, len(c)
    h = xp.empty((dim, n, hidden), weight.dtype)
    logits = xp.empty((dim, n, b.shape[1]), weight.dtype)
    half_weight = 0.5 * weight
    a = xp.zeros((n, hidden), weight.dtype) + 0.5 * c  # half of a_i: sigmoid(a) = (1 + tanh(a/2))/2
    for block in _blocks(dim, n * hidden):
        for i in range(block.start, block.stop):
            h[i] = a
            a += x[:, i:i + 1] * half_weight[i]
        xp.tanh(h[block], out=h[block])
        h[block] += 1
        h[block] *= 0.5
        xp.matmul(h[block], out_weight[block].transpose(0, 2, 1), out=logits[block])
    logits += b[:, None, :]
    return logits.transpose(1, 0, 2), (x, weight, out_weight, h)


@nade_logits.joint_rule
def _nade_rule(g, out, saved, needed):
    x, weight, out_weight, h = saved
    xp = backend.module_of(x)
    dim, n, hidden = h.shape
    g = xp.ascontiguousarray(g.transpose(1, 0, 2))  # D N outputs
    g_weight = xp.empty_like(weight)
    g_x = xp.empty((dim, n), x.dtype)
    g_out_weight = xp.matmul(g.transpose(0, 2, 1), h)
    later = xp.zeros((n, hidden), weight.dtype)  # the sum of dL/da_j over all j after i
    for block in reversed(_blocks(dim, n * hidden)):
        g_a = xp.matmul(g[block], out_weight[block])
        slope = 1 - h[block]
        slope *= h[block]
        g_a *= slope
        for i in reversed(range(block.start, block.stop)):
            xp.matmul(x[:, i], later, out=g_weight[i])
            if needed[0]:
                g_x[i] = later @ weight[i]
            later += g_a[i - block.start]
    return g_x.T, g_weight, later.sum(axis=0), g_out_weight, g.sum(axis=1)


def _blocks(dim, numbers):
    """Slices that cut the positions 0..dim into blocks of about _BLOCK hidden numbers."""
    length = max(1, _BLOCK // numbers)
    return [slice(start, min(start + length, dim)) for start in range(0, dim, length)]
