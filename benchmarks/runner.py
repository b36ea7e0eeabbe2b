"""How a benchmark is measured: contenders take turns, and only ratios within one run count.

A machine's speed drifts, so contenders are interleaved, A B C A B C ..., and a round's times
are compared with each other. One turn is a short rest, an untimed call, a timed call: the
thread pools of BLAS and OpenMP spin for a while after their last work, which would slow the
next contender down, and the untimed call brings the contender's own threads and data back.
"""

import dataclasses
import importlib.util
import time
from collections.abc import Callable

import numpy as np

from scratchgen import backend
from scratchgen.tensor import Tensor

REST = 0.04  # seconds, longer than OpenBLAS's threads spin
MATRIX = 512  # side of the calibration's matrices


class Unavailable(RuntimeError):
    """A contender's setup found that it cannot run here; the message says why."""


class Disagreement(RuntimeError):
    """Two contenders of one benchmark did not compute the same."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do a benchmark's work.

    setup() imports what it needs, prepares the data and returns the function to be timed, which
    takes no argument and returns its results (arrays, tensors) for comparison, or nothing.
    needs: the package without which it is reported as not installed. backend: where it runs;
    the `reference` of a backend is what that backend's ratios are relative to.
    goal: `ours` should take at most `goal` times this contender's time.
    """

    name: str
    setup: Callable
    needs: str = "numpy"
    backend: str = "numpy"
    synchronize: Callable = lambda: None
    reference: bool = False
    ours: bool = False
    goal: float | None = None


@dataclasses.dataclass
class Result:
    """What was measured of one contender; `missing` says why nothing was. Times in seconds."""

    contender: Contender
    missing: str = ""
    times: np.ndarray | None = None
    ratio: float | None = None  # median time over the reference's median time
    paired_ratio: float | None = None  # median over rounds of time over reference's time
    ours_ratio: float | None = None  # median over rounds of scratchgen's time over this time


def run(contenders, repeats, rest=REST, clock=time.perf_counter):
    """Measure contenders interleaved: (results in their order, the calibration's times).

    Raises Disagreement if the contenders' first results differ by more than rounding.
    """
    results = []
    calls = []
    for contender in contenders:
        result = Result(contender)
        results.append(result)
        try:
            calls.append(_set_up(contender))
        except (Unavailable, backend.BackendError) as error:
            result.missing = str(error)
    present = [result for result in results if not result.missing]
    _check_agreement(present, calls)
    turns = list(zip(calls, [result.contender.synchronize for result in present]))
    turns.append((_matrix_product(), lambda: None))
    times = np.array([[_turn(call, synchronize, rest, clock) for call, synchronize in turns]
                      for _ in range(repeats)])
    for i, result in enumerate(present):
        result.times = times[:, i]
    for result in present:
        _compare(result, present)
    return results, times[:, -1]


def _set_up(contender):
    """The function to be timed; Unavailable or BackendError if there is none."""
    if importlib.util.find_spec(contender.needs) is None:
        raise Unavailable(f"not installed ({contender.needs})")
    backend.get(contender.backend)
    return contender.setup()


def _check_agreement(present, calls):
    """Call everyone once, and compare what they return with what the first one returns."""
    expected = None
    for result, call in zip(present, calls):
        returned = call()
        if returned is None:
            continue
        arrays = [on_host(x) for x in returned]
        expected = expected or arrays
        for x, y in zip(arrays, expected, strict=True):
            scale = np.abs(y).max()
            if x.shape != y.shape or not np.allclose(x, y, rtol=0, atol=2e-4 * scale):
                raise Disagreement(f"{result.contender.name} and {present[0].contender.name} "
                                   "do not compute the same: nothing was measured")


def on_host(x):
    """A contender's array or tensor as a NumPy array."""
    if hasattr(x, "detach"):  # PyTorch's
        return x.detach().cpu().numpy()
    return backend.to_numpy(x.data if isinstance(x, Tensor) else x)


def _turn(call, synchronize, rest, clock):
    """The seconds that one call takes."""
    time.sleep(rest)
    call()
    synchronize()
    start = clock()
    call()
    synchronize()
    return clock() - start


def _matrix_product():
    """The calibration: a plain product of float32 matrices, to tell how fast this machine is."""
    a = np.random.default_rng(0).standard_normal((MATRIX, MATRIX), dtype=np.float32)
    return lambda: a @ a


def _compare(result, present):
    """Fill in a result's ratios: to its backend's reference, and of ours to it."""
    for other in present:
        if other.contender.backend == result.contender.backend:
            if other.contender.reference:
                result.ratio = float(np.median(result.times) / np.median(other.times))
                result.paired_ratio = float(np.median(result.times / other.times))
            if other.contender.ours and other is not result:
                result.ours_ratio = float(np.median(other.times / result.times))
