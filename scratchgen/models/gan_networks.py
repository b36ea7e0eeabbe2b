"""Floor 4: the networks of a GAN: perceptrons, and convolutions for images. Read gan.py before.

Perceptrons as in Goodfellow et al. 2014, with leaky ReLU in place of maxout. Convolutions as in
Radford et al. 2016 (DCGAN): strides and no pooling, batch norm, ReLU in the generator and leaky
ReLU in the discriminator, weights from N(0, 0.02^2).
"""

import math
from functools import partial

from scratchgen import ops
from scratchgen.models.gan import GAN
from scratchgen.nn import BatchNorm, Conv2d, ConvTranspose2d, Linear, Module, init, mlp


class Network(Module):
    """Layers one after the other, whose batch norms use the statistics that the call says."""

    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x, statistics="running"):
        for layer in self.layers:
            x = layer(x, statistics) if isinstance(layer, BatchNorm) else layer(x)
        return x


def mlp_gan(dim, rng, hidden=(128, 128), latent=2, squash=True, **game):
    """A GAN of two multilayer perceptrons, for x (N, D).

    squash: the outputs lie in (0, 1), through a sigmoid, as pixels do. game: GAN's options.
    """
    sizes = [dim, *hidden, 1]
    generator = [mlp([latent, *reversed(hidden), dim], rng, "relu")]
    if squash:
        generator.append(ops.sigmoid)
    discriminator = Network(mlp(sizes, rng, "leaky_relu"), _one_logit)
    return GAN(Network(*generator), discriminator, latent, **game)


def conv_gan(shape, rng, channels=1, width=32, latent=64, loss="non-saturating", **game):
    """A convolutional GAN (DCGAN) for images (H, W) in [0, 1]; x is (N, D), D = H W channels.

    The generator widens maps by two transposed convolutions, (2 width, H/4, W/4) -> (width, H/2,
    W/2) -> (channels, H, W); the discriminator narrows them again. Every layer but the outermost
    has batch norm, a Wasserstein critic none.
    """
    shape = tuple(shape)
    if len(shape) != 2 or min(shape) < 4 or any(n % 4 for n in shape):
        raise ValueError(f"images of shape {shape}: two convolutions of stride 2 need height and "
                         "width to be multiples of 4")
    if min(channels, width, latent) < 1:
        raise ValueError(f"channels, width and latent must be at least 1, not {channels}, {width} "
                         f"and {latent}")
    small = (2 * width, shape[0] // 4, shape[1] // 4)
    layer = {"stride": 2, "padding": 1, "initialise": partial(init.normal, std=0.02)}
    generator = Network(
        Linear(latent, math.prod(small), rng), partial(_to_shape, small),
        BatchNorm(small[0]), ops.relu,
        ConvTranspose2d(small[0], width, 4, rng, bias=False, **layer), BatchNorm(width), ops.relu,
        ConvTranspose2d(width, channels, 4, rng, **layer), _to_rows, ops.sigmoid)
    if loss == "wasserstein":
        layer["initialise"] = init.kaiming_normal  # nothing normalises what is too small
        norm = []
    else:
        norm = [BatchNorm(small[0])]
    leaky_relu = partial(ops.leaky_relu, negative_slope=0.2)
    discriminator = Network(
        partial(_to_maps, shape, channels), Conv2d(channels, width, 4, rng, **layer), leaky_relu,
        Conv2d(width, small[0], 4, rng, bias=not norm, **layer), *norm, leaky_relu,
        partial(_to_shape, (-1,)), Linear(math.prod(small), 1, rng), _one_logit)
    return GAN(generator, discriminator, latent, loss, **game)


def _one_logit(x):
    """(N, 1) -> (N,)."""
    return x.reshape(-1)


def _to_shape(shape, x):
    return x.reshape(x.shape[0], *shape)


def _to_maps(shape, channels, x):
    """Rows of pixels in [0, 1], colours innermost, as maps (N, C, H, W) from -1 to 1."""
    if x.shape[1:] != (math.prod(shape) * channels,):
        raise ValueError(f"rows of {x.shape[1:]} numbers are no images of {shape} with "
                         f"{channels} channels")
    return ops.transpose(2 * x.reshape(-1, *shape, channels) - 1, axes=(0, 3, 1, 2))


def _to_rows(x):
    """Maps (N, C, H, W) as rows (N, H W C), colours innermost."""
    return ops.transpose(x, axes=(0, 2, 3, 1)).reshape(x.shape[0], -1)
