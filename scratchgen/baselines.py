"""Floor 5: what a model's figure stands next to, on the very same protocol.

Independent pixels know how often each pixel is what; a mixture of ten knows ten such images. On
dynamically binarised data there is a floor too: the entropy of the drawing itself, which no
model of the drawn pixels can go below.
"""

import numpy as np

from scratchgen import backend
from scratchgen.evaluate import estimate, independent_pixels
from scratchgen.models.mixture import Mixture

COMPONENTS = 10
_MOST_LEVELS = 32  # beyond, counting every level of every pixel says little and costs much


class Baselines:
    """The baselines of a data set; the mixture is fitted once, when it is first asked for."""

    def __init__(self, dataset, seed):
        self.dataset = dataset
        self.seed = seed
        self._mixture = None

    def rows(self, split):
        """A list of Estimate, the strongest first."""
        found = [independent_pixels(self.dataset, split, self.seed)]
        if self.dataset.binary or self._has_few_levels():
            found.insert(0, self._mixture_figure(split))
        if self.dataset.encoding == "dynamic":
            found.append(self._entropy_floor(split))
        return found

    def _has_few_levels(self):
        return self.dataset.encoding == "levels" and self.dataset.levels <= _MOST_LEVELS

    def _encoded(self, split):
        images = self.dataset.split(split).images
        return self.dataset.encode(images, backend.generator(self.seed, split), np.float32)

    def _mixture_figure(self, split):
        if self._mixture is None:
            levels = 2 if self.dataset.binary else self.dataset.levels
            rng = backend.generator(self.seed, "weights")
            train = self.dataset.encode(self.dataset.train.images, rng, np.float32)
            self._mixture = Mixture(COMPONENTS, levels)
            self._mixture.fit(train, rng, tolerance=1e-3)
        nats = -self._mixture.log_prob(self._encoded(split))
        return estimate(nats, self.dataset, f"mixture of {COMPONENTS}", 1)

    def _entropy_floor(self, split):
        """The entropy of drawing 0 or 1 with probability p = level / largest level, summed."""
        p = self.dataset.split(split).images / (self.dataset.levels - 1)
        inside = np.clip(p, 1e-300, 1)  # 0 log 0 = 0
        beside = np.clip(1 - p, 1e-300, 1)
        entropy = -(p * np.log(inside) + (1 - p) * np.log(beside)).sum(axis=1)
        return estimate(entropy, self.dataset, "floor: entropy of the binarisation", 1)
