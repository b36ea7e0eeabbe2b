"""Floor 4: k-means, the first unsupervised system of the lecture.

K centres that make the inertia, the sum of squared distances to the nearest centre, small:

    J = sum_n min_k |x_n - c_k|^2.

Lloyd's rounds (1982) give every point to its nearest centre and move every centre to the mean of
its points; neither half can raise J. The centres start at k-means++ (Arthur & Vassilvitskii
2007): points drawn in proportion to the squared distance from those drawn before. J has many
local minima, hence the restarts.
"""

import numpy as np

from scratchgen import backend

# Elements worked on at a time: few enough to stay in a processor's cache, many for a device.
HOST_ELEMENTS = 2 ** 19
DEVICE_ELEMENTS = 2 ** 24
FAR = 10  # the mean is far from the origin when |mean|^2 is above this many variances


def slices(x, width=0):
    """The rows of x in slices, with room for `width` more numbers per row beside the row."""
    step = max(1, budget(x) // (x.shape[1] + width))
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def budget(x):
    """How many elements to work on at a time, where x lives."""
    return HOST_ELEMENTS if backend.module_of(x) is np else DEVICE_ELEMENTS


def checked_rows(x, columns=None):
    """x as an (N, D) array of floats, integers made float64; ValueError where it is none."""
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected examples in rows, an array (N, D), not one of shape {x.shape}")
    if columns is not None and x.shape[1] != columns:
        raise ValueError(f"expected rows of {columns} columns, as fitted, not {x.shape[1]}")
    if x.dtype not in (np.float32, np.float64):
        return checked_rows(x.astype(np.float64))
    xp = backend.module_of(x)
    broken = sum((~xp.isfinite(x[part])).any(axis=1).sum().item() for part in slices(x))
    if broken:
        raise ValueError(f"{broken} of {len(x)} rows hold NaN or infinite values; remove them")
    return x


class KMeans:
    """K centres for points in D dimensions; squared distances in the data's own units."""

    def __init__(self, clusters, restarts=4, max_rounds=100):
        for name, value in ("clusters", clusters), ("restarts", restarts), ("rounds", max_rounds):
            if value < 1:
                raise ValueError(f"k-means needs at least one of {name}, not {value}")
        self.clusters = clusters
        self.restarts = restarts
        self.max_rounds = max_rounds

    def fit(self, x, rng, start=None):
        """Lloyd's rounds from k-means++, or from the centres `start` (K, D) where given.

        Keeps the best of the restarts (one, with `start`), and returns its inertia after every
        assignment: a list of floats that never rises. The last belongs to `centres`.
        """
        x = checked_rows(x)
        xp = backend.module_of(x)
        if self.clusters > len(x):
            raise ValueError(f"{self.clusters} clusters need as many points; there are {len(x)}")
        if start is not None and checked_rows(start).shape != (self.clusters, x.shape[1]):
            raise ValueError(f"the start needs shape {(self.clusters, x.shape[1])}, one centre a "
                             f"row, not {start.shape}")
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2 cancels far from the origin: then work at the mean.
        origin = x.mean(axis=0, dtype=np.float64).astype(x.dtype)
        length = (origin * origin).sum(dtype=np.float64).item()
        if length > FAR * (_total_square(x) / len(x) - length):
            x = x - origin
        else:
            origin = xp.zeros_like(origin)
        best = None
        for _ in range(self.restarts if start is None else 1):
            first = _plus_plus(x, self.clusters, rng) if start is None else start - origin
            centres, history = self._lloyd(x, first.astype(np.float64))
            if best is None or history[-1] < best[1][-1]:
                best = centres, history
        self.centres = (best[0] + origin).astype(x.dtype)
        self.inertia = best[1][-1]
        return best[1]

    def predict(self, x):
        """The number of the nearest centre, (N, D) -> (N,) integers."""
        x = checked_rows(x, self.centres.shape[1])
        xp = backend.module_of(x)
        middle = self.centres.mean(axis=0)
        centres = (self.centres - middle).astype(x.dtype)
        return xp.concatenate([_nearest(x[part] - middle, centres)
                               for part in slices(x, x.shape[1] + self.clusters)])

    def squared_error(self, x):
        """The squared distance to the nearest centre, (N, D) -> (N,)."""
        labels = self.predict(x)
        x = checked_rows(x)
        offsets = (x[part] - self.centres[labels[part]] for part in slices(x, 2 * x.shape[1]))
        errors = [(offset * offset).sum(axis=1) for offset in offsets]
        return backend.module_of(x).concatenate(errors)

    def sample(self, n, rng):
        """Refused: k-means divides the space and puts no density on it."""
        raise NotImplementedError("k-means has no distribution to sample from, only centres: "
                                  "train a gmm, whose components have a spread and a weight")

    def _lloyd(self, x, centres):
        """Rounds from `centres` (K, D), float64, until J falls no more: (centres, history)."""
        history = []
        square = _total_square(x)
        for _ in range(self.max_rounds):
            sums, counts = _assign(x, centres)
            lengths = (centres * centres).sum(axis=1)
            inertia = (square - 2 * (centres * sums).sum() + (counts * lengths).sum()).item()
            inertia = max(inertia, 0.0)  # rounding, when every point is a centre
            if history and inertia >= history[-1]:
                break  # nothing moved, or nothing but the last digits
            history.append(inertia)
            kept = centres
            centres = self._means(x, sums, counts)
        return kept, history

    def _means(self, x, sums, counts):
        """The mean of every cluster; an empty one moves to the point that is farthest from all.

        Its old place served no point, so the move cannot raise J.
        """
        xp = backend.module_of(x)
        centres = sums / xp.maximum(counts, 1)[:, None]
        filled = backend.to_numpy(counts) > 0
        if filled.all():
            return centres
        closest = xp.full(len(x), np.inf)
        for k in np.flatnonzero(filled).tolist():
            closest = xp.minimum(closest, _squared_distance(x, centres[k]))
        for k in np.flatnonzero(~filled).tolist():
            centres[k] = x[closest.argmax().item()].astype(np.float64)
            closest = xp.minimum(closest, _squared_distance(x, centres[k]))
        return centres


def _plus_plus(x, clusters, rng):
    """k-means++: `clusters` rows of x, each drawn in proportion to its squared distance."""
    xp = backend.module_of(x)
    chosen = [int(rng.integers(len(x)))]
    closest = xp.full(len(x), np.inf)
    while len(chosen) < clusters:
        closest = xp.minimum(closest, _squared_distance(x, x[chosen[-1]]))
        cumulative = closest.cumsum()
        drawn = (cumulative <= rng.random() * cumulative[-1]).sum().item()
        chosen.append(min(drawn, len(x) - 1))  # past the end where all points are centres
    return xp.stack([x[index] for index in chosen])


def _assign(x, centres):
    """The sum (K, D) and number (K,) of the points nearest to each centre, in float64.

    One pass over the data, with two matrix products on each chunk while it is in the cache.
    """
    xp = backend.module_of(x)
    sums = xp.zeros(centres.shape)
    counts = xp.zeros(len(centres))
    numbers = xp.arange(len(centres))
    for part in slices(x, 2 * len(centres)):
        rows = x[part]
        nearest = _nearest(rows, centres.astype(x.dtype))
        members = (nearest[:, None] == numbers).astype(x.dtype)  # (N, K), one 1 per row
        sums += members.T @ rows
        counts += members.sum(axis=0)
    return sums, counts


def _nearest(rows, centres):
    """argmin_k |x - c_k|^2; |x|^2 is the same for all k and left out."""
    return (rows @ (-2 * centres).T + (centres * centres).sum(axis=1)).argmin(axis=1)


def _squared_distance(x, centre):
    """|x - c|^2 to one centre, from the difference itself: (N,), exactly 0 at c; float64."""
    xp = backend.module_of(x)
    offsets = (x[part] - centre.astype(x.dtype) for part in slices(x, x.shape[1]))
    return xp.concatenate([(offset * offset).sum(axis=1, dtype=np.float64) for offset in offsets])


def _total_square(x):
    """sum_n |x_n|^2, accumulated in float64."""
    xp = backend.module_of(x)
    return sum(xp.square(x[part]).sum(dtype=np.float64).item() for part in slices(x, x.shape[1]))
