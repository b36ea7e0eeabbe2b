"""Floor 4: classic densities of continuous data. Read kmeans.py before.

* `Histogram`: the share of the data in a bin, divided by the bin's volume.
* `KernelDensity`: p(x) = 1/N sum_n N(x; x_n, h^2 I), a bump on every point (Parzen 1962).
* `Gaussian`: maximum likelihood, the mean and covariance of the data.
* `GaussianMixture`: p(x) = sum_k pi_k N(x; mu_k, S_k) by EM (Bishop 2006, eqs. 9.23-9.27).

All take (N, D) arrays; log_prob is in nats per example. Densities of D-dimensional data have
units: x in other units shifts log_prob by D times the log of the ratio. Fits, squares and sums
run in float64, answers come in the data's own dtype.
"""

import math

import numpy as np

from scratchgen import backend
from scratchgen.models.kmeans import KMeans, budget, checked_rows, slices

MOST_BINS = 10 ** 7
TINY = 1e-300  # the weight of a component that no point wants: its logarithm is finite
LOG_2PI = math.log(2 * math.pi)


class Histogram:
    """`bins` equal bins along each of D columns, over the data's range or given `bounds`."""

    def __init__(self, bins, bounds=None):
        if bins < 1:
            raise ValueError(f"a histogram needs at least one bin, not {bins}")
        if bounds is not None and not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"the bounds must be two finite numbers, low below high: {bounds}")
        self.bins = bins
        self.bounds = bounds

    def fit(self, x):
        """Counts the rows in every bin: `probabilities` has shape (bins,) * D."""
        x = checked_rows(x)
        xp = backend.module_of(x)
        columns = x.shape[1]
        if self.bins ** columns > MOST_BINS:
            raise ValueError(f"{self.bins} bins along each of {columns} columns are too many to "
                             f"count in: at most {MOST_BINS:,} bins, so take fewer columns")
        if self.bounds is None:
            low = backend.to_numpy(x.min(axis=0)).astype(np.float64)
            high = backend.to_numpy(x.max(axis=0)).astype(np.float64)
            constant = low == high  # any width will do
            self.low = np.where(constant, low - 0.5, low)
            self.high = np.where(constant, high + 0.5, high)
        else:
            self.low, self.high = (np.full(columns, float(bound)) for bound in self.bounds)
        index, inside = self._bin_of(x)
        outside = len(x) - inside.sum().item()
        if outside:
            raise ValueError(f"{outside} of {len(x)} rows lie outside the bounds {self.bounds}; "
                             "widen them, or leave them out")
        counts = xp.bincount(index, minlength=self.bins ** columns)
        self.probabilities = (counts / len(x)).reshape((self.bins,) * columns)
        self.dtype = x.dtype

    def log_prob(self, x):
        """log density, (N, D) -> (N,); -inf in an empty bin and outside the bounds."""
        x = checked_rows(x, len(self.low))
        xp = backend.module_of(x)
        index, inside = self._bin_of(x)
        p = self.probabilities.ravel()[index]
        seen = inside & (p > 0)
        logarithm = xp.log(xp.where(seen, p, 1)) - np.log(self._widths()).sum().item()
        return xp.where(seen, logarithm, -math.inf).astype(x.dtype)

    def sample(self, n, rng):
        """n draws, (n, D): a bin each, then a place in it, uniformly."""
        xp = backend.module_of(self.probabilities)
        shape = self.probabilities.shape
        chosen = rng.choice(self.bins ** len(shape), n,
                            p=backend.to_numpy(self.probabilities).ravel())
        corner = np.stack(np.unravel_index(chosen, shape), axis=1)
        place = backend.uniform(rng, (n, len(shape)), np.float64, xp)
        x = (xp.asarray(corner) + place) * xp.asarray(self._widths()) + xp.asarray(self.low)
        return x.astype(self.dtype)

    def _widths(self):
        return (self.high - self.low) / self.bins

    def _bin_of(self, x):
        """The flat number of each row's bin, and whether the row is within the bounds at all."""
        xp = backend.module_of(x)
        low = xp.asarray(self.low)
        inside = ((x >= low) & (x <= xp.asarray(self.high))).all(axis=1)
        place = xp.floor((x - low) / xp.asarray(self._widths()))
        place = xp.clip(place, 0, self.bins - 1).astype(np.int64)  # the top edge is in the last bin
        strides = self.bins ** np.arange(x.shape[1])[::-1]
        return (place * xp.asarray(strides)).sum(axis=1), inside


class KernelDensity:
    """A Gaussian of standard deviation `bandwidth`, in units of x, on every point of the data."""

    def __init__(self, bandwidth):
        if not 0 < bandwidth < math.inf:
            raise ValueError(f"the bandwidth must be a number above zero, not {bandwidth}")
        self.bandwidth = bandwidth

    def fit(self, x):
        """Keeps the points: there is nothing else to fit."""
        self.points = checked_rows(x)
        self._mean = self.points.mean(axis=0, dtype=np.float64)

    def log_prob(self, x):
        """log 1/M sum_m N(x; x_m, h^2 I), (N, D) -> (N,).

        In float64 and around the mean: a small h would enlarge what cancels in the squares.
        """
        x = checked_rows(x, self.points.shape[1])
        xp = backend.module_of(x)
        precision = 1 / self.bandwidth ** 2
        constant = math.log(len(self.points)) + x.shape[1] * (
            math.log(self.bandwidth) + 0.5 * LOG_2PI)
        side = math.isqrt(budget(x))  # blocks of about side x side squared distances
        found = []
        for part in slices(x, side):
            rows = x[part] - self._mean
            running = xp.full(len(rows), -np.inf)
            for block in slices(self.points, side):
                points = self.points[block] - self._mean
                exponent = precision * (rows @ points.T - 0.5 * (points * points).sum(axis=1))
                running = xp.logaddexp(running, _logsumexp(exponent))
            found.append(running - 0.5 * precision * (rows * rows).sum(axis=1) - constant)
        return xp.concatenate(found).astype(x.dtype)

    def sample(self, n, rng):
        """n draws, (n, D): a point each, moved by the kernel's noise."""
        xp = backend.module_of(self.points)
        chosen = backend.index_array(xp, rng.integers(len(self.points), size=n))
        noise = backend.standard_normal(rng, (n, self.points.shape[1]), self.points.dtype, xp)
        return self.points[chosen] + self.bandwidth * noise


def choose_bandwidth(x, valid, bandwidths):
    """The bandwidth under which the points x make the rows of `valid` likeliest, and all means.

    Never choose it on x itself: every point is likeliest under a bump of width zero on it.
    """
    means = []
    for bandwidth in bandwidths:
        kernels = KernelDensity(bandwidth)
        kernels.fit(x)
        means.append(kernels.log_prob(valid).mean(dtype=np.float64).item())
    return bandwidths[int(np.argmax(means))], means


class GaussianMixture:
    """K Gaussians with "full" (D, D) or "diagonal" covariances, fitted by EM.

    No covariance has an eigenvalue below `variance_floor`, in squared units of x: a component on
    a single point, or a constant column, would have an infinite density. The floor is part of
    the maximisation, so the likelihood rises with or without it.
    """

    def __init__(self, components, covariance="full", variance_floor=1e-6):
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, not {components}")
        if covariance not in ("full", "diagonal"):
            raise ValueError(f"the covariance must be full or diagonal, not {covariance!r}")
        if not 0 < variance_floor < math.inf:
            raise ValueError(f"the variance floor must be above zero, not {variance_floor}")
        self.components = components
        self.covariance = covariance
        self.variance_floor = variance_floor

    def fit(self, x, rng, iterations=100, tolerance=1e-6):
        """EM from the clusters of k-means until log p rises by less than `tolerance` nats.

        Returns the log-likelihood per example after every M-step, a list that never falls; the
        last belongs to the fitted mixture.
        """
        x = checked_rows(x)
        xp = backend.module_of(x)
        if self.components > len(x):
            raise ValueError(f"{self.components} components need as many points; "
                             f"there are {len(x)}")
        clusters = KMeans(self.components, restarts=1)
        clusters.fit(x, rng)
        self.dtype = x.dtype
        self._origin = x.mean(axis=0, dtype=np.float64)
        numbers = xp.arange(self.components)
        members = (clusters.predict(x)[:, None] == numbers).astype(np.float64)
        self._maximise(x, members)
        history = []
        for _ in range(iterations):
            joint = self._log_joint(x)
            total = _logsumexp(joint)
            history.append(total.mean().item())
            rise = history[-1] - history[-2] if len(history) > 1 else math.inf
            if rise < tolerance or len(history) == iterations:
                break
            self._maximise(x, xp.exp(joint - total[:, None]))
        return history

    def log_prob(self, x):
        """log p(x) in nats, (N, D) -> (N,)."""
        x = checked_rows(x, len(self._origin))
        return _logsumexp(self._log_joint(x)).astype(x.dtype)

    def sample(self, n, rng):
        """n draws, (n, D): a component each, then its Gaussian."""
        xp = backend.module_of(self.weights)
        weights = backend.to_numpy(self.weights)
        counts = rng.multinomial(n, weights / weights.sum()).tolist()
        parts = []
        for k, count in enumerate(counts):
            noise = backend.standard_normal(rng, (count, len(self._origin)), np.float64, xp)
            parts.append(self.means[k] + self._spread(k, noise))
        order = backend.index_array(xp, rng.permutation(n))
        return xp.concatenate(parts)[order].astype(self.dtype)

    def _maximise(self, x, responsibilities):
        """The M-step (eqs. 9.24-9.26): weights, means and covariances from who owns what."""
        xp = backend.module_of(x)
        sizes = xp.maximum(responsibilities.sum(axis=0), TINY)
        self.weights = sizes / len(x)
        self.means = self._origin + self._weigh(x, responsibilities, xp.positive) / sizes[:, None]
        if self.covariance == "diagonal":
            about = self.means - self._origin
            squares = self._weigh(x, responsibilities, xp.square) / sizes[:, None]
            self.variances = xp.maximum(squares - about * about, self.variance_floor)
            return
        factors = [self._eigen(x, responsibilities[:, k], self.means[k], sizes[k])
                   for k in range(self.components)]
        self.variances = xp.stack([variances for variances, _ in factors])  # (K, D)
        self._axes = xp.stack([axes for _, axes in factors])  # (K, D, D), eigenvectors in columns

    def _weigh(self, x, responsibilities, function):
        """sum_n r_nk f(x_n - origin), (K, D)."""
        total = 0
        for part in slices(x, 2 * x.shape[1]):
            total = total + responsibilities[part].T @ function(x[part] - self._origin)
        return total

    def _eigen(self, x, responsibilities, mean, size):
        """(eigenvalues, eigenvectors in columns) of sum_n r_n (x_n - mean)(x_n - mean)^T / size.

        Raising eigenvalues to the floor gives the likeliest covariance among those above it.
        """
        xp = backend.module_of(x)
        total = 0
        for part in slices(x, 3 * x.shape[1]):
            offset = x[part] - mean  # float64 from here: the mean is
            total = total + (offset * responsibilities[part, None]).T @ offset
        values, axes = xp.linalg.eigh(total / size)
        return xp.maximum(values, self.variance_floor), axes

    def _log_joint(self, x):
        """log pi_k + log N(x; mu_k, S_k), (N, K), float64."""
        xp = backend.module_of(x)
        constant = xp.log(self.weights) - 0.5 * (
            xp.log(self.variances).sum(axis=1) + x.shape[1] * LOG_2PI)
        squares = [self._squares(x[part]) for part in slices(x, 3 * x.shape[1])]
        return constant - 0.5 * xp.concatenate(squares)

    def _squares(self, rows):
        """(x - mu_k)^T S_k^-1 (x - mu_k), (N, K)."""
        xp = backend.module_of(rows)
        if self.covariance == "full":
            columns = [(((rows - self.means[k]) @ self._axes[k]) ** 2
                        @ (1 / self.variances[k])) for k in range(self.components)]
            return xp.stack(columns, axis=1)
        offset = rows - self._origin
        about = self.means - self._origin
        return ((offset * offset) @ (1 / self.variances).T
                - 2 * offset @ (about / self.variances).T
                + (about * about / self.variances).sum(axis=1))

    def _spread(self, k, noise):
        """Standard noise (n, D) given component k's covariance."""
        xp = backend.module_of(noise)
        noise = noise * xp.sqrt(self.variances[k])
        return noise @ self._axes[k].T if self.covariance == "full" else noise


class Gaussian(GaussianMixture):
    """One Gaussian: the mean and the covariance of the data are its maximum likelihood."""

    def __init__(self, covariance="full", variance_floor=1e-6):
        super().__init__(1, covariance, variance_floor)

    def fit(self, x):
        """One M-step in which the one component owns every point."""
        x = checked_rows(x)
        self.dtype = x.dtype
        self._origin = x.mean(axis=0, dtype=np.float64)
        self._maximise(x, backend.module_of(x).ones((len(x), 1)))


def _logsumexp(x):
    xp = backend.module_of(x)
    largest = x.max(axis=1)
    return largest + xp.log(xp.exp(x - largest[:, None]).sum(axis=1))
