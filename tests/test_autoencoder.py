"""The autoencoder: its two errors, a code that says it all, and what it refuses."""

import math

import numpy as np
import pytest

import strict
from scratchgen import backend
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.optim import Adam
from scratchgen.tensor import grad

BATCH, DIM, HIDDEN, LATENT = 4, 6, 5, 2
LIKELIHOODS = ["mse", "bernoulli"]


def autoencoder(likelihood, **options):
    return Autoencoder(DIM, np.random.default_rng(0), (HIDDEN,), LATENT, likelihood, **options)


def images(likelihood, seed=1, dtype=np.float64):
    x = np.random.default_rng(seed).random((BATCH, DIM))
    return (x.round() if likelihood == "bernoulli" else x).astype(dtype)


def by_hand(model, x):
    """The reconstructions, from the parameters alone."""
    w = list(model.state_dict().values())
    code = np.tanh(x @ w[0].T + w[1]) @ w[2].T + w[3]
    return 1 / (1 + np.exp(-(np.tanh(code @ w[4].T + w[5]) @ w[6].T + w[7])))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_objective_is_minus_the_error_summed_over_pixels(likelihood):
    model = autoencoder(likelihood).to(dtype=np.float64)
    x = images(likelihood)
    g = by_hand(model, x)
    np.testing.assert_allclose(model.reconstruct(x), g, rtol=1e-12)
    error = (-np.log(np.where(x == 1, g, 1 - g)) if likelihood == "bernoulli"
             else (x - g) ** 2).sum(axis=1)
    np.testing.assert_allclose(model.objective(x).data, -error, rtol=1e-12)
    np.testing.assert_allclose(model.figure(x, None).data, error, rtol=1e-12)
    assert model.loss(x, None).item() == pytest.approx(error.sum() / BATCH, rel=1e-12)


def test_layers_mirror_each_other():
    model = Autoencoder(DIM, np.random.default_rng(0), (9, HIDDEN), LATENT)
    assert [p.shape for p in model.parameters()][::2] == [(9, 6), (5, 9), (2, 5),
                                                          (5, 2), (9, 5), (6, 9)]


def test_units_and_names():
    units = {likelihood: autoencoder(likelihood).unit for likelihood in LIKELIHOODS}
    assert units == {"mse": "squared_error", "bernoulli": "nats"}
    assert autoencoder("mse").figure_name == "reconstruction error (no likelihood)"


def test_sampling_is_refused_with_the_reason():
    with pytest.raises(NotImplementedError) as error:
        autoencoder("mse").sample(3, np.random.default_rng(0))
    assert str(error.value) == ("an autoencoder has no distribution over codes to sample from: "
                                "train a vae, or look at reconstruct")
    for absent in ("log_weights", "elbo", "interpolate", "manifold"):
        assert not hasattr(autoencoder("mse"), absent)


@pytest.mark.parametrize("options, message", [
    ({"likelihood": "gaussian"}, "likelihood 'gaussian': choose bernoulli or mse"),
    ({"latent": 0}, "latent must be at least 1, not 0")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(DIM, np.random.default_rng(0), **options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_code_that_says_everything_restores_everything(likelihood):
    """Images made of two bits, a code of these bits, and logits of +-60."""
    model = Autoencoder(DIM, np.random.default_rng(0), (), LATENT, likelihood)
    model.to(dtype=np.float64)
    pattern = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, -1.0]])
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 1]]) @ pattern.T + [0, 0, 0, 0, 0, 1]
    model.encoder.layers[0].weight.data[...] = np.eye(DIM)[[0, 2]]
    model.decoder.layers[0].weight.data[...] = 120 * pattern
    model.decoder.layers[0].bias.data[...] = [-60, -60, -60, -60, -60, 60]
    np.testing.assert_allclose(model.encode(x).data, x[:, [0, 2]])
    np.testing.assert_allclose(model.reconstruct(x), x, atol=1e-25)
    np.testing.assert_allclose(model.objective(x).data, 0, atol=1e-24)


def test_training_squeezes_images_through_the_code():
    rng = np.random.default_rng(0)
    x = np.repeat([[0.1, 0.9, 0.3, 0.2, 0.8, 0.5], [0.7, 0.2, 0.6, 0.9, 0.1, 0.4],
                   [0.4, 0.4, 0.9, 0.1, 0.3, 0.8]], 3, axis=0).astype(np.float32)
    model = Autoencoder(DIM, rng, (HIDDEN,), LATENT, pixel_means=x.mean(axis=0))
    optimizer = Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(400):
        loss = model.loss(x, None)
        losses.append(loss.item())
        optimizer.step(grad(loss, optimizer.parameters))
    mean_image = ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert losses[0] == pytest.approx(mean_image, rel=0.5)
    assert losses[-1] < 1e-4 * mean_image
    np.testing.assert_allclose(model.reconstruct(x), x, atol=0.01)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float32_in_float32_out_on_every_backend(likelihood, xp):
    model = autoencoder(likelihood).to(xp)
    x = xp.asarray(images(likelihood, dtype=np.float32))
    loss = model.loss(x, None)
    gradients = grad(loss, model.parameters())
    assert model.encode(x).shape == (BATCH, LATENT)
    for array, shape in [(loss.data, ()), (model.objective(x).data, (BATCH,)),
                         (model.reconstruct(x), (BATCH, DIM)),
                         *((g, p.shape) for g, p in zip(gradients, model.parameters()))]:
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert backend.module_of(array) is xp
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_training_takes_the_same_steps_on_every_backend(likelihood, xp):
    ends = []
    for module in (np, xp):
        model = autoencoder(likelihood).to(module, np.float64)
        optimizer = Adam(model.parameters(), lr=0.01)
        for step in range(20):
            x = module.asarray(images(likelihood, seed=step))
            optimizer.step(grad(model.loss(x, None), optimizer.parameters))
        ends.append(model.state_dict())
    for name, ours in ends[0].items():
        if xp is strict.xp:
            np.testing.assert_array_equal(ends[1][name], ours)
        np.testing.assert_allclose(ends[1][name], ours, rtol=1e-8, atol=1e-12)
