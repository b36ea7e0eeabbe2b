"""The VAE as a program: shapes, precision, pictures, seeds and backends; and probabilistic PCA."""

import math
from statistics import NormalDist

import numpy as np
import pytest

import strict
from scratchgen import backend
from scratchgen.distributions import Laplace, Normal
from scratchgen.models.vae import VAE
from scratchgen.optim import Adam
from scratchgen.tensor import Tensor, grad, raw

BATCH, DIM, HIDDEN, LATENT, SAMPLES = 4, 6, 5, 2, 3
KINDS = [("bernoulli", "normal", "fixed"), ("bernoulli", "laplace", "fixed"),
         ("gaussian", "normal", "fixed"), ("gaussian", "laplace", "shared"),
         ("gaussian", "normal", "pixel"), ("gaussian", "normal", "network")]


def vae(likelihood="bernoulli", posterior="normal", decoder_std="shared", **options):
    return VAE(DIM, np.random.default_rng(1), (HIDDEN,), LATENT, likelihood, posterior,
               decoder_std, **options)


def images(n=BATCH, seed=2, dtype=np.float32):
    """Zeros and ones, which both likelihoods can be asked about."""
    return (np.random.default_rng(seed).random((n, DIM)) < 0.5).astype(dtype)


# --------------------------------------------------------------------- shapes and precision


@pytest.mark.parametrize("likelihood, posterior, decoder_std", KINDS)
def test_float32_in_float32_out_on_every_backend(likelihood, posterior, decoder_std, xp, rng):
    model = vae(likelihood, posterior, decoder_std, beta=2.0).to(xp)
    x = xp.asarray(images())
    loss = model.loss(x, rng)
    gradients = grad(loss, model.parameters())
    results = [
        (loss, ()), (model.objective(x, rng), (BATCH,)), (model.figure(x, rng), (BATCH,)),
        (model.encode(x).loc, (BATCH, LATENT)), (model.elbo(x, rng), (BATCH,)),
        (model.log_weights(x, rng, SAMPLES), (SAMPLES, BATCH)),
        (model.prior_log_weights(x, rng, SAMPLES), (SAMPLES, BATCH)),
        (model.reconstruct(x), (BATCH, DIM)), (model.sample(7, rng), (7, DIM)),
        (model.sample(8, rng, mean=True), (8, DIM)), (model.manifold(3), (9, DIM)),
        (model.interpolate(x, x[::-1], 7), (BATCH, 7, DIM)),
        *[(g, p.shape) for g, p in zip(gradients, model.parameters(), strict=True)]]
    for result, shape in results:
        array = raw(result)
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert backend.module_of(array) is xp
        assert np.isfinite(backend.to_numpy(array)).all()


def test_pictures_have_no_history():
    model = vae()
    x = images()
    rng = np.random.default_rng(0)
    for result in [model.reconstruct(x), model.sample(3, rng), model.sample(3, rng, mean=True),
                   model.manifold(2), model.interpolate(x, x, 2), model.log_weights(x, rng, 2),
                   model.prior_log_weights(x, rng, 2)]:
        assert type(result) is np.ndarray


def test_every_parameter_has_a_gradient():
    for likelihood, posterior, decoder_std in KINDS:
        model = vae(likelihood, posterior, decoder_std)
        loss = model.loss(images(), np.random.default_rng(0))
        for (name, _), g in zip(model.named_parameters(), grad(loss, model.parameters())):
            assert np.abs(g).max() > 0, name


def test_layers_mirror_each_other():
    model = VAE(DIM, np.random.default_rng(0), (9, 5), LATENT)
    assert [p.shape for p in model.parameters()][::2] == [(9, 6), (5, 9), (4, 5),
                                                          (5, 2), (9, 5), (6, 9)]
    flat = VAE(DIM, np.random.default_rng(0), (), LATENT)
    assert [p.shape for p in flat.parameters()][::2] == [(4, 6), (6, 2)]


# ------------------------------------------------------------------------------ objective


def test_the_loss_is_minus_the_mean_over_the_batch_alone():
    model = vae(beta=3.0)
    losses, objectives, figures = (function(images(), np.random.default_rng(5)) for function in
                                   (model.loss, model.objective, model.figure))
    assert losses.item() == pytest.approx(-objectives.data.mean(), rel=1e-6)
    assert (figures.data < -objectives.data).all()  # the figure has the KL once, not 3 times
    assert (model.unit, model.figure_name) == ("nats", "-ELBO")
    [player] = model.players()
    assert player.parameters == model.parameters()


@pytest.mark.parametrize("likelihood, posterior, decoder_std", KINDS)
def test_examples_do_not_see_each_other(likelihood, posterior, decoder_std):
    model = vae(likelihood, posterior, decoder_std).to(dtype=np.float64)
    x = Tensor(images(dtype=np.float64))
    elbo = model.elbo(x, np.random.default_rng(0))
    for i in range(BATCH):
        one = np.eye(BATCH)[i]
        assert (np.abs(grad(elbo, x, one)).max(axis=1) > 0).tolist() == (one > 0).tolist()


@pytest.mark.parametrize("posterior", ["normal", "laplace"])
def test_noise_is_fresh_for_every_example_sample_and_coordinate(posterior):
    model = vae(posterior=posterior).to(dtype=np.float64)
    alike = np.tile(images(1, dtype=np.float64), (BATCH, 1))
    rng = np.random.default_rng(0)
    numbers = [model.elbo(alike, rng).data, model.elbo(alike, rng).data,
               model.log_weights(alike, rng, SAMPLES).ravel(),
               model.prior_log_weights(alike, rng, SAMPLES)[:, 0]]
    numbers = np.concatenate(numbers)
    assert len(np.unique(numbers)) == len(numbers)
    z = model.encode(alike)
    noise = (z.rsample(rng).data - z.loc.data).ravel()
    assert len(np.unique(np.abs(noise))) == BATCH * LATENT


def test_the_families():
    x = images()
    assert type(vae().encode(x)) is Normal
    assert type(vae(posterior="laplace").encode(x)) is Laplace
    # There is no closed form for a Laplace posterior and a Normal prior.
    assert vae(posterior="laplace", kl="closed").kl == "monte-carlo"
    prior = vae().prior(np.zeros((SAMPLES, BATCH, LATENT), np.float32))
    for parameter in (prior.loc, prior.log_std):
        assert parameter.shape == (LATENT,) and not parameter.any()


@pytest.mark.parametrize("options, message", [
    ({"posterior": "cauchy"}, "posterior 'cauchy': choose one of normal, laplace"),
    ({"kl": "exact"}, "kl 'exact': choose closed or monte-carlo"),
    ({"latent": 0}, "latent must be at least 1, not 0"),
    ({"likelihood": "poisson"}, "likelihood 'poisson': choose bernoulli or gaussian"),
    ({"likelihood": "gaussian", "decoder_std": "none"}, "decoder std 'none': choose one of")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VAE(DIM, np.random.default_rng(0), **options)


# ------------------------------------------------------------------------------- pictures


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_reconstruction_is_the_mean_image_at_the_mean_code():
    x = images(dtype=np.float64)
    for kind, outputs in [(("bernoulli", "laplace"), slice(None)),
                          (("gaussian", "normal", "network"), slice(DIM))]:
        model = vae(*kind).to(dtype=np.float64)
        code = model.encoder(x).data[:, :LATENT]
        expected = sigmoid(model.decoder.network(code).data[:, outputs])
        np.testing.assert_allclose(model.reconstruct(x), expected, rtol=1e-12)


def test_interpolations_run_straight_between_the_codes():
    model = vae().to(dtype=np.float64)
    for layer in model.decoder.network.layers[::2]:
        layer.weight.data *= 3
    a, b = images(seed=2, dtype=np.float64), images(seed=3, dtype=np.float64)
    steps = model.interpolate(a, b, 5)
    assert steps.shape == (BATCH, 5, DIM)
    np.testing.assert_allclose(steps[:, 0], model.reconstruct(a), rtol=1e-12)
    np.testing.assert_allclose(steps[:, 4], model.reconstruct(b), rtol=1e-12)
    start, end = (model.encode(x).loc.data for x in (a, b))
    quarter = raw(model.decoder.mean(0.75 * start + 0.25 * end))
    np.testing.assert_allclose(steps[:, 1], quarter, rtol=1e-12)


def test_the_manifold_shows_the_quantiles_of_the_prior():
    """A decoder whose logits are z1 and z2 itself: the picture can be read back."""
    model = VAE(3, np.random.default_rng(0), (), 2).to(dtype=np.float64)
    layer = model.decoder.network.layers[0]
    layer.weight.data[...] = [[1, 0], [0, 1], [0, 0]]
    grid = model.manifold(5)
    assert grid.shape == (25, 3)
    logits = np.log(grid / (1 - grid)).reshape(5, 5, 3)
    quantiles = [NormalDist().inv_cdf(p) for p in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for row in range(5):
        np.testing.assert_allclose(logits[row, :, 0], quantiles, atol=1e-12)  # z1 to the right
        np.testing.assert_allclose(logits[:, row, 1], quantiles[::-1], atol=1e-12)  # z2 upwards
    with pytest.raises(ValueError, match="drawn for 2 latents, this model has 3"):
        VAE(DIM, np.random.default_rng(0), (), 3).manifold(5)


def test_samples_are_pixels_and_means_are_probabilities(rng):
    model = vae()
    drawn, means = model.sample(30, rng), model.sample(30, rng, mean=True)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert 0 < means.min() and means.max() < 1
    assert (means != model.sample(30, rng, mean=True)).all()
    # The same codes come first, then the pixels' own noise.
    same_codes = model.sample(30, np.random.default_rng(7), mean=True)
    pixels = model.sample(30, np.random.default_rng(7))
    assert ((pixels - same_codes) * (2 * pixels - 1) > 0).all()


# ------------------------------------------------------------------------ seeds and backends


def training(xp, kind, steps=20):
    """The losses of the first steps, and the parameters after them, as host arrays."""
    model = vae(*kind).to(xp, np.float64)
    rng = np.random.default_rng(3)
    optimizer = Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        loss = model.loss(xp.asarray(images(seed=step, dtype=np.float64)), rng)
        optimizer.step(grad(loss, optimizer.parameters))
        losses.append(loss.item())
    return [np.array(losses), *model.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_training_takes_the_same_steps_on_every_backend(kind, xp):
    host, there = training(np, kind), training(xp, kind)
    assert len(set(host[0])) == 20
    for ours, theirs in zip(host, there, strict=True):
        if xp is strict.xp:  # NumPy underneath: any difference is noise of another source
            np.testing.assert_array_equal(theirs, ours)
        np.testing.assert_allclose(theirs, ours, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_draws_the_same_images_and_weights_on_every_backend(kind, xp):
    drawn = []
    for module in (np, xp):
        model = vae(*kind).to(module, np.float64)
        x = module.asarray(images(dtype=np.float64))
        rng = np.random.default_rng(0)
        results = [model.sample(5, rng), model.log_weights(x, rng, SAMPLES),
                   model.prior_log_weights(x, rng, SAMPLES), model.manifold(3),
                   model.interpolate(x, x[::-1], 3)]
        drawn.append([backend.to_numpy(result) for result in results])
    for ours, theirs in zip(*drawn, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-10)
    other = vae(*kind).to(np, np.float64).sample(5, np.random.default_rng(1))
    assert (other != drawn[0][0]).any()


def test_training_draws_on_the_device_where_it_is_told_to(xp):
    model = vae("gaussian", "laplace").to(xp)
    losses = [model.loss(xp.asarray(images()), backend.device_generator(seed, xp)).item()
              for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


# ---------------------------------------------------------------------- probabilistic PCA


class SigmaPoints:
    """Stands for a generator: noise of mean 0 and covariance I, exact for any quadratic."""

    def __init__(self, latent, examples):
        points = math.sqrt(latent) * np.concatenate([np.eye(latent), -np.eye(latent)])
        self.noise = np.repeat(points, examples, axis=0)

    def standard_normal(self, shape, dtype):
        return self.noise.reshape(shape)


def test_a_linear_vae_reaches_probabilistic_pca(rng):
    """The maximum that Tipping & Bishop 1999 derive; Lucas et al. 2019: the ELBO attains it.

    With l_1 >= ... >= l_D the eigenvalues of the data's covariance and s^2 = mean_{i > Z} l_i,
    log p = -1/2 (D log 2 pi + sum_{i <= Z} log l_i + (D - Z) log s^2 + D) per example.
    """
    examples, dim, latent = 300, 6, 2
    directions, _ = np.linalg.qr(rng.standard_normal((dim, latent)))
    x = rng.standard_normal((examples, latent)) * [1.5, 0.8] @ directions.T
    x += 0.4 * rng.standard_normal(x.shape) + np.linspace(-1, 1, dim)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    variance = eigenvalues[latent:].mean()
    best = -(dim * np.log(2 * np.pi) + np.log(eigenvalues[:latent]).sum()
             + (dim - latent) * np.log(variance) + dim) / 2

    model = VAE(dim, rng, (), latent, "gaussian", decoder_std="shared",
                squash=False).to(dtype=np.float64)
    # The noise is fixed and every example meets every point: the loss is the expected one.
    noise = SigmaPoints(latent, examples)
    rows = np.tile(x, (2 * latent, 1))
    optimizer = Adam(model.parameters(), lr=0.03, betas=(0.9, 0.95))
    for step in range(1000):
        optimizer.lr = 0.03 * 1e-3 ** max(0, step / 500 - 1)
        optimizer.step(grad(model.loss(rows, noise), optimizer.parameters))
    assert -1e-9 < best + model.loss(rows, noise).item() < 1e-6
    std = np.exp(model.decode(np.zeros((1, latent))).log_std.data)
    np.testing.assert_allclose(std, math.sqrt(variance), rtol=1e-4)
    # The encoder is the posterior itself, so that every weight of an example is its p(x).
    log_weights = model.log_weights(x, rng, 11)
    assert log_weights.std(axis=0).max() < 1e-3
    assert log_weights.mean() == pytest.approx(best, abs=1e-5)
