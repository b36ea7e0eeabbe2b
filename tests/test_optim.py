"""Optimisers against textbook loops and PyTorch; in place, in float32, to the same bits resumed."""

import tracemalloc

import numpy as np
import pytest

from scratchgen import backend, optim
from scratchgen.optim import OPTIMIZERS, SGD, Adam, RMSProp, clip_grad_norm
from scratchgen.tensor import Tensor, grad

STEPS = 20
SHAPES = [(3,), (), (7, 11), (2 * 65536 + 17,), (300, 500)]  # smaller and larger than a piece


def sgd(p, gradients, lr, momentum):
    velocity = 0
    for g in gradients:
        velocity = momentum * velocity + g
        p = p - lr * velocity
    return p


def rmsprop(p, gradients, lr, alpha, eps):
    square = 0
    for g in gradients:
        square = alpha * square + (1 - alpha) * g ** 2
        p = p - lr * g / (np.sqrt(square) + eps)
    return p


def adam(p, gradients, lr, betas, eps):
    m = v = 0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g ** 2
        m_hat = m / (1 - betas[0] ** t)
        v_hat = v / (1 - betas[1] ** t)
        p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p


TEXTBOOKS = [
    (SGD, sgd, {"lr": 0.1, "momentum": 0.0}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (RMSProp, rmsprop, {"lr": 0.02, "alpha": 0.9, "eps": 1e-3}),
    (Adam, adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3})]
NAMES = ["sgd", "momentum", "rmsprop", "adam"]
DEFAULTS = [
    (SGD, sgd, {"lr": 0.01, "momentum": 0.0}),
    (RMSProp, rmsprop, {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}),
    (Adam, adam, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8})]


def problem(rng, shape, dtype="float64"):
    """A start and the gradients of all steps."""
    return (rng.standard_normal(shape).astype(dtype),
            [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)])


def device(xp, array):
    return xp.asarray(np.array(array))


def run(optimizer, gradients):
    for step in gradients:
        optimizer.step(step)
    return [backend.to_numpy(p.data) for p in optimizer.parameters]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind, textbook, options", TEXTBOOKS, ids=NAMES)
def test_equals_the_textbook(xp, rng, kind, textbook, options, shape):
    start, gradients = problem(rng, shape)
    found, = run(kind([Tensor(device(xp, start))], **options),
                 [[device(xp, g)] for g in gradients])
    np.testing.assert_allclose(found, textbook(start, gradients, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind, textbook, options", DEFAULTS, ids=["sgd", "rmsprop", "adam"])
def test_defaults(rng, kind, textbook, options):
    start, gradients = problem(rng, (3,))
    found, = run(kind([Tensor(start.copy())]), [[g] for g in gradients])
    np.testing.assert_allclose(found, textbook(start, gradients, **options), rtol=1e-12)


@pytest.mark.parametrize("kind, options", [(kind, options) for kind, _, options in TEXTBOOKS],
                         ids=NAMES)
def test_equals_pytorch(rng, kind, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no peer to compare with")
    start, gradients = problem(rng, (7, 11))
    theirs = torch.nn.Parameter(torch.tensor(start))
    name = {SGD: "SGD", RMSProp: "RMSprop", Adam: "Adam"}[kind]
    optimizer = getattr(torch.optim, name)([theirs], **options)
    for g in gradients:
        theirs.grad = torch.tensor(g)
        optimizer.step()
    ours, = run(kind([Tensor(start.copy())], **options), [[g] for g in gradients])
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_several_parameters_each_get_their_gradient(xp, rng):
    starts = [rng.standard_normal(shape) for shape in [(2, 3), (4,), (2, 3)]]
    gradients = [[rng.standard_normal(start.shape) for start in starts] for _ in range(STEPS)]
    options = TEXTBOOKS[-1][2]
    found = run(Adam([Tensor(device(xp, start)) for start in starts], **options),
                [[device(xp, g) for g in step] for step in gradients])
    for i, start in enumerate(starts):
        np.testing.assert_allclose(found[i], adam(start, [g[i] for g in gradients], **options),
                                   rtol=1e-12)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_in_place_and_in_float32(xp, rng, kind):
    start, gradients = problem(rng, (300, 500), "float32")
    parameter = Tensor(device(xp, start))
    buffer = parameter.data
    optimizer = kind([parameter])
    given = device(xp, gradients[0])
    optimizer.step([given])
    assert parameter.data is buffer
    assert buffer.dtype == np.float32
    assert (backend.to_numpy(buffer) != start).all()
    np.testing.assert_array_equal(backend.to_numpy(given), gradients[0])
    arrays = [array for arrays in optimizer.state.values() for array in arrays]
    scratch = [array for pair in optimizer._scratch.values() for array in pair]
    assert {array.dtype for array in [*arrays, *scratch]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_float32_follows_the_textbook(rng, kind):
    textbook, options = {k: (textbook, options) for k, textbook, options in DEFAULTS}[kind]
    start, gradients = problem(rng, (1000,), "float32")
    found, = run(kind([Tensor(start.copy())]), [[g] for g in gradients])
    expected = textbook(start.astype("float64"), [g.astype("float64") for g in gradients],
                        **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_no_temporaries_the_size_of_a_parameter(rng, kind):
    parameter = Tensor(np.zeros(2_000_000, np.float32))
    g = np.ones(2_000_000, np.float32)
    optimizer = kind([parameter])
    tracemalloc.start()
    optimizer.step([g])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 65536 * 4  # two scratch buffers of a piece, and as much again for NumPy


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_gradients_that_are_views_or_shared(xp, kind):
    """What grad returns for a sum: one number, broadcast, and the same array for both."""
    a, b = Tensor(xp.ones((2, 3))), Tensor(xp.ones((2, 3)))
    optimizer = kind([a, b])
    for _ in range(3):
        optimizer.step(grad((a + b).sum(), [a, b]))
    alone = Tensor(xp.ones((2, 3)))
    single = kind([alone])
    for _ in range(3):
        single.step([xp.ones((2, 3))])
    for p in (a, b):
        np.testing.assert_array_equal(p.numpy(), alone.numpy())


# -------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("kind, options", [(kind, options) for kind, _, options in TEXTBOOKS],
                         ids=NAMES)
def test_resumed_to_the_same_bits(xp, rng, kind, options):
    starts = [rng.standard_normal(shape).astype("float32") for shape in [(3, 4), (70_000,), ()]]
    gradients = [[device(xp, rng.standard_normal(s.shape).astype("float32")) for s in starts]
                 for _ in range(STEPS)]
    whole = run(kind([Tensor(device(xp, s)) for s in starts], **options), gradients)
    first = kind([Tensor(device(xp, s)) for s in starts], **options)
    halfway = run(first, gradients[:7])
    state = first.state_dict()
    assert all(type(value) is np.ndarray for value in state.values())
    second = kind([Tensor(device(xp, s)) for s in halfway], **options)
    second.load_state_dict(state)
    for a, b in zip(run(second, gradients[7:]), whole):
        np.testing.assert_array_equal(a, b)


def test_state_is_a_copy(rng):
    optimizer = Adam([Tensor(rng.standard_normal(3))])
    optimizer.step([np.ones(3)])
    state = optimizer.state_dict()
    assert state.keys() == {"steps", "m.0", "v.0"}
    before = {name: value.copy() for name, value in state.items()}
    optimizer.step([np.ones(3)])
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)
    other = Adam([Tensor(rng.standard_normal(3))])
    other.load_state_dict(state)
    other.step([np.ones(3)])
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("spoil", [lambda state: state.pop("v.0"),
                                   lambda state: state.update({"v.0": np.zeros(1)})])
def test_another_state_is_refused_and_changes_nothing(spoil):
    optimizer = Adam([Tensor(np.zeros(3))])
    optimizer.step([np.ones(3)])
    state = optimizer.state_dict()
    state["m.0"] = state["m.0"] + 1
    spoil(state)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"another optimiser's state: v.0 of shape \(3,\)"):
        optimizer.load_state_dict(state)
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan")])
@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_learning_rate_is_positive(kind, lr):
    with pytest.raises(ValueError, match="the learning rate must be positive, not"):
        kind([Tensor([1.0])], lr=lr)


def test_one_gradient_for_each_parameter():
    with pytest.raises(ValueError, match="1 gradients for 2 parameters"):
        SGD([Tensor([1.0]), Tensor([2.0])]).step([np.ones(1)])


def test_parameter_that_cannot_be_updated_in_place_is_refused(xp):
    turned = Tensor(xp.ones((2, 3)).T)
    with pytest.raises(ValueError, match="parameter 1 is not contiguous"):
        SGD([Tensor(xp.ones(2)), turned])


def test_names():
    assert OPTIMIZERS == {"sgd": SGD, "rmsprop": RMSProp, "adam": Adam}
    assert optim._PIECE < max(np.prod(shape) for shape in SHAPES)


# -------------------------------------------------------------------------------- clipping


def test_clipping_scales_to_the_norm(xp):
    grads = [device(xp, np.array(values, "float32")) for values in ([3.0, 0.0], [[4.0]])]
    assert clip_grad_norm(grads, 1.0) == pytest.approx(5)
    for g, expected in zip(grads, ([0.6, 0], [[0.8]])):
        assert g.dtype == np.float32
        np.testing.assert_allclose(backend.to_numpy(g), expected, rtol=1e-6)
    assert clip_grad_norm(grads, 1.0) == pytest.approx(1)


def test_clipping_leaves_small_gradients_alone(xp):
    grads = [device(xp, np.array([3.0, 4.0]))]
    before = grads[0]
    for largest in (5.0, 100.0):
        assert clip_grad_norm(grads, largest) == 5.0
        assert grads[0] is before


def test_clipping_views_and_shared_gradients(xp):
    a, b = Tensor(xp.ones(8)), Tensor(xp.ones(8))
    grads = grad((a + b).sum(), [a, b])
    assert clip_grad_norm(grads, 1.0) == 4.0
    for g in grads:
        np.testing.assert_array_equal(backend.to_numpy(g), [0.25] * 8)


def test_clipping_does_not_overflow_in_float32(xp):
    grads = [device(xp, np.array([1e20, 1e20], "float32"))]
    assert clip_grad_norm(grads, 1.0) == pytest.approx(2 ** 0.5 * 1e20, rel=1e-6)
    np.testing.assert_allclose(backend.to_numpy(grads[0]), 0.5 ** 0.5, rtol=1e-6)
