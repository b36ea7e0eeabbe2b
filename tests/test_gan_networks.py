"""The networks of a GAN: sampling, layout, sizes; and what it refuses."""

import math

import numpy as np
import pytest

from gan_helpers import ARCHITECTURES, COLOURS, DIM, LATENT, SHAPE, build, images, step
from scratchgen import backend, nn
from scratchgen.models import gan_networks
from scratchgen.models.gan import GAN
from scratchgen.models.gan_networks import conv_gan, mlp_gan

# -------------------------------------------------------------------------------- sampling


def moved(architecture, xp=np):
    """A GAN whose running statistics have left their start."""
    game = build(architecture).to(xp)
    for _ in range(5):
        for player in game.players():
            step(player, images(6, xp))
    return game


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_noise_gives_one_image_whatever_batch_it_is_in(xp, architecture):
    game = moved(architecture, xp)
    z = game.noise(501, np.random.default_rng(3))
    together = backend.to_numpy(game.generate(z))
    for rows in [slice(0, 1), slice(7, 9), slice(490, 501)]:
        alone = backend.to_numpy(game.generate(z[rows]))
        assert abs(alone - together[rows]).max() < 1e-5


def test_sampling_uses_the_running_statistics():
    game = moved("convolutions")
    z = game.noise(9, np.random.default_rng(3))
    running = game.generate(z)
    assert abs(game.generator(z, "batch").data - running).max() > 1e-3
    norms = [layer for layer in game.generator.layers if type(layer) is nn.BatchNorm]
    assert len(norms) == 2
    norms[0].running_mean += 1
    assert abs(game.generate(z) - running).max() > 1e-3


def test_samples_are_the_generators(xp):
    game = moved("convolutions", xp)
    samples = game.sample(503, np.random.default_rng(3))
    assert type(samples) is xp.ndarray
    assert samples.shape == (503, DIM)
    assert samples.dtype == np.float32
    host = backend.to_numpy(samples)
    assert 0 < host.min() < host.max() < 1
    z = game.noise(503, np.random.default_rng(3))
    np.testing.assert_array_equal(host, backend.to_numpy(game.generate(z)))


def test_noise_is_standard_normal():
    z = build("perceptrons").noise(4000, np.random.default_rng(3))
    drawn = np.random.default_rng(3).standard_normal((4000, LATENT), dtype=z.dtype)
    np.testing.assert_array_equal(z, drawn)


def test_interpolation_goes_from_one_sample_to_the_other(xp):
    game = moved("perceptrons", xp)
    a, b = game.noise(2, np.random.default_rng(3)), game.noise(2, np.random.default_rng(4))
    path = game.interpolate(a, b, 5)
    assert path.shape == (2, 5, DIM)
    for i, z in [(0, a), (4, b), (2, (a + b) * 0.5 ** 0.5)]:
        np.testing.assert_allclose(backend.to_numpy(path)[:, i], backend.to_numpy(game.generate(z)),
                                   atol=1e-6)


def test_unsquashed_outputs_are_not_bounded():
    game = mlp_gan(2, np.random.default_rng(0), (8,), squash=False)
    game.generator.layers[-1].layers[-1].bias.data[...] = -7
    assert game.sample(20, np.random.default_rng(0)).max() < -2


# ------------------------------------------------------------------------- convolutions


def test_maps_and_rows(xp):
    x = images(2, xp)
    maps = gan_networks._to_maps(SHAPE, COLOURS, x)
    host, rows = backend.to_numpy(maps), backend.to_numpy(x)
    assert host.shape == (2, COLOURS, *SHAPE)
    for n, c, i, j in [(0, 2, 3, 7), (1, 1, 2, 5)]:
        assert host[n, c, i, j] == 2 * rows[n, (i * SHAPE[1] + j) * COLOURS + c] - 1
    np.testing.assert_array_equal(backend.to_numpy(gan_networks._to_rows(maps)), 2 * rows - 1)


@pytest.mark.parametrize("shape, channels", [((28, 28), 1), ((8, 8), 1), ((4, 12), 3)])
def test_sizes_of_the_convolutional_networks(shape, channels):
    game = conv_gan(shape, np.random.default_rng(0), channels, width=3, latent=2)
    x = game.sample(2, np.random.default_rng(0))
    assert x.shape == (2, math.prod(shape) * channels)
    assert game.discriminator(x).shape == (2,)


def test_a_wasserstein_critic_has_no_batch_norm():
    def norms(network):
        return [module for module in network.modules() if type(module) is nn.BatchNorm]
    game = build("convolutions", "wasserstein")
    assert not norms(game.discriminator)
    assert norms(game.generator)
    other = build("convolutions", "minimax")
    assert norms(other.discriminator)
    with pytest.raises(ValueError, match="^a Wasserstein critic has no batch norm: [^\n]*$"):
        GAN(other.generator, other.discriminator, LATENT, "wasserstein")


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("options, message", [
    ({"loss": "hinge"}, "loss 'hinge': choose one of minimax, non-saturating, wasserstein"),
    ({"d_steps": 0}, "latent and d_steps must be at least 1, not 5 and 0"),
    ({"penalty": 0.0}, "the penalty must be a positive number, not 0.0"),
    ({"penalty": math.nan}, "the penalty must be a positive number, not nan")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bad_options_are_refused(architecture, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build(architecture, **options)


@pytest.mark.parametrize("shape", [(8,), (6, 8), (8, 10), (0, 4), (2, 4, 4)])
def test_images_that_cannot_be_halved_twice_are_refused(shape):
    with pytest.raises(ValueError, match=r"need height and width to be multiples of 4$"):
        conv_gan(shape, np.random.default_rng(0))


def test_a_latent_of_nothing_is_refused():
    with pytest.raises(ValueError, match="^latent and d_steps must be at least 1, not 0 and 1$"):
        build("perceptrons", latent=0)


@pytest.mark.parametrize("options", [{"channels": 0}, {"width": 0}, {"latent": 0}])
def test_convolutions_without_channels_are_refused(options):
    with pytest.raises(ValueError, match="^channels, width and latent must be at least 1, not "):
        conv_gan((8, 8), np.random.default_rng(0), **options)


@pytest.mark.parametrize("architecture, message", [
    ("perceptrons", "rows of 9 do not fit a weight for 96"),
    ("convolutions", r"rows of \(9,\) numbers are no images of \(4, 8\) with 3 channels")])
def test_rows_of_another_size_are_refused(architecture, message):
    with pytest.raises(ValueError, match=message):
        build(architecture).discriminator_loss(np.ones((4, 9), np.float32),
                                               np.random.default_rng(0))
