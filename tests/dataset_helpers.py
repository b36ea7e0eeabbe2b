"""Small data sets in the publishers' formats, and a web server on this machine to fetch them from.

The small MNIST has 3 x 4 images, 20 / 5 / 7 of them, and its own registry entry with the true
SHA-256 of the files that are written here, so that every path of the real one is run.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np

from scratchgen.datasets import layouts
from scratchgen.datasets.layouts import Layout, Source

SHAPE = (3, 4)
SIZES = (20, 5, 7)
NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
         "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def idx_bytes(array):
    """The IDX file of a uint8 array."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def small_arrays(seed=0):
    """Images and labels of the training file, then of the test file, in the order of NAMES."""
    rng = np.random.default_rng(seed)
    arrays = []
    for count in (SIZES[0] + SIZES[1], SIZES[2]):
        arrays.append(rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8))
        arrays.append(rng.integers(0, 10, count, dtype=np.uint8))
    return arrays


def small_files(seed=0):
    """The gzipped IDX files of the small MNIST: name -> bytes."""
    return {name: gzip.compress(idx_bytes(array), mtime=0)
            for name, array in zip(NAMES, small_arrays(seed), strict=True)}


def write_files(folder, files):
    """Put name -> bytes into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def source_of(name, arrangement, mirrors=(), shape=SHAPE, sizes=SIZES, levels=256, **fields):
    """A registry entry; arrangement: a list of (files as name -> bytes, reader, packer)."""
    hashed = []
    for files, read, pack in arrangement:
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        hashed.append(Layout(sums, read, tuple(mirrors), pack))
    encoding = "static" if levels == 2 else "dynamic"
    return Source(name, shape, levels, sizes, encoding, "none", "nobody", tuple(hashed), **fields)


def small_mnist(mirrors=(), seed=0):
    """A registry with the small MNIST alone."""
    return {"mnist": source_of("mnist", [(small_files(seed), layouts.mnist, None)], mirrors)}


def small_binarized(mirrors=()):
    """A registry with a small binarized-mnist of 9 pixels, its texts, and its splits as arrays."""
    rng = np.random.default_rng(1)
    shape = (3, 3)
    splits = [rng.integers(0, 2, (size, 9), dtype=np.uint8) for size in SIZES]
    texts = {}
    for name, bits in zip(layouts.SPLITS, splits, strict=True):
        lines = [" ".join(map(str, row)) + "\n" for row in bits]
        texts[f"binarized_mnist_{name}.amat"] = "".join(lines).encode()
    source = source_of("binarized-mnist", [(texts, layouts.text, layouts.pack_text)], mirrors,
                       shape, levels=2,
                       contents=tuple(hashlib.sha256(bits).hexdigest() for bits in splits))
    packed = Layout({layouts.PACKED: None}, layouts.packed)
    source = dataclasses.replace(source, layouts=(packed, *source.layouts))
    return {"binarized-mnist": source}, texts, splits


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes), cuts those in `short`, and keeps what was asked."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.short = set()
        self.asked = []
        self.headers = []

    def address(self, folder):
        """The address of a folder on this server, as a mirror's."""
        return f"http://127.0.0.1:{self.server_port}/{folder}/"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a GET with the whole file, half of it under the whole length, or 404."""

    def do_GET(self):
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        self.server.headers.append(self.headers)
        if path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2] if path in self.server.short else content)

    def log_message(self, *args):
        """Nothing: the tests read `asked`."""


@contextlib.contextmanager
def serving(files):
    """A Server in a thread of its own, closed at the end."""
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
