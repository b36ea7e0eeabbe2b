"""The engine: what grad returns, the walk back, first and higher order, fused ops."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scratchgen import backend, ops
from scratchgen.distributions import bernoulli_log_prob
from scratchgen.tensor import OPS, Tensor, fused, grad, no_grad, op, raw, unbroadcast


@pytest.fixture
def registry():
    """Ops made in a test do not stay in the registry."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def make(xp, values, dtype="float64"):
    return Tensor(xp.asarray(np.asarray(values, dtype=dtype)))


def host(x):
    return backend.to_numpy(raw(x))


# --------------------------------------------------------------------- broadcasting undone


@pytest.mark.parametrize("function, by_a, by_b", [
    (ops.add, lambda a, b: 1 + 0 * a + 0 * b, lambda a, b: 1 + 0 * a + 0 * b),
    (ops.multiply, lambda a, b: b + 0 * a, lambda a, b: a + 0 * b),
    (ops.divide, lambda a, b: 1 / b + 0 * a, lambda a, b: -a / b ** 2)])
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
       seed=st.integers(0, 2 ** 32 - 1))
def test_broadcasting_is_undone(xp, function, by_a, by_b, shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = [rng.uniform(0.5, 2, shape) for shape in shapes.input_shapes]
    w = rng.standard_normal(shapes.result_shape)
    ta, tb = make(xp, a), make(xp, b)
    found = grad(function(ta, tb), [ta, tb], xp.asarray(w))
    for x, g, derivative in zip([a, b], found, [by_a(a, b), by_b(a, b)]):
        # Which element of x each element of the result came from, and the sum over those.
        source = np.broadcast_to(np.arange(x.size).reshape(x.shape), w.shape)
        expected = np.bincount(source.ravel(), (w * derivative).ravel(), x.size)
        assert g.shape == x.shape
        np.testing.assert_allclose(host(g).ravel(), expected, rtol=1e-12, atol=1e-12)


@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3),
       seed=st.integers(0, 2 ** 32 - 1))
def test_batches_of_matrices_broadcast(xp, shapes, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shapes.input_shapes[0] + (2, 3))
    b = rng.standard_normal(shapes.input_shapes[1] + (3, 4))
    w = rng.standard_normal(shapes.result_shape + (2, 4))
    ta, tb = make(xp, a), make(xp, b)
    found = grad(ta @ tb, [ta, tb], xp.asarray(w))
    terms = [np.einsum("...ik,...jk->...ij", w, b), np.einsum("...ki,...kj->...ij", a, w)]
    for x, g, term in zip([a, b], found, terms):
        np.testing.assert_allclose(host(g), unbroadcast(term, x.shape), rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------- what grad returns


def test_gradients_come_in_the_order_of_xs_and_shaped_like_them(xp):
    a, b = make(xp, [[1.0], [2.0]]), make(xp, [3.0, 4.0, 5.0])
    by_b, by_a = grad((a * b).sum(), [b, a])
    np.testing.assert_array_equal(host(by_b), [3, 3, 3])
    np.testing.assert_array_equal(host(by_a), [[12], [12]])
    assert type(by_a) is xp.ndarray


def test_one_tensor_gives_one_gradient(xp):
    x = make(xp, [1.0, 2.0])
    np.testing.assert_array_equal(host(grad((x * x).sum(), x)), [2, 4])
    graph = grad((x * x).sum(), x, create_graph=True)
    assert type(graph) is Tensor


def test_unused_input_has_zero_gradient(xp):
    x, unused = make(xp, [1.0, 2.0]), make(xp, np.ones((3, 1)), "float32")
    y = (x * x).sum()
    g = grad(y, [unused, x])[0]
    assert type(g) is xp.ndarray
    assert (g.shape, g.dtype) == ((3, 1), np.float32)
    assert not host(g).any()
    graph = grad(y, [unused], create_graph=True)[0]
    assert type(graph) is Tensor
    assert not graph.numpy().any()


def test_y_itself_and_nodes_in_between_can_be_asked_for(xp):
    x = make(xp, [1.0, 2.0])
    middle = x * x
    y = (middle * 3).sum()
    by_y, by_middle, by_x = grad(y, [y, middle, x])
    assert host(by_y) == 1
    np.testing.assert_array_equal(host(by_middle), [3, 3])
    np.testing.assert_array_equal(host(by_x), [6, 12])


def test_the_same_x_twice_in_xs(xp):
    x = make(xp, 3.0)
    assert [host(g) for g in grad(x * x, [x, x])] == [6, 6]


def test_grad_output_weighs_the_elements(xp):
    x = make(xp, [1.0, 2.0])
    g = grad(x * x, x, xp.asarray(np.array([10.0, -1.0])))
    np.testing.assert_array_equal(host(g), [20, -4])


def test_several_elements_need_a_grad_output(xp):
    x = make(xp, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a grad_output"):
        grad(x * x, x)
    with pytest.raises(ValueError, match=r"grad_output has shape \(3,\), y has \(2,\)"):
        grad(x * x, x, xp.ones(3))


@pytest.mark.parametrize("y, x", [(np.ones(()), Tensor([1.0])), (Tensor([1.0]), [np.ones(1)]),
                                  (2.0, Tensor([1.0])), (Tensor([1.0]), [None])])
def test_grad_takes_tensors_only(y, x):
    with pytest.raises(TypeError, match="grad takes Tensors, not .*: was y computed from xs"):
        grad(y, x)


@pytest.mark.parametrize("function, expected", [
    (lambda x: x * x, 6), (lambda x: x + x, 2), (lambda x: x - x, 0), (lambda x: x / x, 0),
    (lambda x: ops.stack(x, x, x).sum(), 3), (lambda x: (x * x) * x, 27),
    (lambda x: x * (x + x * x), 33)])
def test_a_tensor_used_several_times_adds_up(xp, function, expected):
    x = make(xp, 3.0)
    assert host(grad(function(x), x)) == expected


def test_a_graph_can_be_walked_again(xp, rng):
    x, target = make(xp, rng.standard_normal((3, 4))), xp.asarray(rng.random((3, 4)))
    y = (ops.tanh(x) @ ops.exp(x).T).sum() + bernoulli_log_prob(x, target).sum()
    first = host(grad(y, x)).copy()
    graph = grad(y, x, create_graph=True)
    np.testing.assert_array_equal(host(grad(y, x)), first)
    np.testing.assert_allclose(graph.numpy(), first, rtol=1e-12)
    assert host(grad(graph.sum(), x)).any()


def test_higher_orders(xp):
    x = make(xp, 2.0)
    y = x ** 5
    for expected in [5 * 2 ** 4, 20 * 2 ** 3, 60 * 2 ** 2, 120 * 2, 120]:
        y = grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected, rel=1e-13)
    assert host(grad(y, x)) == 0


def test_gradient_penalty(xp, rng):
    """d/dw of |d f/dx|^2 for f = tanh(w . x): the second order that a GAN's penalty needs."""
    w, x = make(xp, rng.standard_normal(3)), make(xp, rng.standard_normal(3))
    slope = grad(ops.tanh((w * x).sum()), x, create_graph=True)
    found = host(grad((slope * slope).sum(), w))
    a, b = w.numpy(), x.numpy()
    t = np.tanh(a @ b)
    expected = (1 - t * t) ** 2 * (2 * a - 4 * t * (a @ a) * b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --------------------------------------------------------------------------------- the walk


@pytest.fixture
def poison(registry):
    """An op whose rule must never be called."""
    @op
    def poison(x):
        return x * 2

    def rule(g, out, x):
        raise RuntimeError("visited a path that does not lead to xs")

    poison.rules(rule)
    return poison


def test_only_paths_that_lead_to_xs_are_visited(xp, poison):
    x, other = make(xp, [1.0, 2.0]), make(xp, [3.0, 4.0])
    y = (x * poison(other) + poison(other + 1)).sum()
    np.testing.assert_array_equal(host(grad(y, x)), [6, 8])
    with pytest.raises(RuntimeError, match="visited"):
        grad(y, other)


def test_nothing_behind_xs_is_visited(xp, poison):
    other = make(xp, [3.0, 4.0])
    x = poison(other)
    np.testing.assert_array_equal(host(grad((x * x).sum(), x)), [12, 16])


def test_asking_for_an_x_and_what_it_came_from(xp):
    start = make(xp, [3.0, 4.0])
    x = start * 2
    by_x, by_start = grad((x * x).sum(), [x, start])
    np.testing.assert_array_equal(host(by_x), [12, 16])
    np.testing.assert_array_equal(host(by_start), [24, 32])


@pytest.mark.parametrize("length", [20_000, 200_000])
def test_deep_chains(length):
    """No recursion: neither in the walk nor when the graph is given back."""
    x = Tensor(np.array(1.0))
    y = x
    for _ in range(length):
        y = y + x
    assert grad(y, x) == length + 1
    made = x.index
    del y
    gc.collect()
    alive = [node for node in gc.get_objects() if type(node) is Tensor and node.index > made]
    assert len(alive) == 0


def test_deep_chain_as_a_graph(xp):
    x = make(xp, 1.0)
    y = x
    for _ in range(2_000):
        y = y * x
    first = grad(y, x, create_graph=True)
    assert first.item() == 2001
    assert host(grad(first, x)) == 2001 * 2000


def test_wide_sharing_is_walked_once_per_node():
    """y = 2^60 x by 60 doublings: a walk over paths instead of nodes would never end."""
    x = Tensor(np.array(1.0))
    y = x
    for _ in range(60):
        y = y + y
    assert grad(y, x) == 2.0 ** 60


def tensors_made(function):
    """How many Tensors `function` makes: every Tensor takes the next running number."""
    before = Tensor(np.zeros(1)).index
    function()
    return Tensor(np.zeros(1)).index - before - 1


def test_first_order_makes_not_one_tensor(xp, rng):
    x, w = make(xp, rng.standard_normal((3, 4))), make(xp, rng.standard_normal((4, 2)))
    y = bernoulli_log_prob(ops.softplus(x) @ w, xp.ones((3, 2))).sum()
    assert tensors_made(lambda: grad(y, [x, w])) == 0
    assert tensors_made(lambda: grad(y, [x, w], create_graph=True)) > 5


# ----------------------------------------------------------------------------------- no_grad


def test_no_grad_computes_and_remembers_nothing(xp):
    x = make(xp, [1.0, 2.0])
    with no_grad():
        y = x * x
    assert type(y) is Tensor
    assert y.op is None and len(y.parents) == 0
    np.testing.assert_array_equal(y.numpy(), [1, 4])
    assert not host(grad(y.sum(), x)).any()
    assert host(grad((x * x).sum(), x)).any()


def test_no_grad_nests_and_ends_with_an_exception(xp):
    x = make(xp, [1.0])
    with no_grad():
        with no_grad():
            pass
        assert (x * x).op is None
    with pytest.raises(KeyError):
        with no_grad():
            raise KeyError
    assert (x * x).op is ops.multiply


# ------------------------------------------------------------------------------ wrong rules


def test_op_without_rules_is_refused_by_name(xp, registry):
    @op
    def ruleless(x):
        return x * 1
    y = ruleless(make(xp, [1.0], "float32"))
    with pytest.raises(NotImplementedError, match="ruleless has no gradient rule for argument 0"):
        x = make(xp, [1.0], "float32")
        grad(ruleless(x), x)
    assert host(y) == 1


def test_argument_without_a_rule_is_refused_by_name(xp, registry):
    @op
    def half_ruled(x, y):
        return x * y
    half_ruled.rules(lambda g, out, x, y: g * y, None)
    x, y = make(xp, [1.0], "float32"), make(xp, [1.0], "float32")
    assert host(grad(half_ruled(x, y), x)) == 1
    with pytest.raises(NotImplementedError, match="half_ruled has no gradient rule for argument 1"):
        grad(half_ruled(x, y), y)


def test_rule_of_the_wrong_shape_or_dtype_is_refused_by_name(xp, registry):
    @op
    def crooked(x):
        return x * 1
    x = make(xp, np.ones((2, 3)), "float32")
    for rule in [lambda g, out, x: g[0], lambda g, out, x: g.astype("float64"),
                 lambda g, out, x: g[None]]:
        crooked.rules(rule)
        with pytest.raises(AssertionError, match="crooked: the gradient of argument 0 is float"):
            grad(crooked(x).sum(), x)


# ------------------------------------------------------------------------------- fused ops


@pytest.fixture
def doubled(registry):
    """A fused op, a * b + a, that counts how it is used."""
    calls = {"twin": 0, "needed": []}

    def twin(a, b):
        calls["twin"] += 1
        return a * b + a

    @fused(twin=twin)
    def doubled(a, b):
        return a * b + a, (a, b)

    @doubled.joint_rule
    def rule(g, out, saved, needed):
        a, b = saved
        calls["needed"].append(needed)
        return [g * (b + 1) if needed[0] else None, g * a if needed[1] else None]

    return doubled, calls


def test_fused_op_uses_its_joint_rule_once(xp, doubled):
    f, calls = doubled
    a, b = make(xp, [2.0, 3.0]), make(xp, [5.0, 7.0])
    by_a, by_b = grad(f(a, b).sum(), [a, b])
    np.testing.assert_array_equal(host(by_a), [6, 8])
    np.testing.assert_array_equal(host(by_b), [2, 3])
    assert calls == {"twin": 0, "needed": [[True, True]]}


def test_fused_op_is_told_what_is_needed(xp, doubled):
    f, calls = doubled
    a, b = make(xp, [2.0, 3.0]), make(xp, [5.0, 7.0])
    grad(f(a, b).sum(), a)
    grad(f(a.data, b).sum(), b)
    assert calls["needed"] == [[True, False], [False, True]]


def test_fused_op_goes_through_its_twin_for_a_graph(xp, doubled):
    f, calls = doubled
    a, b = make(xp, [2.0, 3.0]), make(xp, [5.0, 7.0])
    by_a, by_b = grad((f(a, b) * f(a, b)).sum(), [a, b], create_graph=True)
    assert calls["twin"] == 2 and not calls["needed"]
    np.testing.assert_array_equal(by_a.numpy(), 2 * a.numpy() * (b.numpy() + 1) ** 2)
    np.testing.assert_array_equal(host(grad(by_a.sum(), a)), 2 * (b.numpy() + 1) ** 2)
    np.testing.assert_array_equal(host(grad(by_b.sum(), a)), 4 * a.numpy() * (b.numpy() + 1))
    plain = f(a, b.data)
    np.testing.assert_array_equal(grad(plain.sum(), a, create_graph=True).numpy(), b.numpy() + 1)


def test_arguments_that_depend_on_each_other_are_not_counted_twice(xp, doubled):
    f, _ = doubled
    a = make(xp, [2.0, 3.0])
    for second in (a, a * 5, a + 0):
        y = f(a, second).sum()
        plain, graph = grad(y, a), grad(y, a, create_graph=True)
        np.testing.assert_array_equal(graph.numpy(), host(plain))
    np.testing.assert_array_equal(host(grad(f(a, a).sum(), a)), [5, 7])


def test_fused_op_on_arrays_returns_the_array_alone(xp, doubled):
    out = doubled[0](xp.ones(2), xp.ones(2))
    assert type(out) is xp.ndarray
    np.testing.assert_array_equal(host(out), [2, 2])


def test_joint_rule_of_the_wrong_shape_is_refused_by_name(xp, doubled):
    f, _ = doubled
    f.joint_rule(lambda g, out, saved, needed: [g[:1], None])
    a = make(xp, [2.0, 3.0])
    with pytest.raises(AssertionError, match="doubled: the gradient of argument 0 is float64"):
        grad(f(a, xp.ones(2)).sum(), a)
