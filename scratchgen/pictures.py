"""Floor 5: which pictures a trained model gives, from what it can do; plots.py draws them."""

import numpy as np

from scratchgen import backend, plots
from scratchgen.evaluate import independent_pixels


class Pictures:
    """The pictures of one model on one data set; xp and dtype say where the model lives."""

    def __init__(self, model, dataset, xp, dtype):
        self.model = model
        self.dataset = dataset
        self.xp = xp
        self.dtype = dtype

    def of_run(self, run, title, seed):
        """Everything that a training leaves in its run folder."""
        self.curves(run, title, seed)
        self.reconstructions(run.folder / "reconstructions.png", 32)
        if not hasattr(self.model, "interpolate"):
            return
        self.samples(run.folder / "samples.png", 64, seed)
        self.samples(run.folder / "sample_means.png", 64, seed, mean=True)
        self.interpolations(run.folder / "interpolations.png", 8, 10)
        if self.model.latent == 2:
            self.manifold(run.folder / "manifold.png", 20)

    def curves(self, run, title, seed):
        """Training and validation figures against epochs, with the baseline as a line."""
        records = run.metrics()
        if not records:
            return  # a resumed run may have lost its metrics.jsonl
        unit = self.model.unit
        baseline = independent_pixels(self.dataset, "valid", seed)
        plots.curves(run.folder / "curves.png", records, [f"train_{unit}", f"valid_{unit}"],
                     unit.replace("_", " ") + " per image", f"{title} on {self.dataset.protocol}",
                     (baseline.estimator, baseline.nats))

    def samples(self, path, n, seed, mean=False):
        """n images drawn from the model, in a square."""
        images = self.model.sample(n, np.random.default_rng(seed), mean)
        what = "means of p(x|z)" if mean else "samples of x"
        self._grid(path, images, int(np.ceil(np.sqrt(n))), f"{what}, z from the prior")

    def reconstructions(self, path, n):
        """Test images above what the model restores from their codes."""
        x = self._test_images(n)
        restored = backend.to_numpy(self.model.reconstruct(x))
        columns = min(n, 16)
        rows = []
        for start in range(0, len(restored), columns):
            rows += [_full_row(backend.to_numpy(x), start, columns),
                     _full_row(restored, start, columns)]
        self._grid(path, np.concatenate(rows), columns, "test images above their reconstructions",
                   ["data", "model"])

    def interpolations(self, path, n, steps):
        """Walks between the codes of pairs of test images, one per row."""
        x = self._test_images(2 * n)
        walks = backend.to_numpy(self.model.interpolate(x[:n], x[n:], steps))
        self._grid(path, walks.reshape(-1, self.dataset.dim), steps,
                   "between the codes of two test images")

    def manifold(self, path, side):
        """What every place of a two-dimensional code looks like."""
        self._grid(path, self.model.manifold(side), side,
                   "decoded means at the prior's quantiles")

    def _test_images(self, n):
        images = self.dataset.subset("test", min(n, len(self.dataset.test)), seed=0).images
        encoded = self.dataset.encode(images, np.random.default_rng(0), self.dtype)
        return self.xp.asarray(encoded)

    def _grid(self, path, images, columns, title, row_labels=None):
        images = backend.to_numpy(images)
        if not self.dataset.ink:
            images = 1 - images  # plots draws large values dark
        plots.image_grid(path, images, self.dataset.shape, columns, title, row_labels)


def _full_row(images, start, columns):
    """`columns` images from `start`, filled up with empty ones."""
    row = images[start:start + columns]
    return np.concatenate([row, np.zeros((columns - len(row), row.shape[1]), row.dtype)])
