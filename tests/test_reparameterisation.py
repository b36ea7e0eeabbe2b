"""The three ways to verify the reparameterisation gradient, and that each one can fail.

That all three pass is in test_gradcheck.py, on every backend.
"""

import math

import numpy as np
import pytest

from scratchgen import gradcheck_reparameterisation as reparameterisation
from scratchgen import ops
from scratchgen.check import GradientError, check_grads
from scratchgen.distributions import Laplace, Normal

FAMILIES = [Normal, Laplace]
LOC, LOG_SCALE = np.array([0.4, -1.3, 0.9]), np.array([-0.5, 0.3, 0.1])


def expectation(family, loc, scale):
    """E[f(loc + scale * noise)] by the trapezoidal rule, fine enough for seven digits."""
    noise = np.linspace(-45, 45, 90_001)
    density = (np.exp(-np.abs(noise)) / 2 if family is Laplace
               else np.exp(-noise ** 2 / 2) / math.sqrt(2 * math.pi))
    z = loc + scale * noise
    f = sum(c * z ** n for n, c in enumerate(reparameterisation.COEFFICIENTS))
    return np.trapezoid(f * density, noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_is_the_derivative_of_the_expectation(family):
    by_loc, by_log_scale = reparameterisation._closed_form(family, LOC, np.exp(LOG_SCALE))
    h = 1e-4
    for d in range(3):
        loc, scale = LOC[d], math.exp(LOG_SCALE[d])
        slope = (expectation(family, loc + h, scale)
                 - expectation(family, loc - h, scale)) / (2 * h)
        assert by_loc[d] == pytest.approx(slope, rel=1e-6)
        slope = (expectation(family, loc, scale * math.exp(h))
                 - expectation(family, loc, scale * math.exp(-h))) / (2 * h)
        assert by_log_scale[d] == pytest.approx(slope, rel=1e-6)


def wrong_path(kind):
    """An rsample whose value, or whose gradient alone, is a little wrong."""
    def rsample(self, rng, shape=()):
        u = rng.standard_normal(tuple(shape) + self.loc.shape, dtype=np.float64)
        if kind == "log_std 0.1 % too large":
            return self.loc + ops.exp(1.001 * self.log_std) * u
        if kind == "log_std read as log variance":
            return self.loc + ops.exp(0.5 * self.log_std) * u
        if kind == "half the gradient to loc":
            return 0.5 * self.loc + 0.5 * self.loc.data + ops.exp(self.log_std) * u
        return 1.001 * self.loc + ops.exp(self.log_std) * u
    return rsample


@pytest.mark.parametrize("kind", ["log_std 0.1 % too large", "log_std read as log variance",
                                  "half the gradient to loc", "loc 0.1 % too large"])
def test_closed_form_notices_a_wrong_path(monkeypatch, kind):
    assert reparameterisation.closed_form_error(Normal, LOC, LOG_SCALE) < 1e-12
    monkeypatch.setattr(Normal, "rsample", wrong_path(kind))
    assert reparameterisation.closed_form_error(Normal, LOC, LOG_SCALE) > 1e-5


@pytest.mark.parametrize("kind", ["log_std read as log variance", "half the gradient to loc"])
def test_score_function_notices_a_wrong_path(monkeypatch, kind):
    arguments = np.array([[0.0]]), np.array([[-1.0]])
    rng = np.random.default_rng(0)
    assert reparameterisation.score_function_error(Normal, *arguments, rng) < 4
    wrong = type("Wrong", (Normal,), {"rsample": wrong_path(kind),
                                      "sample": lambda self, rng: Normal(
                                          self.loc.data, self.log_std.data).sample(rng)})
    assert reparameterisation.score_function_error(wrong, *arguments, rng) > 8


@pytest.mark.parametrize("family", FAMILIES)
def test_score_function_refuses_too_few_draws(family):
    with pytest.raises(GradientError, match="the standard error .* is more than 2 % of"):
        reparameterisation.score_function_error(family, np.array([[0.0]]), np.array([[-1.0]]),
                                                np.random.default_rng(0), samples=1000)


@pytest.mark.parametrize("family", FAMILIES)
def test_score_function_is_not_too_good(family):
    """Different seeds differ by about one standard error: the yardstick is not too long."""
    errors = [reparameterisation.score_function_error(
        family, np.array([[0.0]]), np.array([[-1.0]]), np.random.default_rng(seed))
        for seed in range(4)]
    assert 0.3 < max(errors) < 4
    assert len(set(errors)) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_redrawn_between_two_looks_is_rejected(family):
    """One noise forward and another backward: there is no function to be differentiated."""
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="no smooth point"):
        check_grads(lambda loc, log_scale: family(loc, log_scale).rsample(rng), LOC, LOG_SCALE)
