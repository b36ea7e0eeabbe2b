"""Floor 4: generative adversarial networks. Read game.py, nn/linear.py and nn/norm.py before.

A generator G turns noise z ~ N(0, I) into x; a discriminator is shown x from the data and from G
and gives a logit l, so that D(x) = sigmoid(l) is the probability it gives to "from the data":

    min_G max_D  V(D, G) = E_data log D(x) + E_z log(1 - D(G(z))).

Where G's samples have density q, the best D is p/(p + q); V is then -log 4 + 2 JSD(p, q), least
where q = p. G is never told a density: it is implicit, there is nothing to score an image with.

While a sample is obviously fake, D = 0, the slope of log(1 - D) in the logit is -D = 0 too: G
learns nothing just when it has most to learn. -log D has the slope -(1 - D) = -1 there and the
same fixed point. A Wasserstein critic f has no probability: it estimates
E_data f(x) - E_z f(G(z)), held to slopes of 1 by a penalty between data and samples.

Goodfellow et al. 2014: the game is eq. 1, its steps algorithm 1, the best D proposition 1, both
losses of G section 3. Wasserstein: Gulrajani et al. 2017, eq. 3. The networks stand in
gan_networks.py.
"""

import math

import numpy as np

from scratchgen import backend, ops
from scratchgen.models.game import Player
from scratchgen.nn import BatchNorm, Module
from scratchgen.tensor import Tensor, grad, no_grad, raw

_SAMPLES_AT_ONCE = 500

# ------------------------------------------------- what is at stake, from the logits of D


def value(real, fake):
    """log D(x) + log(1 - D(G(z))) for logits (N,), with log D = -softplus(-l): finite always."""
    return -ops.softplus(-real) - ops.softplus(fake)


def wasserstein_value(real, fake):
    """f(x) - f(G(z)) for the critic's outputs (N,)."""
    return real - fake


def minimax_loss(fake):
    """log(1 - D(G(z))), what the value leaves to G; its slope in the logit is -D."""
    return -ops.softplus(fake)


def non_saturating_loss(fake):
    """-log D(G(z)); its slope in the logit is -(1 - D)."""
    return ops.softplus(-fake)


def wasserstein_loss(fake):
    """-f(G(z)); its slope in the critic's output is -1."""
    return -fake


GENERATOR_LOSSES = {"minimax": minimax_loss, "non-saturating": non_saturating_loss,
                    "wasserstein": wasserstein_loss}


def gradient_penalty(critic, x, fake, rng):
    """The mean of (|df/dx| - 1)^2 at a random point between each x and its fake, both (N, D).

    A Tensor to be differentiated in the critic's parameters: the slope is itself a graph.
    """
    t = backend.uniform(rng, (len(x), 1), x.dtype, backend.module_of(x))
    between = Tensor(t * x + (1 - t) * fake)
    slope = grad(ops.sum(critic(between)), between, create_graph=True)
    squared = ops.sum(slope * slope, axis=1)
    # The root has no slope at 0. There it is taken of 1 instead, which leaves |.| = 0, slope 0.
    at_zero = squared == 0
    excess = ops.sqrt(squared + at_zero) - at_zero - 1
    return ops.mean(excess * excess)


# --------------------------------------------------------------------------------- the game


class GAN(Module):
    """A game of two: generator (N, Z) -> (N, D) and discriminator (N, D) -> logits (N,).

    Both are called as network(x, statistics), see BatchNorm. loss: what G lowers, one of
    GENERATOR_LOSSES; with "wasserstein" the discriminator is a critic, without batch norm, since
    the penalty is on each example's own slope, and `penalty` weighs it. d_steps: the
    discriminator's steps for one of the generator.
    """

    unit = "value"
    figure_name = "value of the game (no likelihood)"
    keeps = "last"  # a low value means a good generator only against the best discriminator

    def __init__(self, generator, discriminator, latent, loss="non-saturating", d_steps=1,
                 penalty=10.0):
        if loss not in GENERATOR_LOSSES:
            raise ValueError(f"loss {loss!r}: choose one of {', '.join(GENERATOR_LOSSES)}")
        if latent < 1 or d_steps < 1:
            raise ValueError(f"latent and d_steps must be at least 1, not {latent} and {d_steps}")
        if not 0 < penalty < math.inf:
            raise ValueError(f"the penalty must be a positive number, not {penalty}")
        self.is_wasserstein = loss == "wasserstein"
        if self.is_wasserstein and any(isinstance(m, BatchNorm) for m in discriminator.modules()):
            raise ValueError("a Wasserstein critic has no batch norm: its penalty holds the slope "
                             "of each example on its own")
        self.latent = latent
        self.value = wasserstein_value if self.is_wasserstein else value
        self.generator_rule = GENERATOR_LOSSES[loss]
        self.d_steps = d_steps
        self.penalty = penalty
        self.generator = generator
        self.discriminator = discriminator

    def players(self):
        """The discriminator first (algorithm 1), each with its own network's parameters."""
        return [Player("discriminator", self.discriminator.parameters(),
                       self.discriminator_loss, self.d_steps),
                Player("generator", self.generator.parameters(), self.generator_loss)]

    def discriminator_loss(self, x, rng):
        """-V, plus the critic's penalty: data (N, D) against as many samples, a scalar."""
        with no_grad():
            fake = raw(self.generator(self.noise(len(x), rng), "batch"))
        real_logits = self.discriminator(x, "move")
        loss = -ops.mean(self.value(real_logits, self.discriminator(fake, "move")))
        if self.is_wasserstein:
            penalty = gradient_penalty(self.discriminator, x, fake, rng)
            loss = loss + self.penalty * penalty
        return loss

    def generator_loss(self, x, rng):
        """What G lowers, for as many samples as there are rows in x, a scalar."""
        fake = self.generator(self.noise(len(x), rng), "move")
        return ops.mean(self.generator_rule(self.discriminator(fake, "batch")))

    def figure(self, x, rng):
        """The game's value for each example x and one sample beside it, (N,)."""
        fake = self.generator(self.noise(len(x), rng))
        return self.value(self.discriminator(x), self.discriminator(fake))

    def noise(self, n, rng):
        """z ~ N(0, I): a plain array (n, Z)."""
        like = raw(self.generator.parameters()[0])
        return backend.standard_normal(rng, (n, self.latent), like.dtype, backend.module_of(like))

    def generate(self, z):
        """G(z) for z (N, Z), a plain array (N, D) in which no row depends on the others."""
        with no_grad():
            pieces = [raw(self.generator(z[start:start + _SAMPLES_AT_ONCE]))
                      for start in range(0, len(z), _SAMPLES_AT_ONCE)]
        return backend.module_of(z).concatenate(pieces)

    def sample(self, n, rng):
        """n samples, a plain array (n, D)."""
        return self.generate(self.noise(n, rng))

    def interpolate(self, a, b, steps):
        """Samples between two draws of noise a and b (N, Z): (N, steps, D).

        The path is a cos t + b sin t, t in 0 .. pi/2: each point of it is distributed as N(0, I)
        if a and b are. Half-way along the straight line the variance would be a half, and in
        many dimensions G has never seen noise as short as that.
        """
        angles = np.linspace(0, np.pi / 2, steps).tolist()
        samples = [self.generate(math.cos(t) * a + math.sin(t) * b) for t in angles]
        return backend.module_of(a).stack(samples, axis=1)
