"""Distributions against mathematics done elsewhere: formulas one number at a time, quadrature,
enumeration; and at extremes in float32. What they draw: test_distributions_sampling.py.
"""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen import backend
from scratchgen.distributions import (
    Bernoulli, Categorical, Laplace, Normal, bernoulli_log_prob, bernoulli_log_prob_twin,
    categorical_log_prob, categorical_log_prob_twin, kl_divergence)
from scratchgen.tensor import Tensor, grad, raw

SMALL = st.floats(-3, 3)
LOGIT = st.floats(-30, 30)


def host(x):
    return backend.to_numpy(raw(x))


def arrays(xp, *values, dtype="float64"):
    return [xp.asarray(np.array(value, dtype)) for value in values]


# -------------------------------------------------------- formulas, one number at a time


def laplace_density(x, loc, scale):
    return math.exp(-abs(x - loc) / scale) / (2 * scale)


def normal_density(x, loc, std):
    return NormalDist(loc, std).pdf(x)


DENSITIES = {Normal: normal_density, Laplace: laplace_density}


@pytest.mark.parametrize("family", DENSITIES)
def test_log_density_sums_over_the_last_axis(xp, rng, family):
    loc, log_scale, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(2, 4, 3))
    out = family(*arrays(xp, loc, log_scale)).log_prob(arrays(xp, x)[0])
    assert out.shape == (2, 4)
    for i, j in np.ndindex(2, 4):
        expected = math.fsum(math.log(DENSITIES[family](x[i, j, d], loc[j, d],
                                                        math.exp(log_scale[d]))) for d in range(3))
        assert host(out)[i, j] == pytest.approx(expected, rel=1e-12)


def test_bernoulli_log_probability(xp, rng):
    logits, x = rng.normal(size=(4, 3)), rng.integers(0, 2, (2, 4, 3))
    out = Bernoulli(*arrays(xp, logits)).log_prob(arrays(xp, x)[0])
    assert out.shape == (2, 4)
    for i, j in np.ndindex(2, 4):
        expected = 0.0
        for d in range(3):
            p = math.e ** logits[j, d] / (1 + math.e ** logits[j, d])
            expected += math.log(p if x[i, j, d] else 1 - p)
        assert host(out)[i, j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("where", ["host", "device"])
def test_categorical_log_probability(xp, rng, where):
    logits, x = rng.normal(size=(2, 3, 5)), rng.integers(0, 5, (2, 3))
    out = Categorical(*arrays(xp, logits)).log_prob(x if where == "host" else xp.asarray(x))
    assert out.shape == (2,)
    for i in range(2):
        expected = 0.0
        for d in range(3):
            weights = [math.exp(value) for value in logits[i, d]]
            expected += math.log(weights[x[i, d]] / math.fsum(weights))
        assert host(out)[i] == pytest.approx(expected, rel=1e-12)


def test_categorical_refuses_what_is_not_a_category(xp, rng):
    distribution = Categorical(Tensor(arrays(xp, rng.normal(size=(2, 3, 5)))[0]))
    for x, message in [
            (np.full((2, 3), 5), "categories 5..5 outside 0..4"),
            (np.full((2, 3), -1), "categories -1..-1 outside 0..4"),
            (np.full((2, 3), 0.5), "categories must be whole numbers"),
            (np.zeros((3, 2), int), r"of shape \(3, 2\) for logits of shape \(2, 3, 5\)")]:
        with pytest.raises(ValueError, match=message):
            distribution.log_prob(x)


# -------------------------------------------------------------- quadrature and enumeration


PAIRS = [(0.3, -0.7), (-1.1, 0.4), (0.3, 0.4)]  # loc, log_scale


def quadrature(*cuts):
    """Nodes and weights on [-60, 60]: Gauss-Legendre in short pieces that end at the kinks."""
    edges = np.unique(np.concatenate([np.linspace(-60, 60, 601), cuts]))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    widths = np.diff(edges)[:, None]
    return (edges[:-1, None] + widths * (nodes + 1) / 2).ravel(), (widths * weights / 2).ravel()


def log_density(family, x, loc, log_scale):
    densities = [DENSITIES[family](value, loc, math.exp(log_scale)) for value in x]
    return np.log(np.maximum(densities, 1e-300))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("family", DENSITIES)
def test_densities_integrate_to_one(xp, family, pair):
    x, weights = quadrature(pair[0])
    log_p = family(*arrays(xp, pair[:1], pair[1:])).log_prob(xp.asarray(x[:, None]))
    assert abs(weights @ np.exp(host(log_p)) - 1) < 1e-9


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("family", DENSITIES)
def test_entropy_by_quadrature(xp, family, pair):
    x, weights = quadrature(pair[0])
    log_p = log_density(family, x, *pair)
    found = family(*arrays(xp, pair[:1], pair[1:])).entropy()
    assert host(found) == pytest.approx(-weights @ (np.exp(log_p) * log_p), abs=1e-9)


@pytest.mark.parametrize("family", DENSITIES)
@pytest.mark.parametrize("p, q", list(itertools.permutations(PAIRS, 2)))
def test_kl_by_quadrature(xp, family, p, q):
    x, weights = quadrature(p[0], q[0])
    log_p, log_q = log_density(family, x, *p), log_density(family, x, *q)
    found = kl_divergence(family(*arrays(xp, p[:1], p[1:])), family(*arrays(xp, q[:1], q[1:])))
    assert host(found) == pytest.approx(weights @ (np.exp(log_p) * (log_p - log_q)), abs=1e-9)


def all_outcomes(values, dim):
    return np.array(list(itertools.product(range(values), repeat=dim)))


@pytest.mark.parametrize("family, values", [(Bernoulli, 2), (Categorical, 4)])
def test_discrete_families_by_enumeration(xp, rng, family, values):
    """The probabilities of all outcomes sum to 1; entropy and KL are their weighted means."""
    outcomes = all_outcomes(values, 3)
    shape = (3,) if family is Bernoulli else (3, values)
    p_logits, q_logits = rng.normal(size=shape), rng.normal(size=shape)
    full = (len(outcomes), *shape)
    log_p, log_q = [host(family(xp.asarray(np.broadcast_to(logits, full).copy())).log_prob(
        xp.asarray(outcomes.astype("float64" if family is Bernoulli else "int64"))))
        for logits in (p_logits, q_logits)]
    p, q = family(*arrays(xp, p_logits)), family(*arrays(xp, q_logits))
    assert abs(np.exp(log_p).sum() - 1) < 1e-12
    assert host(p.entropy()) == pytest.approx(-np.exp(log_p) @ log_p, rel=1e-12)
    assert host(kl_divergence(p, q)) == pytest.approx(np.exp(log_p) @ (log_p - log_q), rel=1e-12)


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_entropy_and_kl_broadcast_and_sum_over_the_last_axis(xp, rng, family):
    loc, log_scale, other_loc, other_scale = [rng.normal(size=s) for s in [(4, 3), 3, 3, (4, 3)]]
    p, q = family(*arrays(xp, loc, log_scale)), family(*arrays(xp, other_loc, other_scale))
    entropy, kl = host(p.entropy()), host(kl_divergence(p, q))
    assert entropy.shape == kl.shape == (4,)
    for i in range(4):
        ones = [(family(*arrays(xp, [loc[i, d]], [log_scale[d]])),
                 family(*arrays(xp, [other_loc[d]], [other_scale[i, d]]))) for d in range(3)]
        assert entropy[i] == pytest.approx(sum(host(a.entropy()).item() for a, _ in ones))
        assert kl[i] == pytest.approx(sum(host(kl_divergence(a, b)).item() for a, b in ones))


@pytest.mark.parametrize("family", [Normal, Laplace])
@given(p=st.tuples(SMALL, SMALL), q=st.tuples(SMALL, SMALL))
def test_kl_of_densities_is_positive_and_zero_at_equality(xp, family, p, q):
    p, q = [family(*arrays(xp, pair[:1], pair[1:])) for pair in (p, q)]
    assert host(kl_divergence(p, q)) >= -1e-12
    assert host(kl_divergence(p, p)) == 0


@pytest.mark.parametrize("family", [Bernoulli, Categorical])
@given(logits=st.tuples(*[LOGIT] * 4), others=st.tuples(*[LOGIT] * 4))
def test_kl_on_logits_is_positive_and_zero_at_equality(xp, family, logits, others):
    shape = (4,) if family is Bernoulli else (2, 2)
    p, q = [family(xp.asarray(np.array(values).reshape(shape))) for values in (logits, others)]
    assert host(kl_divergence(p, q)) >= -1e-12
    assert host(kl_divergence(p, p)) == 0


def test_kl_keeps_small_differences_in_float32(xp):
    """p and q a thousandth apart: the KL is 1e-6, and rounding at 1 must not swallow it."""
    for difference in (0.0007, 0.001, 0.0013, 0.0016):
        p, q = [Normal(*arrays(xp, [0.0], [s], dtype="float32")) for s in (difference, 0.0)]
        assert host(kl_divergence(p, q)) == pytest.approx(difference ** 2, rel=0.002)


def test_kl_of_two_families_is_refused(xp):
    zeros = xp.zeros(3)
    with pytest.raises(NotImplementedError,
                       match=r"no closed form for KL\(Laplace \|\| Normal\): estimate it by Monte"):
        kl_divergence(Laplace(zeros, zeros), Normal(zeros, zeros))


# --------------------------------------------------------------------- extremes, in float32


def close(found, expected, rtol=1e-5):
    assert found.dtype == np.float32
    np.testing.assert_allclose(host(found), expected, rtol=rtol, atol=0)


def test_bernoulli_at_extreme_logits(xp):
    l1, l0, one, zero = arrays(xp, [1e4], [-1e4], [1.0], [0.0], dtype="float32")
    for logits, x, expected in [(l1, one, 0), (l1, zero, -1e4), (l0, one, -1e4), (l0, zero, 0)]:
        tensor = Tensor(logits)
        log_p = Bernoulli(tensor).log_prob(x)
        close(log_p, expected)
        gradient = grad(log_p, tensor)
        assert host(gradient).item() == {0: 0, -1e4: 1 if x is one else -1}[expected]
    assert host(Bernoulli(l1).mean) == 1 and host(Bernoulli(l0).mean) == 0


def test_bernoulli_keeps_its_digits_where_it_is_sure_and_right(xp):
    for dtype in ("float32", "float64"):
        for logit, x in [(20.0, 1.0), (-20.0, 0.0)]:
            logits, target = arrays(xp, [logit], [x], dtype=dtype)
            for function in (bernoulli_log_prob, bernoulli_log_prob_twin):
                found = host(function(logits, target)).item()
                assert found == pytest.approx(-math.log1p(math.exp(-20)), rel=1e-6)


def test_bernoulli_entropy_and_kl_at_extremes(xp):
    def bernoulli(logit):
        return Bernoulli(*arrays(xp, [logit], dtype="float32"))
    for logit in (1e4, -1e4):
        close(bernoulli(logit).entropy(), 0)
        close(kl_divergence(bernoulli(logit), bernoulli(logit)), 0)
        close(kl_divergence(bernoulli(logit), bernoulli(-logit)), 1e4)
        sure, unsure = math.copysign(1e4, logit), math.copysign(5, logit)
        # A certain outcome to which the other gives probability sigmoid(5).
        close(kl_divergence(bernoulli(sure), bernoulli(unsure)), math.log1p(math.exp(-5)))
    q = 1 / (1 + math.exp(-20))
    close(bernoulli(20.0).entropy(), -q * math.log(q) + (1 - q) * 20.0 - (1 - q) * math.log(q))


def test_categorical_at_extreme_logits(xp):
    logits = xp.asarray(np.array([[[1e4, -1e4, 0.0]]], "float32"))
    others = xp.asarray(np.array([[[-1e4, 1e4, 0.0]]], "float32"))
    p, q = Categorical(logits), Categorical(others)
    for k, expected in [(0, 0), (1, -2e4), (2, -1e4)]:
        close(p.log_prob(np.array([[k]])), [expected])
    close(p.entropy(), [0])
    close(kl_divergence(p, q), [2e4])
    close(kl_divergence(p, p), [0])


@pytest.mark.parametrize("log_scale", [-20.0, 20.0])
def test_densities_at_extreme_scales(xp, log_scale):
    loc, parameter, x = arrays(xp, [0.0], [log_scale], [math.exp(log_scale) * 1.5],
                               dtype="float32")
    z = host(x).item() / math.exp(log_scale)
    close(Normal(loc, parameter).log_prob(x),
          -z * z / 2 - math.log(2 * math.pi) / 2 - log_scale, rtol=1e-4)
    close(Laplace(loc, parameter).log_prob(x), -z - math.log(2) - log_scale, rtol=1e-4)
    close(Normal(loc, parameter).entropy(), (1 + math.log(2 * math.pi)) / 2 + log_scale)
    close(Laplace(loc, parameter).entropy(), 1 + math.log(2) + log_scale)
    for family in (Normal, Laplace):
        drawn = family(loc, parameter).sample(np.random.default_rng(0), (100,))
        assert np.isfinite(host(drawn)).all()


def test_far_from_a_narrow_density_all_is_finite(xp):
    loc, log_scale = [Tensor(x) for x in arrays(xp, [0.0], [-20.0], dtype="float32")]
    x, = arrays(xp, [1.0], dtype="float32")
    for family, expected in [(Normal, -math.exp(40) / 2), (Laplace, -math.exp(20))]:
        log_p = family(loc, log_scale).log_prob(x)
        close(log_p, expected, rtol=1e-4)
        assert all(np.isfinite(host(g)).all() for g in grad(log_p, [loc, log_scale]))


def test_kl_at_extreme_scales(xp):
    def family_at(family, loc, log_scale):
        return family(*arrays(xp, [loc], [log_scale], dtype="float32"))
    wide, narrow = 20.0, -20.0
    close(kl_divergence(family_at(Normal, 0, wide), family_at(Normal, 0, narrow)),
          (math.exp(80) - 1) / 2 - 40, rtol=1e-4)
    close(kl_divergence(family_at(Normal, 0, narrow), family_at(Normal, 0, wide)), 40 - 0.5)
    close(kl_divergence(family_at(Normal, 3, narrow), family_at(Normal, 0, 0)), 4.5 + 20 - 0.5)
    close(kl_divergence(family_at(Laplace, 0, wide), family_at(Laplace, 0, narrow)),
          math.exp(40) - 1 - 40, rtol=1e-4)
    close(kl_divergence(family_at(Laplace, 0, narrow), family_at(Laplace, 0, wide)), 40 - 1)
    close(kl_divergence(family_at(Laplace, 3, narrow), family_at(Laplace, 0, 0)), 3 + 20 - 1)


# ------------------------------------------------------------------------ fused and its twin


@given(shape=st.sampled_from([((2, 3, 5), (3, 5)), ((5,), (2, 5)), ((3, 5), (3, 5)),
                              ((3, 1, 5), (2, 5))]),
       scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]), seed=st.integers(0, 2 ** 32 - 1))
def test_bernoulli_equals_its_twin(xp, shape, scale, seed):
    rng = np.random.default_rng(seed)
    logits = Tensor(xp.asarray(scale * rng.standard_normal(shape[0])))
    x = Tensor(xp.asarray(rng.integers(0, 2, shape[1]).astype("float64")))
    results = []
    for function in (bernoulli_log_prob, bernoulli_log_prob_twin):
        out = function(logits, x)
        cotangent = xp.asarray(np.arange(1.0, 1 + out.size).reshape(out.shape))
        results.append([out.data, *grad(out, [logits, x], cotangent)])
    for a, b in zip(*results):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-12, atol=1e-12)


def test_bernoulli_gradient_at_zero_logits(xp):
    """Where a kink of an unfortunate twin would lie: sigmoid(0) is a half on every path."""
    logits, x = Tensor(xp.zeros(2)), xp.asarray(np.array([1.0, 0.0]))
    for create_graph in (False, True):
        gradient = grad(Bernoulli(logits).log_prob(x), logits, create_graph=create_graph)
        np.testing.assert_array_equal(host(gradient), [0.5, -0.5])
    second = grad(grad(Bernoulli(logits).log_prob(x), logits, create_graph=True).sum(), logits)
    np.testing.assert_allclose(host(second), [-0.25, -0.25])
    entropy = grad(Bernoulli(logits).entropy(), logits, create_graph=True)
    np.testing.assert_allclose(host(grad(entropy.sum(), logits)), [-0.25, -0.25])


@given(seed=st.integers(0, 2 ** 32 - 1), scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
       turned=st.booleans())
def test_categorical_equals_its_twin(xp, seed, scale, turned):
    rng = np.random.default_rng(seed)
    values, x = scale * rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    values = xp.asarray(values.T.copy()).T if turned else xp.asarray(values)
    cotangent = xp.asarray(np.array([1.0, -3.0]))
    results = []
    for function in (categorical_log_prob, categorical_log_prob_twin):
        logits = Tensor(values)
        out = function(logits, x=x)
        results.append([out.data, grad(out, logits, cotangent)])
    for a, b in zip(*results):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-10, atol=1e-12)
