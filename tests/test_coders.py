"""Decoders: where they start, what spread they may have, and that their densities are ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend, evaluate
from scratchgen.datasets import Dataset, Split
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.models.coders import DECODER_STDS, BernoulliDecoder, GaussianDecoder
from scratchgen.models.vae import VAE
from scratchgen.optim import Adam
from scratchgen.tensor import grad, raw

SIZES = [2, 7, 5]  # Z, hidden, D
MEANS = np.array([0.0, 0.3, 0.5, 0.9, 1.0])
ORIGIN = np.zeros((1, 2))


def gaussian(std, **options):
    return GaussianDecoder(SIZES, np.random.default_rng(0), std=std,
                           **options).to(dtype=np.float64)


def std_of(decoder, z):
    """The spreads at codes z (N, Z): (N, D)."""
    p = decoder(z)
    return np.broadcast_to(np.exp(raw(p.log_std)), p.loc.shape)


# ------------------------------------------------------------------------------ the start


@pytest.mark.parametrize("make", [
    lambda: BernoulliDecoder(SIZES, np.random.default_rng(0), pixel_means=MEANS),
    *[lambda std=std: gaussian(std, pixel_means=MEANS) for std in DECODER_STDS]])
def test_an_untrained_decoder_shows_the_mean_image(make):
    decoder = make().to(dtype=np.float64)
    # No pixel starts as certain: a logit of infinity could never be taken back.
    shown = [0.005, 0.3, 0.5, 0.9, 0.995]
    np.testing.assert_allclose(raw(decoder.mean(ORIGIN)), [shown], rtol=1e-5)
    for layer in decoder.network.layers[::2]:
        layer.weight.data[...] = 0
    anywhere = np.random.default_rng(1).standard_normal((3, 2))
    np.testing.assert_allclose(raw(decoder.mean(anywhere)), [shown] * 3, rtol=1e-5)


def test_a_decoder_that_is_not_squashed_starts_at_the_means_themselves():
    decoder = gaussian("network", squash=False, pixel_means=MEANS)
    np.testing.assert_allclose(raw(decoder.mean(ORIGIN)), [MEANS], rtol=1e-6)


def test_an_untrained_autoencoder_shows_the_mean_image():
    model = Autoencoder(5, np.random.default_rng(0), (7,), 2, pixel_means=MEANS)
    model.encoder.layers[-1].weight.data[...] = 0  # every code is 0
    x = np.random.default_rng(1).random((3, 5), dtype=np.float32)
    np.testing.assert_allclose(model.reconstruct(x), [[0.005, 0.3, 0.5, 0.9, 0.995]] * 3,
                               rtol=1e-4)


@pytest.mark.parametrize("std", DECODER_STDS)
@pytest.mark.parametrize("floor", [1e-3, 1 / (17 * math.sqrt(12))])
def test_the_spread_starts_at_a_tenth(std, floor):
    decoder = gaussian(std, std_floor=floor)
    np.testing.assert_allclose(std_of(decoder, ORIGIN), np.full((1, 5), 0.1), rtol=1e-5)


def test_each_kind_of_spread_has_its_parameters():
    shapes = {std: {name: parameter.shape
                    for name, parameter in gaussian(std).named_parameters()}
              for std in DECODER_STDS}
    network = {"network.layers.0.weight": (7, 2), "network.layers.0.bias": (7,),
               "network.layers.2.weight": (5, 7), "network.layers.2.bias": (5,)}
    assert shapes == {"fixed": network, "shared": {**network, "raw_log_std": (1,)},
                      "pixel": {**network, "raw_log_std": (5,)},
                      "network": {**network, "network.layers.2.weight": (10, 7),
                                  "network.layers.2.bias": (10,)}}


def test_only_the_networks_spread_depends_on_the_code():
    z = np.random.default_rng(1).standard_normal((3, 2))
    for std in DECODER_STDS:
        spreads = std_of(gaussian(std), z)
        assert (spreads[0] == spreads[1]).all() == (std != "network")


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="decoder std 'free': choose one of fixed, shared"):
        gaussian("free")
    for floor in (0, 0.1, -1e-3):
        with pytest.raises(ValueError, match="std_floor must lie between 0 and 0.1, not"):
            gaussian("shared", std_floor=floor)


# -------------------------------------------------------------------- spreads and densities


@given(st.floats(-1e4, 5))
def test_a_learned_spread_is_the_floor_plus_an_exponential(raw_log_std):
    # softplus above the floor in the logarithm: log(f) + log(1 + e**r / f) = log(f + e**r).
    for std, floor in [("shared", 1e-3), ("pixel", 0.02)]:
        decoder = gaussian(std, std_floor=floor)
        decoder.raw_log_std.data[...] = raw_log_std
        expected = floor + math.exp(raw_log_std)
        np.testing.assert_allclose(std_of(decoder, ORIGIN), np.full((1, 5), expected), rtol=1e-10)


def test_the_networks_spread_never_falls_below_the_floor():
    decoder = gaussian("network", std_floor=0.02)
    decoder.network.layers[-1].bias.data[5:] = [-1e4, -50, -4, 0, 2]
    expected = 0.02 + np.exp([-1e4, -50, -4, 0, 2])
    np.testing.assert_allclose(std_of(decoder, ORIGIN), [expected], rtol=1e-10)


@pytest.mark.parametrize("std", DECODER_STDS)
def test_the_mean_lies_in_the_unit_interval_only_if_squashed(std):
    z = 30 * np.random.default_rng(1).standard_normal((40, 2))
    squashed, free = gaussian(std), gaussian(std, squash=False)
    for decoder in (squashed, free):
        decoder.network.layers[-1].weight.data *= 5
    means = raw(squashed.mean(z))
    assert 0 < means.min() < 0.1 and 0.9 < means.max() < 1
    assert raw(free.mean(z)).min() < -1 and raw(free.mean(z)).max() > 2


@pytest.mark.parametrize("std", DECODER_STDS)
@pytest.mark.parametrize("squash", [True, False])
def test_the_density_of_one_pixel_integrates_to_one(std, squash):
    decoder = GaussianDecoder([2, 7, 1], np.random.default_rng(2), std=std, squash=squash,
                              std_floor=0.05).to(dtype=np.float64)
    x, step = np.linspace(-4, 5, 9001, retstep=True)
    z = np.random.default_rng(3).standard_normal((1, 2))
    assert step * np.exp(decoder(z).log_prob(x[:, None]).data).sum() == pytest.approx(1, abs=1e-10)


def test_the_probabilities_of_all_binary_images_sum_to_one():
    decoder = BernoulliDecoder([2, 7, 3], np.random.default_rng(2)).to(dtype=np.float64)
    images = np.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    z = np.random.default_rng(3).standard_normal((1, 2))
    assert np.exp(decoder(z).log_prob(images).data).sum() == pytest.approx(1, abs=1e-12)
    mean = np.exp(decoder(z).log_prob(images).data) @ images
    np.testing.assert_allclose(raw(decoder.mean(z))[0], mean, rtol=1e-12)


# ------------------------------------------------------------------ pixels that never change


@pytest.mark.parametrize("std", DECODER_STDS)
def test_constant_pixels_do_not_blow_up(std):
    """On dequantised levels no density may promise less than 0 nats, however long it trains."""
    rng = np.random.default_rng(0)
    levels, dim = 17, 5
    images = rng.integers(0, levels, (60, dim), dtype=np.uint8)
    images[:, 1:] = [0, 16, 0, 8]  # one pixel lives
    whole = Split(images)
    dataset = Dataset("constant", (1, dim), levels, whole, whole, whole, "none", "dequantized")
    floor = 1 / (levels * math.sqrt(12))  # the spread of the noise itself
    model = VAE(dim, rng, (7,), 2, "gaussian", decoder_std=std, std_floor=floor,
                pixel_means=dataset.pixel_means())
    optimizer = Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        x = dataset.encode(images, rng)
        gradients = grad(model.loss(x, rng), optimizer.parameters)
        assert all(np.isfinite(g).all() for g in gradients)
        optimizer.step(gradients)
    estimates = evaluate.evaluate(model, dataset, "test", 0, np, np.float32, iw_samples=50)
    # A pixel with uniform noise costs log sqrt(2 pi e / 12) = 0.18 nats at best, the living
    # one about log 17 = 2.83; one spread for both kinds costs more.
    for estimate in estimates[:2]:
        assert 4 * 0.17 < estimate.nats < (10 if std in ("fixed", "shared") else 6)
    spreads = std_of(model.decoder, model.encode(x).loc.data)
    assert spreads.min() >= floor * (1 - 1e-6)
    if std in ("pixel", "network"):
        assert spreads[:, 1:].max() < 1.5 * floor


# -------------------------------------------------------------------------------- backends


@pytest.mark.parametrize("std", [None, *DECODER_STDS])
def test_decoders_keep_precision_and_leading_axes_on_every_backend(std, xp):
    rng = np.random.default_rng(0)
    decoder = BernoulliDecoder(SIZES, rng) if std is None else GaussianDecoder(SIZES, rng, std=std)
    z = np.random.default_rng(1).standard_normal((4, 3, 2)).astype(np.float32)
    x = (np.random.default_rng(2).random((3, 5)) < 0.5).astype(np.float32)
    expected = decoder(z).log_prob(x).data
    decoder.to(xp)
    log_prob = decoder(xp.asarray(z)).log_prob(xp.asarray(x))
    assert log_prob.shape == (4, 3)
    assert log_prob.dtype == np.float32
    assert backend.module_of(log_prob.data) is xp
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=1e-5)
    assert decoder.mean(xp.asarray(z)).shape == (4, 3, 5)
