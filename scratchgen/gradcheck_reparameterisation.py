"""Floor 6: is the reparameterisation gradient the gradient of the expectation? Three ways to see.

With z = loc + scale * noise, where the noise does not know the parameters,

    d E[f(z)] / d(loc, log_scale) = E[d f(z) / d(loc, log_scale)]      (Kingma & Welling 2014, 2.4)

1. Fixed noise: the path z -> f(z) is an ordinary function, checked by finite differences like
   any other (gradcheck.py).
2. Closed form: for a polynomial f the expectation is one too, and Gauss quadrature computes the
   right-hand side without error: its nodes are given to rsample as the noise.
3. Score function: E[f(z) d log q(z) / d(loc, log_scale)] estimates the same gradient from the
   density alone, without any path. It agrees within sampling error.
"""

import math

import numpy as np

from scratchgen import backend, ops
from scratchgen.check import GradientError, relative_difference
from scratchgen.distributions import Laplace, Normal
from scratchgen.tensor import Tensor, grad

COEFFICIENTS = (-1.0, 1.0, 1.0, 0.1, 0.2)  # of f(z), by rising powers
_EVEN_MOMENTS = {Normal: (1, 1, 3), Laplace: (1, 2, 24)}  # E[noise^0], E[noise^2], E[noise^4]


def polynomial(z):
    """f(z), the function whose expectation is differentiated."""
    total = COEFFICIENTS[-1]
    for coefficient in reversed(COEFFICIENTS[:-1]):
        total = total * z + coefficient
    return total


# ------------------------------------------------------------------------- closed form


def closed_form_error(family, loc, log_scale):
    """The relative difference of the pathwise gradient from the closed form; loc is (D,)."""
    parameters = [Tensor(loc), Tensor(log_scale)]
    noise, weights = (backend.module_of(loc).asarray(x) for x in _QUADRATURES[family]())
    z = family(*parameters).rsample(_Given(noise), noise.shape)  # (nodes, D)
    expectation = ops.sum(weights[:, None] * polynomial(z))
    exact = _closed_form(family, backend.to_numpy(loc), np.exp(backend.to_numpy(log_scale)))
    return max(relative_difference(found, right)
               for found, right in zip(grad(expectation, parameters), exact))


def _closed_form(family, loc, scale):
    """The derivatives of sum_n c_n sum_j binomial(n, j) E[noise^j] scale^j loc^(n-j)."""
    by_loc, by_log_scale = np.zeros_like(loc), np.zeros_like(loc)
    for n, c in enumerate(COEFFICIENTS):
        for j in range(0, n + 1, 2):  # odd moments are 0
            term = c * math.comb(n, j) * _EVEN_MOMENTS[family][j // 2] * scale ** j
            by_log_scale += term * j * loc ** (n - j)
            if j < n:
                by_loc += term * (n - j) * loc ** (n - j - 1)
    return by_loc, by_log_scale


def _hermite():
    """Standard normal noise and its weights: exact for polynomials up to degree 11."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    return nodes, weights / weights.sum()


def _laguerre():
    """The uniform numbers of which rsample makes Laplace noise -t and t: exact up to degree 7."""
    nodes, weights = np.polynomial.laguerre.laggauss(4)
    below = 0.5 * np.exp(-nodes)
    return np.concatenate([below, 1 - below]), np.concatenate([weights, weights]) / 2


_QUADRATURES = {Normal: _hermite, Laplace: _laguerre}


class _Given:
    """In place of a generator: one given number for each row, whatever is asked for."""

    def __init__(self, rows):
        self.rows = rows

    def standard_normal(self, shape, dtype):
        return backend.module_of(self.rows).broadcast_to(self.rows[:, None], shape)

    random = standard_normal


# ---------------------------------------------------------------------- score function


def score_function_error(family, loc, log_scale, rng, samples=400_000):
    """The difference of the two estimates in standard errors, the larger of two parameters.

    Raises GradientError if a standard error exceeds 2 % of the gradient: agreement within so
    wide a margin would show nothing.
    """
    xp = backend.module_of(loc)
    # Each draw gets its own copy of the parameters, hence its own gradient: (samples, 1).
    parameters = [Tensor(xp.broadcast_to(p, (samples, 1)).copy()) for p in (loc, log_scale)]
    q = family(*parameters)
    pathwise = grad(ops.sum(polynomial(q.rsample(rng))), parameters)
    z = q.sample(rng)
    score = grad(ops.sum(polynomial(z)[:, 0] * q.log_prob(z)), parameters)
    worst = 0.0
    for a, b in zip(pathwise, score):
        a, b = backend.to_numpy(a), backend.to_numpy(b)
        standard_error = ((a.var() + b.var()) / samples) ** 0.5
        if not standard_error < 0.02 * abs(a.mean()):
            raise GradientError(f"the standard error {standard_error:.2g} is more than 2 % of the "
                                f"gradient {a.mean():.2g}: draw more samples")
        worst = max(worst, abs(a.mean() - b.mean()) / standard_error)
    return worst
