"""Histogram, kernels, Gaussian and mixture: each a density, each sampled from what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend
from scratchgen.models import kmeans
from scratchgen.models.density import (Gaussian, GaussianMixture, Histogram, KernelDensity,
                                       choose_bandwidth)


def blobs(n=80, dim=2, seed=0, dtype=np.float64, clusters=3):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((clusters, dim))
    scales = rng.uniform(0.5, 1.5, (clusters, dim))
    owner = rng.integers(0, clusters, n)
    return (centres[owner] + scales[owner] * rng.standard_normal((n, dim))).astype(dtype)


def fit(model, x, *rng):
    model.fit(x, *rng)
    return model


def histogram(x):
    return fit(Histogram(9), x)


def kernels(x):
    return fit(KernelDensity(0.7), x)


def gaussian(x):
    return fit(Gaussian(), x)


def full_mixture(x):
    return fit(GaussianMixture(3), x, np.random.default_rng(0))


def diagonal_mixture(x):
    return fit(GaussianMixture(3, "diagonal"), x, np.random.default_rng(0))


MAKERS = [histogram, kernels, gaussian, full_mixture, diagonal_mixture]


def grid(dim, points=400, reach=25.0):
    """The centres of cells that cover [-reach, reach]^D, and the volume of one."""
    edge = (np.arange(points) + 0.5) / points * 2 * reach - reach
    cells = np.stack(np.meshgrid(*[edge] * dim), axis=-1).reshape(-1, dim)
    return cells, (2 * reach / points) ** dim


def normal_log_prob(x, mean, covariance):
    """A Gaussian's log-density, written down as the textbook does."""
    offset = x - mean
    square = (offset * np.linalg.solve(covariance, offset.T).T).sum(axis=1)
    return -0.5 * (x.shape[1] * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + square)


def covariance_of(mixture, k):
    """Component k's covariance from what the mixture keeps."""
    if mixture.covariance == "diagonal":
        return np.diag(mixture.variances[k])
    return (mixture._axes[k] * mixture.variances[k]) @ mixture._axes[k].T


@pytest.mark.parametrize("maker", MAKERS[1:])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_integrates_to_one(maker, dim):
    points, volume = grid(dim)
    p = np.exp(maker(blobs(30, dim)).log_prob(points))
    assert p.sum() * volume == pytest.approx(1, abs=1e-6)


@given(dim=st.integers(1, 3), bins=st.integers(1, 9), n=st.integers(1, 60),
       seed=st.integers(0, 10 ** 6))
def test_a_histogram_integrates_to_one(dim, bins, n, seed):
    model = fit(Histogram(bins), blobs(n, dim, seed))
    place = (np.arange(bins) + 0.5) / bins
    unit = np.stack(np.meshgrid(*[place] * dim), axis=-1).reshape(-1, dim)
    span = model.high - model.low
    p = np.exp(model.log_prob(model.low + unit * span))  # one point in the middle of every bin
    assert p.sum() * np.prod(span / bins) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("bounds", [None, (-20, 30)])
def test_a_histogram_counts_as_numpy_does(xp, bounds):
    x = blobs(100)
    model = fit(Histogram(7, bounds), xp.asarray(x))
    span = bounds and [bounds] * 2
    density, x_edges, y_edges = np.histogram2d(*x.T, bins=7, range=span, density=True)
    counted, _, _ = np.histogram2d(*x.T, bins=7, range=span)
    np.testing.assert_allclose(backend.to_numpy(model.probabilities), counted / 100)
    column = np.searchsorted(x_edges, x[:, 0], side="right").clip(1, 7) - 1
    row = np.searchsorted(y_edges, x[:, 1], side="right").clip(1, 7) - 1
    np.testing.assert_allclose(np.exp(backend.to_numpy(model.log_prob(xp.asarray(x)))),
                               density[column, row])


def test_a_histogram_knows_nothing_where_it_saw_nothing(xp):
    model = fit(Histogram(4), xp.asarray([[0.0], [0.1], [1.0]]))
    found = backend.to_numpy(model.log_prob(xp.asarray([[0.05], [0.5], [1.0], [-0.1], [1.1]])))
    np.testing.assert_allclose(found, [np.log(8 / 3), -np.inf, np.log(4 / 3), -np.inf, -np.inf])


def test_a_constant_column_gets_a_range_of_one():
    x = np.full((6, 1), 3.0)
    model = fit(Histogram(4), x)
    assert (model.low, model.high) == ([2.5], [3.5])
    np.testing.assert_allclose(model.log_prob(x), np.log(4))


@given(n=st.integers(1, 25), dim=st.integers(1, 4), bandwidth=st.floats(0.05, 5),
       seed=st.integers(0, 10 ** 6))
def test_kernels_are_the_textbook_sum(n, dim, bandwidth, seed):
    x = blobs(n, dim, seed) + 100.0
    points = blobs(9, dim, seed) + 100.0
    model = fit(KernelDensity(bandwidth), x)
    each = [normal_log_prob(points, centre, bandwidth ** 2 * np.eye(dim)) for centre in x]
    expected = np.logaddexp.reduce(each, axis=0) - np.log(n)
    np.testing.assert_allclose(model.log_prob(points), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("maker", MAKERS)
def test_chunks_change_nothing(maker, monkeypatch):
    x, points = blobs(50), blobs(31, seed=1)
    model = maker(x)
    whole = model.log_prob(points)
    monkeypatch.setattr(kmeans, "HOST_ELEMENTS", 30)
    np.testing.assert_allclose(model.log_prob(points), whole, rtol=1e-12)
    np.testing.assert_allclose(maker(x).log_prob(points), whole, rtol=1e-6)


def test_the_chosen_bandwidth_is_the_likeliest_on_other_data():
    x, valid = blobs(300, dim=1), blobs(900, dim=1)[300:]
    bandwidths = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    best, means = choose_bandwidth(x, valid, bandwidths)
    assert best in (0.1, 0.3, 1.0)  # neither a needle on every point nor one broad bump
    assert means[bandwidths.index(best)] == max(means)
    assert means[0] < max(means) - 0.1 and means[-1] < max(means) - 0.1
    assert means[2] == pytest.approx(fit(KernelDensity(0.1), x).log_prob(valid).mean())


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_gaussian_is_the_mean_and_covariance_of_the_data(covariance):
    x, points = blobs(60, 4), blobs(20, 4, seed=1)
    model = fit(Gaussian(covariance), x)
    spread = np.cov(x.T, bias=True)
    if covariance == "diagonal":
        spread = np.diag(np.diag(spread))
    np.testing.assert_allclose(model.means[0], x.mean(axis=0))
    np.testing.assert_allclose(covariance_of(model, 0), spread, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.log_prob(points),
                               normal_log_prob(points, x.mean(axis=0), spread), rtol=1e-9)


@given(components=st.integers(1, 5), dim=st.integers(1, 4), n=st.integers(20, 80),
       covariance=st.sampled_from(["full", "diagonal"]), seed=st.integers(0, 10 ** 6))
def test_likelihood_never_falls(components, dim, n, covariance, seed):
    mixture = GaussianMixture(components, covariance, variance_floor=1e-9)
    x = blobs(n, dim, seed)
    history = mixture.fit(x, np.random.default_rng(seed), iterations=30, tolerance=-np.inf)
    assert len(history) == 30
    assert np.diff(history).min() >= -1e-9 * np.abs(history).max()
    assert history[-1] == pytest.approx(mixture.log_prob(x).mean(), rel=1e-12)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_floor_keeps_the_rise_and_the_variance(covariance):
    x = blobs(60, 3)
    x[:, 1] = 7.0  # a column without variance
    mixture = GaussianMixture(4, covariance, variance_floor=0.3)
    history = mixture.fit(x, np.random.default_rng(0), iterations=40, tolerance=-np.inf)
    assert np.diff(history).min() >= -1e-9 * np.abs(history).max()
    assert mixture.variances.min() == 0.3
    assert np.isfinite(mixture.log_prob(x)).all()


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_one_em_round_is_the_textbooks(covariance):
    x = blobs(40, 3)
    mixture = GaussianMixture(3, covariance)
    before = mixture.fit(x, np.random.default_rng(0), iterations=1)
    joint = np.stack([np.log(mixture.weights[k])
                      + normal_log_prob(x, mixture.means[k], covariance_of(mixture, k))
                      for k in range(3)], axis=1)
    total = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(mixture.log_prob(x), total, rtol=1e-10)
    assert before == [pytest.approx(total.mean())]
    r = np.exp(joint - total[:, None])
    after = GaussianMixture(3, covariance)
    after.fit(x, np.random.default_rng(0), iterations=2, tolerance=-np.inf)
    np.testing.assert_allclose(after.weights, r.mean(axis=0), rtol=1e-9)
    for k in range(3):
        mean = r[:, k] @ x / r[:, k].sum()
        spread = (r[:, k, None] * (x - mean)).T @ (x - mean) / r[:, k].sum()
        if covariance == "diagonal":
            spread = np.diag(np.diag(spread))
        np.testing.assert_allclose(after.means[k], mean, rtol=1e-9)
        np.testing.assert_allclose(covariance_of(after, k), spread, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_em_finds_two_separate_clusters(covariance):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((900, 2)) * [1, 2] - 10,
                        rng.standard_normal((300, 2)) * [0.5, 1] + 10])
    mixture = fit(GaussianMixture(2, covariance), x, rng)
    order = mixture.means[:, 0].argsort()
    np.testing.assert_allclose(mixture.weights[order], [0.75, 0.25], atol=1e-6)
    clusters = x[:900], x[900:]  # so far apart that each component is one cluster's own fit
    np.testing.assert_allclose(mixture.means[order], [c.mean(axis=0) for c in clusters], rtol=1e-6)
    found = [np.diag(covariance_of(mixture, k)) for k in order]
    np.testing.assert_allclose(found, [c.var(axis=0) for c in clusters], rtol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_more_components_than_places_is_no_error(covariance):
    x = np.repeat([[0.0, 0.0], [1.0, 5.0]], 4, axis=0)
    mixture = GaussianMixture(4, covariance, variance_floor=1e-2)
    history = mixture.fit(x, np.random.default_rng(0))
    assert np.isfinite(history).all()
    assert np.exp(mixture.log_prob(x)) == pytest.approx(0.5 / (2 * np.pi * 1e-2))
    assert np.isfinite(mixture.sample(50, np.random.default_rng(0))).all()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_backend_finds_the_same_density_in_the_datas_dtype(maker, dtype, xp):
    x, points = blobs(dtype=dtype), blobs(25, seed=3, dtype=dtype)
    model = maker(xp.asarray(x))
    found = model.log_prob(xp.asarray(points))
    drawn = model.sample(7, np.random.default_rng(0))
    assert found.dtype == drawn.dtype == dtype
    assert backend.module_of(found) is backend.module_of(drawn) is xp
    reference = maker(x)
    tolerance = 1e-5 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(backend.to_numpy(found), reference.log_prob(points),
                               rtol=tolerance)
    np.testing.assert_allclose(backend.to_numpy(drawn),
                               reference.sample(7, np.random.default_rng(0)), rtol=tolerance,
                               atol=tolerance)


@pytest.mark.parametrize("maker", MAKERS)
def test_samples_follow_the_density(maker):
    model = maker(blobs(60))
    n = 40000
    drawn = model.sample(n, np.random.default_rng(1))
    assert drawn.shape == (n, 2)
    points, volume = grid(2)
    p = np.exp(model.log_prob(points)) * volume
    cell = np.floor(points / 2.5).astype(int) @ [1000, 1]  # 20 x 20 grid points in each
    names, index = np.unique(cell, return_inverse=True)
    expected = np.bincount(index, weights=p)
    landed = np.floor(drawn / 2.5).astype(int) @ [1000, 1]
    share = np.array([(landed == name).mean() for name in names])
    assert share.sum() == pytest.approx(1, abs=1e-3)  # all within the grid
    # A histogram's edges cut through the grid's cells: its integral is good to a few percent.
    slack = 0.03 * expected if maker is histogram else 0
    allowed = 5 * np.sqrt(expected * (1 - np.minimum(expected, 1)) / n) + slack + 2 / n
    assert (np.abs(share - expected) <= allowed).all()


def test_samples_have_the_covariance_of_their_component():
    x = blobs(50, 3) @ np.array([[1.0, 0.5, 0.2], [0.0, 1.0, -0.7], [0.3, 0.0, 1.0]])
    model = fit(Gaussian(), x)
    n = 40000
    drawn = model.sample(n, np.random.default_rng(0))
    spread = np.cov(x.T, bias=True)
    deviation = np.sqrt((spread ** 2 + np.outer(np.diag(spread), np.diag(spread))) / n)
    assert (np.abs(np.cov(drawn.T) - spread) < 5 * deviation).all()
    assert (np.abs(drawn.mean(axis=0) - x.mean(axis=0)) < 5 * np.sqrt(np.diag(spread) / n)).all()


def test_samples_come_in_no_order():
    x = np.repeat([[-10.0], [10.0]], 20, axis=0)
    drawn = fit(GaussianMixture(2), x, np.random.default_rng(0)).sample(
        4000, np.random.default_rng(0))
    assert abs((drawn[:2000] > 0).mean() - 0.5) < 0.06


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_rows_are_refused(maker, value, xp):
    x = blobs(20)
    broken = x.copy()
    broken[4, 1] = value
    with pytest.raises(ValueError, match="^1 of 20 rows hold NaN or infinite values"):
        maker(xp.asarray(broken))
    model = maker(xp.asarray(x))
    with pytest.raises(ValueError, match="^1 of 20 rows hold NaN or infinite values"):
        model.log_prob(xp.asarray(broken))
    with pytest.raises(ValueError, match="^expected rows of 2 columns, as fitted, not 3"):
        model.log_prob(xp.ones((4, 3)))
    with pytest.raises(ValueError, match="^expected examples in rows"):
        model.log_prob(xp.ones(4))


@pytest.mark.parametrize("value", [0, 0.0, -1.0, np.nan, np.inf])
def test_impossible_settings_are_refused(value):
    with pytest.raises(ValueError, match="^the bandwidth must be a number above zero"):
        KernelDensity(value)
    with pytest.raises(ValueError, match="^the variance floor must be above zero"):
        GaussianMixture(2, variance_floor=value)


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="^a histogram needs at least one bin, not 0"):
        Histogram(0)
    for bounds in (1, 1), (2, 1), (0, np.inf), (np.nan, 1):
        with pytest.raises(ValueError, match="^the bounds must be two finite numbers"):
            Histogram(3, bounds)
    with pytest.raises(ValueError, match="^30 bins along each of 64 columns are too many"):
        Histogram(30).fit(np.zeros((3, 64)))
    with pytest.raises(ValueError, match="^1 of 3 rows lie outside the bounds"):
        Histogram(3, (0, 1)).fit(np.array([[0.0], [1.0], [1.5]]))
    with pytest.raises(ValueError, match="^a mixture needs at least one component, not 0"):
        GaussianMixture(0)
    with pytest.raises(ValueError, match="^the covariance must be full or diagonal"):
        GaussianMixture(2, "tied")
    with pytest.raises(ValueError, match="^5 components need as many points; there are 4"):
        GaussianMixture(5).fit(blobs(4), np.random.default_rng(0))
