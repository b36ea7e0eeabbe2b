"""Floor 3: initial weights, drawn on the host as float32 so that every backend starts equal.

Each function takes (shape, rng), with shape = (out, in, ...) as in PyTorch, and returns a NumPy
array. fan_in counts the numbers that flow into one output, fan_out those that one input feeds.
"""

import numpy as np


def fans(shape):
    """(fan_in, fan_out) of a weight (out, in, *kernel)."""
    receptive = int(np.prod(shape[2:]))
    return shape[1] * receptive, shape[0] * receptive


def uniform(shape, rng, bound):
    """U[-bound, bound]."""
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def normal(shape, rng, std):
    """N(0, std**2)."""
    return (std * rng.standard_normal(shape)).astype(np.float32)


def torch_default(shape, rng):
    """U[-1/sqrt(fan_in), 1/sqrt(fan_in)], what PyTorch's Linear and Conv2d use."""
    return uniform(shape, rng, fans(shape)[0] ** -0.5)


def xavier_uniform(shape, rng, gain=1.0):
    """Variance gain**2 * 2 / (fan_in + fan_out); Glorot & Bengio 2010, eq. 16. For tanh."""
    return uniform(shape, rng, gain * (6 / np.add(*fans(shape))) ** 0.5)


def kaiming_normal(shape, rng):
    """Variance 2 / fan_in; He et al. 2015, eq. 10. For ReLU."""
    return normal(shape, rng, (2 / fans(shape)[0]) ** 0.5)
