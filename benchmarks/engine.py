"""1,000 small operations forward and backward: what the engine itself costs.

A hundred steps of a gated recurrent cell on an 8x16 state, float32, ten operations each: one
matrix product, four multiplications (one by a row, two by a scalar), two additions (one of a
row), one subtraction of a scalar and two tanh. The arrays are so small that arithmetic takes
little of the time; recording the graph and walking it back takes the rest.
"""

import numpy as np

from benchmarks.runner import Contender
from scratchgen import backend, ops
from scratchgen.tensor import Tensor, grad

REPEATS = 60
STEPS = 100
TINY_STEPS = 3


def contenders(tiny):
    steps = TINY_STEPS if tiny else STEPS
    return [
        Contender("scratchgen", lambda: ours("numpy", steps), ours=True),
        Contender("PyTorch", lambda: pytorch("cpu", steps), needs="torch", reference=True,
                  goal=0.9),
        Contender("HIPS autograd", lambda: hips(steps), needs="autograd", goal=0.2)]


def unrolled(tanh, steps, state, weight, bias, scale):
    """The sum over the last state; state (N, D), weight (D, D), bias and scale (D)."""
    for _ in range(steps):
        candidate = tanh(state @ weight + bias)
        gate = tanh(state * scale)
        state = state * 0.9 + (gate * candidate - 0.2) * 0.1
    return state.sum()


def arrays():
    """The four arguments of `unrolled`, of moderate size so that tanh is not saturated."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, std, shape).astype(np.float32)
            for std, shape in [(1, (8, 16)), (0.2, (16, 16)), (0.1, (16,)), (0.5, (16,))]]


def ours(name, steps):
    xp = backend.get(name)
    inputs = [Tensor(xp.asarray(x)) for x in arrays()]

    def forward_and_backward():
        y = unrolled(ops.tanh, steps, *inputs)
        return [y, *grad(y, inputs)]

    return forward_and_backward


def pytorch(device, steps):
    import torch
    torch.set_num_threads(2)
    inputs = [torch.tensor(x, device=device, requires_grad=True) for x in arrays()]

    def forward_and_backward():
        y = unrolled(torch.tanh, steps, *inputs)
        return [y, *torch.autograd.grad(y, inputs)]

    return forward_and_backward


def hips(steps):
    import autograd
    import autograd.numpy
    value_and_grad = autograd.value_and_grad(
        lambda inputs: unrolled(autograd.numpy.tanh, steps, *inputs))
    inputs = tuple(arrays())

    def forward_and_backward():
        y, gradients = value_and_grad(inputs)
        return [np.asarray(y), *gradients]

    return forward_and_backward
