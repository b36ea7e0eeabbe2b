"""Floor 4: a mixture of independent sub-pixels, fitted by EM. Read distributions.py before.

    p(x) = sum_k pi_k prod_d p_kd(x_d),

with p_kd a distribution over the levels of sub-pixel d: Bernoullis for 2 levels, Categoricals
for more. Bishop 2006, section 9.3.3: the E-step's responsibilities are eq. 9.56, the M-step
eqs. 9.57-9.60. `smoothing` pseudo-counts, spread over the levels, keep a level that a component
has not seen possible (the MAP estimate under a Dirichlet prior, with the uniform distribution
or the data's own as its mean).
"""

import numpy as np

from scratchgen import backend


class Mixture:
    """K components over D sub-pixels with `levels` levels; x is (N, D) of 0 .. levels-1."""

    def __init__(self, components, levels=2, smoothing=1.0):
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, not {components}")
        self.components = components
        self.levels = levels
        self.smoothing = smoothing

    def fit(self, x, rng, iterations=100, tolerance=1e-6):
        """EM from random responsibilities until the objective rises by less than `tolerance`.

        Returns the objective per example after every iteration: the log-likelihood plus the
        log-prior of the smoothing. It never falls.
        """
        xp = backend.module_of(x)
        seen = self._indicators(x)
        overall = self._with_level_zero((seen.sum(axis=0) + 1)[None], len(x) + self.levels)[0]
        self._pseudo_counts = self.smoothing * overall / (len(x) + self.levels)
        responsibilities = xp.asarray(rng.dirichlet(np.full(self.components, 0.1), len(x)))
        history = []
        for _ in range(iterations):
            self._maximise(seen, responsibilities)
            joint = self._log_joint(seen)
            total = _logsumexp(joint)
            responsibilities = xp.exp(joint - total[:, None])
            prior = (self._pseudo_counts * self.log_p).sum()
            history.append(((total.sum() + prior) / len(x)).item())
            if len(history) > 1 and history[-1] - history[-2] < tolerance:
                break
        return history

    def log_prob(self, x):
        """log p(x), (N, D) -> (N,), a plain float64 array."""
        return _logsumexp(self._log_joint(self._indicators(x)))

    def sample(self, n, rng):
        """n images (n, D): a component each, then every sub-pixel on its own."""
        xp = backend.module_of(self.log_p)
        weights = np.exp(backend.to_numpy(self.log_weights))
        chosen = xp.asarray(rng.choice(self.components, n, p=weights / weights.sum()))
        p = xp.exp(self.log_p)[chosen]
        u = backend.uniform(rng, p.shape[:2], p.dtype, xp)
        return (p.cumsum(axis=-1)[..., :-1] <= u[..., None]).sum(axis=-1)

    def _indicators(self, x):
        """1 where x_d is level l, for l = 1 .. levels-1: (N, D) -> (N, D (levels-1)), float64.

        Level 0 is what remains; for two levels this is x itself.
        """
        xp = backend.module_of(x)
        above = xp.arange(1, self.levels)
        return (x[:, :, None] == above).astype(np.float64).reshape(len(x), -1)

    def _with_level_zero(self, counts, totals):
        """Counts (K, D (levels-1)) and their totals -> (K, D, levels), level 0 first."""
        xp = backend.module_of(counts)
        counts = counts.reshape(len(counts), -1, self.levels - 1)
        rest = totals - counts.sum(axis=2, keepdims=True)
        return xp.concatenate([rest, counts], axis=2)

    def _maximise(self, seen, responsibilities):
        """The M-step: weights from the responsibilities, levels from what they weigh."""
        xp = backend.module_of(seen)
        sizes = responsibilities.sum(axis=0)
        counts = self._with_level_zero(responsibilities.T @ seen, sizes[:, None, None])
        self.log_weights = xp.log(sizes / len(seen))
        total = (sizes + self.smoothing)[:, None, None]
        self.log_p = xp.log((counts + self._pseudo_counts) / total)  # (K, D, levels)

    def _log_joint(self, seen):
        """log pi_k + log p_k(x), (N, K): all levels 0, corrected where a level is seen."""
        at_zero = self.log_p[:, :, :1]
        gain = (self.log_p[:, :, 1:] - at_zero).reshape(self.components, -1)
        return seen @ gain.T + (at_zero.sum(axis=(1, 2)) + self.log_weights)


def _logsumexp(x):
    xp = backend.module_of(x)
    largest = x.max(axis=1)
    return largest + xp.log(xp.exp(x - largest[:, None]).sum(axis=1))
