"""The other files that images come in: NumPy archives, 0/1 text, and MATLAB 5.

Every reader knows how many images it must find, and says what it found instead.
"""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from scratchgen.datasets.core import DataError

MAT_HEADER = 128
MAT_UINT8, MAT_INT32, MAT_UINT32, MAT_MATRIX = 2, 5, 6, 14  # types of MATLAB data elements
MAT_CLASS_UINT8 = 9


def expect_shape(path, what, array, shape):
    """DataError naming the file `path` unless `array` is uint8 of that shape."""
    if array.dtype != np.uint8 or array.shape != tuple(shape):
        raise DataError(f"{path}: {what}: found {array.dtype} of shape {array.shape}, "
                        f"expected uint8 of shape {tuple(shape)}")


def read_npz(path, shapes):
    """The uint8 arrays of a NumPy archive as a list, one for each name -> shape of `shapes`."""
    try:
        with open(path, "rb") as file, np.load(file) as archive:  # np.load leaves a bad one open
            arrays = [archive[name] for name in shapes]
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}, expected {', '.join(shapes)}") from None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}); get it again") from None
    for array, (name, shape) in zip(arrays, shapes.items(), strict=True):
        expect_shape(path, name, array, shape)
    return arrays


def read_amat(path, shape):
    """The 0/1 matrix, N x D uint8, in text: D values with single spaces between, one row a line."""
    rows, columns = shape
    content = np.fromfile(path, dtype=np.uint8)
    if content.size != 2 * rows * columns:
        raise DataError(f"{path}: {content.size} bytes, expected {2 * rows * columns}: "
                        f"{rows} lines of {columns} values")
    text = content.reshape(rows, columns, 2)  # each value with the space or line end behind it
    bits = text[:, :, 0] - ord("0")  # wraps below "0", so one comparison catches both sides
    spaces = (text[:, :-1, 1] == ord(" ")).all() and (text[:, -1, 1] == ord("\n")).all()
    if not spaces or bits.max(initial=0) > 1:
        raise DataError(f"{path}: not lines of {columns} values 0 or 1 with single spaces between")
    return bits


def read_mat(path, shape):
    """The uint8 matrix in an uncompressed MATLAB 5 file that holds nothing else.

    MATLAB stores columns one after another. A column is an image here, so the N x D array of
    images that comes back is the file's D x N matrix transposed, in the file's order of bytes.
    Source: "MAT-File Format", The MathWorks, chapter 1.
    """
    content = Path(path).read_bytes()
    if content[:10] != b"MATLAB 5.0" or content[126:MAT_HEADER] != b"IM":
        raise DataError(f"{path}: not a little-endian MATLAB 5 file")
    try:
        (kind, matrix), = _elements(content[MAT_HEADER:])
        flags, dimensions, _, values = _elements(matrix)
        sizes = struct.unpack("<2i", dimensions[1])
    except (struct.error, ValueError):
        raise DataError(f"{path}: cut short, or not one plain matrix; get it again") from None
    kinds = (kind, flags[0], dimensions[0], values[0])
    if kinds != (MAT_MATRIX, MAT_UINT32, MAT_INT32, MAT_UINT8) or flags[1][0] != MAT_CLASS_UINT8:
        raise DataError(f"{path}: not a matrix of unsigned bytes")
    if sizes != (shape[1], shape[0]) or len(values[1]) != sizes[0] * sizes[1]:
        raise DataError(f"{path}: a matrix of {sizes[0]} x {sizes[1]} in {len(values[1])} bytes, "
                        f"expected {shape[1]} x {shape[0]}")
    return np.frombuffer(values[1], dtype=np.uint8).reshape(shape)


def _elements(block):
    """The (type, bytes) data elements of a block: a tag, then bytes padded to a multiple of 8."""
    found = []
    while block:
        kind, size = struct.unpack_from("<2I", block)
        start = 8
        if kind >> 16:  # a small element: its size is the tag's upper half, its bytes are the rest
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        if start + size > len(block):
            raise ValueError("an element ends behind the file")
        found.append((kind, block[start:start + size]))
        block = block[start + size + -(start + size) % 8:]
    return found
