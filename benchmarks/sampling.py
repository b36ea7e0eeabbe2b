"""Sampling 16 binary images of 28x28 from PixelCNN (7x7 mask A, 7 blocks, h = 32).

The naive sampler runs the whole network for every pixel. It draws one row of each image only,
1/28 of the work, so that a round ends; its goal is scaled to that (1/50 for the whole image).
Everyone uses the same uniform numbers, so the first rows must be the same. The other yardstick
is the training step at batch 16: sampling may cost five of them.
"""

import numpy as np

from benchmarks import pixelcnn
from benchmarks.runner import Contender
from scratchgen.tensor import no_grad

REPEATS = 8


def contenders(tiny):
    sizes = (3, 6, 2, 4) if tiny else (16, 28, 7, 32)  # batch, side, blocks, h
    side = sizes[1]
    return [
        Contender("scratchgen", lambda: fast(*sizes), ours=True),
        Contender("PyTorch, naive, one row", lambda: naive_pytorch(*sizes), needs="torch",
                  reference=True, goal=side / 50),
        Contender("scratchgen, naive, one row", lambda: naive(*sizes)),
        Contender("scratchgen, one training step", lambda: training_step(*sizes), goal=5.0)]


def uniform(batch, side):
    return np.random.default_rng(3).random((side * side, batch), dtype=np.float32)


def fast(batch, side, blocks, width):
    """All pixels; returns the first rows."""
    model = pixelcnn.start(side, blocks, width)
    u = uniform(batch, side)

    def draw():
        x = np.zeros((batch, side * side), dtype=np.float32)
        with no_grad():
            model.fill(x, u, list(range(side * side)))
        return [x[:, :side]]

    return draw


def naive(batch, side, blocks, width):
    model = pixelcnn.start(side, blocks, width)
    u = uniform(batch, side)

    def draw():
        x = np.zeros((batch, side * side), dtype=np.float32)
        with no_grad():
            model.fill_naive(x, u, list(range(side)))
        return [x[:, :side]]

    return draw


def naive_pytorch(batch, side, blocks, width):
    import torch
    network, _, _ = pixelcnn.peer("cpu", batch, side, blocks, width)
    u = torch.tensor(uniform(batch, side))

    def draw():
        x = torch.zeros(batch, 1, side, side).to(memory_format=torch.channels_last)
        with torch.no_grad():
            for j in range(side):
                x[:, 0, 0, j] = (u[j] < torch.sigmoid(network(x)[:, 0, 0, j])).float()
        return [x[:, 0, 0]]

    return draw


def training_step(*sizes):
    step = pixelcnn.ours("numpy", *sizes)

    def without_result():
        step()

    return without_result
