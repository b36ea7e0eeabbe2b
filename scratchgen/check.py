"""Floor 2: is this gradient right? Checks by finite differences, of any order.

A function f of arrays is projected to one number, phi(x) = <w, f(x)> with a random cotangent w
(all ones would let a wrong softmax pass), and moved along a random direction v in one argument
at a time (moving all at once would drown a small error of one). Then

    a = <d phi / dx, v>             from `grad`
    n = (d/dt) phi(x + t v) at 0    from differences of fourth order

must agree. Everything runs in float64 on the backend of the arrays.
"""

import numpy as np

from scratchgen import backend, ops
from scratchgen.tensor import Tensor, grad, raw

TOLERANCE = 1e-6  # largest |a - n| / max(|a|, |n|) that counts as equal
_STEP = 1e-3
_SMOOTH = 1e-7  # two step sizes must agree this well, or the point is too near a kink
_STRAIGHT = 1e-6  # largest jump of the slope, relative to it, or the point is on a kink
_ATTEMPTS = 50


class GradientError(AssertionError):
    """A gradient that does not agree with finite differences."""


def check_grads(f, *arrays, order=1, rng=None, tolerance=TOLERANCE, repeats=2):
    """Check the gradients of f(*tensors) -> Tensor (or several) at `arrays`, up to `order`.

    Returns the largest relative error found; raises GradientError if it exceeds `tolerance`.
    A point next to a kink is moved a little; a direction along which the derivative is small
    beside the function's usual slope is drawn again, since its relative error means nothing.
    """
    rng = rng or np.random.default_rng(0)
    xp = backend.module_of(arrays[0])
    points = [np.asarray(backend.to_numpy(x), dtype=np.float64) for x in arrays]
    worst = 0.0
    for level in range(1, order + 1):
        for argument in range(len(points)):
            for _ in range(repeats):
                error = _error_along_a_line(f, points, argument, xp, rng)
                if not error <= tolerance:
                    raise GradientError(
                        f"order {level}, argument {argument}: relative error {error:.2e} "
                        f"between the gradient and finite differences (at most {tolerance:.0e})")
                worst = max(worst, error)
        f = _gradient_function(f, points, xp, rng)
    return worst


def check_adjoint(forward, adjoint, x, y, tolerance=1e-10):
    """Check <A x, y> = <x, A^T y> for linear functions A and A^T; returns the relative error."""
    left = float(backend.to_numpy((forward(x) * y).sum()))
    right = float(backend.to_numpy((x * adjoint(y)).sum()))
    error = abs(left - right) / max(abs(left), abs(right), 1e-300)
    if not error <= tolerance:
        raise GradientError(f"<Ax, y> = {left!r} but <x, A'y> = {right!r}")
    return error


def relative_difference(a, b):
    """The largest |a - b| / max(|a|, |b|) over the elements of two arrays, 0 where both are 0."""
    a, b = backend.to_numpy(a), backend.to_numpy(b)
    largest = np.maximum(np.abs(a), np.abs(b))
    return float((np.abs(a - b) / np.where(largest > 0, largest, 1)).max())


def _error_along_a_line(f, points, argument, xp, rng):
    """|a - n| / max(|a|, |n|) for one argument, one random cotangent and direction."""
    phi = _projection(f, points, xp, rng)
    moved = points
    for _ in range(_ATTEMPTS):
        v = rng.standard_normal(points[argument].shape)
        numeric, smooth = _difference(phi, moved, argument, v, xp)
        if not smooth:
            moved = [x + 0.02 * rng.standard_normal(x.shape) for x in points]
            continue
        x = [Tensor(xp.asarray(p)) for p in moved]
        gradient = backend.to_numpy(grad(phi(*x), x[argument]))
        slope = np.sqrt((gradient ** 2).sum())
        exact = float((gradient * v).sum())
        largest = max(abs(exact), abs(numeric))
        if largest < 1e-9:
            return 0.0  # both say that this argument does not matter
        if largest > 0.1 * slope:
            return abs(exact - numeric) / largest
    raise GradientError(f"argument {argument}: no smooth point with a clear derivative nearby")


def _projection(f, points, xp, rng):
    """phi(x) = sum_k <w_k, f_k(x)> with random w, on Tensors."""
    outputs = _as_list(f(*[Tensor(xp.asarray(x)) for x in points]))
    cotangents = [xp.asarray(rng.standard_normal(out.shape)) for out in outputs]

    def phi(*tensors):
        products = [ops.sum(w * out) for w, out in zip(cotangents, _as_list(f(*tensors)))]
        total = products[0]
        for product in products[1:]:
            total = total + product
        return total
    return phi


def _gradient_function(f, points, xp, rng):
    """x -> the gradient of a random projection of f, as a graph: one order further."""
    phi = _projection(f, points, xp, rng)
    return lambda *tensors: grad(phi(*tensors), tensors, create_graph=True)


def _as_list(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _difference(phi, points, argument, v, xp):
    """d/dt phi(x + t v) at t = 0, with an error of _STEP**4, and whether phi is smooth there."""
    def along(steps):
        moved = [x + steps * _STEP * v if i == argument else x for i, x in enumerate(points)]
        return float(backend.to_numpy(raw(phi(*[Tensor(xp.asarray(x)) for x in moved]))))
    value = {steps: along(steps) for steps in (-4, -2, -1, 0, 1, 2, 4)}
    rise = {steps: (value[steps] - value[-steps]) / (2 * steps * _STEP) for steps in (1, 2, 4)}
    fine = (4 * rise[1] - rise[2]) / 3
    coarse = (4 * rise[2] - rise[4]) / 3
    # A kink at exactly t = 0 has one value for every step, half-way between its two slopes. But
    # the second difference, which is t**2 phi'' elsewhere, is t times the jump of the slope.
    bend = {steps: value[steps] + value[-steps] - 2 * value[0] for steps in (1, 2)}
    jump = (4 * bend[1] - bend[2]) / (2 * _STEP)
    scale = max(abs(fine), 1e-3)
    kinked = abs(fine - coarse) > _SMOOTH * scale or abs(jump) > _STRAIGHT * scale
    return fine, not kinked
