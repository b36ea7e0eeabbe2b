"""Convolution: three ops against loops, PyTorch and each other, and the layers made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgen.check import check_adjoint, check_grads
from scratchgen.conv import conv2d, conv2d_weight, conv_transpose2d
from scratchgen.gradcheck import functional
from scratchgen.nn.conv import Conv2d, ConvTranspose2d
from scratchgen.tensor import Tensor, grad


def loops(x, weight, stride, padding):
    """conv2d as its definition says."""
    n, _, height, width = x.shape
    outputs, _, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = (height + 2 * padding[0] - kh) // stride[0] + 1
    columns = (width + 2 * padding[1] - kw) // stride[1] + 1
    out = np.zeros((n, outputs, rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = stride[0] * i, stride[1] * j
            window = x[:, :, top:top + kh, left:left + kw]
            for o in range(outputs):
                out[:, o, i, j] = (window * weight[o]).sum(axis=(1, 2, 3))
    return out


@st.composite
def problems(draw):
    """(x, weight, stride, padding) of random shapes."""
    def pair(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))
    n, channels, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride, padding, more = pair(1, 4), pair(1, 3), pair(0, 2), pair(0, 4)
    size = tuple(max(1, k - 2 * p) + extra for k, p, extra in zip(kernel, padding, more))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return (rng.standard_normal((n, channels) + size),
            rng.standard_normal((outputs, channels) + kernel), stride, padding)


def output_padding(x, weight, stride, padding):
    return tuple((n + 2 * p - k) % s for n, p, k, s in
                 zip(x.shape[2:], padding, weight.shape[2:], stride))


@given(problems())
def test_conv2d_is_its_definition(problem):
    x, weight, stride, padding = problem
    np.testing.assert_allclose(conv2d(x, weight, stride=stride, padding=padding),
                               loops(*problem), rtol=1e-12, atol=1e-12)


@given(problems())
def test_the_other_two_ops_are_the_adjoints(problem):
    x, weight, stride, padding = problem
    y = np.random.default_rng(7).standard_normal(loops(*problem).shape)
    extra = output_padding(*problem)
    check_adjoint(lambda x: conv2d(x, weight, stride=stride, padding=padding),
                  lambda y: conv_transpose2d(y, weight, stride=stride, padding=padding,
                                             output_padding=extra), x, y)
    check_adjoint(lambda weight: conv2d(x, weight, stride=stride, padding=padding),
                  lambda y: conv2d_weight(x, y, kernel=weight.shape[2:], stride=stride,
                                          padding=padding), weight, y)


@given(problems())
def test_equals_pytorch(problem):
    torch = pytest.importorskip("torch")
    x, weight, stride, padding = problem
    ours = conv2d(x, weight, stride=stride, padding=padding)
    theirs = torch.conv2d(torch.tensor(x), torch.tensor(weight), stride=stride, padding=padding)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)
    extra = output_padding(*problem)
    back = conv_transpose2d(ours, weight, stride=stride, padding=padding, output_padding=extra)
    theirs = torch.conv_transpose2d(theirs, torch.tensor(weight), stride=stride, padding=padding,
                                    output_padding=extra)
    np.testing.assert_allclose(back, theirs.numpy(), rtol=1e-12, atol=1e-11)


STRIDES = [(1, 0), (2, 1), ((2, 3), (0, 2))]  # stride, padding


@pytest.mark.parametrize("stride, padding", STRIDES)
def test_gradients_to_second_order(xp, rng, stride, padding):
    x = xp.asarray(rng.standard_normal((2, 3, 6, 7)))
    weight = xp.asarray(rng.standard_normal((4, 3, 3, 2)))
    y = conv2d(x, weight, stride=stride, padding=padding) * 1.1
    place = {"stride": stride, "padding": padding}
    check_grads(lambda x, w: conv2d(x, w, **place), x, weight, order=2)
    check_grads(lambda y, w: conv_transpose2d(y, w, **place), y, weight, order=2)
    check_grads(lambda x, y: conv2d_weight(x, y, kernel=(3, 2), **place), x, y, order=2)


def test_gradients_reach_what_output_padding_adds(rng):
    y, weight = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((3, 2, 3, 3))
    check_grads(lambda y, w: conv_transpose2d(y, w, stride=2, padding=1, output_padding=1),
                y, weight, order=2)


def test_float32_stays_float32(xp, rng):
    x = Tensor(xp.asarray(rng.standard_normal((2, 3, 5, 5), dtype=np.float32)))
    layer = Conv2d(3, 4, 3, rng, padding=1).to(xp)
    out = layer(x)
    gradients = grad(out, [x, *layer.parameters()], out.data)
    assert {g.dtype for g in [out, *gradients]} == {np.dtype(np.float32)}


X, W = np.ones((2, 3, 5, 6)), np.ones((4, 3, 3, 3))


@pytest.mark.parametrize("call, words", [
    (lambda: conv2d(X, np.ones((4, 2, 3, 3))), "3 input channels, but the weight takes 2"),
    (lambda: conv2d(X[0], W), "four axes"),
    (lambda: conv2d(X, np.ones((4, 3, 6, 3))), "kernel of .6, 3. does not fit"),
    (lambda: conv2d(X, W, stride=0), "stride .0, 0. must be positive"),
    (lambda: conv2d(X, W, padding=-1), "padding .* not negative"),
    (lambda: conv_transpose2d(X, W), "3 input channels, but the weight takes 4"),
    (lambda: conv_transpose2d(np.ones((2, 4, 5, 6)), W, stride=2, output_padding=2),
     "below the stride"),
    (lambda: conv_transpose2d(np.ones((2, 4, 1, 1)), W, padding=2), "pad less"),
    (lambda: conv2d_weight(X, np.ones((1, 4, 3, 4)), kernel=(3, 3)), "2 inputs for 1 outputs"),
    (lambda: conv2d_weight(X, np.ones((2, 4, 3, 3)), kernel=(3, 3)), r"outputs of .3, 4. expect")])
def test_what_does_not_fit_is_refused_by_name_and_shapes(call, words):
    with pytest.raises(ValueError, match=rf"^conv\w+\(float64\[.*: .*{words}") as caught:
        call()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------- layers


def test_layers_are_pytorchs(rng):
    torch = pytest.importorskip("torch")
    cases = [(Conv2d(3, 4, (3, 2), rng, stride=2, padding=1),
              torch.nn.Conv2d(3, 4, (3, 2), stride=2, padding=1), (2, 3, 7, 6)),
             (ConvTranspose2d(4, 3, 3, rng, stride=2, padding=1, output_padding=1),
              torch.nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
              (2, 4, 5, 6))]
    for ours, theirs, shape in cases:
        ours.bias.data[:] = rng.standard_normal(ours.bias.shape)
        state = theirs.state_dict()
        assert {name: p.shape for name, p in ours.named_parameters()} == \
            {name: tuple(p.shape) for name, p in state.items()}
        bound = ours.weight.shape[1] * np.prod(ours.weight.shape[2:])
        assert 0.9 * bound ** -0.5 < np.abs(ours.weight.data).max() <= bound ** -0.5
        theirs.load_state_dict({name: torch.tensor(x) for name, x in ours.state_dict().items()})
        x = rng.standard_normal(shape, dtype=np.float32)
        np.testing.assert_allclose(ours(x).data, theirs(torch.tensor(x)).detach().numpy(),
                                   rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make, shape", [
    (lambda rng: Conv2d(2, 3, 3, rng, stride=2, padding=1), (2, 2, 5, 6)),
    (lambda rng: ConvTranspose2d(3, 2, 3, rng, stride=2, bias=False), (2, 3, 3, 4))])
def test_gradients_of_layers(xp, rng, make, shape):
    layer = make(rng)
    arrays = [rng.standard_normal(p.shape) for p in layer.parameters()]
    arrays.append(rng.standard_normal(shape))
    check_grads(functional(layer, layer), *[xp.asarray(a) for a in arrays], order=2)


def test_a_layer_without_bias_has_one_parameter(rng):
    assert [name for name, _ in Conv2d(2, 3, 3, rng, bias=False).named_parameters()] == ["weight"]
