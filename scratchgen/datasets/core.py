"""What a data set is, and the one way from its raw grey levels to a model's input.

Images stay on the host as the publisher's integers, N x D unsigned bytes. `Dataset.encode` turns a
batch of them into floats by the data set's encoding, which is part of its printed name: the same
digits thresholded, drawn once, or drawn afresh every epoch are three different data sets, and
likelihoods on them cannot be compared.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from scratchgen import backend

NOISE_STEPS = 2**16  # dequantization noise is k / 2**16


class DataError(ValueError):
    """Data that cannot be used; the message names the file or option, and says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Raw images, N x D uint8, and their labels, N uint8, or None where there are none."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self):
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One encoding: `draw` makes the input, `means` its expected value per pixel, without noise."""

    draw: Callable    # (images, levels, rng, dtype) -> N x D floats
    means: Callable   # (images, levels) -> D floats
    binary: bool      # whether every value is 0 or 1
    summary: str


def _cast(images, levels, rng, dtype):
    return images.astype(dtype)


def _threshold(images, levels, rng, dtype):
    return (images >= levels // 2).astype(dtype)


def _bernoulli(images, levels, rng, dtype):
    # Of the levels - 1 equally likely integers 0 .. levels-2, exactly x lie below x: the
    # probability of a one is x / (levels-1) with no rounding, and one byte a pixel is drawn.
    return (rng.integers(0, levels - 1, images.shape, dtype=np.uint8) < images).astype(dtype)


def _grey(images, levels, rng, dtype):
    return images.astype(dtype) / (levels - 1)


def _dequantize(images, levels, rng, dtype):
    # A float32 u in [0, 1) would round 255 + u up to 256. Noise of 16 bits beside 8 bits of level
    # fits the 24 of a float32 exactly: the sum never reaches the next level, nor the ratio one.
    noise = rng.integers(0, NOISE_STEPS, images.shape, dtype=np.uint16).astype(dtype)
    noise /= NOISE_STEPS
    noise += images
    noise /= levels
    return noise


def _mean(images, levels):
    return images.mean(axis=0)


def _mean_threshold(images, levels):
    return (images >= levels // 2).mean(axis=0)


def _mean_dequantized(images, levels):
    return (images.mean(axis=0) + 0.5) / levels


def _mean_share(images, levels):
    return images.mean(axis=0) / (levels - 1)


ENCODINGS = {
    "threshold": Encoding(_threshold, _mean_threshold, True,
                          "0 or 1: at least half of the largest level"),
    "dynamic": Encoding(_bernoulli, _mean_share, True,
                        "0 or 1: drawn with probability level / largest level at every call"),
    "fixed": Encoding(_cast, _mean, True, "0 or 1: drawn once from the seed"),
    "static": Encoding(_cast, _mean, True, "0 or 1: as published"),
    "dequantized": Encoding(_dequantize, _mean_dequantized, False,
                            "(level + uniform noise) / levels, in [0, 1)"),
    "grey": Encoding(_grey, _mean_share, False, "level / largest level, in [0, 1]"),
    "levels": Encoding(_cast, _mean, False, "the level itself, for models over categories"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of images with the encoding that makes them a model's input.

    shape (H, W); levels: values are 0 .. levels-1; seed: what `fixed` images were drawn from;
    ink: large values are ink on paper, to be drawn dark; channels: numbers of a pixel, which
    stand together in a row of an image, 3 for red, green and blue.
    """

    name: str
    shape: tuple
    levels: int
    train: Split
    valid: Split
    test: Split
    licence: str
    encoding: str
    seed: int = 0
    ink: bool = True
    channels: int = 1

    @property
    def dim(self):
        """D = H W channels, the number of sub-pixels."""
        return math.prod(self.shape) * self.channels

    @property
    def binary(self):
        """Whether `encode` gives only 0 and 1, so that a Bernoulli likelihood is one."""
        return ENCODINGS[self.encoding].binary

    @property
    def protocol(self):
        """The name that goes into every table, such as "mnist (fixed, seed 0)"."""
        details = {"fixed": f"fixed, seed {self.seed}", "levels": f"{self.levels} levels"}
        return f"{self.name} ({details.get(self.encoding, self.encoding)})"

    def encode(self, images, rng, dtype=np.float32):
        """Raw images (N x D uint8) as floats of `dtype`; `rng` draws what the encoding draws."""
        return ENCODINGS[self.encoding].draw(images, self.levels, rng, dtype)

    def pixel_means(self):
        """The expected encoded value of each pixel over the training images: D float64."""
        return ENCODINGS[self.encoding].means(self.train.images, self.levels)

    def log_odds(self):
        """log P(1) / P(0) of each pixel of a binary encoding over the training images: D float64.

        One is added to both counts, so that no odds are infinite.
        """
        ones = len(self.train) * self.pixel_means()
        return np.log((ones + 1) / (len(self.train) - ones + 1))

    def split(self, name):
        """The split called "train", "valid" or "test"."""
        if name not in ("train", "valid", "test"):
            raise DataError(f"unknown split {name!r}: choose one of train, valid, test")
        return getattr(self, name)

    def subset(self, name, n, seed):
        """`n` different rows of a split, drawn by `seed` alone, as a Split.

        The first n rows will not do: binarized-mnist's test images are sorted by digit.
        """
        whole = self.split(name)
        if not 1 <= n <= len(whole):
            raise DataError(f"{self.name} has {len(whole)} {name} images: ask for 1 to "
                            f"{len(whole)} of them, not {n}")
        rows = np.random.default_rng(seed).choice(len(whole), n, replace=False)
        return Split(whole.images[rows], None if whole.labels is None else whole.labels[rows])


def check_encoding(encoding, name, published_binary):
    """DataError unless images called `name` can have this encoding."""
    if encoding not in ENCODINGS:
        raise DataError(f"unknown encoding {encoding!r}: choose one of {', '.join(ENCODINGS)}")
    if published_binary and encoding != "static":
        raise DataError(f"{name} was published as zeros and ones, it has no grey levels for "
                        f"encoding {encoding}: leave its encoding static")
    if encoding == "static" and not published_binary:
        raise DataError(f"{name} was not published as zeros and ones: encoding static is for "
                        "binarized-mnist; choose fixed, dynamic or threshold")


def with_encoding(dataset, encoding, seed=0):
    """The same images under another encoding; `seed` is what `fixed` draws from."""
    check_encoding(encoding, dataset.name, dataset.encoding == "static")
    if encoding == "static":
        return dataset
    if dataset.encoding == "fixed":
        if encoding == "fixed" and seed == dataset.seed:
            return dataset
        raise DataError(f"{dataset.protocol} no longer has its grey levels: to have it under "
                        f"encoding {encoding}, seed {seed}, load the data set again")
    if encoding != "fixed":
        return dataclasses.replace(dataset, encoding=encoding, seed=seed)
    # One generator a split, so that no split's draw depends on another's size or order.
    drawn = {}
    for name in ("train", "valid", "test"):
        raw = dataset.split(name)
        rng = backend.generator(seed, f"fixed {name}")
        drawn[name] = Split(_bernoulli(raw.images, dataset.levels, rng, np.uint8), raw.labels)
    return dataclasses.replace(dataset, levels=2, encoding="fixed", seed=seed, **drawn)
