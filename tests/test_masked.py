"""Masked convolutions: the masks as pictures, the fused op against its twin, what is not seen."""

import os
import signal
import warnings

import numpy as np
import pytest

from scratchgen import backend
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.nn import taps as taps_module
from scratchgen.nn.masked import MaskedConv2d, Section, chain, colour_mask, masked_convs, taps
from scratchgen.nn.taps import Convolution
from scratchgen.tensor import Tensor, grad


def picture(kernel, *options, **more):
    r = kernel // 2
    seen = taps(kernel, *options, **more)
    assert list(seen) == sorted(seen)
    return " ".join("".join("1" if (i, j) in seen else "." for j in range(-r, r + 1))
                    for i in range(-r, r + 1))


def test_masks_look_as_in_the_paper():
    assert picture(3, "A") == "111 1.. ..."
    assert picture(3, "B") == "111 11. ..."
    assert picture(5, "A") == "11111 11111 11... ..... ....."
    assert picture(3, "A", colours=3) == "111 11. ..."  # the centre is the colours' affair
    assert picture(3, "B", "vertical") == "111 111 ..."
    assert picture(3, "A", "horizontal") == "... 1.. ..."
    assert picture(3, "B", "horizontal") == "... 11. ..."
    assert len(taps(3, "B")) == 5
    assert len(taps(7, "A")) == 24


def test_colours_see_red_before_green_before_blue():
    assert colour_mask(3, 3, "A", 3).tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert colour_mask(3, 3, "B", 3).tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    # Groups of feature maps, one after the other; and twice, for the two halves of a gate.
    assert colour_mask(3, 6, "B", 3)[1].tolist() == [0, 0, 1, 1, 1, 1]
    assert colour_mask(3, 6, "B", 3, parts=2)[1].tolist() == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("call, words", [
    (lambda rng: MaskedConv2d(2, 4, 4, rng), "must be odd, not 4"),
    (lambda rng: taps(0, "A"), "must be odd, not 0"),
    (lambda rng: taps(1, "A"), "sees nothing: take 3 or more"),
    (lambda rng: taps(3, "C"), "mask 'C'.*choose A or B"),
    (lambda rng: MaskedConv2d(2, 4, 3, rng, colours=3), "2 feature maps cannot be split"),
    (lambda rng: MaskedConv2d(2, 4, 3, rng)(np.ones((1, 5, 5, 3), "f")), "3 input channels"),
    (lambda rng: MaskedConv2d(2, 4, 3, rng)(np.ones((5, 5, 2), "f")), r"\(N, H, W, C\)")])
def test_what_cannot_be_is_refused_in_one_line(rng, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(rng)
    assert "\n" not in str(caught.value)


A3, B3, CENTRE = taps(3, "A"), taps(3, "B"), ((0, 0),)
PLANS = {
    "mask A 7x7": (1, [(Section((taps(7, "A"),), relu=False), [3])]),
    "vertical": (2, [(Section((taps(5, "B", "vertical"),), relu=False), [3])]),
    "horizontal": (2, [(Section((taps(5, "A", "horizontal"),)), [3])]),
    "residual block": (4, [(Section((CENTRE, B3, CENTRE), residual=True), [2, 2, 4])]),
    "network": (1, [(Section((A3,), relu=False), [4]),
                    (Section((CENTRE, B3, CENTRE), residual=True), [2, 2, 4]),
                    (Section((CENTRE, CENTRE)), [3, 2])])}


def problem(name, rng, images=(3, 4, 5), std=0.7):
    """(plan, [x, weight, bias, weight, bias, ...]) for random arrays."""
    channels, parts = PLANS[name]
    arrays = [rng.standard_normal(images + (channels,))]
    for section, sizes in parts:
        for seen, size in zip(section.convs, sizes):
            arrays.append(std * rng.standard_normal((len(seen), channels, size)))
            arrays.append(std * rng.standard_normal(size))
            channels = size
    return tuple(section for section, _ in parts), arrays


def value_and_gradients(function, plan, arrays, xp=np):
    tensors = [Tensor(xp.asarray(a)) for a in arrays]
    out = function(*tensors, plan=plan)
    return [out.data, *grad(out, tensors, xp.cos(out.data)), *grad(out, tensors[1:], out.data)]


@pytest.mark.parametrize("images", [(3, 4, 5), (2, 1, 2), (40, 9, 3)])
@pytest.mark.parametrize("name", PLANS)
def test_fused_equals_twin(xp, rng, name, images):
    plan, arrays = problem(name, rng, images)
    fused = value_and_gradients(masked_convs, plan, arrays, xp)
    twin = value_and_gradients(masked_convs.twin, plan, arrays, xp)
    for a, b in zip(fused, twin):
        a, b = backend.to_numpy(a), backend.to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * np.abs(b).max())


def test_pieces_threads_and_small_products_change_nothing(rng, monkeypatch):
    plan, arrays = problem("network", rng, (7, 6, 5))
    whole = value_and_gradients(masked_convs, plan, arrays)
    monkeypatch.setattr(taps_module, "_PIECE", 2 * 6 * 5 * 5 * 4 * 8)  # two images
    monkeypatch.setattr(taps_module, "_SMALL", 100)
    pieces = value_and_gradients(masked_convs, plan, arrays)
    again = value_and_gradients(masked_convs, plan, arrays)
    for a, b, c in zip(whole, pieces, again):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        assert np.array_equal(b, c)


@pytest.mark.parametrize("name", PLANS)
def test_gradients(xp, rng, name):
    plan, arrays = problem(name, rng, (2, 3, 4))
    # The second order goes through the twin.
    check_grads(lambda *tensors: masked_convs(*tensors, plan=plan),
                *[xp.asarray(a) for a in arrays], order=1 if name == "network" else 2, repeats=1)


def test_gradients_of_the_layer(xp, rng):
    layer = MaskedConv2d(3, 6, 3, rng, "A", colours=3, parts=2).to(xp, np.float64)
    arrays = [xp.asarray(rng.standard_normal(p.shape)) for p in layer.parameters()]
    x = xp.asarray(rng.standard_normal((2, 3, 4, 3)))
    function = functional(layer, lambda x: layer(x) * layer(x))
    check_grads(function, *arrays, x)
    tensors = [Tensor(a) for a in [*arrays, x]]
    gradient = backend.to_numpy(grad(function(*tensors).sum(), tensors[0]))
    assert np.array_equal(gradient != 0, backend.to_numpy(layer.mask) == 1)


def test_a_weight_under_the_mask_influences_nothing(rng):
    layers = [MaskedConv2d(3, 6, 3, rng, "A", colours=3), MaskedConv2d(6, 3, 1, rng, colours=3)]
    x = rng.standard_normal((2, 4, 4, 3), dtype=np.float32)
    before = chain(x, [Section(layers)])
    for layer in layers:
        layer.weight.data[layer.mask == 0] = 1e30
    assert np.array_equal(chain(x, [Section(layers)]).data, before.data)


def test_float32_stays_float32(rng):
    plan, arrays = problem("network", rng)
    for x in value_and_gradients(masked_convs, plan, [a.astype(np.float32) for a in arrays]):
        assert x.dtype == np.float32


def test_threads_know_their_callers_error_state(rng, monkeypatch):
    monkeypatch.setattr(taps_module, "_PIECE", 1)  # one image at a time
    layer = MaskedConv2d(1, 1, 3, rng)
    layer.weight.data[...] = 3e38
    x = np.full((4, 3, 3, 1), 1e3, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        layer(x * np.float32(1e38))


def test_threads_come_back_after_a_fork(rng, monkeypatch):
    monkeypatch.setattr(taps_module, "_PIECE", 1)
    layer = MaskedConv2d(1, 1, 3, rng)
    x = np.ones((4, 3, 3, 1), dtype=np.float32)
    expected = layer(x).data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the fork
        child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for threads that are not there
        os._exit(0 if np.array_equal(layer(x).data, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_convolution_outside_the_image_sees_zeros(rng):
    weight = rng.standard_normal((1, 1, 1))
    for tap in [(-4, 0), (0, -4), (-2, 1)]:
        far = Convolution(weight, np.zeros(1), (tap,), 3)
        x = rng.standard_normal((1, 2, 3, 1))
        assert not far.forward(x).any()
