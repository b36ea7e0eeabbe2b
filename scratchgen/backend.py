"""Floor 0: where arrays live. NumPy on the host, CuPy on a GPU; no other file names cupy.

Everything above speaks the part of the NumPy interface that both modules share, and asks this
file the few questions whose answers differ: which module owns this array, move it there, move
it back, draw random numbers, is there a device at all.

Noise is drawn by an explicit generator. A `numpy.random.Generator` draws on the host even when
the arrays live on the device, so one seed gives both backends the same numbers; a device
generator (`device_generator`) is faster and gives other numbers.
"""

import sys

import numpy as np

NAMES = ("numpy", "cupy")
PURPOSES = ("weights", "training", "valid", "test", "fixed train", "fixed valid", "fixed test")

_module_of_type = {}  # array type -> its module, for modules made known by `register`


class BackendError(RuntimeError):
    """The backend asked for cannot be used here; the message says what is missing."""


def get(name):
    """The array module called `name` ("numpy" or "cupy"), or BackendError saying why not."""
    if name == "numpy":
        return np
    if name != "cupy":
        raise BackendError(f"unknown backend {name!r}: choose one of {', '.join(NAMES)}")
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            f"backend cupy: CuPy cannot be imported ({error}): pip install 'scratchgen[cuda12]' "
            "or [cuda13], to match the CUDA driver, or use --backend numpy") from error
    # Importing cupy proves nothing: it imports without a GPU. Only the driver knows.
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"backend cupy: the CUDA driver reports no device ({error}); "
                           "use --backend numpy") from None
    if devices < 1:
        raise BackendError("backend cupy: no CUDA device found; use --backend numpy")
    return cupy


def available():
    """The names of the backends that can be used on this machine, "numpy" first."""
    usable = []
    for name in NAMES:
        try:
            get(name)
        except BackendError:
            continue
        usable.append(name)
    return usable


def register(array_type, module):
    """Make another array type known, with the module that works on it (tests use this)."""
    _module_of_type[array_type] = module


def module_of(array):
    """The module (NumPy, CuPy) that owns `array`; NumPy for Python and NumPy scalars."""
    kind = type(array)
    if kind is np.ndarray:
        return np
    if kind in _module_of_type:
        return _module_of_type[kind]
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    return np


def to_numpy(array):
    """`array` as a NumPy array on the host: a copy from the device, the array itself on NumPy."""
    if isinstance(array, np.ndarray):
        return array
    return array.get() if hasattr(array, "get") else np.asarray(array)


def index_array(xp, index):
    """A host index array made usable on `xp`. Check it first: CuPy wraps out of range."""
    return index if xp is np else xp.asarray(index)


def generator(seed, purpose):
    """The host generator for one of PURPOSES: independent streams, all from the run's seed."""
    return np.random.default_rng([seed, PURPOSES.index(purpose)])


def device_generator(seed, xp):
    """A generator that draws where the arrays of `xp` live: fast, but its own stream of numbers."""
    return xp.random.default_rng(seed)


def standard_normal(rng, shape, dtype, xp):
    """Draws from N(0, 1) of `shape` and `dtype`, as an array of `xp`."""
    noise = rng.standard_normal(shape, dtype=dtype)
    return xp.asarray(noise) if isinstance(rng, np.random.Generator) else noise


def uniform(rng, shape, dtype, xp):
    """Draws from U[0, 1) of `shape` and `dtype`, as an array of `xp`."""
    noise = rng.random(shape, dtype=dtype)
    return xp.asarray(noise) if isinstance(rng, np.random.Generator) else noise


def synchronize(xp):
    """Wait until everything asked of the device is done (nothing to wait for on NumPy)."""
    if hasattr(xp, "cuda"):
        xp.cuda.get_current_stream().synchronize()
