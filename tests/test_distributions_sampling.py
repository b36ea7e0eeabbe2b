"""What distributions draw: the right numbers for given noise, the right moments, reproducibly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strict
from scratchgen import backend, ops
from scratchgen.distributions import Bernoulli, Categorical, Laplace, Normal
from scratchgen.tensor import Tensor, grad, raw


def host(x):
    return backend.to_numpy(raw(x))


def arrays(xp, *values, dtype="float64"):
    return [xp.asarray(np.array(value, dtype)) for value in values]


class Given:
    """In place of a generator: hands out the noise it was given."""

    def __init__(self, xp, values):
        self.xp = xp
        self.values = np.array(values)

    def random(self, shape, dtype):
        return self.xp.asarray(np.broadcast_to(self.values, shape).astype(dtype))

    standard_normal = random


UNIFORMS = [0.0, 0.1, 0.25, 0.499, 0.5, 0.75, 0.9, 0.999]


def test_normal_moves_the_noise(xp, rng):
    loc, log_std = rng.normal(size=(4, 3)), rng.normal(size=3)
    noise = rng.normal(size=(2, 4, 3))
    z = Normal(*arrays(xp, loc, log_std)).rsample(Given(xp, noise), (2,))
    np.testing.assert_allclose(host(z), loc + np.exp(log_std) * noise, rtol=1e-14)


def test_laplace_inverts_its_distribution_function(xp):
    loc, log_scale = arrays(xp, [0.7], [-0.3])
    z = host(Laplace(loc, log_scale).rsample(Given(xp, np.array(UNIFORMS)[:, None]), (8,)))[:, 0]
    for u, value in zip(UNIFORMS[1:], z[1:]):
        below = math.exp(-abs(value - 0.7) / math.exp(-0.3)) / 2
        assert (below if value < 0.7 else 1 - below) == pytest.approx(u, rel=1e-12)
    assert np.isfinite(z[0]) and z[0] < -400


def test_bernoulli_is_one_below_its_probability(xp):
    logits = np.array([-1e4, -1.0, 0.0, 2.0, 1e4])
    p = np.array([0, 1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2)), 1])
    for u in UNIFORMS:
        drawn = Bernoulli(Tensor(xp.asarray(logits))).sample(Given(xp, u), (3,))
        assert type(drawn) is xp.ndarray
        np.testing.assert_array_equal(host(drawn), np.tile(u < p, (3, 1)))


def test_categorical_inverts_its_distribution_function(xp):
    p = np.array([0.1, 0.0, 0.4, 0.25, 0.25])
    logits = np.where(p > 0, np.log(np.maximum(p, 1e-300)), -1e4)
    expected = {0.05: 0, 0.11: 2, 0.49: 2, 0.51: 3, 0.74: 3, 0.76: 4, 0.999: 4, 0.0: 0}
    for u, k in expected.items():
        drawn = host(Categorical(Tensor(xp.asarray(logits[None]))).sample(Given(xp, u), (3,)))
        assert drawn.shape == (3, 1)
        assert (drawn == k).all() and drawn.dtype.kind == "i"


def test_categorical_never_draws_what_is_impossible(xp):
    logits = xp.asarray(np.array([[-1e4, 0.0, -1e4, 0.0]], np.float32))
    for u, k in [(0.0, 1), (0.5, 3)]:
        assert host(Categorical(logits).sample(Given(xp, u))) == k


@given(seed=st.integers(0, 2 ** 32 - 1), categories=st.integers(1, 300))
def test_categorical_never_returns_k(xp, seed, categories):
    """The largest float32 below 1 lies above the cumulated probabilities when they fall short."""
    logits = np.random.default_rng(seed).standard_normal((5, categories)).astype(np.float32)
    drawn = Categorical(xp.asarray(logits)).sample(Given(xp, np.float32(1 - 2.0 ** -24)))
    assert (host(drawn) == categories - 1).all()


MOMENTS = [  # family, parameters, mean, variance
    (Normal, ([0.5, -2.0], [0.3, -1.0]), [0.5, -2], np.exp([0.6, -2])),
    (Laplace, ([0.5, -2.0], [0.3, -1.0]), [0.5, -2], 2 * np.exp([0.6, -2])),
    (Bernoulli, ([0.5, -2.0],), 1 / (1 + np.exp([-0.5, 2])),
     1 / (1 + np.exp([-0.5, 2])) / (1 + np.exp([0.5, -2]))),
    (Categorical, (np.log([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]),), [1.1, 0.7], [0.49, 0.81])]


@pytest.mark.parametrize("family, parameters, mean, variance", MOMENTS)
def test_moments_of_what_is_drawn(xp, family, parameters, mean, variance):
    n = 40_000
    drawn = host(family(*arrays(xp, *parameters)).sample(np.random.default_rng(1), (n,)))
    assert drawn.shape == (n, 2)
    squares = (drawn - np.array(mean)) ** 2
    assert (abs(drawn.mean(axis=0) - mean) < 5 * np.sqrt(np.array(variance) / n)).all()
    assert (abs(squares.mean(axis=0) - variance) < 5 * squares.std(axis=0) / n ** 0.5).all()
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / n ** 0.5


FAMILIES = [(family, parameters) for family, parameters, _, _ in MOMENTS]


@pytest.mark.parametrize("family, parameters", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_seed_draws_the_same_numbers_on_every_backend(family, parameters, dtype):
    drawn = [host(family(*arrays(xp, *parameters, dtype=dtype)).sample(
        np.random.default_rng(7), (5,))) for xp in (np, strict.xp)]
    np.testing.assert_array_equal(*drawn)
    if family is not Categorical:
        assert drawn[0].dtype == dtype


@pytest.mark.parametrize("family, parameters", FAMILIES)
def test_a_draw_is_a_plain_array_and_uses_the_generator_given(xp, family, parameters):
    distribution = family(*[Tensor(x) for x in arrays(xp, *parameters)])
    draws = [distribution.sample(np.random.default_rng(seed), (50,)) for seed in (1, 1, 2)]
    assert type(draws[0]) is xp.ndarray
    assert (host(draws[0]) == host(draws[1])).all()
    assert (host(draws[0]) != host(draws[2])).any()


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_a_device_generator_draws_too(xp, family):
    generator = backend.device_generator(3, xp)
    parameters = arrays(xp, [0.5, -2.0], [0.3, -1.0], dtype="float32")
    z = family(*parameters).rsample(generator, (4,))
    assert (z.shape, z.dtype, type(z)) == ((4, 2), np.float32, xp.ndarray)


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_gradient_reaches_both_parameters_through_a_draw(xp, family):
    parameters = [Tensor(x) for x in arrays(xp, [0.5, -2.0], [0.3, -1.0])]
    distribution = family(*parameters)
    z = distribution.rsample(np.random.default_rng(5))
    by_loc, by_log_scale = grad(ops.sum(z), parameters)
    np.testing.assert_array_equal(host(by_loc), [1, 1])
    np.testing.assert_allclose(host(by_log_scale), z.numpy() - [0.5, -2.0], rtol=1e-12)
    drawn = distribution.sample(np.random.default_rng(5))
    np.testing.assert_array_equal(host(drawn), z.numpy())
