"""Floor 5: which pictures a trained model gives, from what it can do; plots.py draws them."""

import re

import numpy as np

from scratchgen import backend, plots
from scratchgen.evaluate import independent_pixels
from scratchgen.progress import bar


class Pictures:
    """The pictures of one model on one data set; xp and dtype say where the model lives."""

    def __init__(self, model, dataset, xp, dtype):
        self.model = model
        self.dataset = dataset
        self.xp = xp
        self.dtype = dtype

    def of_run(self, run, title, seed):
        """Everything that a training leaves in its run folder."""
        folder = run.folder
        self.curves(run, title, seed)
        if hasattr(self.model, "reconstruct"):
            self.reconstructions(folder / "reconstructions.png", 32)
        if hasattr(self.model, "complete"):
            hidden = np.zeros(self.dataset.shape, dtype=bool)
            hidden[self.dataset.shape[0] // 2:] = True
            self.completions(folder / "completions.png", 16, seed, hidden)
            self.samples(folder / "samples.png", 64, seed)
        if hasattr(self.model, "interpolate"):
            self.samples(folder / "samples.png", 64, seed)
            self.samples(folder / "sample_means.png", 64, seed, mean=True)
            self.interpolations(folder / "interpolations.png", 8, 10)
            if self.model.latent == 2:
                self.manifold(folder / "manifold.png", 20)

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
        title = "means of p(x|z), z from the prior" if mean else "samples"
        self.grid(path, self.drawn(n, seed, mean), int(np.ceil(np.sqrt(n))), title)

    def drawn(self, n, seed, mean=False):
        """n images from the model (n, D), on the host."""
        rng = np.random.default_rng(seed)
        if mean:
            images = self.model.sample(n, rng, mean=True)
        elif hasattr(self.model, "complete"):  # draws one sub-pixel after another
            with bar(self.dataset.dim, "samples", "number") as progress:
                images = self.model.sample(n, rng, progress=progress)
        else:
            images = self.model.sample(n, rng)
        return backend.to_numpy(images)

    def reconstructions(self, path, n):
        """Test images above what the model restores from their codes."""
        x = self._test_images(n)
        restored = backend.to_numpy(self.model.reconstruct(x))
        columns = min(n, 16)
        rows = []
        for start in range(0, len(restored), columns):
            rows += [_full_row(backend.to_numpy(x), start, columns),
                     _full_row(restored, start, columns)]
        self.grid(path, np.concatenate(rows), columns, "test images above their reconstructions",
                  ["data", "model"])

    def completions(self, path, n, seed, hidden, draws=4):
        """Test images, what is left of them, and how the model goes on from there.

        hidden: bool (H, W). Returns whether the draws are exact conditional samples.
        """
        hidden = hidden.reshape(-1).repeat(self.dataset.channels)
        shown = self.kept(n, hidden)
        rows, exact = self.completed(n, seed, hidden, draws)
        how = "exact conditional samples" if exact else "approximate: the order does not fit"
        self.grid(path, np.concatenate([*shown, *rows]), len(rows[0]),
                  f"test images, what is kept of them, completions ({how})",
                  ["data", "kept", *["model"] * draws])
        return exact

    def kept(self, n, hidden):
        """n test images, and the same with the `hidden` sub-pixels (bool, D) grey; on the host."""
        x = backend.to_numpy(self._test_images(n))
        return x, np.where(hidden, np.asarray(0.3 * self._largest(), x.dtype), x)

    def completed(self, n, seed, hidden, draws=1):
        """The model's draws of what is hidden in n test images, and whether they are exact."""
        x = self._test_images(n)
        rng = np.random.default_rng(seed)
        with bar(draws * int(hidden.sum()), "completions", "number") as progress:
            rows = [backend.to_numpy(self.model.complete(x, ~hidden, rng, progress=progress))
                    for _ in range(draws)]
        return rows, self.model.completes_exactly(~hidden)

    def interpolations(self, path, n, steps):
        """Walks between the codes of pairs of test images, one per row."""
        x = self._test_images(2 * n)
        walks = backend.to_numpy(self.model.interpolate(x[:n], x[n:], steps))
        self.grid(path, walks.reshape(-1, self.dataset.dim), steps,
                  "between the codes of two test images")

    def manifold(self, path, side):
        """What every place of a two-dimensional code looks like."""
        self.grid(path, self.model.manifold(side), side,
                  "decoded means at the prior's quantiles")

    def _test_images(self, n):
        images = self.dataset.subset("test", min(n, len(self.dataset.test)), seed=0).images
        encoded = self.dataset.encode(images, np.random.default_rng(0), self.dtype)
        return self.xp.asarray(encoded)

    def _largest(self):
        """The value that is drawn darkest."""
        return self.dataset.levels - 1 if self.dataset.encoding == "levels" else 1

    def grid(self, path, images, columns, title, row_labels=None):
        """Encoded images (N, D) in a grid, drawn as the data set wants it."""
        images = backend.to_numpy(images) / self._largest()
        if not self.dataset.ink:
            images = 1 - images  # plots draws large values dark
        channels = self.dataset.channels
        shape = self.dataset.shape + ((channels,) if channels > 1 else ())
        plots.image_grid(path, images, shape, columns, title, row_labels)


def side_by_side(folder, members, n=16, seed=0):
    """A row of samples from every model, and a row of completions: two pictures, their paths.

    members: (name, Pictures) of models of one data protocol. The completions all go on from the
    same upper halves; models that do not complete have no row, and for none there is no picture.
    """
    _, first = members[0]
    protocol = first.dataset.protocol
    slug = "-".join(re.findall(r"[a-z0-9]+", protocol))
    paths = [folder / f"{slug}-samples.png"]
    first.grid(paths[0], np.concatenate([pictures.drawn(n, seed) for _, pictures in members]), n,
               f"{protocol}: samples", [name for name, _ in members])
    members = [(name, pictures) for name, pictures in members
               if hasattr(pictures.model, "complete")]
    if members:
        height, _ = first.dataset.shape
        hidden = np.zeros((*first.dataset.shape, first.dataset.channels), dtype=bool)
        hidden[height // 2:] = True
        rows = list(first.kept(n, hidden.reshape(-1)))
        for _, pictures in members:
            rows += pictures.completed(n, seed, hidden.reshape(-1))[0]
        paths.append(folder / f"{slug}-completions.png")
        first.grid(paths[1], np.concatenate(rows), n, f"{protocol}: test images completed",
                   ["data", "kept", *[name for name, _ in members]])
    return paths


def _full_row(images, start, columns):
    """`columns` images from `start`, filled up with empty ones."""
    row = images[start:start + columns]
    return np.concatenate([row, np.zeros((columns - len(row), row.shape[1]), row.dtype)])
