"""The file formats: what a whole file gives, and the one line that a broken one gets."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dataset_helpers import idx_bytes
from scratchgen.datasets import DataError, read_idx
from scratchgen.datasets.formats import read_amat, read_mat, read_npz

IMAGES = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)


def write(folder, content, name="file"):
    path = folder / name
    path.write_bytes(content)
    return path


def one_line(failure, path):
    """The failure's message names the file and is one line."""
    message = str(failure.value)
    return message.startswith(f"{path}: ") and "\n" not in message


# IDX

@given(array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0)),
       zipped=st.booleans())
def test_idx_round_trip(array, zipped, tmp_path_factory):
    content = idx_bytes(array)
    path = write(tmp_path_factory.mktemp("idx"), gzip.compress(content) if zipped else content)
    back = read_idx(path)
    assert back.dtype == np.uint8
    assert back.shape == array.shape
    assert np.array_equal(back, array)


@given(cut=st.integers(0, len(idx_bytes(IMAGES)) - 1))
def test_idx_cut_short_anywhere(cut, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("idx"), idx_bytes(IMAGES)[:cut])
    with pytest.raises(DataError) as failure:
        read_idx(path)
    assert one_line(failure, path)
    if cut >= 4:
        assert "cut short" in str(failure.value)


@given(cut=st.integers(2, len(gzip.compress(idx_bytes(IMAGES))) - 1))
def test_gzip_cut_short_anywhere(cut, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("idx"), gzip.compress(idx_bytes(IMAGES))[:cut])
    with pytest.raises(DataError, match="gzip file is cut short") as failure:
        read_idx(path)
    assert one_line(failure, path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("change, message", [
    (lambda good: good + b"\0", "too long: its header promises 2 x 3 x 5 values, 46 bytes in all, "
                                "but it holds 47"),
    (lambda good: good[:-1], "cut short: its header promises 2 x 3 x 5 values, 46 bytes in all, "
                             "but it holds 45"),
    (lambda good: b"\x01" + good[1:], "not an IDX file of unsigned bytes: it starts with 01000803"),
    (lambda good: good[:2] + b"\x0d" + good[3:], "it starts with 00000d03"),  # floats
    (lambda good: good[:3] + b"\x00" + good[4:], "it starts with 00000800"),  # no axes
    (lambda good: good[:4] + b"\xff\xff\xff\xff" + good[8:], "cut short: its header promises "
                                                             "4294967295 x 3 x 5 values"),
    (lambda good: b"<html>404</html>", "it starts with 3c68746d"),
    (lambda good: b"", "it starts with nothing"),
])
def test_idx_faults(change, message, zipped, tmp_path):
    content = change(idx_bytes(IMAGES))
    path = write(tmp_path, gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as failure:
        read_idx(path)
    assert one_line(failure, path)


@pytest.mark.parametrize("position", [12, -8, -1])  # in the packed bytes, the CRC, the length
def test_damaged_gzip(position, tmp_path):
    content = bytearray(gzip.compress(idx_bytes(IMAGES)))
    content[position] ^= 0xFF
    path = write(tmp_path, content)
    with pytest.raises(DataError, match="the gzip file is (damaged|cut short)") as failure:
        read_idx(path)
    assert one_line(failure, path)


# NumPy archives

def test_npz(tmp_path):
    path = tmp_path / "file.npz"
    np.savez_compressed(path, images=IMAGES, labels=IMAGES[:, 0, 0])
    images, labels = read_npz(path, {"images": (2, 3, 5), "labels": (2,)})
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, [0, 15])


@pytest.mark.parametrize("stored, message", [
    ({"pictures": IMAGES}, "images is not a file in the archive, expected images"),
    ({"images": IMAGES[:1]}, r"images: found uint8 of shape \(1, 3, 5\), "
                             r"expected uint8 of shape \(2, 3, 5\)"),
    ({"images": IMAGES.astype(np.float64)}, "images: found float64 of shape"),
    ({"images": np.array([None, 1], dtype=object)}, "not a readable .npz archive .*allow_pickle"),
])
def test_npz_faults(stored, message, tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, **stored)
    with pytest.raises(DataError, match=message) as failure:
        read_npz(path, {"images": (2, 3, 5)})
    assert one_line(failure, path)


@pytest.mark.parametrize("cut", [0, 3, 60, 150, -1])
def test_npz_cut_short(cut, tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, images=IMAGES)
    path = write(tmp_path, whole.read_bytes()[:cut], "cut.npz")
    with pytest.raises(DataError, match="not a readable .npz archive") as failure:
        read_npz(path, {"images": (2, 3, 5)})
    assert one_line(failure, path)


def test_a_lone_array_is_not_an_archive(tmp_path):
    path = tmp_path / "file.npz"
    with open(path, "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(DataError, match="not a readable .npz archive"):
        read_npz(path, {"images": (2, 3, 5)})


# 0/1 text

def test_amat(tmp_path):
    path = write(tmp_path, b"0 1 1\n1 0 0\n")
    assert read_amat(path, (2, 3)).tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("text, message", [
    (b"0 1 1\n1 0 0", "11 bytes, expected 12: 2 lines of 3 values"),
    (b"0 1 1\n1 0 0\n1 1 1\n", "18 bytes, expected 12"),
    (b"0 1 2\n1 0 0\n", "not lines of 3 values 0 or 1"),
    (b"0 1 /\n1 0 0\n", "not lines of 3 values 0 or 1"),
    (b"0 1\t1\n1 0 0\n", "not lines of 3 values 0 or 1 with single spaces between"),
    (b"0 1 1 1 0 0\n", "not lines of 3 values 0 or 1 with single spaces between"),
])
def test_amat_faults(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as failure:
        read_amat(path, (2, 3))
    assert one_line(failure, path)


# MATLAB 5

def element(kind, payload):
    padding = b"\0" * (-len(payload) % 8)
    return struct.pack("<2I", kind, len(payload)) + payload + padding


def mat_bytes(array, name=b"ff", class_code=9, kind=2, dropped=0):
    """The MATLAB 5 file of a matrix; `array` holds its columns as rows, `dropped` are left out."""
    if len(name) <= 4:
        tag = struct.pack("<2H", 1, len(name)) + name.ljust(4, b"\0")
    else:
        tag = element(1, name)
    matrix = (element(6, struct.pack("<2I", class_code, 0))
              + element(5, struct.pack("<2i", array.shape[1], array.shape[0]))
              + tag + element(kind, array.tobytes()[dropped:]))
    return b"MATLAB 5.0 MAT-file, by a test".ljust(124) + b"\x00\x01IM" + element(14, matrix)


@pytest.mark.parametrize("name", [b"ff", b"a_longer_name"])
@pytest.mark.parametrize("shape", [(3, 8), (3, 5)])  # without and with padding at the end
def test_mat(name, shape, tmp_path):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = write(tmp_path, mat_bytes(array, name))
    assert np.array_equal(read_mat(path, shape), array)


@pytest.mark.parametrize("content, message", [
    (b"MATLAB 7.3" + mat_bytes(IMAGES[0])[10:], "not a little-endian MATLAB 5 file"),
    (mat_bytes(IMAGES[0]).replace(b"IM", b"MI", 1), "not a little-endian MATLAB 5 file"),
    (mat_bytes(IMAGES[0], class_code=6), "not a matrix of unsigned bytes"),
    (mat_bytes(IMAGES[0], kind=9), "not a matrix of unsigned bytes"),
    (mat_bytes(IMAGES[0][:2]), "a matrix of 5 x 2 in 10 bytes, expected 5 x 3"),
    (mat_bytes(IMAGES[0], dropped=1), "a matrix of 5 x 3 in 14 bytes, expected 5 x 3"),
    (mat_bytes(IMAGES[0])[:-3], "cut short, or not one plain matrix"),
    (mat_bytes(IMAGES[0])[:131], "cut short, or not one plain matrix"),
    (mat_bytes(IMAGES[0]) + mat_bytes(IMAGES[0])[128:], "cut short, or not one plain matrix"),
    (b"", "not a little-endian MATLAB 5 file"),
])
def test_mat_faults(content, message, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as failure:
        read_mat(path, (3, 5))
    assert one_line(failure, path)
