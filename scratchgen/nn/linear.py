"""Floor 3: the linear layer, and the multilayer perceptron built from it."""

import numpy as np

from scratchgen import ops
from scratchgen.nn import init
from scratchgen.nn.module import Module, Sequential
from scratchgen.tensor import Tensor

ACTIVATIONS = {"tanh": ops.tanh, "relu": ops.relu, "softplus": ops.softplus,
               "leaky_relu": ops.leaky_relu, "sigmoid": ops.sigmoid}


class Linear(Module):
    """y = x W^T + b for x (N, in_features): weight (out, in), bias (out) -> (N, out).

    `initialise(shape, rng)` draws the weight; the bias starts at zero.
    """

    def __init__(self, in_features, out_features, rng, initialise=init.torch_default):
        self.weight = Tensor(initialise((out_features, in_features), rng))
        self.bias = Tensor(np.zeros(out_features, dtype=np.float32))

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias)


def mlp(sizes, rng, activation="tanh"):
    """Linear layers of the given sizes with `activation` after each but not after the last."""
    layers = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:]):
        layers += [Linear(n_in, n_out, rng, init.xavier_uniform), ACTIVATIONS[activation]]
    return Sequential(*layers[:-1])
