"""Modules: names, order, state, moving; the linear layer; the variances of initial weights."""

import numpy as np
import pytest

from scratchgen import backend, nn, ops
from scratchgen.nn import init
from scratchgen.tensor import Tensor, grad


class Inner(nn.Module):
    def __init__(self):
        self.second = Tensor([1.0, 2.0])
        self.first = Tensor([[3.0]])


class Outer(nn.Module):
    """Parameters before, inside and after a module, a list, and things that are none."""

    def __init__(self):
        self.scale = Tensor([1.0])
        self.number = 3
        self.inner = Inner()
        self.blocks = [Inner(), ops.tanh, Inner()]
        self.array = np.ones(2)
        self.bias = Tensor([0.0])


NAMES = ["scale", "inner.second", "inner.first", "blocks.0.second", "blocks.0.first",
         "blocks.2.second", "blocks.2.first", "bias"]


def test_parameters_in_definition_order_with_their_paths():
    model = Outer()
    assert [name for name, _ in model.named_parameters()] == NAMES
    expected = [model.scale, model.inner.second, model.inner.first, model.blocks[0].second,
                model.blocks[0].first, model.blocks[2].second, model.blocks[2].first, model.bias]
    assert all(a is b for a, b in zip(model.parameters(), expected, strict=True))
    assert list(model.state_dict()) == NAMES


def test_state_round_trip(xp):
    model, other = Outer().to(xp), Outer().to(xp)
    for i, p in enumerate(model.parameters()):
        p.data[...] = float(i)
    buffers = [p.data for p in other.parameters()]
    state = model.state_dict()
    assert all(type(value) is np.ndarray for value in state.values())
    other.load_state_dict(state)
    for i, (p, buffer) in enumerate(zip(other.parameters(), buffers)):
        assert p.data is buffer
        assert (p.numpy() == i).all()


def test_state_is_a_copy_both_ways():
    model = Outer()
    state = model.state_dict()
    model.scale.data[...] = 5
    assert state["scale"] == 1
    model.load_state_dict(state)
    state["scale"][...] = 7
    assert model.scale.data == 1


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("bias"), r"missing \['bias'\], unknown \[\]"),
    (lambda s: s.update(extra=np.zeros(1)), r"missing \[\], unknown \['extra'\]"),
    (lambda s: s.update(bias=np.zeros(2, np.float32)),
     r"parameter bias is float32\[1\], not float32\[2\]"),
    (lambda s: s.update(bias=np.zeros(1)), r"parameter bias is float32\[1\], not float64\[1\]"),
    (lambda s: s.update({"inner.first": np.zeros(1, np.float32)}),
     r"parameter inner.first is float32\[1, 1\], not float32\[1\]")])
def test_another_state_is_refused_and_changes_nothing(change, message):
    model = Outer()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    before = model.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_moved_to_a_module_and_a_precision_and_back(xp):
    model = Outer()
    parameters = model.parameters()
    assert model.to(xp, "float64") is model
    for p, own in zip(model.parameters(), parameters, strict=True):
        assert p is own
        assert type(p.data) is xp.ndarray
        assert p.dtype == np.float64
    model.to(dtype="float32")
    assert all(type(p.data) is xp.ndarray and p.dtype == np.float32 for p in model.parameters())
    model.to(np)
    assert all(type(p.data) is np.ndarray and p.dtype == np.float32 for p in model.parameters())
    assert model.inner.first.data == 3


def test_moving_never_shares_memory_with_the_old_array():
    model = Outer()
    before = model.scale.data
    model.to(np, "float32")
    before[...] = 9
    assert model.scale.data == 1


class Masked(nn.Module):
    constants = ("mask", "several")

    def __init__(self):
        self.mask = np.array([1.0, 0.0], np.float32)
        self.several = [np.zeros(1, np.float32), np.ones(2, np.float32)]
        self.weight = Tensor([1.0, 2.0])


def test_constants_move_along_and_are_not_in_the_state(xp):
    model = nn.Sequential(Masked())
    assert list(model.state_dict()) == ["layers.0.weight"]
    model.to(xp, "float64")
    masked = model.layers[0]
    for array in [masked.mask, *masked.several]:
        assert type(array) is xp.ndarray
        assert array.dtype == np.float64
    np.testing.assert_array_equal(backend.to_numpy(masked.mask), [1, 0])


def test_all_modules_are_found():
    model = Outer()
    assert list(model.modules()) == [model, model.inner, model.blocks[0], model.blocks[2]]


# ----------------------------------------------------------------------------------- layers


def test_linear(xp, rng):
    layer = nn.Linear(3, 4, rng).to(xp, "float64")
    layer.bias.data[...] = xp.asarray(rng.standard_normal(4))
    x = rng.standard_normal((2, 5, 3))
    expected = x @ layer.weight.numpy().T + layer.bias.numpy()
    assert expected.shape == (2, 5, 4)
    np.testing.assert_allclose(layer(Tensor(xp.asarray(x))).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(layer(xp.asarray(x)).numpy(), expected, rtol=1e-12)


def test_linear_starts_in_float32_with_zero_bias(rng):
    layer = nn.Linear(3, 4, rng)
    assert (layer.weight.shape, layer.bias.shape) == ((4, 3), (4,))
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert not layer.bias.data.any()


def test_linear_draws_from_the_generator_given():
    weights = [nn.Linear(3, 4, np.random.default_rng(seed)).weight.data for seed in (1, 1, 2)]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).all()


def test_linear_names_the_mistake(rng):
    with pytest.raises(ValueError, match="linear.*: rows of 2 do not fit a weight for 3"):
        nn.Linear(3, 4, rng)(np.ones((5, 2), np.float32))


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_mlp(xp, rng, activation):
    model = nn.mlp([3, 5, 4, 2], rng, activation).to(xp)
    assert [p.shape for p in model.parameters()] == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
    x = rng.standard_normal((7, 3)).astype("float32")
    h = x
    for i in (0, 2, 4):
        layer = model.layers[i]
        h = h @ layer.weight.numpy().T + layer.bias.numpy()
        if i < 4:  # nothing after the last layer
            h = backend.to_numpy(nn.ACTIVATIONS[activation](h))
    np.testing.assert_allclose(model(xp.asarray(x)).numpy(), h, rtol=1e-5, atol=1e-6)


def test_sequential_applies_modules_and_functions_in_order(rng):
    first = nn.Linear(2, 2, rng)
    model = nn.Sequential(first, lambda x: x * 10, lambda x: x + 1)
    x = np.ones((1, 2), np.float32)
    np.testing.assert_allclose(model(x).data, first(x).data * 10 + 1)
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "layers.0.bias"]


def test_gradients_of_all_parameters(rng):
    model = nn.mlp([3, 5, 2], rng)
    grads = grad(model(rng.standard_normal((4, 3)).astype("float32")).sum(), model.parameters())
    assert [g.shape for g in grads] == [p.shape for p in model.parameters()]
    assert all(g.any() for g in grads)


# --------------------------------------------------------------------------- initial weights


def test_fans():
    assert init.fans((5, 3)) == (3, 5)
    assert init.fans((8, 4, 3, 5)) == (60, 120)


@pytest.mark.parametrize("shape", [(300, 200), (40, 30, 5, 7)])
@pytest.mark.parametrize("draw, variance, bound", [
    (init.torch_default, lambda i, o: 1 / (3 * i), lambda i, o: i ** -0.5),
    (init.xavier_uniform, lambda i, o: 2 / (i + o), lambda i, o: (6 / (i + o)) ** 0.5),
    (lambda s, rng: init.xavier_uniform(s, rng, gain=2.0), lambda i, o: 8 / (i + o),
     lambda i, o: 2 * (6 / (i + o)) ** 0.5),
    (init.kaiming_normal, lambda i, o: 2 / i, None),
    (lambda s, rng: init.normal(s, rng, 0.02), lambda i, o: 4e-4, None),
    (lambda s, rng: init.uniform(s, rng, 0.3), lambda i, o: 0.03, lambda i, o: 0.3)])
def test_initial_weights(rng, shape, draw, variance, bound):
    """Mean and variance within five standard errors; uniform ones fill their bounds."""
    weights = draw(shape, rng)
    assert (weights.shape, weights.dtype) == (shape, np.float32)
    fans = init.fans(shape)
    expected, n = variance(*fans), weights.size
    values = weights.astype("float64")
    assert abs(values.mean()) < 5 * (expected / n) ** 0.5
    fourth = 9 / 5 if bound else 3  # kurtosis of the uniform, of the Gaussian
    assert abs((values ** 2).mean() / expected - 1) < 5 * ((fourth - 1) / n) ** 0.5
    if bound:
        largest = np.abs(values).max()
        assert 0.999 * bound(*fans) < largest <= bound(*fans) * (1 + 1e-6)
