"""A VAE's training step: 784-500-20-500-784, tanh, Bernoulli, batch 128, Adam.

Everyone starts from the same weights and is fed the same noise, drawn on the host, so that the
first losses must agree. PyTorch is written the way its users write it for speed: nn.Linear,
binary_cross_entropy_with_logits, Adam fused into one call.
"""

import numpy as np

from benchmarks.runner import Contender, Unavailable
from scratchgen import backend
from scratchgen.models.vae import VAE
from scratchgen.optim import Adam
from scratchgen.tensor import grad

REPEATS = 60


def contenders(tiny):
    sizes = (8, 12, 3, 2) if tiny else (128, 784, 500, 20)  # batch, pixels, hidden, latent
    return [
        Contender("scratchgen, NumPy", lambda: ours("numpy", *sizes), ours=True),
        Contender("PyTorch", lambda: pytorch("cpu", *sizes), needs="torch", reference=True,
                  goal=0.9),
        Contender("PyTorch, Adam not fused", lambda: pytorch("cpu", *sizes, fused=False),
                  needs="torch", goal=0.9),
        Contender("scratchgen, CuPy", lambda: ours("cupy", *sizes), ours=True, backend="cupy",
                  synchronize=lambda: backend.synchronize(backend.get("cupy"))),
        Contender("PyTorch, CUDA", lambda: pytorch("cuda", *sizes), needs="torch",
                  reference=True, backend="cupy", synchronize=wait_for_cuda)]


def images(batch, pixels):
    """Ones and zeros, about as many ones as in MNIST."""
    return (np.random.default_rng(1).random((batch, pixels)) < 0.13).astype(np.float32)


def ours(name, batch, pixels, hidden, latent):
    xp = backend.get(name)
    model = VAE(pixels, np.random.default_rng(0), hidden=(hidden,), latent=latent).to(xp)
    parameters = model.parameters()
    optimizer = Adam(parameters)
    x = xp.asarray(images(batch, pixels))
    rng = np.random.default_rng(2)

    def step():
        loss = model.loss(x, rng)
        optimizer.step(grad(loss, parameters))
        return [loss]

    return step


def pytorch(device, batch, pixels, hidden, latent, fused=True):
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch finds no CUDA device")
    torch.set_num_threads(2)
    encoder = mlp([pixels, hidden, 2 * latent])
    decoder = mlp([latent, hidden, pixels])
    weights = VAE(pixels, np.random.default_rng(0), hidden=(hidden,), latent=latent).parameters()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.data = torch.tensor(weight.data)
    encoder.to(device)
    decoder.to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], fused=fused)
    x = torch.tensor(images(batch, pixels), device=device)
    rng = np.random.default_rng(2)

    def step():
        mean, log_std = encoder(x).chunk(2, dim=1)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32)).to(device)
        logits = decoder(mean + log_std.exp() * noise)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1).sum() - log_std.sum()
        loss = (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss]

    return step


def mlp(sizes):
    """PyTorch's multilayer perceptron: one hidden layer, tanh."""
    from torch import nn
    return nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:]))


def wait_for_cuda():
    import torch
    torch.cuda.synchronize()
