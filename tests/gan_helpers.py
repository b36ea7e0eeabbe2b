"""Small GANs of both architectures, on images of 4 x 8 in three colours."""

import numpy as np

from scratchgen.models.gan_networks import conv_gan, mlp_gan
from scratchgen.optim import Adam
from scratchgen.tensor import grad

SHAPE, COLOURS, LATENT = (4, 8), 3, 5
DIM = 4 * 8 * COLOURS
ARCHITECTURES = ["perceptrons", "convolutions"]


def build(architecture, loss="non-saturating", **options):
    rng = np.random.default_rng(0)
    options = {"latent": LATENT, "loss": loss, **options}
    if architecture == "perceptrons":
        return mlp_gan(DIM, rng, (7, 6), **options)
    return conv_gan(SHAPE, rng, COLOURS, 2, **options)


def images(n, xp=np, dtype=np.float32):
    return xp.asarray(np.random.default_rng(1).random((n, DIM)).astype(dtype))


def step(player, x):
    """One update of one player."""
    grads = grad(player.loss(x, np.random.default_rng(3)), player.parameters)
    Adam(player.parameters, lr=0.01).step(grads)
