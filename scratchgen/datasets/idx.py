"""The IDX format of MNIST and Fashion-MNIST, read strictly.

A file is two zero bytes, a type code (8: unsigned byte), the number of axes, the length of each
axis as a big-endian 32-bit integer, and then the values, last axis fastest; usually gzipped.
Source: the description on the MNIST page, yann.lecun.com/exdb/mnist.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from scratchgen.datasets.core import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 8


def read_idx(path):
    """The uint8 array in the IDX file `path`, gzipped or plain; DataError if it is not whole."""
    content = Path(path).read_bytes()
    if content[:2] == GZIP_MAGIC:
        try:
            content = gzip.decompress(content)
        except EOFError:
            raise DataError(f"{path}: the gzip file is cut short; get it again") from None
        except (OSError, zlib.error) as error:
            raise DataError(f"{path}: the gzip file is damaged ({error}); get it again") from None
    magic = content[:4]
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]) or magic[3] == 0:
        raise DataError(f"{path}: not an IDX file of unsigned bytes: it starts with "
                        f"{magic.hex() or 'nothing'}, expected 000008 and the number of axes")
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise DataError(f"{path}: cut short inside the header, after {len(content)} of "
                        f"{start} bytes; get it again")
    shape = tuple(int(length) for length in np.frombuffer(content[4:start], dtype=">u4"))
    expected = start + math.prod(shape)
    if len(content) != expected:
        fault = "cut short" if len(content) < expected else "too long"
        raise DataError(f"{path}: {fault}: its header promises {' x '.join(map(str, shape))} "
                        f"values, {expected} bytes in all, but it holds {len(content)}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
