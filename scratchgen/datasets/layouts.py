"""How each data set's files become train, valid and test images.

A `Source` describes a data set, a `Layout` one set of files that holds it. The functions read a
layout: read(source, paths) -> three Splits, the paths in the layout's order.
"""

import dataclasses
import math
import os
from collections.abc import Callable

import numpy as np

from scratchgen.datasets.core import DataError, Split
from scratchgen.datasets.formats import expect_shape, read_amat, read_mat, read_npz
from scratchgen.datasets.idx import read_idx

SPLITS = ("train", "valid", "test")
PACKED = "binarized_mnist_packed.npz"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One set of files that holds a data set, and how to read them.

    files: name -> SHA-256, or None where the values are checked instead (`Source.contents`);
    read(source, paths) -> three Splits; mirrors: addresses of folders to download from;
    pack(source, paths, splits): what to keep in the cache of a download instead of the files.
    """

    files: dict
    read: Callable
    mirrors: tuple = ()
    pack: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be loaded by name.

    sizes: images in train, valid, test; encoding: the default one; layouts: a folder is searched
    for them in this order, and the last one is downloaded; contents: the SHA-256 of each split's
    images, N x D bytes; embedded: the files are in the package; ink: large values are ink on
    paper, to be drawn dark, and not light; channels: numbers of a pixel.
    """

    name: str
    shape: tuple
    levels: int
    sizes: tuple
    encoding: str
    licence: str
    credit: str
    layouts: tuple
    contents: tuple = ()
    embedded: bool = False
    ink: bool = True
    channels: int = 1

    @property
    def dim(self):
        return math.prod(self.shape) * self.channels


def _cut(source, images, labels=None):
    """Consecutive rows as train, valid and test."""
    ends = np.cumsum(source.sizes)[:-1]
    parts = np.split(np.ascontiguousarray(images), ends)
    if labels is None:
        return [Split(part) for part in parts]
    return [Split(part, tags) for part, tags in zip(parts, np.split(labels, ends), strict=True)]


def digits(source, paths):
    """The package's own: E. Alpaydin and C. Kaynak, UCI, doi:10.24432/C50P49, CC BY 4.0."""
    count = sum(source.sizes)
    images, labels = read_npz(paths[0], {"images": (count, source.dim), "labels": (count,)})
    return _cut(source, images, labels)


def coloured_digits(source, paths):
    """The same digits, each in a colour of its own on black: N x (H, W, 3).

    A colour is three uniform numbers divided by the largest, drawn once and for all, in row
    order; a sub-pixel is the digit's level times its colour's share, rounded.
    """
    count = sum(source.sizes)
    images, labels = read_npz(paths[0], {"images": (count, math.prod(source.shape)),
                                         "labels": (count,)})
    colours = np.random.default_rng(0).random((count, 1, source.channels))
    colours /= colours.max(axis=2, keepdims=True)
    coloured = np.rint(images[:, :, None] * colours).astype(np.uint8)
    return _cut(source, coloured.reshape(count, source.dim), labels)


def mnist(source, paths):
    """The IDX files of training images and labels, then of test images and labels.

    Validation images are the last of the training file, so the three stay consecutive rows.
    """
    counts = (source.sizes[0] + source.sizes[1], source.sizes[2])
    halves = []
    for images_path, labels_path, count in zip(paths[::2], paths[1::2], counts, strict=True):
        images = read_idx(images_path)
        labels = read_idx(labels_path)
        if labels.ndim == 1 and images.shape[0] != labels.shape[0]:
            raise DataError(f"{images_path}: {images.shape[0]} images, but {labels_path} holds "
                            f"{labels.shape[0]} labels")
        expect_shape(images_path, "images", images, (count, *source.shape))
        expect_shape(labels_path, "labels", labels, (count,))
        halves.append((images.reshape(count, source.dim), labels))
    images, labels = (np.concatenate(arrays) for arrays in zip(*halves, strict=True))
    return _cut(source, images, labels)


def packed(source, paths):
    """Eight pixels a byte, the most significant bit first."""
    width = -(-source.dim // 8)
    packed = read_npz(paths[0], {name: (size, width)
                                 for name, size in zip(SPLITS, source.sizes, strict=True)})
    return [Split(np.ascontiguousarray(np.unpackbits(rows, axis=1, count=source.dim)))
            for rows in packed]


def text(source, paths):
    return [Split(read_amat(path, (size, source.dim)))
            for path, size in zip(paths, source.sizes, strict=True)]


def frey(source, paths):
    """1,965 frames in order of time, in blocks of 50: of every ten, the ninth is for validation,
    the tenth for testing.

    Neighbouring frames are nearly alike, so a random split would put almost a copy of every test
    frame into the training images; here only the frames at the joints of blocks are near. The
    last 200 frames alone would not do: they show moods that the others hardly know.
    """
    count = sum(source.sizes)
    if paths[0].suffix == ".mat":
        frames = read_mat(paths[0], (count, source.dim))
    else:
        images, = read_npz(paths[0], {"images": (count, *source.shape)})
        frames = images.reshape(count, source.dim)
    block = np.arange(count) // 50 % 10
    return [Split(np.ascontiguousarray(frames[chosen]))
            for chosen in (block < 8, block == 8, block == 9)]


def pack_text(source, paths, splits):
    """Keep 110 MB of downloaded text as 2 MB of bits, written whole or not at all."""
    packed = {name: np.packbits(split.images, axis=1)
              for name, split in zip(SPLITS, splits, strict=True)}
    temporary = paths[0].with_name(f"{PACKED}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **packed)
        os.replace(temporary, paths[0].with_name(PACKED))
    finally:
        temporary.unlink(missing_ok=True)
    for path in paths:
        path.unlink(missing_ok=True)
