"""The publishers' files, where the data folder is there: known means, sizes and shares."""

import shutil

import numpy as np
import pytest

from scratchgen.datasets import DataError, load, sources


def require(data_dir, name):
    if not (data_dir / name).is_dir():
        pytest.skip(f"no {name} in {data_dir}")


def test_mnist(data_dir):
    require(data_dir, "mnist")
    mnist = load("mnist", data_dir)
    assert mnist.protocol == "mnist (dynamic)"
    assert [len(split) for split in (mnist.train, mnist.valid, mnist.test)] == [50000, 10000, 10000]
    training = (mnist.train.images.mean() * 50000 + mnist.valid.images.mean() * 10000) / 60000
    assert training == pytest.approx(33.3184, abs=5e-5)
    assert mnist.test.images.mean() == pytest.approx(33.7912, abs=5e-5)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.valid.labels[-3:].tolist() == [5, 6, 8]


def test_fashion_mnist(data_dir):
    require(data_dir, "fashion-mnist")
    fashion = load("fashion-mnist", data_dir)
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10


def test_binarized_mnist(data_dir):
    require(data_dir, "binarized-mnist")
    bits = load("binarized-mnist", data_dir)
    for split, size, share in ((bits.train, 50000, 0.130562), (bits.valid, 10000, 0.131127),
                               (bits.test, 10000, 0.132512)):
        assert split.images.shape == (size, 784)
        assert split.images.max() == 1
        assert split.images.mean() == pytest.approx(share, abs=5e-7)


def test_binarized_mnist_from_the_published_text(data_dir, tmp_path):
    """The text as published has the SHA-256 in the registry, and reads as the packed file does."""
    require(data_dir, "binarized-mnist")
    packed = load("binarized-mnist", data_dir)
    folder = tmp_path / "binarized-mnist"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        images = packed.split(name).images
        text = np.full((*images.shape, 2), ord(" "), dtype=np.uint8)
        text[:, :, 0] = images + ord("0")
        text[:, -1, 1] = ord("\n")
        text.tofile(folder / f"binarized_mnist_{name}.amat")
    from_text = load("binarized-mnist", tmp_path)
    shutil.rmtree(tmp_path)  # 110 MB
    assert np.array_equal(from_text.test.images, packed.test.images)


def test_frey_face(data_dir):
    require(data_dir, "frey-face")
    frey = load("frey-face", data_dir)
    assert (frey.shape, frey.dim, frey.protocol) == ((28, 20), 560, "frey-face (dequantized)")
    assert [len(split) for split in (frey.train, frey.valid, frey.test)] == [1600, 200, 165]
    frames = np.concatenate([frey.train.images, frey.valid.images, frey.test.images])
    assert (frames.min(), frames.max()) == (8, 238)
    published = np.load(data_dir / "frey-face" / "frey_rawface.npz")["images"].reshape(1965, 560)
    assert np.array_equal(frey.train.images[:400], published[:400])
    assert np.array_equal(frey.valid.images[:50], published[400:450])
    assert np.array_equal(frey.test.images[:50], published[450:500])
    assert np.array_equal(frey.test.images[150:], published[1950:])


def test_frey_face_as_published_is_the_same(data_dir, tmp_path):
    original = data_dir / "frey-face" / "frey_rawface.mat"
    if not original.exists():
        pytest.skip(f"no {original}")
    (tmp_path / "frey-face").mkdir()
    shutil.copy(original, tmp_path / "frey-face")
    assert np.array_equal(load("frey-face", tmp_path).test.images,
                          load("frey-face", data_dir).test.images)


def test_a_file_of_one_data_set_is_not_taken_for_anothers(data_dir, tmp_path):
    require(data_dir, "mnist")
    shutil.copytree(data_dir / "mnist", tmp_path / "fashion-mnist")
    first = next(iter(sources.FASHION.layouts[0].files))
    with pytest.raises(DataError, match=f"{first}: wrong checksum: expected SHA-256 3aede38d"):
        load("fashion-mnist", tmp_path)
