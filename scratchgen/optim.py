"""Floor 3: optimisers. They change parameters in place, in pieces that stay in the cache.

`step(grads)` takes the gradients in the order of the parameters. A large array is updated in
pieces of 64K numbers, so that the dozen passes over a piece hit the cache and not the memory;
two scratch buffers of that size are all the temporary memory there is.
"""

import math

import numpy as np

from scratchgen import backend

_PIECE = 65536


class Optimizer:
    """Base class: keeps per-parameter state arrays and walks over parameters in pieces."""

    state_names = ()

    def __init__(self, parameters, lr):
        if not lr > 0:
            raise ValueError(f"the learning rate must be positive, not {lr}")
        self.parameters = list(parameters)
        for i, parameter in enumerate(self.parameters):
            if not parameter.data.flags.c_contiguous:
                raise ValueError(f"parameter {i} is not contiguous and cannot be updated in place: "
                                 "make it of a copy of its array")
        self.lr = lr
        self.steps = 0
        self.state = {name: [backend.module_of(p.data).zeros_like(p.data)
                             for p in self.parameters] for name in self.state_names}
        self._scratch = {}

    def step(self, grads):
        """One update of all parameters from their gradients."""
        if len(grads) != len(self.parameters):
            raise ValueError(f"{len(grads)} gradients for {len(self.parameters)} parameters")
        self.steps += 1
        for i, (parameter, g) in enumerate(zip(self.parameters, grads)):
            p = parameter.data.reshape(-1)  # a view: parameters are contiguous
            g = g.reshape(-1)
            state = [self.state[name][i].reshape(-1) for name in self.state_names]
            for start in range(0, p.size, _PIECE):
                piece = slice(start, start + _PIECE)
                self.update(p[piece], g[piece], *(s[piece] for s in state))

    def scratch(self, like):
        """Two reusable buffers shaped like a piece, with undefined contents."""
        xp = backend.module_of(like)
        key = (xp, like.dtype)
        if key not in self._scratch:
            self._scratch[key] = xp.empty(_PIECE, like.dtype), xp.empty(_PIECE, like.dtype)
        a, b = self._scratch[key]
        return a[:like.size], b[:like.size]

    def state_dict(self):
        """What a resumed run needs: the step count and copies of the state, on the host."""
        state = {"steps": np.array(self.steps)}
        for name in self.state_names:
            for i, array in enumerate(self.state[name]):
                state[f"{name}.{i}"] = np.array(backend.to_numpy(array))
        return state

    def load_state_dict(self, state):
        """Restore what `state_dict` returned; ValueError for another optimiser's state."""
        arrays = {f"{name}.{i}": array for name in self.state_names
                  for i, array in enumerate(self.state[name])}
        for key, array in arrays.items():
            if key not in state or state[key].shape != array.shape:
                raise ValueError(f"another optimiser's state: {key} of shape {array.shape} is "
                                 "missing or has another shape")
        self.steps = int(state["steps"])
        for key, array in arrays.items():
            array[...] = backend.module_of(array).asarray(state[key])


class SGD(Optimizer):
    """v <- momentum v + g;  p <- p - lr v."""

    state_names = ("velocity",)

    def __init__(self, parameters, lr=0.01, momentum=0.0):
        super().__init__(parameters, lr)
        self.momentum = momentum

    def update(self, p, g, velocity):
        xp = backend.module_of(p)
        step, _ = self.scratch(p)
        velocity *= self.momentum
        velocity += g
        p -= xp.multiply(velocity, self.lr, out=step)


class RMSProp(Optimizer):
    """s <- alpha s + (1 - alpha) g^2;  p <- p - lr g / (sqrt(s) + eps), as in PyTorch."""

    state_names = ("square",)

    def __init__(self, parameters, lr=0.01, alpha=0.99, eps=1e-8):
        super().__init__(parameters, lr)
        self.alpha = alpha
        self.eps = eps

    def update(self, p, g, square):
        xp = backend.module_of(p)
        a, b = self.scratch(p)
        square *= self.alpha
        xp.multiply(g, 1 - self.alpha, out=a)
        a *= g
        square += a
        xp.sqrt(square, out=b)
        b += self.eps
        xp.multiply(g, self.lr, out=a)
        a /= b
        p -= a


class Adam(Optimizer):
    """Kingma & Ba 2015, algorithm 1:

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    p <- p - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)

    Fewer passes over memory: the state keeps m / (1 - b1) and v / (1 - b2), and these factors
    and both bias corrections are folded into the two numbers `spread` and `rate`.
    """

    state_names = ("m", "v")

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(parameters, lr)
        self.betas = betas
        self.eps = eps

    def update(self, p, g, m, v):
        xp = backend.module_of(p)
        a, _ = self.scratch(p)
        beta1, beta2 = self.betas
        spread = ((1 - beta2) / (1 - beta2 ** self.steps)) ** 0.5
        rate = self.lr * (1 - beta1) / (1 - beta1 ** self.steps) / spread
        m *= beta1
        m += g
        v *= beta2
        v += xp.multiply(g, g, out=a)
        xp.sqrt(v, out=a)
        a += self.eps / spread  # numerator and denominator were both divided by spread
        xp.divide(m, a, out=a)
        a *= rate
        p -= a


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSProp, "adam": Adam}

# What the learning rate is multiplied by when a part of all steps, 0 .. 1, is done. Cosine:
# Loshchilov & Hutter 2017, eq. 5, without restarts.
SCHEDULES = {"constant": lambda done: 1.0,
             "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2}


def clip_grad_norm(grads, max_norm):
    """Scale the gradients in the list so that their joint norm is at most `max_norm`.

    Returns the norm before. The arrays are replaced and not changed: a gradient may be a view,
    or one array that stands for several parameters.
    """
    squares = [backend.module_of(g).square(g, dtype=np.float64).sum() for g in grads]
    norm = sum(float(backend.to_numpy(square)) for square in squares) ** 0.5
    if norm > max_norm:
        grads[:] = [g * (max_norm / norm) for g in grads]
    return norm
