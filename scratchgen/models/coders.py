"""Floor 4: encoders and decoders, shared by the autoencoder and the VAE.

A decoder turns a code z (..., Z) into a distribution p(x | z) over images of D pixels, with
`.mean(z)` as the picture one looks at; an encoder network is a plain multilayer perceptron.
"""

import math

import numpy as np

from scratchgen import ops
from scratchgen.distributions import Bernoulli, Normal
from scratchgen.nn import Module, mlp
from scratchgen.tensor import Tensor

DECODER_STDS = ("fixed", "shared", "pixel", "network")
FIXED_STD = 0.1  # of pixels scaled to [0, 1]


class BernoulliDecoder(Module):
    """p(x | z) = prod_d Bernoulli(x_d; sigmoid(logits_d(z))), for pixels that are 0 or 1."""

    def __init__(self, sizes, rng, activation="tanh", pixel_means=None):
        self.network = mlp(sizes, rng, activation)
        start_at_means(self.network, pixel_means)

    def forward(self, z):
        return Bernoulli(self.network(z))

    def mean(self, z):
        return self.forward(z).mean


class GaussianDecoder(Module):
    """p(x | z) = prod_d Normal(x_d; loc_d(z), std_d), for real pixels.

    The mean lies in (0, 1), through a sigmoid, if `squash`. The spread is `fixed` at 0.1, one
    learned number (`shared`), one for each pixel (`pixel`), or a second output of the network
    (`network`). A learned spread never falls below `std_floor`: the likelihood of a pixel that
    never changes would grow without bound. With data of L levels dequantised by uniform noise
    a floor of 1/(L sqrt 12), the spread of that noise, takes nothing from the best fit.
    """

    def __init__(self, sizes, rng, activation="tanh", pixel_means=None, std="shared",
                 std_floor=1e-3, squash=True):
        if std not in DECODER_STDS:
            raise ValueError(f"decoder std {std!r}: choose one of {', '.join(DECODER_STDS)}")
        if not 0 < std_floor < FIXED_STD:
            raise ValueError(f"std_floor must lie between 0 and {FIXED_STD}, not {std_floor}")
        self.std = std
        self.log_floor = math.log(std_floor)
        self.squash = squash
        dim = sizes[-1]
        self.network = mlp([*sizes[:-1], 2 * dim if std == "network" else dim], rng, activation)
        start_at_means(self.network, pixel_means, squash)
        if std == "shared" or std == "pixel":
            spreads = np.full(1 if std == "shared" else dim, self._inverse(FIXED_STD))
            self.raw_log_std = Tensor(spreads.astype(np.float32))
        if std == "network":
            self.network.layers[-1].bias.data[dim:] = self._inverse(FIXED_STD)

    def forward(self, z):
        out = self.network(z)
        if self.std == "network":
            dim = out.shape[-1] // 2
            loc, raw_log_std = out[..., :dim], out[..., dim:]
        else:
            loc = out
        if self.squash:
            loc = ops.sigmoid(loc)
        if self.std == "fixed":
            return Normal(loc, loc * 0 + math.log(FIXED_STD))
        if self.std != "network":
            raw_log_std = self.raw_log_std
        return Normal(loc, self.log_floor + ops.softplus(raw_log_std - self.log_floor))

    def mean(self, z):
        return self.forward(z).loc

    def _inverse(self, std):
        """The raw number whose softplus above the floor is log std."""
        above = math.log(std) - self.log_floor
        return self.log_floor + math.log(math.expm1(above))


def start_at_means(network, pixel_means, squash=True):
    """Set the last bias so that an untrained decoder shows the mean image (Burda et al. 2016)."""
    if pixel_means is None:
        return
    start = np.asarray(pixel_means)
    if squash:
        means = np.clip(start, 0.005, 0.995)
        start = np.log(means / (1 - means))
    network.layers[-1].bias.data[:len(start)] = start
