"""Floor 4: the autoencoder. Read nn/linear.py and coders.py before.

An encoder squeezes an image through a narrow code, a decoder restores it:

    minimise  E ||x - g(f(x))||^2     or     -E log Bernoulli(x; g(f(x))).

The code is a feature, for a classifier say. There is no distribution over codes, hence none
over images: an autoencoder cannot sample and has no likelihood. That is what the VAE adds.

Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks".
"""

from scratchgen import ops
from scratchgen.distributions import Bernoulli
from scratchgen.models.coders import start_at_means
from scratchgen.models.game import LikelihoodModel
from scratchgen.nn import mlp
from scratchgen.tensor import no_grad

LIKELIHOODS = ("bernoulli", "mse")


class Autoencoder(LikelihoodModel):
    """Encoder D-hidden-Z, decoder Z-hidden-D, with outputs in (0, 1) through a sigmoid.

    likelihood: what the reconstruction is judged by, "mse" (squared error summed over the
    pixels) or "bernoulli" (cross-entropy in nats summed over pixels that are 0 or 1).
    """

    figure_name = "reconstruction error (no likelihood)"

    def __init__(self, dim, rng, hidden=(500,), latent=20, likelihood="mse", activation="tanh",
                 pixel_means=None):
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood {likelihood!r}: choose {' or '.join(LIKELIHOODS)}")
        if latent < 1:
            raise ValueError(f"latent must be at least 1, not {latent}")
        self.dim = dim
        self.latent = latent
        self.likelihood = likelihood
        self.unit = "nats" if likelihood == "bernoulli" else "squared_error"
        self.encoder = mlp([dim, *hidden, latent], rng, activation)
        self.decoder = mlp([latent, *reversed(hidden), dim], rng, activation)
        start_at_means(self.decoder, pixel_means)

    def encode(self, x):
        """The code of x: (N, D) -> (N, Z)."""
        return self.encoder(x)

    def objective(self, x, rng=None):
        """Minus the reconstruction error of each example, (N, D) -> (N,)."""
        logits = self.decoder(self.encode(x))
        if self.likelihood == "bernoulli":
            return Bernoulli(logits).log_prob(x)
        error = ops.sigmoid(logits) - x
        return -ops.sum(error * error, axis=-1)

    def reconstruct(self, x):
        """g(f(x)) as a plain array, (N, D) -> (N, D)."""
        with no_grad():
            return ops.sigmoid(self.decoder(self.encode(x))).data

    def sample(self, n, rng):
        """Refused: nothing says which codes are likely."""
        raise NotImplementedError("an autoencoder has no distribution over codes to sample from: "
                                  "train a vae, or look at reconstruct")
