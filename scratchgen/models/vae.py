"""Floor 4: the variational autoencoder. Read nn/linear.py, distributions.py, coders.py before.

A latent code z ~ N(0, I) explains an image through a decoder p(x | z). The likelihood
p(x) = E_{p(z)} p(x | z) cannot be computed, but an encoder q(z | x) gives a lower bound,

    log p(x) >= ELBO(x) = E_{q(z|x)} log p(x | z) - KL(q(z | x) || p(z)),

whose gap is KL(q(z | x) || p(z | x)). The gradient reaches the encoder through the sample,
written as z = loc + std * noise (the reparameterisation).

Kingma & Welling 2014, "Auto-encoding variational Bayes": the bound is eq. 3, its one-sample
estimate eq. 7, the closed-form KL appendix B. beta: Higgins et al. 2017, eq. 4.
"""

from statistics import NormalDist

import numpy as np

from scratchgen import backend
from scratchgen.distributions import Laplace, Normal, kl_divergence
from scratchgen.models.coders import BernoulliDecoder, GaussianDecoder
from scratchgen.models.game import LikelihoodModel
from scratchgen.nn import mlp
from scratchgen.tensor import no_grad

POSTERIORS = {"normal": Normal, "laplace": Laplace}


class VAE(LikelihoodModel):
    """Encoder D-hidden-2Z, decoder Z-hidden-D; x is (N, D), z is (N, Z), all figures in nats.

    likelihood: "bernoulli" (x is 0 or 1) or "gaussian" (x real; see GaussianDecoder for
    `decoder_std`, `std_floor`, `squash`). posterior: the family of q(z | x); the prior is
    always N(0, I). kl: "closed" form where there is one, or a "monte-carlo" estimate.
    """

    figure_name = "-ELBO"

    def __init__(self, dim, rng, hidden=(500,), latent=20, likelihood="bernoulli",
                 posterior="normal", decoder_std="shared", std_floor=1e-3, squash=True,
                 activation="tanh", beta=1.0, kl="closed", pixel_means=None):
        if posterior not in POSTERIORS:
            raise ValueError(f"posterior {posterior!r}: choose one of {', '.join(POSTERIORS)}")
        if kl not in ("closed", "monte-carlo"):
            raise ValueError(f"kl {kl!r}: choose closed or monte-carlo")
        if latent < 1:
            raise ValueError(f"latent must be at least 1, not {latent}")
        self.dim = dim
        self.latent = latent
        self.posterior = posterior
        self.beta = beta
        # KL(Laplace || Normal) is estimated, whatever was asked for.
        self.kl = kl if posterior == "normal" else "monte-carlo"
        self.encoder = mlp([dim, *hidden, 2 * latent], rng, activation)
        sizes = [latent, *reversed(hidden), dim]
        if likelihood == "bernoulli":
            self.decoder = BernoulliDecoder(sizes, rng, activation, pixel_means)
        elif likelihood == "gaussian":
            self.decoder = GaussianDecoder(sizes, rng, activation, pixel_means, decoder_std,
                                           std_floor, squash)
        else:
            raise ValueError(f"likelihood {likelihood!r}: choose bernoulli or gaussian")

    def encode(self, x):
        """q(z | x) for x (N, D)."""
        h = self.encoder(x)
        return POSTERIORS[self.posterior](h[:, :self.latent], h[:, self.latent:])

    def decode(self, z):
        """p(x | z) for z (..., Z)."""
        return self.decoder(z)

    def prior(self, like):
        """p(z) = N(0, I), with parameters on the side of the array or Tensor `like`."""
        zeros = backend.module_of(self._array()).zeros(like.shape[-1:], like.dtype)
        return Normal(zeros, zeros)

    def elbo(self, x, rng, beta=1.0):
        """A one-sample estimate of the ELBO for each example: (N, D) -> (N,)."""
        q = self.encode(x)
        z = q.rsample(rng)
        prior = self.prior(z)
        if self.kl == "closed":
            kl = kl_divergence(q, prior)
        else:
            kl = q.log_prob(z) - prior.log_prob(z)
        return self.decode(z).log_prob(x) - beta * kl

    def objective(self, x, rng):
        """What training raises: the ELBO with its KL weighted by beta, (N,)."""
        return self.elbo(x, rng, self.beta)

    def figure(self, x, rng):
        """-ELBO, whatever beta the training used, (N,)."""
        return -self.elbo(x, rng)

    def log_weights(self, x, rng, samples):
        """log p(x, z_k) / q(z_k | x) with z_k ~ q(z | x): a plain array (samples, N).

        The mean over k is an ELBO estimate, logsumexp over k minus log K the importance-
        weighted bound of Burda et al. 2016, eq. 8 (evaluate.py).
        """
        with no_grad():
            q = self.encode(x)
            z = q.rsample(rng, (samples,))
            log_joint = self.decode(z).log_prob(x) + self.prior(z).log_prob(z)
            return (log_joint - q.log_prob(z)).data

    def prior_log_weights(self, x, rng, samples):
        """log p(x | z_k) with z_k ~ p(z), the naive weights for log p(x): (samples, N).

        They too are unbiased for p(x), but hardly any z from the prior explains a given x,
        so their variance is hopeless: this is why there is an encoder.
        """
        with no_grad():
            like = self._array()
            xp = backend.module_of(like)
            z = backend.standard_normal(rng, (samples, 1, self.latent), like.dtype, xp)
            return self.decode(z).log_prob(x).data

    def reconstruct(self, x):
        """The mean image decoded from the mean code, (N, D) -> (N, D), a plain array."""
        with no_grad():
            return self.decoder.mean(self.encode(x).loc).data

    def sample(self, n, rng, mean=False):
        """n images from the model: z ~ p(z), x ~ p(x | z) (or its mean), a plain array (n, D)."""
        like = self._array()
        z = backend.standard_normal(rng, (n, self.latent), like.dtype, backend.module_of(like))
        with no_grad():
            return self.decoder.mean(z).data if mean else self.decode(z).sample(rng)

    def interpolate(self, a, b, steps):
        """Mean images on the straight line between the codes of a and b (N, D): (N, steps, D)."""
        with no_grad():
            start, end = self.encode(a).loc.data, self.encode(b).loc.data
            images = [self.decoder.mean(start + t * (end - start)).data
                      for t in np.linspace(0, 1, steps).tolist()]
        return backend.module_of(images[0]).stack(images, axis=1)

    def manifold(self, side):
        """Kingma & Welling 2014, figure 4: mean images at the quantiles of a 2-d prior.

        Returns (side * side, D), rows from the top (z_2 large) to the bottom.
        """
        if self.latent != 2:
            raise ValueError(f"the manifold is drawn for 2 latents, this model has {self.latent}")
        quantiles = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
        grid = np.array([(z1, z2) for z2 in reversed(quantiles) for z1 in quantiles])
        like = self._array()
        with no_grad():
            return self.decoder.mean(backend.module_of(like).asarray(grid, like.dtype)).data

    def _array(self):
        """Any parameter's array: where the model lives, and in which precision."""
        return self.encoder.layers[0].weight.data
