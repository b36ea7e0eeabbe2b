"""The training step of an LSTM, 50 steps of 64 sequences, 256 in and 256 hidden.

Forward, backward from a fixed gradient by all states, Adam. PyTorch has its fused LSTM, and for
comparison its cell in a Python loop. Everyone starts from the same weights.
"""

import numpy as np

from benchmarks.runner import Contender, Unavailable
from scratchgen import backend
from scratchgen.nn.recurrent import LSTM
from scratchgen.optim import Adam
from scratchgen.tensor import grad

REPEATS = 20


def contenders(tiny):
    sizes = (3, 2, 4, 5) if tiny else (50, 64, 256, 256)  # steps, batch, features, hidden
    return [
        Contender("scratchgen, NumPy", lambda: ours("numpy", *sizes), ours=True),
        Contender("PyTorch, fused", lambda: pytorch("cpu", *sizes), needs="torch",
                  reference=True, goal=1.5),
        Contender("PyTorch, cells in a loop", lambda: pytorch("cpu", *sizes, fused=False),
                  needs="torch"),
        Contender("scratchgen, CuPy", lambda: ours("cupy", *sizes), ours=True, backend="cupy",
                  synchronize=lambda: backend.synchronize(backend.get("cupy"))),
        Contender("PyTorch, CUDA", lambda: pytorch("cuda", *sizes), needs="torch",
                  reference=True, backend="cupy", synchronize=wait_for_cuda)]


def data(steps, batch, features, hidden):
    """The sequences (T, N, D), and the gradient by the states (T, N, H)."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((steps, batch, size), dtype=np.float32)
            for size in (features, hidden)]


def start(features, hidden):
    """The layer that everyone begins with."""
    return LSTM(features, hidden, np.random.default_rng(0))


def ours(name, steps, batch, features, hidden):
    xp = backend.get(name)
    layer = start(features, hidden).to(xp)
    parameters = layer.parameters()
    optimizer = Adam(parameters)
    x, g = [xp.asarray(array) for array in data(steps, batch, features, hidden)]

    def step():
        h, _ = layer(x)
        gradients = grad(h, parameters, g)
        optimizer.step(gradients)
        return [h, *gradients]

    return step


def pytorch(device, steps, batch, features, hidden, fused=True):
    import torch
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch finds no CUDA device")
    torch.set_num_threads(2)
    layer = (torch.nn.LSTM if fused else torch.nn.LSTMCell)(features, hidden).to(device)
    parameters = list(layer.parameters())
    bias = np.zeros(4 * hidden, dtype=np.float32)  # PyTorch has two, whose gradients are equal
    weights = [parameter.data for parameter in start(features, hidden).parameters()]
    for parameter, weight in zip(parameters, [*weights, bias], strict=True):
        parameter.data.copy_(torch.tensor(weight))
    optimizer = torch.optim.Adam(parameters, fused=True)
    x, g = [torch.tensor(a, device=device) for a in data(steps, batch, features, hidden)]

    def loop():
        h = c = x.new_zeros(batch, hidden)
        states = []
        for t in range(steps):
            h, c = layer(x[t], (h, c))
            states.append(h)
        return torch.stack(states)

    def step():
        h = layer(x)[0] if fused else loop()
        optimizer.zero_grad()
        h.backward(g)
        optimizer.step()
        return [h, *[parameter.grad for parameter in parameters[:3]]]

    return step


def wait_for_cuda():
    import torch
    torch.cuda.synchronize()
