"""Batch norm: its equation, fused against twin and PyTorch, which statistics, what is saved."""

import numpy as np
import pytest

from scratchgen import backend, nn
from scratchgen.check import check_grads
from scratchgen.nn.norm import BatchNorm, batch_norm
from scratchgen.tensor import Tensor, grad

SHAPES = pytest.mark.parametrize("shape", [(7, 3), (4, 3, 2, 5)], ids=["rows", "maps"])
MESSAGES = {"axes": r"batch norm takes \(N, C\) or \(N, C, H, W\), not shape \(2, 3, 4\)",
            "features": "4 features do not fit a batch norm for 3"}


def arrays(shape, rng, xp=np):
    c = shape[1]
    spread = np.linspace(0.5, 3, c).reshape((-1,) + (1,) * (len(shape) - 2))
    return [xp.asarray(array) for array in
            (rng.standard_normal(shape) * spread + 2, rng.standard_normal(c),
             rng.standard_normal(c))]


def moved_layer(xp=np, features=3, dtype=np.float64, **options):
    """A layer of which every number is its own."""
    layer = BatchNorm(features, **options)
    for i, name in enumerate(["weight", "bias"]):
        getattr(layer, name).data[...] = np.arange(features) + i + 0.5
    layer.running_mean[...] = np.arange(features) - 0.5
    layer.running_var[...] = np.arange(features) + 0.25
    return layer.to(xp, dtype)


def test_by_hand():
    x = np.array([[1.0, 10.0], [3.0, 40.0], [5.0, 40.0]])
    out = batch_norm(x, np.array([2.0, 3.0]), np.array([0.5, -1.0]), eps=0.0)
    root = 1.5 ** 0.5  # of 24/9 is 2 / root; of 200 it is 10 sqrt(2)
    expected = [[0.5 - 2 * root, -1 - 3 * 2 ** 0.5], [0.5, -1 + 1.5 * 2 ** 0.5],
                [0.5 + 2 * root, -1 + 1.5 * 2 ** 0.5]]
    np.testing.assert_allclose(out, expected, rtol=1e-14)


@SHAPES
def test_fused_equals_twin(xp, rng, shape):
    values = arrays(shape, rng, xp)
    g = xp.asarray(rng.standard_normal(shape))
    results = []
    for function in (batch_norm, batch_norm.twin):
        tensors = [Tensor(value) for value in values]
        out = function(*tensors, eps=0.1)
        results.append([out.data, *grad(out, tensors, g)])
        for a, b in zip(results[-1][1:], grad(out, tensors, g)):  # the graph survives
            assert np.array_equal(backend.to_numpy(a), backend.to_numpy(b))
    for a, b in zip(*results):
        np.testing.assert_allclose(backend.to_numpy(a), backend.to_numpy(b), rtol=1e-12,
                                   atol=1e-13)


@SHAPES
def test_gradients_to_the_second_order(xp, rng, shape):
    check_grads(batch_norm, *arrays(shape, rng, xp), order=2)


@SHAPES
def test_each_gradient_alone(rng, shape):
    values = arrays(shape, rng)
    g = rng.standard_normal(shape)
    tensors = [Tensor(value) for value in values]
    together = grad(batch_norm(*tensors), tensors, g)
    for i, expected in enumerate(together):
        inputs = [tensors[j] if j == i else values[j] for j in range(3)]
        np.testing.assert_array_equal(grad(batch_norm(*inputs), inputs[i], g), expected)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("float64", 1e-11)])
@SHAPES
def test_equals_pytorch(rng, shape, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no peer to compare to")
    layer = BatchNorm(3, momentum=0.3, eps=0.02)
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    peer = kind(3, momentum=0.3, eps=0.02)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.data[...] = rng.standard_normal(3)
            getattr(peer, name).copy_(torch.from_numpy(parameter.data))
    layer.to(dtype=dtype)
    peer.to(getattr(torch, dtype))
    for statistics in ["move", "move", "running"]:
        peer.train(statistics == "move")
        x, g = [rng.standard_normal(shape).astype(dtype) * 2 + 1 for _ in range(2)]
        theirs = torch.from_numpy(x).requires_grad_()
        peer.zero_grad()
        expected = peer(theirs)
        expected.backward(torch.from_numpy(g))
        own = Tensor(x)
        out = layer(own, statistics)
        pairs = [(out.data, expected.detach()), (layer.running_mean, peer.running_mean),
                 (layer.running_var, peer.running_var)]
        pairs += zip(grad(out, [own, layer.weight, layer.bias], g),
                     [theirs.grad, peer.weight.grad, peer.bias.grad])
        for a, b in pairs:
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b.numpy(), rtol=tolerance, atol=tolerance)


@SHAPES
def test_defaults_are_pytorchs(shape):
    layer = BatchNorm(3)
    assert (layer.momentum, layer.eps) == (0.1, 1e-5)
    x = np.zeros(shape, np.float32)
    x[:] = np.float32(0.001) * np.arange(len(x)).reshape((-1,) + (1,) * (len(shape) - 1))
    variance = x.astype(np.float64).var()
    out = layer(x, "batch").data.astype(np.float64)
    assert out.var() == pytest.approx(variance / (variance + 1e-5), rel=1e-4)


# ------------------------------------------------------------------------ which statistics


@SHAPES
def test_running_statistics_move_only_when_told(xp, rng, shape):
    layer = moved_layer(xp)
    x = arrays(shape, rng, xp)[0]
    before = layer.state_dict()
    layer(x)
    layer(x, "running")
    layer(x, "batch")
    for name, array in layer.state_dict().items():
        assert array.tobytes() == before[name].tobytes()
    layer(Tensor(x), "move")
    axes = (0, *range(2, len(shape)))
    host = backend.to_numpy(x)
    after = layer.state_dict()
    np.testing.assert_allclose(
        after["running_mean"], 0.9 * before["running_mean"] + 0.1 * host.mean(axis=axes))
    np.testing.assert_allclose(
        after["running_var"], 0.9 * before["running_var"] + 0.1 * host.var(axis=axes, ddof=1))
    for name in ["weight", "bias"]:
        assert after[name].tobytes() == before[name].tobytes()


def test_a_gradient_of_any_order_does_not_move_them_again(rng):
    layer = moved_layer()
    x = Tensor(rng.standard_normal((5, 3)))
    out = layer(x, "move")
    before = layer.state_dict()
    (slope,) = grad((out * out * out).sum(), [x], create_graph=True)
    grad((slope * slope).sum(), x)
    for name, array in layer.state_dict().items():
        assert array.tobytes() == before[name].tobytes()


def test_running_statistics_by_hand(xp, rng):
    layer = moved_layer(xp, eps=0.5)
    x = rng.standard_normal((2, 3))
    state = layer.state_dict()
    expected = ((x - state["running_mean"]) / np.sqrt(state["running_var"] + 0.5)
                * state["weight"] + state["bias"])
    np.testing.assert_allclose(layer(xp.asarray(x)).numpy(), expected, rtol=1e-13)


@SHAPES
def test_with_running_statistics_no_example_sees_another(xp, rng, shape):
    layer = moved_layer(xp, dtype=np.float32)
    x = xp.asarray(rng.standard_normal(shape).astype(np.float32))
    together = layer(x).numpy()
    for i in range(len(x)):
        np.testing.assert_array_equal(layer(x[i:i + 1]).numpy()[0], together[i])
    assert abs(layer(x[:2], "batch").numpy() - layer(x, "batch").numpy()[:2]).max() > 0.1


@pytest.mark.parametrize("statistics", ["running", "batch", "move"])
def test_float32_stays_float32(xp, rng, statistics):
    layer = moved_layer(xp, dtype=np.float32)
    x = Tensor(xp.asarray(rng.standard_normal((4, 3)).astype(np.float32)))
    out = layer(x, statistics)
    arrays = [out, layer.running_mean, layer.running_var,
              *grad(out.sum(), [x, *layer.parameters()])]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


# ------------------------------------------------------------------------- saved and moved


class Pair(nn.Module):
    def __init__(self):
        self.first = moved_layer(features=2, dtype=np.float32)
        self.rest = [nn.Linear(2, 3, np.random.default_rng(0)), moved_layer(dtype=np.float32)]


NAMES = ["first.weight", "first.bias", "first.running_mean", "first.running_var",
         "rest.0.weight", "rest.0.bias", "rest.1.weight", "rest.1.bias", "rest.1.running_mean",
         "rest.1.running_var"]


def test_running_statistics_are_saved_but_not_trained():
    model = Pair()
    assert list(model.state_dict()) == NAMES
    assert [name for name, _ in model.named_parameters()] == [
        name for name in NAMES if "running" not in name]


def test_state_round_trip(xp, rng):
    model, other = Pair().to(xp), Pair().to(xp)
    x = xp.asarray(rng.standard_normal((4, 2)).astype(np.float32))
    model.first(x, "move")
    state = model.state_dict()
    assert all(type(array) is np.ndarray for array in state.values())
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.first(x).numpy(), model.first(x).numpy())
    model.first(x, "move")  # neither the saved state nor the other model share memory with it
    for name, array in other.state_dict().items():
        assert array.tobytes() == state[name].tobytes()
    assert (state["first.running_mean"] != model.state_dict()["first.running_mean"]).all()


def test_moved_to_a_module_and_a_precision(xp):
    model = Pair().to(xp, "float64")
    for array in [model.first.running_mean, model.rest[1].running_var]:
        assert type(array) is xp.ndarray
        assert array.dtype == np.float64
    np.testing.assert_array_equal(backend.to_numpy(model.rest[1].running_var), [0.25, 1.25, 2.25])


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("first.running_var"), r"missing \['first.running_var'\], unknown \[\]"),
    (lambda s: s.update({"first.running_mean": np.zeros(3, np.float32)}),
     r"first.running_mean is float32\[2\], not float32\[3\]")])
def test_another_state_is_refused_and_changes_nothing(change, message):
    model = Pair()
    state = {name: array + 1 for name, array in model.state_dict().items()}
    before = model.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
    for name, array in model.state_dict().items():
        assert array.tobytes() == before[name].tobytes()


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("options", [{"momentum": 0}, {"momentum": 1.5}, {"eps": 0.0},
                                     {"momentum": float("nan")}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"^momentum must lie in \(0, 1\] and eps be positive, "
                                         "not [^\n]*$"):
        BatchNorm(3, **options)


@pytest.mark.parametrize("statistics", ["running", "batch", "move"])
@pytest.mark.parametrize("shape, message", [
    ((2, 3, 4), MESSAGES["axes"]), ((3,), r"not shape \(3,\)"), ((2, 4), MESSAGES["features"]),
    ((2, 4, 3, 3), MESSAGES["features"])])
def test_bad_shapes_are_refused(statistics, shape, message):
    layer = BatchNorm(3)
    with pytest.raises(ValueError, match=message):
        layer(np.ones(shape, np.float32), statistics)


def test_one_number_has_no_variance():
    layer = BatchNorm(3)
    with pytest.raises(ValueError, match="batch statistics need two or more examples"):
        layer(np.ones((1, 3), np.float32), "move")
    assert (layer.running_mean == 0).all()
    assert layer(np.ones((1, 3, 1, 2), np.float32), "batch").shape == (1, 3, 1, 2)


def test_unknown_statistics():
    with pytest.raises(ValueError, match="^statistics 'eval': choose one of running, batch, move$"):
        BatchNorm(3)(np.ones((2, 3), np.float32), "eval")
