"""The VAE against quadrature: with one latent number every integral of the paper is computed.

log p(x), q(z | x), the posterior and the expected ELBO are written a second time here, straight
from their definitions in NumPy, from nothing but the outputs of the model's two networks. The
model's own side becomes exact too, because its noise is an argument: given the nodes of a
quadrature rule for a generator, a weighted mean over "draws" is the expectation itself.
"""

import itertools
import math

import numpy as np
import pytest

from scratchgen.distributions import kl_divergence
from scratchgen.evaluate import log_mean_weights
from scratchgen.models.coders import FIXED_STD
from scratchgen.models.vae import VAE
from scratchgen.optim import Adam
from scratchgen.tensor import grad, no_grad, raw

DIM = 3
HIDDEN = 5
STD_FLOOR = 0.02
DECODERS = ["bernoulli", "fixed", "shared", "pixel", "network"]
POSTERIORS = ["normal", "laplace"]
CASES = list(itertools.product(DECODERS, POSTERIORS))
IMAGES = np.array(list(itertools.product([0.0, 1.0], repeat=DIM)))  # all 8 binary ones


def tiny_vae(decoder, posterior="normal", **options):
    """A VAE of one latent in float64, its weights moved far from their tame start."""
    likelihood = "bernoulli" if decoder == "bernoulli" else "gaussian"
    std = "fixed" if decoder == "bernoulli" else decoder
    model = VAE(DIM, np.random.default_rng(3), (HIDDEN,), 1, likelihood, posterior, std,
                STD_FLOOR, **options).to(dtype=np.float64)
    rng = np.random.default_rng(4)
    for parameter in model.parameters():
        parameter.data += 0.6 * rng.standard_normal(parameter.shape)
    return model


def some_images(decoder):
    """A few images that the decoder can be asked about, (n, D)."""
    if decoder == "bernoulli":
        return IMAGES[[0, 3, 5, 6]]
    return np.array([[0.1, 0.5, 0.8], [0.7, 0.9, 0.2]])


# --------------------------------------------------------------- the same equations again


def panels(edges):
    """Nodes and weights of Gauss-Legendre quadrature, 16 between each two edges."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    middle = (edges[:-1] + edges[1:])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


def log_normal(x, mean, std):
    return np.log(1 / (std * np.sqrt(2 * np.pi))) - (x - mean) ** 2 / (2 * std ** 2)


def log_likelihood(model, x, z):
    """log p(x | z) of one image (D,) at nodes z (M,): (M,)."""
    with no_grad():
        out = model.decoder.network(z[:, None]).data
    share = 1 / (1 + np.exp(-out[:, :DIM]))
    if not hasattr(model.decoder, "std"):
        return np.log(np.where(x == 1, share, 1 - share)).sum(axis=1)
    if model.decoder.std == "fixed":
        std = FIXED_STD
    elif model.decoder.std == "network":
        std = STD_FLOOR + np.exp(out[:, DIM:])
    else:
        std = STD_FLOOR + np.exp(model.decoder.raw_log_std.data)
    return log_normal(x, share, std).sum(axis=1)


def log_evidence(model, x):
    """log p(x) = log of the integral of p(z) p(x | z)."""
    z, weights = panels(np.linspace(-12, 12, 301))
    log_joint = log_likelihood(model, x, z) + log_normal(z, 0, 1)
    return float(np.log(weights @ np.exp(log_joint - log_joint.max())) + log_joint.max())


def posterior_nodes(model, x):
    """Nodes z for integrals over q(z | x), their weights, and log q there; an edge at the kink."""
    with no_grad():
        loc, log_spread = model.encoder(x[None]).data[0]
    if model.posterior == "normal":
        t, weights = panels(np.linspace(-11, 11, 45))
        log_q = log_normal(t, 0, 1) - log_spread
    else:
        t, weights = panels(np.linspace(-34, 34, 137))
        log_q = -np.abs(t) - np.log(2) - log_spread
    spread = np.exp(log_spread)
    return loc + spread * t, spread * weights, log_q


def parts_of_elbo(model, x):
    """E_q log p(x | z) and KL(q || p), both from their definitions."""
    z, weights, log_q = posterior_nodes(model, x)
    q = weights * np.exp(log_q)
    return q @ log_likelihood(model, x, z), q @ (log_q - log_normal(z, 0, 1))


def kl_to_true_posterior(model, x):
    """KL(q(z | x) || p(z | x)), with p(z | x) = p(z) p(x | z) / p(x)."""
    z, weights, log_q = posterior_nodes(model, x)
    log_posterior = log_likelihood(model, x, z) + log_normal(z, 0, 1) - log_evidence(model, x)
    return weights * np.exp(log_q) @ (log_q - log_posterior)


class NodesAsNoise:
    """Stands for a generator: its "draws" are nodes, `weights` their probabilities."""

    def __init__(self, posterior):
        if posterior == "normal":
            t, weights = panels(np.linspace(-11, 11, 45))
            self.weights = weights * np.exp(log_normal(t, 0, 1))
            self.noise = t
        else:
            t, weights = panels(np.linspace(-34, 34, 137))
            self.weights = weights * np.exp(-np.abs(t)) / 2
            below = np.exp(-np.abs(t)) / 2  # Laplace noise is made of uniform numbers
            self.noise = np.where(t < 0, below, 1 - below)

    def standard_normal(self, shape, dtype):
        return self.noise.reshape(shape)

    random = standard_normal

    def mean(self, function, x):
        """The exact mean over the noise of what function(rows, rng) says of one image (D,)."""
        rows = np.tile(x, (len(self.noise), 1))
        with no_grad():
            return self.weights @ raw(function(rows, self)).reshape(-1)


def with_trained_encoder(model, x):
    """The model, after its encoder alone has learned the posteriors of the images x."""
    rng = np.random.default_rng(0)
    optimizer = Adam(model.encoder.parameters(), lr=0.02)
    rows = np.repeat(x, 7, axis=0)
    for _ in range(400):
        optimizer.step(grad(model.loss(rows, rng), optimizer.parameters))
    return model


# ------------------------------------------------------------------------------ the bound


def test_the_images_there_are_have_probability_one():
    model = tiny_vae("bernoulli")
    assert sum(math.exp(log_evidence(model, x)) for x in IMAGES) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("decoder, posterior", CASES)
@pytest.mark.parametrize("kl", ["closed", "monte-carlo"])
def test_log_evidence_is_elbo_plus_kl_to_the_posterior(decoder, posterior, kl):
    model = tiny_vae(decoder, posterior, kl=kl)
    noise = NodesAsNoise(posterior)
    for x in some_images(decoder):
        elbo = noise.mean(model.elbo, x)
        gap = kl_to_true_posterior(model, x)
        assert gap > 0.01  # the bound is not tight here, so the equation says something
        assert elbo <= log_evidence(model, x)
        assert elbo + gap == pytest.approx(log_evidence(model, x), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("decoder, posterior", [("bernoulli", "normal"), ("pixel", "laplace"),
                                                ("network", "normal")])
@pytest.mark.parametrize("kl", ["closed", "monte-carlo"])
def test_the_mean_over_drawn_noise_is_the_expected_elbo(decoder, posterior, kl, rng):
    model = tiny_vae(decoder, posterior, kl=kl)
    draws = 20_000
    for x in some_images(decoder):
        with no_grad():
            elbos = model.elbo(np.tile(x, (draws, 1)), rng).data
        reconstruction, divergence = parts_of_elbo(model, x)
        error = elbos.mean() - (reconstruction - divergence)
        assert abs(error) < 4 * elbos.std() / math.sqrt(draws)


@pytest.mark.parametrize("kl", ["closed", "monte-carlo"])
def test_one_code_is_drawn_for_the_image_and_for_the_monte_carlo_kl(kl):
    model = tiny_vae("bernoulli", kl=kl)
    x = np.tile(IMAGES[3], (7, 1))
    elbo = model.elbo(x, np.random.default_rng(1)).data
    q = model.encode(x)
    z = q.rsample(np.random.default_rng(1))
    divergence = (kl_divergence(q, model.prior(z)) if kl == "closed"
                  else q.log_prob(z) - model.prior(z).log_prob(z))
    np.testing.assert_allclose(elbo, (model.decode(z).log_prob(x) - divergence).data, rtol=1e-12)


@pytest.mark.parametrize("decoder, posterior", CASES)
@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0])
def test_beta_weighs_the_kl_and_nothing_else(decoder, posterior, beta):
    model = tiny_vae(decoder, posterior, beta=beta)
    noise = NodesAsNoise(posterior)
    for x in some_images(decoder):
        reconstruction, divergence = parts_of_elbo(model, x)
        exact = {"rel": 1e-9, "abs": 1e-9}
        assert noise.mean(model.objective, x) == pytest.approx(
            reconstruction - beta * divergence, **exact)
        assert noise.mean(model.elbo, x) == pytest.approx(reconstruction - divergence, **exact)
        assert noise.mean(model.figure, x) == pytest.approx(divergence - reconstruction, **exact)


@pytest.mark.parametrize("decoder, posterior", CASES)
def test_the_gradient_through_the_noise_is_that_of_the_expected_elbo(decoder, posterior):
    model = tiny_vae(decoder, posterior)
    noise = NodesAsNoise(posterior)
    x = some_images(decoder)[1]
    elbo = model.elbo(np.tile(x, (len(noise.noise), 1)), noise)
    gradients = grad(elbo, model.parameters(), noise.weights)
    rng = np.random.default_rng(2)
    step = 1e-3
    for parameter, gradient in zip(model.parameters(), gradients):
        direction = gradient + rng.standard_normal(gradient.shape) * np.abs(gradient).max()
        start = parameter.data.copy()

        def along(t):
            parameter.data[...] = start + t * direction / np.abs(direction).max()
            reconstruction, divergence = parts_of_elbo(model, x)
            parameter.data[...] = start
            return reconstruction - divergence

        numeric = (8 * (along(step) - along(-step)) - along(2 * step) + along(-2 * step)) / 12
        exact = (gradient * direction).sum() / np.abs(direction).max() * step
        assert exact == pytest.approx(numeric, rel=1e-6)


# ------------------------------------------------------ estimates of log p(x) from weights


@pytest.mark.parametrize("decoder, posterior", CASES)
def test_one_weight_is_the_elbo_and_its_mean_the_evidence(decoder, posterior):
    model = tiny_vae(decoder, posterior)
    noise = NodesAsNoise(posterior)
    for x in some_images(decoder):
        elbo = noise.mean(model.elbo, x)
        assert noise.mean(lambda rows, rng: model.log_weights(rows, rng, 1), x) == pytest.approx(
            elbo, rel=1e-9, abs=1e-9)
        assert noise.mean(lambda rows, rng: log_mean_weights(model.log_weights, rows, 1, rng),
                          x) == pytest.approx(elbo, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("decoder", ["bernoulli", "pixel"])
def test_prior_weights_have_the_evidence_as_their_mean(decoder):
    model = tiny_vae(decoder)
    t, weights = panels(np.linspace(-12, 12, 301))
    noise = NodesAsNoise("normal")
    noise.noise = t
    x = some_images(decoder)
    logs = model.prior_log_weights(x, noise, len(t))  # (M, N): every node serves every image
    assert logs.shape == (len(t), len(x))
    evidence = np.log(weights * np.exp(log_normal(t, 0, 1)) @ np.exp(logs))
    np.testing.assert_allclose(evidence, [log_evidence(model, row) for row in x], rtol=1e-9)


@pytest.mark.parametrize("decoder, posterior", [("bernoulli", "normal"), ("shared", "laplace")])
def test_two_weights_bound_tighter_than_one(decoder, posterior):
    model = tiny_vae(decoder, posterior)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = NodesAsNoise("normal")
    if posterior == "laplace":
        t, weights = panels(np.linspace(-20, 20, 5))
        weights = weights * np.exp(-np.abs(t)) / 2
        below = np.exp(-np.abs(t)) / 2
        nodes = np.where(t < 0, below, 1 - below)
    pairs = np.array(list(itertools.product(nodes, nodes)))  # every pair of draws
    noise.noise = pairs.T
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    x = some_images(decoder)[1]
    rows = np.tile(x, (len(pairs), 1))
    logs = model.log_weights(rows, noise, 2)  # (2, pairs)
    bound = weights @ np.log((np.exp(logs[0]) + np.exp(logs[1])) / 2)
    estimated = weights @ log_mean_weights(model.log_weights, rows, 2, noise)
    assert estimated == pytest.approx(bound, rel=1e-12)
    reconstruction, divergence = parts_of_elbo(model, x)
    assert reconstruction - divergence + 0.01 < estimated < log_evidence(model, x) - 1e-4


@pytest.mark.parametrize("decoder, posterior", [("bernoulli", "laplace"), ("pixel", "normal")])
def test_many_weights_come_to_the_evidence(decoder, posterior):
    x = some_images(decoder)
    model = with_trained_encoder(tiny_vae(decoder, posterior), x)
    for samples in (1_000, 30_000):
        rng = np.random.default_rng(samples)
        estimates = log_mean_weights(model.log_weights, x, samples, rng)
        errors = standard_errors(model.log_weights, x, samples, rng)
        exact = np.array([log_evidence(model, row) for row in x])
        assert (np.abs(estimates - exact) < 4 * errors).all()
    assert (errors < 0.02).all()


def standard_errors(log_weights, x, samples, rng):
    """Of log mean_k w_k, by the delta method: std(w) / (mean(w) sqrt(K))."""
    logs = log_weights(x, rng, samples)
    weights = np.exp(logs - logs.max(axis=0))
    return weights.std(axis=0) / weights.mean(axis=0) / math.sqrt(samples)


def test_encoder_and_prior_agree_and_the_encoder_varies_less(rng, capsys):
    trained = with_trained_encoder(tiny_vae("bernoulli"), IMAGES)
    samples = 20_000
    estimates, variances = {}, {}
    for name, log_weights in [("encoder", trained.log_weights),
                              ("prior", trained.prior_log_weights)]:
        estimates[name] = log_mean_weights(log_weights, IMAGES, samples, rng)
        variances[name] = standard_errors(log_weights, IMAGES, samples, rng) ** 2
    error = np.sqrt(variances["encoder"] + variances["prior"])
    assert (np.abs(estimates["encoder"] - estimates["prior"]) < 4 * error).all()
    exact = np.array([log_evidence(trained, x) for x in IMAGES])
    for name in estimates:
        assert (np.abs(estimates[name] - exact) < 4 * np.sqrt(variances[name])).all()
    assert (variances["encoder"] < variances["prior"]).all()
    with capsys.disabled():
        print("\nvariance of one log p(x) estimate from "
              f"{samples:,} samples, mean over {len(IMAGES)} images: "
              f"encoder {variances['encoder'].mean():.1e}, prior {variances['prior'].mean():.1e}")


# -------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("decoder", DECODERS)
def test_samples_have_the_moments_of_the_model(decoder, rng):
    model = tiny_vae(decoder)
    z, weights = panels(np.linspace(-12, 12, 301))
    weights = weights * np.exp(log_normal(z, 0, 1))
    with no_grad():
        p = model.decode(z[:, None])
        loc = raw(p.mean if decoder == "bernoulli" else p.loc)
        spread = (loc * (1 - loc) if decoder == "bernoulli"
                  else np.exp(2 * raw(p.log_std)) * np.ones_like(loc))
    products = loc[:, :, None] * loc[:, None, :] + spread[:, :, None] * np.eye(DIM)
    n = 60_000
    x = model.sample(n, rng)
    assert x.shape == (n, DIM)
    assert_mean(x, weights @ loc)
    assert_mean(x[:, :, None] * x[:, None, :], np.einsum("m,mij->ij", weights, products))
    assert_mean(model.sample(n, rng, mean=True), weights @ loc)
    if decoder == "bernoulli":
        codes = x.astype(int) @ [4, 2, 1]
        assert_mean(codes[:, None] == np.arange(8),
                    [math.exp(log_evidence(model, image)) for image in IMAGES])


def assert_mean(draws, expected):
    """Each mean over the draws lies within 4.5 standard errors of what is expected."""
    error = draws.std(axis=0) / math.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - expected) < 4.5 * error).all()
