"""Floor 4: principal components, and the density that they are the limit of.

PCA keeps the Z directions U in which the data vary most: the leading eigenvectors of

    S = 1/N sum_n (x_n - mu)(x_n - mu)^T,    S u_i = lambda_i u_i.

Probabilistic PCA (Tipping & Bishop 1999) is a linear decoder with Gaussian noise,

    x = W z + mu + e,  z ~ N(0, I),  e ~ N(0, s^2 I),  so  x ~ N(mu, C),  C = W W^T + s^2 I,

and its maximum likelihood is known in closed form (their eqs. 7 and 8): W = U (L - s^2 I)^(1/2),
with s^2 the mean of the eigenvalues left out. Sums are divided by N, as maximum likelihood does.
"""

import math

import numpy as np

from scratchgen import backend
from scratchgen.models.kmeans import checked_rows, slices


def principal_axes(x):
    """(mean (D,), eigenvalues falling, eigenvectors in rows) of the covariance, in float64.

    Fewer examples than columns: only N eigenvalues can differ from zero, and the singular values
    of the data give them without a D x D matrix.
    """
    xp = backend.module_of(x)
    mean = x.mean(axis=0, dtype=np.float64)
    if len(x) < x.shape[1]:
        _, singular, axes = xp.linalg.svd(x - mean, full_matrices=False)
        values = singular * singular / len(x)
    else:
        values, columns = xp.linalg.eigh(covariance(x, mean))
        values = xp.maximum(values[::-1], 0)  # rounding leaves -1e-18 for a constant column
        axes = columns.T[::-1]
    # An eigenvector's sign is free: its largest entry is made positive, the same everywhere.
    largest = xp.abs(axes).argmax(axis=1)[:, None]
    return mean, values, axes * xp.sign(xp.take_along_axis(axes, largest, axis=1))


def covariance(x, mean):
    """1/N sum_n (x_n - mean)(x_n - mean)^T, (D, D), in float64 and in chunks of rows."""
    total = 0
    for part in slices(x, 2 * x.shape[1]):
        offset = x[part] - mean  # float64 from here: the mean is
        total = total + offset.T @ offset
    return total / len(x)


class PCA:
    """The best linear autoencoder: `latent` orthogonal directions of (N, D) data."""

    def __init__(self, latent):
        if latent < 1:
            raise ValueError(f"principal components: at least one is needed, not {latent}")
        self.latent = latent

    def fit(self, x):
        """Sets mean (D,), components (Z, D), explained_variance and explained_ratio (Z,)."""
        x = checked_rows(x)
        xp = backend.module_of(x)
        self._refuse_too_many(x)
        mean, values, axes = principal_axes(x)
        self.mean = mean.astype(x.dtype)
        self.components = xp.ascontiguousarray(axes[:self.latent]).astype(x.dtype)
        self.explained_variance = values[:self.latent]
        total = values.sum().item()
        self.explained_ratio = self.explained_variance / (total if total > 0 else 1.0)

    def encode(self, x):
        """The coordinates U (x - mu), (N, D) -> (N, Z)."""
        x = checked_rows(x, len(self.mean))
        return (x - self.mean) @ self.components.T

    def decode(self, codes):
        """The point mu + U^T z of each code, (N, Z) -> (N, D)."""
        codes = checked_rows(codes, self.latent)
        return codes @ self.components + self.mean

    def sample(self, n, rng):
        """Refused: directions are not a distribution."""
        raise NotImplementedError("PCA keeps directions and has no distribution to sample from: "
                                  "use probabilistic PCA, which has one")

    def _refuse_too_many(self, x):
        if self.latent > min(x.shape):
            raise ValueError(f"{self.latent} principal components need at least as many examples "
                             f"and columns; there are {len(x)} and {x.shape[1]}")


class ProbabilisticPCA:
    """A Gaussian with a covariance of rank `latent` plus `noise_variance` in every direction.

    `variance_floor` keeps s^2 above zero, in squared units of x: data that lie within Z
    dimensions (constant columns, say) have no density otherwise.
    """

    def __init__(self, latent, variance_floor=1e-6):
        if not 0 < variance_floor < math.inf:
            raise ValueError(f"the variance floor must be above zero, not {variance_floor}")
        self._pca = PCA(latent)
        self.latent = latent
        self.variance_floor = variance_floor

    def fit(self, x):
        """Maximum likelihood in closed form: sets mean (D,), weight W (D, Z), noise_variance."""
        x = checked_rows(x)
        xp = backend.module_of(x)
        columns = x.shape[1]
        if self.latent >= columns:
            raise ValueError(f"probabilistic PCA needs fewer latents than columns, or nothing is "
                             f"left for the noise: {self.latent} of {columns}")
        self._pca._refuse_too_many(x)
        mean, values, axes = principal_axes(x)
        noise = values[self.latent:].sum().item() / (columns - self.latent)
        self.noise_variance = max(noise, self.variance_floor)
        self._variances = xp.maximum(values[:self.latent], self.noise_variance)  # C's own
        self._axes = axes[:self.latent]
        self._mean = mean
        self.mean = mean.astype(x.dtype)
        scale = xp.sqrt(self._variances - self.noise_variance)
        self.weight = (self._axes.T * scale).astype(x.dtype)

    def log_prob(self, x):
        """log N(x; mu, C) in nats, (N, D) -> (N,), with no D x D matrix.

        Woodbury: C^-1 = (I - W M^-1 W^T) / s^2, M = W^T W + s^2 I. W's columns are eigenvectors,
        so M is diagonal and (x-mu)^T C^-1 (x-mu) = sum_i y_i^2 / lambda_i + |r|^2 / s^2, with
        y = U (x - mu) and r = x - mu - U^T y, the part of x that no latent explains.
        """
        columns = len(self.mean)
        x = checked_rows(x, columns)
        xp = backend.module_of(x)
        log_determinant = (xp.log(self._variances).sum().item()
                           + (columns - self.latent) * math.log(self.noise_variance))
        constant = columns * math.log(2 * math.pi) + log_determinant
        found = []
        for part in slices(x, 3 * columns):
            offset = x[part] - self._mean
            y = offset @ self._axes.T  # (N, Z)
            r = offset - y @ self._axes
            square = (y * y / self._variances).sum(axis=1)
            square = square + (r * r).sum(axis=1) / self.noise_variance
            found.append(-0.5 * (constant + square))
        return xp.concatenate(found).astype(x.dtype)

    def encode(self, x):
        """The posterior mean of z, M^-1 W^T (x - mu): (N, D) -> (N, Z)."""
        x = checked_rows(x, len(self.mean))
        return (x - self.mean) @ (self.weight / self._variances.astype(self.weight.dtype))

    def decode(self, codes):
        """The mean of x given z, W z + mu: (N, Z) -> (N, D)."""
        codes = checked_rows(codes, self.latent)
        return codes @ self.weight.T + self.mean

    def sample(self, n, rng):
        """n draws, (n, D): a code from the prior, decoded, plus the noise."""
        xp = backend.module_of(self.mean)
        dtype = self.mean.dtype
        codes = backend.standard_normal(rng, (n, self.latent), dtype, xp)
        noise = backend.standard_normal(rng, (n, len(self.mean)), dtype, xp)
        return codes @ self.weight.T + self.mean + math.sqrt(self.noise_variance) * noise
