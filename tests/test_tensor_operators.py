"""The Tensor as a user meets it: operators, indices, what is refused at the call."""

import operator
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scratchgen import backend, ops
from scratchgen.distributions import bernoulli_log_prob
from scratchgen.tensor import Tensor, grad, raw


def make(xp, values, dtype="float64"):
    return Tensor(xp.asarray(np.asarray(values, dtype=dtype)))


def host(x):
    return backend.to_numpy(raw(x))


# ----------------------------------------------------------------------------- the Tensor


@pytest.mark.parametrize("values", [np.arange(3), np.array([True]), np.array([1j]),
                                    np.array(["a"])])
def test_only_floating_point_numbers(values):
    with pytest.raises(TypeError, match=f"holds floating-point numbers, not {values.dtype}"):
        Tensor(values)


def test_lists_become_float32():
    x = Tensor([[1, 2], [3, 4]])
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 2), np.float32, 2, 4, 2)


def test_data_is_held_and_not_copied(xp):
    data = xp.ones(3)
    assert Tensor(data).data is data


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("function", OPERATORS)
def test_operators_with_numbers_arrays_and_tensors_on_either_side(xp, function):
    a, b = np.array([1.5, 2.0, 0.5]), np.array([0.25, 3.0, 1.0])
    for left, right in [(make(xp, a), make(xp, b)), (xp.asarray(a), make(xp, b)),
                        (make(xp, a), xp.asarray(b))]:
        result = function(left, right)
        assert type(result) is Tensor
        np.testing.assert_allclose(result.numpy(), function(a, b), rtol=1e-14)
    for left, right, expected in [(make(xp, a), 2, function(a, 2)),
                                  (2, make(xp, a), function(2, a)),
                                  (make(xp, a), 0.5, function(a, 0.5)),
                                  (0.5, make(xp, a), function(0.5, a))]:
        result = function(left, right)
        assert type(result) is Tensor
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)


def test_matmul_on_either_side(xp, rng):
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    for left, right in [(make(xp, a), make(xp, b)), (xp.asarray(a), make(xp, b)),
                        (make(xp, a), xp.asarray(b))]:
        assert type(left @ right) is Tensor
        np.testing.assert_allclose((left @ right).numpy(), a @ b, rtol=1e-14)


@pytest.mark.parametrize("function", [operator.gt, operator.ge, operator.lt, operator.le,
                                      operator.eq, operator.ne])
def test_comparisons_are_plain_boolean_arrays(xp, function):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    for left, right, expected in [(make(xp, a), make(xp, b), function(a, b)),
                                  (make(xp, a), xp.asarray(b), function(a, b)),
                                  (xp.asarray(a), make(xp, b), function(a, b)),
                                  (make(xp, a), 2.0, function(a, 2.0)),
                                  (2.0, make(xp, a), function(2.0, a))]:
        result = function(left, right)
        assert type(result) is xp.ndarray
        assert result.dtype == bool
        np.testing.assert_array_equal(host(result), expected)


def test_truth_is_refused(xp):
    with pytest.raises(TypeError, match="the truth of a Tensor is ambiguous"):
        if make(xp, 1.0):
            pass


def test_tensors_are_told_apart_by_identity(xp):
    a, b = make(xp, 1.0), make(xp, 1.0)
    assert len({a, b, a}) == 2


def test_conveniences(xp):
    x = make(xp, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert x.sum().item() == 21
    assert type(x.sum().item()) is float
    assert type(x.numpy()) is np.ndarray
    np.testing.assert_array_equal(x.T.numpy(), [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(x.reshape(3, 2).numpy(), [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(x.reshape((3, -1)).numpy(), [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(x.sum(axis=0, keepdims=True).numpy(), [[5, 7, 9]])
    np.testing.assert_array_equal((-x).numpy(), -x.numpy())
    assert [row.sum().item() for row in x] == [6, 15]
    assert repr(x).startswith("Tensor(") and repr(x * x).endswith(", multiply)")
    assert repr(ops.multiply) == "<op multiply>"


def test_arrays_in_array_out(xp):
    out = ops.add(xp.ones(2), xp.ones(2))
    assert type(out) is xp.ndarray


# ---------------------------------------------------------------------------------- indices


@pytest.mark.parametrize("index", [
    np.array([0, 4]), np.array([-5]), [3, 9], (slice(None), np.array([3])),
    (Ellipsis, np.array([[0], [3]])), (None, np.array([4])), np.array([4], np.uint8)])
def test_index_out_of_range_is_refused_on_every_backend(xp, index):
    x = f32(xp, 4, 3)
    with pytest.raises(IndexError, match=r"^getitem\(float32\[4, 3\]\): index .* out of range"):
        x[index]
    with pytest.raises(IndexError, match="^put.* out of range"):
        ops.put(f32(xp, 1), shape=(4, 3), index=index)


@pytest.mark.parametrize("index", [
    (Ellipsis, np.array([2])), (None, np.array([3])), (Ellipsis, None, np.array([2, -3])),
    (np.array([3, 0]), Ellipsis), (slice(1, 3), np.array([1, 1]), Ellipsis),
    (Ellipsis, np.array([1]), slice(None, None, -1)), (3, np.array([-2]), None, 2)])
def test_index_arrays_among_other_indices(xp, index):
    """Each is held against the axis that it stands for: 4, 2 and 3 long, the last place of all."""
    values = np.arange(24.0).reshape(4, 2, 3)
    x = make(xp, values)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), values[index])
    expected = np.zeros(values.shape)
    np.add.at(expected, index, 1)
    np.testing.assert_array_equal(host(grad(y.sum(), x)), expected)


@pytest.mark.parametrize("index", [np.array([True, False]), np.array([1.0]), [True, False]])
def test_index_arrays_hold_integers(xp, index):
    with pytest.raises(TypeError, match="an index array must hold integers, not (bool|float64)"):
        f32(xp, 2)[index]


def test_index_arrays_live_on_the_host(xp):
    if xp is np:
        pytest.skip("NumPy arrays are at home on NumPy")
    with pytest.raises(TypeError, match="index arrays must be on the host"):
        f32(xp, 2)[xp.asarray(np.array([1]))]


@given(shape=hnp.array_shapes(max_dims=3, max_side=4), data=st.data())
def test_basic_indexing_and_its_gradient(xp, shape, data):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    values = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    x = make(xp, values)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), values[index])
    expected = np.zeros(shape)
    expected[index] = 2 * values[index]
    np.testing.assert_array_equal(host(grad((y * y).sum(), x)), expected)


@given(shape=hnp.array_shapes(min_dims=2, max_dims=3, max_side=4), data=st.data())
def test_integer_indexing_and_its_gradient(xp, shape, data):
    """Repeats add up: each element's gradient is 2x times how often it was picked."""
    index = data.draw(hnp.integer_array_indices(shape))
    values = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    x = make(xp, values)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), values[index])
    picked = np.bincount(np.arange(values.size).reshape(shape)[index].ravel(), minlength=x.size)
    np.testing.assert_array_equal(host(grad((y * y).sum(), x)),
                                  2 * values * picked.reshape(shape))


# --------------------------------------------------------------------------------- refusals


def f32(xp, *shape):
    return Tensor(xp.ones(shape, "float32"))


@pytest.mark.parametrize("name, call", [
    ("multiply", lambda x, other: x * other),
    ("multiply", lambda x, other: other * x),
    ("add", lambda x, other: x + other),
    ("subtract", lambda x, other: other - x),
    ("divide", lambda x, other: x / other),
    ("power", lambda x, other: x ** other),
    ("maximum", lambda x, other: ops.maximum(x, other)),
    ("concatenate", lambda x, other: ops.concatenate(x, other)),
    ("where", lambda x, other: ops.where(other > 0, x, other))])
def test_float64_array_into_a_float32_tensor_is_refused(xp, name, call):
    other = xp.ones((2, 3), "float64")
    with pytest.raises(TypeError) as error:
        call(f32(xp, 2, 3), other)
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    assert "float32[2, 3]" in message and "float64[2, 3]" in message
    assert "would turn a float32 tensor into float64; convert the other argument" in message


@pytest.mark.parametrize("name, shapes, call", [
    ("add", [(2, 3), (4,)], lambda a, b: a + b),
    ("multiply", [(2, 3), (2,)], lambda a, b: a * b),
    ("matmul", [(2, 3), (4, 5)], lambda a, b: a @ b),
    ("matmul", [(3,), (3, 5)], lambda a, b: a @ b),
    ("matmul", [(2, 3, 4), (3, 4, 5)], lambda a, b: a @ b),
    ("linear", [(2, 3), (4, 5), (4,)], ops.linear),
    ("linear", [(2, 3), (4, 3), (5,)], ops.linear),
    ("linear", [(2, 3), (4, 3), (2, 4)], ops.linear),
    ("maximum", [(2, 3), (2, 4)], ops.maximum),
    ("concatenate", [(2, 3), (2, 4)], ops.concatenate),
    ("stack", [(2, 3), (2, 4)], ops.stack),
    ("reshape", [(2, 3)], lambda x: x.reshape(4, 2)),
    ("transpose", [(2, 3)], lambda x: ops.transpose(x, axes=(0, 2))),
    ("broadcast_to", [(2, 3)], lambda x: ops.broadcast_to(x, shape=(3, 2))),
    ("sum", [(2, 3)], lambda x: x.sum(axis=2)),
    ("max", [(2, 3)], lambda x: ops.max(x, axis=-3)),
    ("logsumexp", [(2, 3)], lambda x: ops.logsumexp(x, axis=2)),
    ("log_softmax", [(2, 3)], lambda x: ops.log_softmax(x, axis=2)),
    ("cumsum", [(2, 3)], lambda x: ops.cumsum(x, axis=2)),
    ("flip", [(2, 3)], lambda x: ops.flip(x, axis=2)),
    ("pad", [(2, 3)], lambda x: ops.pad(x, width=((1, 1),))),
    ("getitem", [(2, 3)], lambda x: x[0, 0, 0]),
    ("getitem", [(2, 3)], lambda x: x[2]),
    ("take", [(2, 3)], lambda x: ops.take(x, indices=np.array([2]))),
    ("put", [(2, 3)], lambda x: ops.put(x, shape=(5, 3), index=np.array([1, 2, 3]))),
    ("bernoulli_log_prob", [(2, 3), (2, 4)], bernoulli_log_prob),
])
def test_bad_shapes_raise_at_the_call_with_op_name_and_shapes(xp, name, shapes, call):
    described = ", ".join(f"float32{list(shape)}" for shape in shapes)
    with pytest.raises((ValueError, IndexError), match=f"^{name}\\({re.escape(described)}\\): "):
        call(*[f32(xp, *shape) for shape in shapes])


@pytest.mark.parametrize("call", [lambda x: x + None, lambda x: "a" * x, lambda x: x ** {},
                                  lambda x: x @ 3, lambda x: ops.exp([x]),
                                  lambda x: ops.linear(x, x, None)])
def test_bad_types_raise_with_the_op_name(xp, call):
    with pytest.raises(TypeError, match=r"^(add|multiply|power|matmul|exp|linear)\("):
        call(f32(xp, 2, 2))


def test_a_host_array_beside_a_device_tensor_is_refused(xp):
    if xp is np:
        pytest.skip("NumPy arrays are at home on NumPy")
    with pytest.raises(TypeError, match="multiply"):
        f32(xp, 2) * np.ones(2, np.float32)
