"""Estimates of likelihood: the weights averaged right, in bounded memory, in the right units."""

import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scratchgen import datasets, evaluate
from scratchgen.backend import generator
from scratchgen.datasets import Dataset, Split
from scratchgen.evaluate import bits_per_dim, independent_pixels, log_mean_weights
from scratchgen.models.autoencoder import Autoencoder
from scratchgen.models.vae import VAE
from scratchgen.tensor import Tensor, no_grad


def dataset_of(images, encoding, levels, train=None, valid=None):
    """A Dataset of raw test images (N, D), one row of pixels each."""
    images = np.asarray(images, dtype=np.uint8)
    train, valid = (images if other is None else np.asarray(other, dtype=np.uint8)
                    for other in (train, valid))
    return Dataset("tiny", (1, images.shape[1]), levels, Split(train), Split(valid),
                   Split(images), "none", encoding)


class Teller:
    """Stands for a model: every figure of an image is the dot product with `coefficients`."""

    unit = "nats"
    figure_name = "told"

    def __init__(self, coefficients):
        self.coefficients = np.asarray(coefficients)
        self.rows = []  # how many examples each call was about

    def figure(self, x, rng):
        self.rows.append(len(x))
        return Tensor(x @ self.coefficients.astype(x.dtype))

    def log_weights(self, x, rng, k):
        return np.tile(-(x @ self.coefficients), (k, 1))

    def prior_log_weights(self, x, rng, k):
        return self.log_weights(x, rng, k) - 1


def estimates_of(model, dataset, split="test", seed=0, **options):
    return evaluate.evaluate(model, dataset, split, seed, np, np.float64, **options)


# ---------------------------------------------------------------- averages of log-weights


def replay(weights):
    """A source of log-weights that hands out `weights` (K, N), an example's next ones each time.

    x (N, D) names the example in its first column.
    """
    done = {}

    def log_weights(x, rng, k):
        examples = x[:, 0].astype(int)
        start = done.get(examples[0], 0)
        done[examples[0]] = start + k
        return weights[start:start + k, examples]
    return log_weights


def named(examples, dim=4):
    """Images (N, D) that replay can tell apart."""
    return np.tile(np.arange(examples, dtype=float)[:, None], (1, dim))


@pytest.mark.parametrize("at_once", [1, 39, 40, 200, 2 ** 20])
def test_the_average_is_a_logsumexp_whatever_the_chunks(at_once, monkeypatch, rng):
    monkeypatch.setattr(evaluate, "_NUMBERS_AT_ONCE", at_once)
    weights = 30 * rng.standard_normal((23, 7))
    estimates = log_mean_weights(replay(weights), named(7), 23, None)
    expected = np.log(np.exp(weights).sum(axis=0) / 23)
    np.testing.assert_allclose(estimates, expected, rtol=1e-13)
    assert estimates.dtype == np.float64


def test_every_weight_is_asked_for_once_and_counted(monkeypatch):
    monkeypatch.setattr(evaluate, "_NUMBERS_AT_ONCE", 100)  # two examples, 12 samples
    asked = []

    class Counter:
        total = 0

        def update(self, n):
            self.total += n

    def log_weights(x, rng, k):
        asked.append((len(x), k))
        return np.zeros((k, len(x)))
    counter = Counter()
    log_mean_weights(log_weights, named(7), 23, None, counter)
    assert asked == [(2, 12), (2, 11)] * 3 + [(1, 23)]
    assert counter.total == 7 * 23


def test_weights_near_minus_ten_thousand_in_float32_stay_finite(rng):
    weights = (-1e4 + 10 * rng.standard_normal((50, 3))).astype(np.float32)
    exact = weights.astype(np.float64) + 1e4
    np.testing.assert_allclose(log_mean_weights(replay(weights), named(3), 50, None) + 1e4,
                               np.log(np.exp(exact).mean(axis=0)), atol=1e-8)


def test_weights_of_zero_count_as_zero():
    weights = np.array([[-np.inf, -np.inf], [math.log(3), -np.inf]])
    estimates = log_mean_weights(replay(weights), named(2), 2, None)
    assert estimates[0] == pytest.approx(math.log(1.5))
    assert estimates[1] == -np.inf


def bounds_by_group(log_weights):
    """The bound averaged over groups of 1, 2, 4, 12 of the same 12 log-weights (12, N)."""
    bounds = []
    for size in (1, 2, 4, 12):
        groups = log_weights.reshape(12 // size, size, -1)
        bounds.append(np.mean([log_mean_weights(replay(group), named(group.shape[1]), size, None)
                               for group in groups], axis=0))
    return np.array(bounds)


@given(arrays(np.float64, (12, 5), elements=st.floats(-1e4, 100)))
def test_larger_groups_of_any_weights_never_give_a_lower_bound(log_weights):
    bounds = bounds_by_group(log_weights)
    np.testing.assert_allclose(bounds[0], log_weights.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert (np.diff(bounds, axis=0) >= -1e-13 * (1 + np.abs(log_weights).max())).all()
    assert (bounds[-1] <= log_weights.max(axis=0) + 1e-9).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("posterior", ["normal", "laplace"])
def test_larger_groups_of_a_models_weights_never_give_a_lower_bound(likelihood, posterior, rng):
    model = VAE(6, rng, (5,), 2, likelihood, posterior).to(dtype=np.float64)
    x = (rng.random((40, 6)) < 0.5).astype(float)
    bounds = bounds_by_group(model.log_weights(x, rng, 12))
    assert (np.diff(bounds, axis=0) > 0).all()


def test_memory_does_not_grow_with_the_number_of_samples(rng):
    model = VAE(64, rng, (30,), 7)
    x = (rng.random((50, 64)) < 0.5).astype(np.float32)
    peaks = []
    for samples in (1_000, 5_000):
        tracemalloc.start()
        estimates = log_mean_weights(model.log_weights, x, samples, rng)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    # The logits of all samples at once would be 64 MB, and they are not the only array.
    assert peaks[1] < 8 * 4 * evaluate._NUMBERS_AT_ONCE
    assert np.isfinite(estimates).all()


# ---------------------------------------------------------------------------- the figures


def test_bits_per_dimension():
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1, abs=1e-15)
    assert bits_per_dim(64 * math.log(17), 64) == pytest.approx(math.log2(17), abs=1e-14)


def test_the_mean_and_its_standard_error(rng):
    images = rng.integers(0, 9, (11, 3))
    coefficients = [1.0, -2.0, 0.5]
    [estimate] = estimates_of(Teller(coefficients), dataset_of(images, "levels", 9))
    figures = images @ coefficients
    assert estimate.nats == pytest.approx(figures.mean(), rel=1e-14)
    deviations = figures - figures.mean()
    assert estimate.stderr == pytest.approx(math.sqrt((deviations ** 2).sum() / 10 / 11))
    assert estimate.bits_per_dim == pytest.approx(figures.mean() / 3 / math.log(2))
    assert (estimate.estimator, estimate.k, estimate.examples) == ("told", 1, 11)


def test_one_example_has_no_standard_error():
    [estimate] = estimates_of(Teller([1.0, 0.0]), dataset_of([[2, 1]], "levels", 3))
    assert estimate.nats == 2
    assert math.isnan(estimate.stderr)


def test_every_example_is_counted_once_in_order():
    images = np.arange(1203)[:, None] // [1, 6] % 256
    dataset = dataset_of(images, "levels", 256)
    model = Teller([1.0, 1.0])
    figures = evaluate.example_figures(model, dataset, "test", None, np, np.float32)
    assert figures.dtype == np.float64
    np.testing.assert_array_equal(figures, images.sum(axis=1))
    assert model.rows == [500, 500, 203]
    assert evaluate.validation_figure(model, dataset, "valid", None, np, np.float32) == (
        figures.mean())


def test_the_importance_weighted_estimates_carry_their_names_and_samples(rng):
    images = rng.integers(0, 9, (150, 2))
    dataset = dataset_of(images, "levels", 9)
    estimates = estimates_of(Teller([1.0, 3.0]), dataset, iw_samples=13, examples=120)
    assert [(e.estimator, e.k, e.examples) for e in estimates] == [
        ("importance-weighted", 13, 120), ("told", 1, 150), ("prior-sampled", 13, 100)]
    chosen = dataset.subset("test", 120, seed=0).images @ [1.0, 3.0]
    # All weights of an example are equal here, so their log-mean is one of them.
    assert estimates[0].nats == pytest.approx(chosen.mean(), rel=1e-13)
    assert estimates[0].stderr == pytest.approx(chosen.std(ddof=1) / math.sqrt(120))
    assert estimates[2].nats == pytest.approx(chosen[:100].mean() + 1, rel=1e-13)


def test_the_examples_are_the_same_whatever_the_seed_of_the_noise(rng):
    dataset = dataset_of(rng.integers(0, 9, (150, 2)), "levels", 9)
    first, second = (estimates_of(Teller([1.0, 3.0]), dataset, seed=seed, iw_samples=2,
                                  examples=20)[0] for seed in (0, 5))
    assert first == second
    everything = estimates_of(Teller([1.0, 3.0]), dataset, iw_samples=2, examples=1000)[0]
    assert everything.examples == 150


def test_dynamic_pixels_are_drawn_by_the_seed_and_the_split(rng):
    dataset = dataset_of(rng.integers(0, 17, (60, 10)), "dynamic", 17)
    model = Teller(2.0 ** np.arange(10))  # a figure tells all pixels of an image

    def figure(split, seed):
        return estimates_of(model, dataset, split, seed)[0].nats
    assert figure("test", 3) == figure("test", 3)
    assert figure("test", 3) != figure("test", 4)
    assert figure("test", 3) != figure("valid", 3)  # the same images here, another stream
    grey = estimates_of(Teller(np.ones(10)), dataset)[0]
    assert abs(grey.nats - 10 * dataset.test.images.mean() / 16) < 4 * grey.stderr


@pytest.mark.parametrize("likelihood, encoding", [("bernoulli", "threshold"),
                                                  ("gaussian", "dequantized")])
def test_a_vae_evaluates_to_the_same_numbers_on_every_backend(likelihood, encoding, xp):
    images = np.random.default_rng(0).integers(0, 17, (9, 6))
    dataset = dataset_of(images, encoding, 17)
    figures = []
    for module in (np, xp):
        model = VAE(6, np.random.default_rng(1), (5,), 2, likelihood).to(module, np.float64)
        estimates = evaluate.evaluate(model, dataset, "test", 0, module, np.float64, 31, 7)
        figures.append([estimate.nats for estimate in estimates])
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-10)
    tight, elbo, _ = figures[0]
    assert tight != elbo


# --------------------------------------------------------------------- units of the data


@pytest.mark.parametrize("levels, dim", [(17, 3), (256, 5)])
def test_a_density_of_dequantised_data_gets_the_log_volume_of_its_cells(levels, dim, rng):
    dataset = dataset_of(rng.integers(0, levels, (8, dim)), "dequantized", levels)
    silent = Teller(np.zeros(dim))  # a density of 1 everywhere in the unit cube
    estimates = estimates_of(silent, dataset, iw_samples=2)
    for estimate, shift in zip(estimates, (0, 0, 1)):
        assert estimate.nats == pytest.approx(dim * math.log(levels) + shift, rel=1e-14)
        assert estimate.bits_per_dim == pytest.approx(
            math.log2(levels) + shift / dim / math.log(2))
        assert estimate.estimator.endswith(" of dequantised data")
    assert evaluate.in_units("valid", 1.5, silent, dataset) == {
        "valid_nats": pytest.approx(1.5 + dim * math.log(levels)),
        "valid_bits_per_dim": pytest.approx(math.log2(levels) + 1.5 / dim / math.log(2))}


@pytest.mark.parametrize("encoding", ["levels", "threshold", "dynamic", "grey"])
def test_probabilities_are_left_as_they_are(encoding, rng):
    dataset = dataset_of(rng.integers(0, 17, (8, 3)), encoding, 17)
    [estimate] = estimates_of(Teller(np.zeros(3)), dataset)
    assert (estimate.nats, estimate.estimator) == (0, "told")
    assert evaluate.in_units("train", 2.0, Teller([]), dataset) == {
        "train_nats": 2.0, "train_bits_per_dim": pytest.approx(2 / 3 / math.log(2))}


def test_a_squared_error_keeps_its_own_unit(rng):
    dataset = dataset_of(rng.integers(0, 17, (8, 3)), "dequantized", 17)
    model = Autoencoder(3, rng, (5,), 2).to(dtype=np.float64)
    x = dataset.encode(dataset.test.images, generator(0, "test"), np.float64)
    [estimate] = estimates_of(model, dataset)
    assert estimate.unit == "squared_error"
    assert estimate.estimator == "reconstruction error (no likelihood)"
    assert estimate.nats == pytest.approx(((model.reconstruct(x) - x) ** 2).sum(axis=1).mean())
    assert evaluate.in_units("valid", 2.0, model, dataset) == {"valid_squared_error": 2.0}


def test_the_corrected_figure_bounds_the_true_discrete_likelihood():
    """Two pixels of three levels: P(x), the mass of the density in a cell, by quadrature."""
    levels, dim = 3, 2
    grid = np.array(list(itertools.product(range(levels), repeat=dim)))
    counts = np.array([400, 70, 30, 90, 250, 60, 20, 80, 300])
    dataset = dataset_of(np.repeat(grid, counts, axis=0), "dequantized", levels)
    rng = np.random.default_rng(0)
    model = VAE(dim, rng, (4,), 1, "gaussian", decoder_std="pixel").to(dtype=np.float64)
    model.decoder.raw_log_std.data += [1.0, 0.6]
    for layer in (0, 2):
        model.decoder.network.layers[layer].weight.data *= 2

    z = np.linspace(-9, 9, 401)
    prior = np.exp(-z ** 2 / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    with no_grad():
        p = model.decode(z[:, None])
        loc, std = p.loc.data, np.exp(p.log_std.data)
    erf = np.vectorize(math.erf)

    def below(edge):
        return (1 + erf((edge - loc) / (std * math.sqrt(2)))) / 2

    def log_density(y):
        """log p(y) at points (M, D), the code integrated out."""
        noise = (y[:, None] - loc) / std
        return np.log(np.exp(-noise ** 2 / 2 - np.log(std * math.sqrt(2 * math.pi))
                             ).prod(axis=2) @ prior)

    true = [-math.log(prior @ (below((x + 1) / levels) - below(x / levels)).prod(axis=1))
            for x in grid]
    u, weights = np.polynomial.legendre.leggauss(12)
    u = np.array(list(itertools.product(u / 2 + 0.5, repeat=dim)))
    weights = np.outer(weights, weights).ravel() / 4
    bounds = [dim * math.log(levels) - weights @ log_density((x + u) / levels) for x in grid]

    shares = counts / counts.sum()
    assert (np.array(bounds) > true).all()  # Jensen, image by image
    tight, elbo, _ = estimates_of(model, dataset, iw_samples=100)
    assert abs(tight.nats - shares @ bounds) < 4 * tight.stderr
    assert tight.stderr < 0.02
    assert elbo.nats > tight.nats > shares @ true
    assert estimates_of(model, dataset, iw_samples=100)[0] == tight


# ------------------------------------------------------------------- the simplest baseline

TRAIN = [[0, 3], [1, 3], [3, 3], [3, 0], [1, 3]]
TEST = [[0, 3], [3, 3], [2, 1]]


def pixels_of(encoding):
    return independent_pixels(dataset_of(TEST, encoding, 4, train=TRAIN), "test", seed=0)


def test_independent_pixels_by_hand_on_binary_images():
    # Of five images the pixels are one (a level of 2 or 3) in two and in four; plus one each.
    p = (2 + 1) / 7, (4 + 1) / 7
    by_hand = [-math.log((1 - p[0]) * p[1]), -math.log(p[0] * p[1]), -math.log(p[0] * (1 - p[1]))]
    estimate = pixels_of("threshold")
    assert estimate.nats == pytest.approx(np.mean(by_hand), rel=1e-14)
    assert estimate.stderr == pytest.approx(np.std(by_hand, ddof=1) / math.sqrt(3))
    assert estimate.bits_per_dim == pytest.approx(np.mean(by_hand) / (2 * math.log(2)))
    assert (estimate.estimator, estimate.k, estimate.unit) == ("independent pixels", 1, "nats")


@pytest.mark.parametrize("encoding", ["levels", "dequantized"])
def test_independent_pixels_by_hand_on_grey_levels(encoding):
    # Counts of the levels 0..3: 1, 2, 0, 2 and 1, 0, 0, 4, and one more of each.
    by_hand = [-math.log(2 / 9 * 5 / 9), -math.log(3 / 9 * 5 / 9), -math.log(1 / 9 * 1 / 9)]
    assert pixels_of(encoding).nats == pytest.approx(np.mean(by_hand), rel=1e-14)
    assert pixels_of(encoding).unit == "nats"


def test_independent_pixels_by_hand_on_shares_is_the_mean_image():
    means = np.array([8 / 15, 12 / 15])  # 0+1+3+3+1 and 3+3+3+0+3, over 5 images of 0..3
    by_hand = [((np.array(image) / 3 - means) ** 2).sum() for image in TEST]
    estimate = pixels_of("grey")
    assert estimate.nats == pytest.approx(np.mean(by_hand), rel=1e-14)
    assert (estimate.estimator, estimate.unit) == ("mean image", "squared_error")


def test_independent_pixels_on_dynamic_images_knows_the_probabilities():
    images = np.tile(TEST, (4000, 1))
    dataset = dataset_of(images, "dynamic", 4, train=TRAIN)
    p = (5 * np.array([8 / 15, 12 / 15]) + 1) / 7
    share = images[:3] / 3
    expected = -(share * np.log(p) + (1 - share) * np.log(1 - p)).sum(axis=1).mean()
    estimate = independent_pixels(dataset, "test", seed=0)
    assert abs(estimate.nats - expected) < 4 * estimate.stderr
    assert independent_pixels(dataset, "test", seed=0) == estimate
    assert independent_pixels(dataset, "test", seed=1) != estimate


@pytest.mark.parametrize("encoding, nats", [("threshold", 24.914), ("levels", 106.473)])
def test_independent_pixels_of_the_digits(encoding, nats):
    estimate = independent_pixels(datasets.load("digits", encoding=encoding), "test", seed=0)
    assert round(estimate.nats, 3) == nats
    assert estimate.examples == 447


def test_an_estimate_is_a_plain_record():
    [estimate] = estimates_of(Teller([1.0, 2.0]), dataset_of([[2, 1], [0, 1]], "levels", 3))
    assert dataclasses.asdict(estimate) == {
        "nats": 3.0, "bits_per_dim": 3 / 2 / math.log(2), "stderr": 1.0, "estimator": "told",
        "k": 1, "examples": 2, "unit": "nats"}
