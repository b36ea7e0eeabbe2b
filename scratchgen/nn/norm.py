"""Floor 3: batch normalisation, written by hand. Ioffe & Szegedy 2015, algorithms 1 and 2.

Each feature c is brought to mean 0 and variance 1 over the batch, then scaled and shifted:

    y = weight_c (x - m_c) / sqrt(v_c + eps) + bias_c,

with m_c and v_c the mean and the variance (divided by n, not n - 1) of the n numbers that the
batch holds of feature c. So an example's result depends on its batch, and with s the root, h the
normalised x and means over these n numbers the gradient has three terms:

    dL/dx = weight_c / s_c (g - mean(g) - h mean(g h)).

To depend on nothing but x, sampling uses running averages of m and v instead. Which statistics
are used, and whether the running ones move, is said in every call: in a game of two players a
network is run in the other player's step too, where nothing of it may change.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.nn.module import Module
from scratchgen.tensor import Tensor, fused

STATISTICS = ("running", "batch", "move")


def batch_norm_twin(x, weight, bias, *, eps=1e-5, observe=None):
    """The equation above. It tells no observer: the fused op, whose twin it is, already has."""
    axes = _all_but_features(x)
    centred = x - ops.mean(x, axis=axes, keepdims=True)
    variance = ops.mean(centred * centred, axis=axes, keepdims=True)
    return centred / ops.sqrt(variance + eps) * _per_feature(weight, x) + _per_feature(bias, x)


@fused(twin=batch_norm_twin)
def batch_norm(x, weight, bias, *, eps=1e-5, observe=None):
    """x (N, C) or (N, C, H, W), weight and bias (C); `observe(mean, variance)` is told both (C)."""
    _check(x, weight, bias)
    xp = backend.module_of(x)
    axes = _all_but_features(x)
    if x.size == x.shape[1]:
        raise ValueError("a single number per feature has no variance: batch statistics need "
                         "two or more examples")
    mean = x.mean(axis=axes)
    normalised = x - _per_feature(mean, x)
    variance = (normalised * normalised).mean(axis=axes)
    inverse = 1 / xp.sqrt(variance + eps)
    normalised *= _per_feature(inverse, x)
    if observe is not None:
        observe(mean, variance)
    out = normalised * _per_feature(weight, x)
    out += _per_feature(bias, x)
    return out, (normalised, inverse, weight)


@batch_norm.joint_rule
def _batch_norm_rule(g, out, saved, needed):
    normalised, inverse, weight = saved
    axes = _all_but_features(g)
    n = g.size // g.shape[1]
    g_bias = g.sum(axis=axes)
    products = g * normalised
    g_weight = products.sum(axis=axes)
    if not needed[0]:
        return None, g_weight, g_bias
    gx = backend.module_of(g).multiply(normalised, _per_feature(g_weight / -n, g), out=products)
    gx += g
    gx -= _per_feature(g_bias / n, g)
    gx *= _per_feature(weight * inverse, g)
    return gx, g_weight, g_bias


def _all_but_features(x):
    return (0, *range(2, len(x.shape)))


def _per_feature(values, x):
    """(C) in a shape that broadcasts against x (N, C, ...)."""
    return values.reshape((-1,) + (1,) * (len(x.shape) - 2))


def _check(x, *per_feature):
    if len(x.shape) not in (2, 4):
        raise ValueError(f"batch norm takes (N, C) or (N, C, H, W), not shape {x.shape}")
    for values in per_feature:
        if values.shape != x.shape[1:2]:
            raise ValueError(f"{x.shape[1]} features do not fit a batch norm for {values.shape[0]}")


class BatchNorm(Module):
    """PyTorch's BatchNorm1d and BatchNorm2d: x (N, C) or (N, C, H, W), weight and bias (C).

    forward(x, statistics): "running", the default, is for sampling; "batch" takes those of x;
    "move" does too and moves the running ones towards them, by `momentum` of the way (the
    running variance divides by n - 1, as in PyTorch). Only the step of the player whose network
    this is moves them. They are saved with the parameters.
    """

    buffers = ("running_mean", "running_var")

    def __init__(self, features, momentum=0.1, eps=1e-5):
        if not (0 < momentum <= 1 and eps > 0):
            raise ValueError(f"momentum must lie in (0, 1] and eps be positive, not {momentum} "
                             f"and {eps}")
        self.momentum = momentum
        self.eps = eps
        self.weight = Tensor(np.ones(features, dtype=np.float32))
        self.bias = Tensor(np.zeros(features, dtype=np.float32))
        self.running_mean = np.zeros(features, dtype=np.float32)
        self.running_var = np.ones(features, dtype=np.float32)

    def forward(self, x, statistics="running"):
        if statistics not in STATISTICS:
            raise ValueError(f"statistics {statistics!r}: choose one of {', '.join(STATISTICS)}")
        _check(x, self.weight, self.bias)
        if statistics == "running":
            return self._affine(x)
        n = x.size // x.shape[1]

        def observe(mean, variance):
            self._move("running_mean", mean)
            self._move("running_var", variance * (n / (n - 1)))
        return batch_norm(x, self.weight, self.bias, eps=self.eps,
                          observe=observe if statistics == "move" else None)

    def _affine(self, x):
        """With statistics that do not depend on x: a scale and a shift of each feature."""
        std = backend.module_of(self.running_var).sqrt(self.running_var + self.eps)
        centred = x - _per_feature(self.running_mean, x)
        return centred * _per_feature(self.weight / std, x) + _per_feature(self.bias, x)

    def _move(self, name, towards):
        running = getattr(self, name)
        running *= 1 - self.momentum
        running += self.momentum * towards
