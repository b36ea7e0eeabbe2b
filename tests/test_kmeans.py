"""k-means: Lloyd's rounds only ever fall, end where they should, and agree with scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend, datasets
from scratchgen.models import kmeans
from scratchgen.models.kmeans import KMeans


def blobs(n=60, dim=3, seed=0, dtype=np.float64, far=0.0):
    rng = np.random.default_rng(seed)
    centres = 5 * rng.standard_normal((4, dim))
    x = centres[rng.integers(0, 4, n)] + rng.standard_normal((n, dim)) + far
    return x.astype(dtype)


def distances(x, centres):
    """Every squared distance, (N, K), the long way and in float64."""
    offset = x.astype(np.float64)[:, None] - centres.astype(np.float64)
    return (offset ** 2).sum(axis=2)


def digits():
    return datasets.load("digits").train.images.reshape(-1, 64) / np.float32(16)


@given(seed=st.integers(0, 10 ** 6), n=st.integers(1, 50), dim=st.integers(1, 5),
       share=st.floats(0, 1), rounding=st.sampled_from([0, 6]), far=st.sampled_from([0.0, 1e4]),
       rounds=st.sampled_from([1, 2, 100]))
def test_inertia_never_rises_and_is_the_centres_own(seed, n, dim, share, rounding, far, rounds):
    x = np.round(blobs(n, dim, seed), rounding) + far  # rounded points coincide
    model = KMeans(1 + int(share * (n - 1)), restarts=1, max_rounds=rounds)
    history = model.fit(x, np.random.default_rng(seed))
    assert (np.diff(history) < 0).all()  # a round that gains nothing is the end
    assert len(history) <= rounds and history[-1] >= 0
    square = ((x - x.mean(axis=0)) ** 2).sum()
    truth = distances(x, model.centres).min(axis=1).sum()
    assert history[-1] == pytest.approx(truth, rel=1e-9, abs=1e-12 * square + 1e-9)
    assert model.inertia == history[-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_end_is_a_fixed_point(xp, dtype):
    x = blobs(200, dtype=dtype)
    model = KMeans(6)
    model.fit(xp.asarray(x), np.random.default_rng(0))
    centres = backend.to_numpy(model.centres)
    labels = backend.to_numpy(model.predict(xp.asarray(x)))
    assert centres.dtype == dtype and backend.module_of(model.centres) is xp
    np.testing.assert_array_equal(labels, distances(x, centres).argmin(axis=1))
    means = [x[labels == k].mean(axis=0, dtype=np.float64) for k in range(6)]
    np.testing.assert_allclose(centres, means, rtol=10 * np.finfo(dtype).eps)
    error = backend.to_numpy(model.squared_error(xp.asarray(x)))
    assert error.dtype == dtype
    np.testing.assert_allclose(error, distances(x, centres).min(axis=1), rtol=1e-4, atol=1e-5)
    assert error.sum(dtype=np.float64) == pytest.approx(model.inertia, rel=1e-5)


def test_chunks_change_nothing(monkeypatch):
    x = blobs(101)
    whole = KMeans(5)
    whole.fit(x, np.random.default_rng(0))
    monkeypatch.setattr(kmeans, "HOST_ELEMENTS", 64)
    assert len(list(kmeans.slices(x, 10))) > 10
    pieces = KMeans(5)
    pieces.fit(x, np.random.default_rng(0))
    np.testing.assert_allclose(pieces.centres, whole.centres, rtol=1e-12)
    np.testing.assert_array_equal(pieces.predict(x), whole.predict(x))


def test_memory_stays_bounded_where_the_data_do_not():
    x = np.random.default_rng(0).random((40000, 100), dtype=np.float32)  # 16 MB
    tracemalloc.start()
    try:
        KMeans(10, restarts=1, max_rounds=2).fit(x, np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2  # neither a copy of the data nor an (N, K, D) array


def test_digits_agree_with_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is the peer compared to")
    x = digits()
    start = x[np.random.default_rng(3).choice(len(x), 10, replace=False)]
    peer = cluster.KMeans(10, init=start, n_init=1, tol=0, max_iter=300).fit(x)
    model = KMeans(10, max_rounds=300)
    model.fit(x, np.random.default_rng(0), start=start)
    assert model.inertia == pytest.approx(peer.inertia_, rel=1e-3)
    assert len(model.fit(x, np.random.default_rng(0), start=start)) > 5  # it had work to do


def test_restarts_keep_the_best():
    x = digits()
    rng = np.random.default_rng(1)
    single = [KMeans(10, restarts=1, max_rounds=5).fit(x, rng)[-1] for _ in range(4)]
    best = KMeans(10, restarts=4, max_rounds=5)
    best.fit(x, np.random.default_rng(1))
    assert best.inertia == min(single)
    assert best.inertia < min(single[0], single[-1])  # neither the first nor the last


def test_plus_plus_draws_in_proportion_to_the_squared_distance():
    x = np.array([[0.0], [1.0], [3.0]])
    rng = np.random.default_rng(0)
    after_zero = []
    while len(after_zero) < 2000:
        first, second = kmeans._plus_plus(x, 2, rng)[:, 0]
        if first == 0:
            after_zero.append(second)
    assert set(after_zero) == {1.0, 3.0}
    assert np.mean(np.array(after_zero) == 3.0) == pytest.approx(0.9, abs=0.03)  # 9 / (1 + 9)


def test_an_empty_cluster_moves_to_the_farthest_point(xp):
    x = np.array([[-60.0], [-59.0], [30.0], [31.0], [58.0]])
    start = np.array([[-59.5], [30.5], [1e3], [-1e3]])  # the last two are nobody's
    model = KMeans(4)
    history = model.fit(xp.asarray(x), np.random.default_rng(0), start=xp.asarray(start))
    assert np.unique(backend.to_numpy(model.predict(xp.asarray(x)))).tolist() == [0, 1, 2, 3]
    assert model.inertia == pytest.approx(0.5)  # 58 and one more point stand alone
    assert (np.diff(history) <= 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_centre_on_every_point_leaves_nothing(seed):
    model = KMeans(20, restarts=1)
    model.fit(blobs(20, seed=seed), np.random.default_rng(seed))
    assert 0 <= model.inertia < 1e-10  # rounding must not take it below zero


def test_fewer_places_than_clusters_is_no_error():
    x = np.repeat([[0.0, 1.0], [2.0, 3.0]], 5, axis=0)
    model = KMeans(4)
    model.fit(x, np.random.default_rng(0))
    assert model.inertia == pytest.approx(0, abs=1e-12)
    assert np.isfinite(model.centres).all()


def test_float32_far_from_the_origin_still_sees_the_clusters():
    x = blobs(200, dtype=np.float32, far=3e3)
    near = KMeans(4)
    near.fit(x.astype(np.float64), np.random.default_rng(0))
    model = KMeans(4)
    model.fit(x, np.random.default_rng(0))
    assert model.centres.dtype == np.float32
    assert model.inertia == pytest.approx(near.inertia, rel=1e-4)
    np.testing.assert_array_equal(model.predict(x), near.predict(x.astype(np.float64)))


def test_one_seed_one_result_and_integers_are_welcome():
    x = np.random.default_rng(0).integers(0, 255, (50, 4)).astype(np.uint8)
    first, second = KMeans(3), KMeans(3)
    first.fit(x, np.random.default_rng(5))
    second.fit(x, np.random.default_rng(5))
    np.testing.assert_array_equal(first.centres, second.centres)
    assert first.centres.dtype == np.float64


@pytest.mark.parametrize("arguments", [{"clusters": 0}, {"clusters": -1},
                                       {"clusters": 2, "restarts": 0},
                                       {"clusters": 2, "max_rounds": 0}])
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="at least one of"):
        KMeans(**arguments)


def test_bad_data_are_refused(xp):
    rng = np.random.default_rng(0)
    x = blobs(6)
    with pytest.raises(ValueError, match="7 clusters need as many points; there are 6"):
        KMeans(7).fit(xp.asarray(x), rng)
    for value in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[[1, 4], 2] = value
        with pytest.raises(ValueError, match="^2 of 6 rows hold NaN or infinite values"):
            KMeans(2).fit(xp.asarray(broken), rng)
    with pytest.raises(ValueError, match="examples in rows"):
        KMeans(2).fit(xp.asarray(x[0]), rng)
    with pytest.raises(ValueError, match="the start needs shape"):
        KMeans(2).fit(xp.asarray(x), rng, start=xp.asarray(x[:3]))
    model = KMeans(2)
    model.fit(xp.asarray(x), rng)
    with pytest.raises(ValueError, match="rows of 3 columns"):
        model.predict(xp.asarray(x[:, :2]))
    with pytest.raises(ValueError, match="1 of 6 rows"):
        model.predict(xp.asarray(np.where(np.arange(6) == 3, np.nan, x.T).T))


def test_sampling_is_refused_with_the_reason():
    with pytest.raises(NotImplementedError, match="no distribution to sample from"):
        KMeans(2).sample(3, np.random.default_rng(0))
