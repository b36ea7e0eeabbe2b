"""The mixture of independent sub-pixels: EM on tiny worlds and on digits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend, datasets
from scratchgen.models.mixture import Mixture


def data(levels, n=40, dim=3, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (n, dim))


@pytest.mark.parametrize("levels", [2, 3])
def test_probabilities_sum_to_one(levels, xp):
    mixture = Mixture(5, levels)
    mixture.fit(xp.asarray(data(levels)), np.random.default_rng(0), iterations=7)
    worlds = np.array(list(itertools.product(range(levels), repeat=3)))
    p = np.exp(backend.to_numpy(mixture.log_prob(xp.asarray(worlds))))
    assert abs(p.sum() - 1) < 1e-12


@given(levels=st.integers(2, 4), components=st.integers(1, 6), seed=st.integers(0, 10 ** 6),
       smoothing=st.sampled_from([0.1, 1.0, 7.0]))
def test_the_objective_never_falls(levels, components, seed, smoothing):
    mixture = Mixture(components, levels, smoothing)
    history = mixture.fit(data(levels, seed=seed), np.random.default_rng(seed), iterations=30,
                          tolerance=-np.inf)
    assert len(history) == 30
    assert np.diff(history).min() >= -1e-9 * abs(history[0])


@pytest.mark.parametrize("levels", [2, 4])
def test_one_component_is_counting(levels):
    x = data(levels)
    mixture = Mixture(1, levels, smoothing=2.0)
    mixture.fit(x, np.random.default_rng(0))
    counts = np.array([(x == level).sum(axis=0) for level in range(levels)]).T
    prior = (counts + 1) / (len(x) + levels)  # what the pseudo-counts are spread by
    np.testing.assert_allclose(np.exp(mixture.log_p[0]), (counts + 2 * prior) / (len(x) + 2))


def test_log_prob_is_the_textbook_sum():
    x = data(3)
    mixture = Mixture(4, 3)
    mixture.fit(x, np.random.default_rng(1), iterations=5)
    p = np.exp(mixture.log_p)
    expected = [np.log(sum(np.exp(mixture.log_weights[k]) * np.prod(p[k, range(3), row])
                           for k in range(4))) for row in x]
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=1e-12)


def test_em_finds_two_separate_clusters():
    x = np.repeat([[0, 0, 0, 0], [1, 1, 1, 1]], [30, 10], axis=0)
    mixture = Mixture(2, smoothing=1e-3)
    mixture.fit(x, np.random.default_rng(0))
    np.testing.assert_allclose(sorted(np.exp(mixture.log_weights)), [0.25, 0.75], atol=1e-3)


def test_samples_follow_the_model():
    mixture = Mixture(2, 3)
    mixture.fit(data(3, dim=2), np.random.default_rng(0), iterations=3)
    worlds = np.array(list(itertools.product(range(3), repeat=2)))
    p = np.exp(mixture.log_prob(worlds))
    drawn = mixture.sample(20000, np.random.default_rng(1)) @ [3, 1]
    error = np.bincount(drawn, minlength=9) / 20000 - p
    assert (np.abs(error) < 5 * np.sqrt(p * (1 - p) / 20000)).all()


def test_digits_reach_the_known_figure():
    digits = datasets.load("digits")
    rng = np.random.default_rng(0)
    mixture = Mixture(20)
    mixture.fit(digits.encode(digits.train.images, rng), rng)
    test = -mixture.log_prob(digits.encode(digits.test.images, rng)).mean()
    assert test == pytest.approx(19.2, abs=0.2)  # independent pixels: 24.9


def test_no_components_are_refused():
    with pytest.raises(ValueError, match="at least one component"):
        Mixture(0)
