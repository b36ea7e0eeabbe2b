"""The training step of PixelCNN (7x7 mask A, 7 blocks, h = 32), 16 binary images of 28x28.

Everyone starts from the same weights and images, so that the first losses must agree. PyTorch
gets its best layout (channels last) and the usual one, masks that are built once, and Adam fused
into one call; a masked weight is set to zero in each step, as its users do.
"""

import numpy as np

from benchmarks.runner import Contender, Unavailable
from scratchgen import backend
from scratchgen.models.pixelcnn import PixelCNN
from scratchgen.optim import Adam
from scratchgen.tensor import grad

REPEATS = 30


def contenders(tiny):
    sizes = (3, 6, 2, 4) if tiny else (16, 28, 7, 32)  # batch, side, blocks, h
    return [
        Contender("scratchgen, NumPy", lambda: ours("numpy", *sizes), ours=True),
        Contender("PyTorch, channels last", lambda: pytorch("cpu", *sizes), needs="torch",
                  reference=True, goal=1.1),
        Contender("PyTorch, channels first", lambda: pytorch("cpu", *sizes, last=False),
                  needs="torch"),
        Contender("scratchgen, CuPy", lambda: ours("cupy", *sizes), ours=True, backend="cupy",
                  synchronize=lambda: backend.synchronize(backend.get("cupy"))),
        Contender("PyTorch, CUDA", lambda: pytorch("cuda", *sizes), needs="torch",
                  reference=True, backend="cupy", synchronize=wait_for_cuda)]


def images(batch, side):
    """Ones and zeros, about as many ones as in MNIST."""
    rng = np.random.default_rng(1)
    return (rng.random((batch, side * side)) < 0.13).astype(np.float32)


def start(side, blocks, width):
    """The model that everyone begins with."""
    return PixelCNN((side, side), np.random.default_rng(0), layers=blocks, width=width)


def ours(name, batch, side, blocks, width):
    xp = backend.get(name)
    model = start(side, blocks, width).to(xp)
    parameters = model.parameters()
    optimizer = Adam(parameters)
    x = xp.asarray(images(batch, side))

    def step():
        loss = model.loss(x, None)
        optimizer.step(grad(loss, parameters))
        return [loss]

    return step


def pytorch(device, batch, side, blocks, width, last=True):
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    network, parameters, x = peer(device, batch, side, blocks, width, last)
    optimizer = torch.optim.Adam(parameters, fused=True)

    def step():
        loss = binary_cross_entropy_with_logits(network(x), x, reduction="sum") / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss]

    return step


def peer(device, batch, side, blocks, width, last=True):
    """PyTorch's (network, parameters, images), with the weights of `start`."""
    import torch
    from torch.nn.functional import conv2d, relu
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch finds no CUDA device")
    torch.set_num_threads(2)
    layout = torch.channels_last if last else torch.contiguous_format
    model = start(side, blocks, width)

    def convolution(layer):
        """(weight, bias, mask, padding), the weight as PyTorch has it, with all its taps."""
        r = max(max(abs(i), abs(j)) for i, j in layer.taps)
        _, n_in, n_out = layer.weight.shape
        weight = np.zeros((n_out, n_in, 2 * r + 1, 2 * r + 1), dtype=np.float32)
        mask = np.zeros_like(weight)
        for tap, (i, j) in enumerate(layer.taps):
            weight[:, :, i + r, j + r] = layer.weight.data[tap].T
            mask[:, :, i + r, j + r] = 1
        weight, bias, mask = [torch.tensor(a, device=device)
                              for a in (weight, layer.bias.data, mask)]
        weight = weight.to(memory_format=layout).requires_grad_()
        return weight, bias.requires_grad_(), mask.to(memory_format=layout), r

    def apply(layer, x):
        weight, bias, mask, r = layer
        return conv2d(x, weight * mask if r else weight, bias, padding=r)

    first = convolution(model.stack.first)
    residual = [[convolution(layer) for layer in (block.reduce, block.middle, block.expand)]
                for block in model.stack.blocks]
    head = [convolution(layer) for layer in model.head]

    def network(x):
        x = apply(first, x)
        for block in residual:
            y = x
            for layer in block:
                y = apply(layer, relu(y))
            x = x + y
        for layer in head:
            x = apply(layer, relu(x))
        return x

    layers = [first, *[layer for block in residual for layer in block], *head]
    x = torch.tensor(images(batch, side).reshape(batch, 1, side, side), device=device)
    return (network, [tensor for layer in layers for tensor in layer[:2]],
            x.to(memory_format=layout))


def wait_for_cuda():
    import torch
    torch.cuda.synchronize()
