"""Floor 5: the one place where likelihoods are estimated and figures get their units.

A figure is a mean over examples in nats per example, with its standard error and the name of
its estimator, next to bits per dimension. Three estimators, all from log-weights w_k:

    -ELBO                            -mean_k log w_k,  z_k ~ q(z | x): an upper bound of -log p(x)
    importance-weighted (K samples)  -log (1/K) sum_k w_k: tighter (Burda et al. 2016, eq. 8)
    prior-sampled (K samples)        the same with z_k ~ p(z), w_k = p(x | z_k): the naive one

Data with L grey levels dequantised by uniform noise, y = (x + u)/L: by Jensen
log P(x) >= E_u log p(y) - D log L (Theis et al. 2016, section 3.1), so a density's figure gets
D log L added and becomes a bound in the units of the discrete data.
"""

import dataclasses
import math

import numpy as np

from scratchgen import backend
from scratchgen.progress import bar
from scratchgen.tensor import no_grad

_NUMBERS_AT_ONCE = 2 ** 20  # pixels decoded in one piece of an importance-weighted estimate
_EXAMPLES_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure: mean over examples, standard error of that mean, how it was estimated."""

    nats: float
    bits_per_dim: float
    stderr: float
    estimator: str
    k: int
    examples: int
    unit: str = "nats"


def bits_per_dim(nats, dim):
    """Nats per example of `dim` dimensions -> bits per dimension."""
    return nats / (dim * math.log(2))


def is_density(model, dataset):
    """Whether the model gives a density of dequantised data, to be turned into a bound."""
    return model.unit == "nats" and dataset.encoding == "dequantized"


def cell_correction(model, dataset):
    """D log L for a density on dequantised data, 0 otherwise: what is added to its nats."""
    return dataset.dim * math.log(dataset.levels) if is_density(model, dataset) else 0.0


def in_units(name, value, model, dataset):
    """A mean of the model's figure as named entries: nats and bits/dim, or its own unit."""
    if model.unit != "nats":
        return {f"{name}_{model.unit}": value}
    nats = value + cell_correction(model, dataset)
    return {f"{name}_nats": nats, f"{name}_bits_per_dim": bits_per_dim(nats, dataset.dim)}


def validation_figure(model, dataset, split, rng, xp, dtype):
    """The mean over a split of what validation lowers, in the model's unit, uncorrected."""
    return float(example_figures(model, dataset, split, rng, xp, dtype).mean())


def example_figures(model, dataset, split, rng, xp, dtype):
    """`model.figure` of every example of a split: a float64 array (N,) on the host."""
    images = dataset.split(split).images
    figures = []
    with no_grad():
        for start in range(0, len(images), _EXAMPLES_AT_ONCE):
            batch = images[start:start + _EXAMPLES_AT_ONCE]
            x = xp.asarray(dataset.encode(batch, rng, dtype))
            figures.append(backend.to_numpy(model.figure(x, rng).data))
    return np.concatenate(figures).astype(np.float64)


def log_mean_weights(log_weights, x, samples, rng, progress=None):
    """log (1/K) sum_k w_k for each example of x (N, D): a float64 array (N,) on the host.

    `log_weights(x, rng, k)` gives (k, N). It is called for pieces of examples and samples of
    bounded size, so that K = 5,000 runs in the memory of a few dozen.
    """
    results = []
    at_once = max(1, min(len(x), _NUMBERS_AT_ONCE // x.shape[1] // 10))
    for start in range(0, len(x), at_once):
        piece = x[start:start + at_once]
        total = np.full(len(piece), -np.inf)
        done = 0
        while done < samples:
            k = min(samples - done, max(1, _NUMBERS_AT_ONCE // piece.size))
            w = backend.to_numpy(log_weights(piece, rng, k)).astype(np.float64)
            total = np.logaddexp(total, np.logaddexp.reduce(w, axis=0))
            done += k
            if progress is not None:
                progress.update(k * len(piece))
        results.append(total - math.log(samples))
    return np.concatenate(results)


def evaluate(model, dataset, split, seed, xp, dtype, iw_samples=0, examples=None):
    """The estimates for one split, the tightest first: a list of Estimate.

    With `iw_samples` K (models with a latent code only) the importance-weighted and the
    prior-sampled estimate on `examples` examples, drawn at random from a fixed seed.
    """
    rng = backend.generator(seed, split)
    figures = example_figures(model, dataset, split, rng, xp, dtype)
    correction = cell_correction(model, dataset)
    bound = " of dequantised data" if is_density(model, dataset) else ""
    estimates = [estimate(figures + correction, dataset, model.figure_name + bound, 1,
                          model.unit)]
    if iw_samples:
        available = len(dataset.split(split))
        chosen = dataset.subset(split, min(examples or available, available), seed=0)
        x = xp.asarray(dataset.encode(chosen.images, rng, dtype))
        naive = x[:100]  # enough to see how far off it is
        total = iw_samples * (len(x) + len(naive))
        with bar(total, f"{split}, K = {iw_samples}", "sample") as progress:
            for name, weights, rows in [("importance-weighted", model.log_weights, x),
                                        ("prior-sampled", model.prior_log_weights, naive)]:
                logs = log_mean_weights(weights, rows, iw_samples, rng, progress)
                estimates.append(estimate(correction - logs, dataset, name + bound, iw_samples))
        estimates = [estimates[1], estimates[0], estimates[2]]
    return estimates


def estimate(values, dataset, estimator, k, unit="nats"):
    """The Estimate whose mean is over `values`, one number per example."""
    mean = float(values.mean())
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(mean, bits_per_dim(mean, dataset.dim), stderr, estimator, k, len(values), unit)


def independent_pixels(dataset, split, seed):
    """The baseline that knows each pixel's own distribution and nothing else: an Estimate.

    Counted on the training images, one added to every count so that no value is impossible. On
    binary data one Bernoulli per pixel, on grey levels one Categorical; on data that is scored
    by squared error, the mean image.
    """
    images = dataset.split(split).images
    rng = backend.generator(seed, split)
    n = len(dataset.train)
    if dataset.encoding == "grey":
        error = dataset.encode(images, rng, np.float64) - dataset.pixel_means()
        return estimate((error ** 2).sum(axis=1), dataset, "mean image", 1, "squared_error")
    if dataset.binary:
        p = (n * dataset.pixel_means() + 1) / (n + 2)
        x = dataset.encode(images, rng, np.float64)
        nats = -(x @ np.log(p) + (1 - x) @ np.log1p(-p))
    else:
        levels = np.arange(dataset.levels)
        counts = np.array([(dataset.train.images == level).sum(axis=0) for level in levels])
        log_p = np.log((counts + 1) / (n + dataset.levels))  # (levels, D)
        nats = -log_p[images, np.arange(dataset.dim)].sum(axis=1)
    return estimate(nats, dataset, "independent pixels", 1)
