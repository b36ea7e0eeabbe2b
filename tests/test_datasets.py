"""The embedded digits, the encodings of every data set, and what `with_encoding` refuses."""

import dataclasses
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scratchgen import datasets
from scratchgen.datasets import DataError, Dataset, Split, load, sources, with_encoding

DIGITS = Path(datasets.__file__).with_name("digits.npz")
ALL_LEVELS = np.arange(256, dtype=np.uint8)


def make(images, levels, encoding="levels", labels=None):
    """A data set with the same images in all three splits."""
    images = np.atleast_2d(np.asarray(images, dtype=np.uint8))
    split = Split(images, labels)
    raw = Dataset("small", (1, images.shape[1]), levels, split, split, split, "none", "levels")
    return with_encoding(raw, encoding)


class CountingGenerator:
    """Stands for a generator: hands out `values`, and notes the range asked for."""

    def __init__(self, values):
        self.values = values
        self.asked = None

    def integers(self, low, high, size, dtype):
        self.asked = (low, high)
        return np.broadcast_to(self.values.astype(dtype), size)


# The digits

def test_digits_file_is_small_and_has_the_checksum_of_its_readme():
    content = DIGITS.read_bytes()
    assert len(content) < 60_000
    checksum = hashlib.sha256(content).hexdigest()
    assert checksum in DIGITS.with_name("README.md").read_text()
    assert checksum == sources.DIGITS.layouts[0].files["digits.npz"]


def test_digits_rows_and_splits():
    digits = load("digits", encoding="levels")
    assert (digits.shape, digits.dim, digits.levels) == ((8, 8), 64, 17)
    assert [len(digits.split(name)) for name in ("train", "valid", "test")] == [1000, 350, 447]
    assert digits.train.images.dtype == digits.train.labels.dtype == np.uint8
    assert digits.train.images[0, :16].tolist() == [0, 0, 5, 13, 9, 1, 0, 0,
                                                    0, 0, 13, 15, 10, 15, 5, 0]
    assert digits.train.labels[:10].tolist() == list(range(10))
    assert digits.test.labels[-3:].tolist() == [8, 9, 8]
    everything = np.concatenate([digits.train.images, digits.valid.images, digits.test.images])
    assert everything.max() == 16
    assert everything.sum() == 561_718


def test_digits_are_scikit_learns():
    reference = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    images, labels = reference.load_digits(return_X_y=True)
    digits = load("digits")
    splits = (digits.train, digits.valid, digits.test)
    assert np.array_equal(np.concatenate([split.images for split in splits]), images)
    assert np.array_equal(np.concatenate([split.labels for split in splits]), labels)


def test_coloured_digits_are_the_digits_each_in_one_colour():
    digits, coloured = load("digits"), load("coloured-digits", encoding="levels")
    assert (coloured.shape, coloured.channels, coloured.dim) == ((8, 8), 3, 192)
    for name in ("train", "valid", "test"):
        grey = digits.split(name).images.astype(float)
        pixels = coloured.split(name).images.reshape(-1, 64, 3).astype(float)
        np.testing.assert_array_equal(pixels.max(axis=2), grey)  # the largest share is one
        shares = pixels.sum(axis=1) / grey.sum(axis=1)[:, None]
        assert np.abs(pixels - grey[:, :, None] * shares[:, None, :]).max() < 1  # rounded
        assert 0.1 < shares.min(axis=1).mean() < 0.6  # most are no greys
        np.testing.assert_array_equal(coloured.split(name).labels, digits.split(name).labels)
    first = coloured.train.images[0].reshape(64, 3)
    assert first.sum(axis=0).tolist() == [294, 123, 22]


def test_digits_need_no_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCHGEN_DATA", str(tmp_path / "nowhere"))
    assert len(load("digits", data_dir=tmp_path / "nowhere either").train) == 1000


def test_damaged_digits_are_refused(tmp_path):
    # The same arrays packed another way: only the checksum can tell.
    with np.load(DIGITS) as archive:
        np.savez(tmp_path / "digits.npz", **archive)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits.npz").rename(tmp_path / "digits" / "digits.npz")
    registry = {"digits": dataclasses.replace(sources.DIGITS, embedded=False)}
    with pytest.raises(DataError, match=r"digits\.npz: wrong checksum: expected SHA-256 af104d81"):
        load("digits", data_dir=tmp_path, registry=registry)


def test_importing_the_datasets_imports_nothing_heavy():
    code = ("import sys, scratchgen.datasets; "
            "print([m for m in ('pooch', 'requests', 'tqdm', 'matplotlib') if m in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True, cwd=Path(datasets.__file__).parents[2])
    assert result.stdout.strip() == "[]"


# Encodings

@pytest.mark.parametrize("levels, first_one", [(17, 8), (256, 128), (4, 2)])
def test_threshold_boundary(levels, first_one, rng):
    values = np.arange(levels)
    encoded = make(values, levels, "threshold").encode(values[None].astype(np.uint8), rng)
    assert np.array_equal(encoded, values[None] >= first_one)


@pytest.mark.parametrize("levels", [17, 256])
def test_dynamic_has_exactly_the_grey_values_probability(levels):
    # Every integer that the generator can give, once each: of levels - 1, exactly x give a one.
    dataset = make(np.arange(levels), levels, "dynamic")
    draws = CountingGenerator(np.arange(levels - 1)[:, None])
    images = np.tile(dataset.train.images, (levels - 1, 1))
    ones = dataset.encode(images, draws).sum(axis=0)
    assert draws.asked == (0, levels - 1)
    assert np.array_equal(ones, np.arange(levels))


def test_dynamic_means_over_many_draws(rng):
    dataset = make(ALL_LEVELS, 256, "dynamic")
    n = 20_000
    total = np.zeros(256)
    for _ in range(10):
        encoded = dataset.encode(np.tile(ALL_LEVELS, (n // 10, 1)), rng, np.float64)
        assert set(np.unique(encoded)) == {0.0, 1.0}
        total += encoded.sum(axis=0)
    p = ALL_LEVELS / 255
    assert np.all(np.abs(total / n - p) <= 5 * np.sqrt(p * (1 - p) / n))


def test_dynamic_is_redrawn_at_every_call_and_repeats_with_the_seed():
    dataset = load("mnist", registry={"mnist": sources.DIGITS}, encoding="dynamic")
    images = dataset.train.images[:50]
    rng = np.random.default_rng(3)
    first = dataset.encode(images, rng)
    assert not np.array_equal(first, dataset.encode(images, rng))
    assert np.array_equal(first, dataset.encode(images, np.random.default_rng(3)))


def test_fixed_is_one_draw_per_seed(rng):
    fixed = load("digits", encoding="fixed", seed=4)
    again = with_encoding(load("digits"), "fixed", seed=4)
    other = load("digits", encoding="fixed", seed=5)
    assert fixed.levels == 2
    for name in ("train", "valid", "test"):
        images = fixed.split(name).images
        assert images.dtype == np.uint8 and images.max() == 1
        assert np.array_equal(images, again.split(name).images)
        assert not np.array_equal(images, other.split(name).images)
        assert np.array_equal(fixed.encode(images, rng), images)
    assert np.array_equal(fixed.test.labels, load("digits").test.labels)


def test_fixed_draws_of_a_split_depend_on_no_other_split():
    digits = load("digits")
    shorter = dataclasses.replace(digits, train=Split(digits.train.images[:10]))
    fixed = with_encoding(digits, "fixed", seed=4)
    from_shorter = with_encoding(shorter, "fixed", seed=4)
    assert np.array_equal(fixed.valid.images, from_shorter.valid.images)
    assert np.array_equal(fixed.test.images, from_shorter.test.images)
    # And the splits do not share their random numbers.
    same = make(np.full((50, 64), 8), 17)
    drawn = with_encoding(same, "fixed", seed=4)
    assert not np.array_equal(drawn.train.images, drawn.valid.images)


def test_fixed_has_the_grey_values_mean():
    grey = make(np.tile(ALL_LEVELS, (4000, 1)), 256)
    means = with_encoding(grey, "fixed", seed=0).pixel_means()
    p = ALL_LEVELS / 255
    assert np.all(np.abs(means - p) <= 5 * np.sqrt(p * (1 - p) / 4000))


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dequantized_stays_in_its_level(levels, dtype):
    # Every noise value with every level: each ratio is below one and its level is recovered.
    dataset = make(np.arange(levels), levels, "dequantized")
    images = np.tile(dataset.train.images, (2**16, 1))
    noise = CountingGenerator(np.arange(2**16)[:, None])
    encoded = dataset.encode(images, noise, dtype)
    assert noise.asked == (0, 2**16)
    assert encoded.dtype == dtype
    assert encoded.min() == 0 and encoded.max() < 1
    assert np.array_equal(np.floor(encoded * levels), images)


def test_dequantization_noise_is_uniform(rng):
    n = 100_000
    encoded = make(np.zeros((1, 1)), 256, "dequantized").encode(np.zeros((n, 1), np.uint8), rng)
    noise = np.sort(encoded[:, 0].astype(np.float64) * 256)
    distance = np.abs(noise - (np.arange(n) + 0.5) / n).max()
    assert distance < 2.2 / math.sqrt(n)  # Kolmogorov-Smirnov: exceeded once in 8,000 samples


def test_grey_and_levels(rng):
    images = ALL_LEVELS[None]
    grey = make(images, 256, "grey").encode(images, rng, np.float64)
    assert np.array_equal(grey, images / 255.0)
    assert np.array_equal(make(images, 256).encode(images, rng), images)


@pytest.mark.parametrize("encoding", datasets.ENCODINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_encoding_gives_its_dtype_kind_and_mean(encoding, dtype, rng):
    if encoding == "static":
        split = Split(rng.integers(0, 2, (50, 6), dtype=np.uint8))
        dataset = Dataset("bits", (2, 3), 2, split, split, split, "none", "static")
    else:
        dataset = load("digits", encoding=encoding, seed=1)
    images = dataset.train.images
    before = images.copy()
    draws = [dataset.encode(images, rng, dtype) for _ in range(200)]
    assert np.array_equal(images, before)
    assert all(draw.dtype == dtype and draw.shape == images.shape for draw in draws)
    assert dataset.binary == set(np.unique(draws[0])).issubset({0, 1})
    means = np.mean([draw.mean(axis=0, dtype=np.float64) for draw in draws], axis=0)
    # Five standard errors of the noisiest pixel, a coin's; nothing but rounding without noise.
    noisy = encoding in ("dynamic", "dequantized")
    tolerance = 5 * 0.5 / math.sqrt(200 * len(images)) if noisy else 1e-6
    assert dataset.pixel_means().shape == (dataset.dim,)
    assert np.abs(means - dataset.pixel_means()).max() < tolerance


def test_pixel_means_are_exact_and_of_the_training_images():
    train = Split(np.array([[0, 8, 16], [0, 7, 15]], dtype=np.uint8))
    rest = Split(np.full((2, 3), 16, dtype=np.uint8))
    raw = Dataset("small", (1, 3), 17, train, rest, rest, "none", "levels")
    expected = {"threshold": [0, 0.5, 1], "dynamic": [0, 7.5 / 16, 15.5 / 16],
                "grey": [0, 7.5 / 16, 15.5 / 16], "levels": [0, 7.5, 15.5],
                "dequantized": [0.5 / 17, 8 / 17, 16 / 17]}
    for encoding, means in expected.items():
        assert with_encoding(raw, encoding).pixel_means().tolist() == means, encoding


@pytest.mark.parametrize("encoding, protocol, binary", [
    ("threshold", "digits (threshold)", True),
    ("dynamic", "digits (dynamic)", True),
    ("fixed", "digits (fixed, seed 3)", True),
    ("dequantized", "digits (dequantized)", False),
    ("grey", "digits (grey)", False),
    ("levels", "digits (17 levels)", False),
])
def test_protocol_names(encoding, protocol, binary):
    dataset = load("digits", encoding=encoding, seed=3)
    assert (dataset.protocol, dataset.binary) == (protocol, binary)


def test_what_with_encoding_refuses():
    digits = load("digits")
    with pytest.raises(DataError, match="unknown encoding 'blurred': choose one of threshold, dyn"):
        with_encoding(digits, "blurred")
    with pytest.raises(DataError, match="digits was not published as zeros and ones: .* binarized"):
        with_encoding(digits, "static")
    fixed = with_encoding(digits, "fixed", seed=1)
    assert with_encoding(fixed, "fixed", seed=1) is fixed
    for encoding, seed in (("fixed", 2), ("grey", 1)):
        with pytest.raises(DataError, match=r"digits \(fixed, seed 1\) no longer has its grey"):
            with_encoding(fixed, encoding, seed)


# Names and subsets

def test_unknown_names_list_the_choices():
    with pytest.raises(DataError, match="unknown data set 'cifar': choose one of digits, "
                                        "coloured-digits, mnist, fashion-mnist, binarized-mnist, "
                                        "frey-face"):
        load("cifar")
    with pytest.raises(DataError, match="unknown split 'dev': choose one of train, valid, test"):
        load("digits").split("dev")


def test_subset_draws_different_rows_by_seed_alone():
    digits = load("digits")
    subset = digits.subset("test", 200, seed=7)
    again = digits.subset("test", 200, seed=7)
    other = digits.subset("test", 200, seed=8)
    assert subset.images.shape == (200, 64)
    assert np.array_equal(subset.images, again.images)
    assert not np.array_equal(subset.images, other.images)
    rows = {row.tobytes(): label for row, label in zip(digits.test.images, digits.test.labels)}
    assert len(rows) == 447
    drawn = {row.tobytes(): label for row, label in zip(subset.images, subset.labels)}
    assert len(drawn) == 200
    assert drawn.items() <= rows.items()
    assert len(digits.subset("valid", 350, seed=0)) == 350


def test_subset_is_spread_over_the_whole_split():
    # Were a sorted split cut at its head, the mean row number would be 50.
    numbered = make(np.arange(250)[:, None], 256)
    assert abs(numbered.subset("test", 100, seed=0).images.mean() - 124.5) < 5 * 72 / 10
    assert numbered.subset("test", 100, seed=0).labels is None


@pytest.mark.parametrize("n", [0, -1, 448])
def test_subset_refuses_what_is_not_there(n):
    with pytest.raises(DataError, match=f"has 447 test images: ask for 1 to 447 of them, not {n}"):
        load("digits").subset("test", n, seed=0)
