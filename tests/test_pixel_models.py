"""All PixelCNNs and PixelRNNs: they are distributions, keep colours in order, sample fast."""

import itertools

import numpy as np
import pytest
from pixel_helpers import (KINDS, both_ways, contexts, impulse_sets, random_model,
                           total_probability)

from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.tensor import no_grad

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
WORLDS = [((3, 3), 2, 1), ((2, 2), 3, 1), ((1, 2), 2, 3)]  # shape, levels, channels
SAMPLED = [((7, 6), 2, 1, 3), ((4, 5), 17, 1, 7), ((3, 4), 4, 3, 5)]  # and the first kernel


@ALL_KINDS
@pytest.mark.parametrize("shape, levels, channels", WORLDS)
@pytest.mark.parametrize("kernel", [3, 7])
def test_probabilities_sum_to_one(shape, levels, channels, kernel, kind):
    for seed in range(3):
        model = random_model(kind, shape, seed, scale=0.7, levels=levels, channels=channels,
                             first_kernel=kernel)
        assert abs(total_probability(model) - 1) < 1e-9


@ALL_KINDS
@pytest.mark.parametrize("levels", [2, 4])
def test_dependency_sets_of_colours(kind, levels):
    models = [random_model(kind, (3, 5), seed, channels=3, levels=levels, first_kernel=3,
                           width=12, head=24) for seed in range(6)]
    found = impulse_sets(models)
    assert np.array_equal(found, contexts(models[0]))
    # In one pixel green sees red, and blue sees both.
    assert found[15:18, 15:18].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    if kind == "diagonal":
        # Of the unseen pixel only blue is unseen: green's and blue's features saw the others.
        assert found[15, 12:15].tolist() == [True, True, False]
    else:
        assert np.array_equal(found[::3, ::3],
                              contexts(random_model(kind, (3, 5), first_kernel=3)))


# --------------------------------------------------------------------------------- sampling


@ALL_KINDS
@pytest.mark.parametrize("shape, levels, channels, kernel", SAMPLED)
def test_fast_sampler_draws_the_naive_ones_images(xp, kind, shape, levels, channels, kernel):
    for dtype, tolerance in [(np.float64, 1e-10), (np.float32, 1e-4)]:
        model = random_model(kind, shape, levels=levels, channels=channels, first_kernel=kernel,
                             scale=0.4)
        model.to(xp, dtype)
        (fast, a), (naive, b) = both_ways(model, lambda rng, naive:
                                          model.sample(7, rng, naive=naive))
        assert np.array_equal(fast, naive)
        assert np.abs(a - b).max() < tolerance
        assert (fast.min(), fast.max()) == (0, levels - 1)


@ALL_KINDS
@pytest.mark.parametrize("channels", [1, 3])
def test_completion_is_the_naive_one_too(rng, kind, channels):
    model = random_model(kind, (5, 4), levels=3, channels=channels)
    x = rng.integers(0, 3, (4, model.dim)).astype(float)
    below, scattered = np.arange(model.dim) < 30, rng.random(model.dim) < 0.5
    everything = np.ones(model.dim, dtype=bool)
    for observed in (below, scattered, everything, ~everything):
        (fast, a), (naive, b) = both_ways(model, lambda rng, naive:
                                          model.complete(x, observed, rng, naive=naive))
        assert np.array_equal(fast, naive)
        assert len(a) == len(b) == (~observed).sum()
        assert not len(a) or np.abs(a - b).max() < 1e-10
        assert np.array_equal(fast[:, observed], x[:, observed])


@ALL_KINDS
def test_samples_follow_the_distribution(kind):
    model = random_model(kind, (2, 2), scale=0.8)
    images = np.array(list(itertools.product(range(2), repeat=4)), dtype=float)
    with no_grad():
        p = np.exp(model.log_prob(images).data)
    n = 20000
    drawn = model.sample(n, np.random.default_rng(0))
    counts = np.bincount((drawn @ [8, 4, 2, 1]).astype(int), minlength=16)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, one in a thousand


@ALL_KINDS
def test_progress_is_reported_for_every_drawn_sub_pixel(rng, kind):
    class Count:
        updates = 0

        def update(self):
            self.updates += 1
    model, count = random_model(kind, (3, 4), channels=3), Count()
    model.complete(np.zeros((2, 36)), np.arange(36) < 20, rng, progress=count)
    assert count.updates == 16


# -------------------------------------------------------------------------------- gradients


@ALL_KINDS
@pytest.mark.parametrize("levels, channels", [(2, 1), (5, 1), (3, 3)])
def test_gradient_of_the_objective(xp, rng, kind, levels, channels):
    # Small: every relu has a kink, and the check needs a point that is near none of them.
    model = random_model(kind, (2, 3), levels=levels, channels=channels, width=3, head=3,
                         layers=1, first_kernel=3).to(xp)
    x = xp.asarray(rng.integers(0, levels, (2, model.dim)).astype(float))
    check_grads(functional(model, lambda: model.loss(x, None)),
                *[parameter.data for parameter in model.parameters()], repeats=1)
