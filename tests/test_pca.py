"""PCA and probabilistic PCA against their closed forms and a dense Gaussian."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend, datasets
from scratchgen.models import kmeans
from scratchgen.models.pca import PCA, ProbabilisticPCA


def data(n=40, dim=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.linspace(3, 0.3, dim)
    return (rng.standard_normal((n, dim)) @ mixing.T + rng.standard_normal(dim)).astype(dtype)


def dense_log_prob(x, mean, covariance):
    """A Gaussian's log-density, written down as the textbook does."""
    offset = x - mean
    sign, log_determinant = np.linalg.slogdet(covariance)
    assert sign == 1
    square = (offset * np.linalg.solve(covariance, offset.T).T).sum(axis=1)
    return -0.5 * (x.shape[1] * np.log(2 * np.pi) + log_determinant + square)


def fitted(model, x):
    model.fit(x)
    return model


@given(n=st.integers(2, 40), dim=st.integers(2, 9), latent=st.integers(1, 8),
       seed=st.integers(0, 10 ** 6))
def test_components_are_the_leading_eigenvectors(n, dim, latent, seed):
    latent = min(latent, n - 1, dim)
    x = data(n, dim, seed)  # fewer rows than columns, too: the other way to the same axes
    model = fitted(PCA(latent), x)
    covariance = np.cov(x.T, bias=True)
    values = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    np.testing.assert_allclose(model.explained_variance, values[:latent], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(model.explained_ratio, values[:latent] / values.sum(), atol=1e-9)
    u = model.components
    np.testing.assert_allclose(u @ u.T, np.eye(latent), atol=1e-10)
    np.testing.assert_allclose(covariance @ u.T, u.T * model.explained_variance,
                               atol=1e-9 * values[0])
    assert (np.take_along_axis(u, np.abs(u).argmax(axis=1)[:, None], axis=1) > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [4, 40])
def test_what_is_lost_is_the_variance_left_out(xp, dtype, n):
    x = data(n, dim=6, dtype=dtype)
    model = fitted(PCA(3), xp.asarray(x))
    codes = model.encode(xp.asarray(x))
    back = model.decode(codes)
    assert codes.shape == (n, 3) and codes.dtype == back.dtype == dtype
    lost = ((x - backend.to_numpy(back)).astype(np.float64) ** 2).sum() / n
    kept = backend.to_numpy(model.explained_variance).sum()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    total = x.astype(np.float64).var(axis=0).sum()
    assert lost + kept == pytest.approx(total, rel=tolerance)
    np.testing.assert_allclose(backend.to_numpy(codes).var(axis=0),
                               backend.to_numpy(model.explained_variance), rtol=1e-4)


@given(seed=st.integers(0, 10 ** 6))
def test_no_variance_is_below_zero(seed):
    rng = np.random.default_rng(seed)
    line = rng.standard_normal((20, 1)) @ rng.standard_normal((1, 6))  # one dimension of six
    model = fitted(PCA(6), line)
    assert (model.explained_variance >= 0).all()
    assert model.explained_ratio[0] == pytest.approx(1)


def test_all_components_lose_nothing():
    x = data()
    model = fitted(PCA(5), x)
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-12)


def test_digits_with_constant_pixels_agree_with_scikit_learn():
    peer = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is compared to")
    x = datasets.load("digits").train.images.reshape(-1, 64) / 16
    assert (x.var(axis=0) == 0).any()
    expected = peer.PCA(10, svd_solver="full").fit(x)
    model = fitted(PCA(10), x)
    np.testing.assert_allclose(model.explained_ratio, expected.explained_variance_ratio_,
                               rtol=1e-9)
    np.testing.assert_allclose(np.abs(model.encode(x)), np.abs(expected.transform(x)), atol=1e-8)


@given(n=st.integers(3, 40), dim=st.integers(2, 8), latent=st.integers(1, 7),
       seed=st.integers(0, 10 ** 6))
def test_probabilistic_pca_is_the_closed_form(n, dim, latent, seed):
    latent = min(latent, dim - 1, n - 1)
    x = data(n, dim, seed)
    model = fitted(ProbabilisticPCA(latent, variance_floor=1e-12), x)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    values, axes = values[::-1], axes[:, ::-1]
    noise = max(values[latent:].mean(), 1e-12)  # Tipping & Bishop, eq. 8
    assert model.noise_variance == pytest.approx(noise, rel=1e-6, abs=1e-11)
    expected = (axes[:, :latent] * (values[:latent] - noise)) @ axes[:, :latent].T
    expected += noise * np.eye(dim)
    w = model.weight
    covariance = w @ w.T + model.noise_variance * np.eye(dim)
    np.testing.assert_allclose(covariance, expected, rtol=1e-7, atol=1e-9 * values[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [5, 50])
def test_log_prob_is_a_dense_gaussians(xp, dtype, n, monkeypatch):
    monkeypatch.setattr(kmeans, "HOST_ELEMENTS", 40)  # several chunks
    monkeypatch.setattr(kmeans, "DEVICE_ELEMENTS", 40)
    x = data(n, dim=7, dtype=dtype)
    model = fitted(ProbabilisticPCA(3), xp.asarray(x))
    points = data(11, dim=7, seed=1, dtype=dtype)
    found = model.log_prob(xp.asarray(points))
    assert found.dtype == dtype and backend.module_of(found) is xp
    w = backend.to_numpy(model.weight).astype(np.float64)
    expected = dense_log_prob(points.astype(np.float64), x.mean(axis=0, dtype=np.float64),
                              w @ w.T + model.noise_variance * np.eye(7))
    np.testing.assert_allclose(backend.to_numpy(found), expected,
                               rtol=1e-10 if dtype == np.float64 else 1e-4)


def test_no_other_covariance_of_its_form_is_likelier(rng):
    x = data()
    model = fitted(ProbabilisticPCA(2), x)
    best = model.log_prob(x).mean()
    for step in 1e-2, 1e-1:
        for _ in range(20):
            w = model.weight + step * rng.standard_normal((5, 2))
            noise = model.noise_variance * np.exp(step * rng.standard_normal())
            other = dense_log_prob(x, model.mean, w @ w.T + noise * np.eye(5)).mean()
            assert other < best


def test_the_code_is_the_posterior_mean():
    x = data()
    model = fitted(ProbabilisticPCA(2), x)
    w = model.weight
    m = w.T @ w + model.noise_variance * np.eye(2)
    expected = np.linalg.solve(m, w.T @ (x - x.mean(axis=0)).T).T
    np.testing.assert_allclose(model.encode(x), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.decode(expected), expected @ w.T + x.mean(axis=0), rtol=1e-9)


def test_samples_follow_the_density(xp):
    model = fitted(ProbabilisticPCA(2), xp.asarray(3 * data(dtype=np.float32)))
    n = 40000
    drawn = model.sample(n, np.random.default_rng(0))
    assert drawn.shape == (n, 5) and drawn.dtype == np.float32
    drawn = backend.to_numpy(drawn).astype(np.float64)
    w = backend.to_numpy(model.weight).astype(np.float64)
    covariance = w @ w.T + model.noise_variance * np.eye(5)
    error = drawn.mean(axis=0) - backend.to_numpy(model.mean)
    assert (np.abs(error) < 5 * np.sqrt(np.diag(covariance) / n)).all()
    spread = np.outer(np.diag(covariance), np.diag(covariance))
    deviation = np.sqrt((covariance ** 2 + spread) / n)  # of an entry of the sample's covariance
    assert (np.abs(np.cov(drawn.T) - covariance) < 5 * deviation).all()
    # -log p of a Gaussian's draws: its entropy on average, a variance of D / 2 around it.
    entropy = 0.5 * (5 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(covariance)[1])
    found = -dense_log_prob(drawn, backend.to_numpy(model.mean), covariance).mean()
    assert found == pytest.approx(entropy, abs=5 * np.sqrt(2.5 / n))


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_data_without_variance_are_no_error(constant):
    x = np.full((6, 4), constant)
    model = fitted(PCA(2), x)
    np.testing.assert_array_equal(model.explained_ratio, 0)
    np.testing.assert_allclose(model.decode(model.encode(x)), x)
    density = fitted(ProbabilisticPCA(2, variance_floor=1e-4), x)
    expected = -2 * np.log(2 * np.pi * 1e-4)  # four Gaussians of variance 1e-4 at their mean
    np.testing.assert_allclose(density.log_prob(x), expected)


def test_bad_input_is_refused(xp):
    x = data(4, 3)
    with pytest.raises(ValueError, match="at least one is needed, not 0"):
        PCA(0)
    with pytest.raises(ValueError, match="at least one is needed, not -1"):
        ProbabilisticPCA(-1)
    for floor in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="variance floor must be above zero"):
            ProbabilisticPCA(1, variance_floor=floor)
    with pytest.raises(ValueError, match="4 principal components .* there are 4 and 3"):
        PCA(4).fit(xp.asarray(x))
    with pytest.raises(ValueError, match="nothing is left for the noise: 3 of 3"):
        ProbabilisticPCA(3).fit(xp.asarray(x))
    with pytest.raises(ValueError, match="2 principal components .* there are 1 and 3"):
        ProbabilisticPCA(2).fit(xp.asarray(x[:1]))
    broken = x.copy()
    broken[2, 1] = np.nan
    for model in PCA(2), ProbabilisticPCA(2):
        with pytest.raises(ValueError, match="1 of 4 rows hold NaN or infinite"):
            model.fit(xp.asarray(broken))
        model.fit(xp.asarray(x))
        with pytest.raises(ValueError, match="rows of 3 columns"):
            model.encode(xp.asarray(x[:, :2]))
        with pytest.raises(ValueError, match="rows of 2 columns"):
            model.decode(xp.asarray(x))
    with pytest.raises(ValueError, match="rows of 3 columns"):
        model.log_prob(xp.asarray(x[:, :2]))


def test_pca_refuses_to_sample_and_says_why():
    with pytest.raises(NotImplementedError, match="no distribution to sample from"):
        PCA(2).sample(3, np.random.default_rng(0))
