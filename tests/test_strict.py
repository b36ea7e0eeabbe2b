"""The stand-in for a device array refuses what a device refuses, and computes what NumPy does."""

import math
import operator

import numpy as np
import pytest

from strict import StrictArray, xp

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def x():
    return xp.asarray(HOST)


class Deferring:
    """A right operand that asks arrays to leave the operation to it, as Tensor does."""

    __array_ufunc__ = None

    def __radd__(self, other):
        return "radd"

    def __rmatmul__(self, other):
        return "rmatmul"

    def __gt__(self, other):
        return "gt"


# Each computation: (module, 2x3 float32 array of it, 3-vector of it) -> array of it.
SAME_AS_NUMPY = {
    "python scalars": lambda xp, x, v: 1 - 2.0 * x / (x + 3) + True,
    "reflected": lambda xp, x, v: 2.0 ** x + 7 % (x + 1) + 7 // (x + 1) + 1 / (x + 1),
    "broadcasting": lambda xp, x, v: x * v - v[:, None][:1],
    "matmul": lambda xp, x, v: x @ v + v[:2],
    "power, unary": lambda xp, x, v: x ** 2 + abs(-x) ** 0.5 + +x,
    "compare": lambda xp, x, v: ((x > 1) & (x <= 4.0)) | ~(x == v) ^ (x != 2) | (3 > x) & (x >= v),
    "shifts": lambda xp, x, v: (x.astype(xp.int32) << 2) >> 1,
    "ufunc": lambda xp, x, v: xp.maximum(xp.exp(x), 3.0) + xp.log1p(x) + xp.tanh(v),
    "reductions": lambda xp, x, v: xp.sum(x, axis=0) + x.mean(axis=0) + xp.max(x) + x.min(),
    "keepdims": lambda xp, x, v: xp.mean(x, axis=1, keepdims=True, dtype=xp.float64),
    "arg": lambda xp, x, v: x.argmax(axis=1) + xp.argmin(x, axis=1),
    "all any": lambda xp, x, v: x.all() | (x > 1).any(axis=0),
    "cumsum": lambda xp, x, v: x.cumsum(axis=1) + xp.cumsum(x, axis=0),
    "shape": lambda xp, x, v: x.reshape(3, 2).T.ravel().reshape((2, -1)).transpose(1, 0),
    "where": lambda xp, x, v: xp.where(x > 2, x, 0.0),
    "lists": lambda xp, x, v: xp.concatenate([xp.stack((v, v)), x], axis=0),
    "split, pad": lambda xp, x, v: xp.pad(xp.split(x, 3, axis=1)[1], ((0, 1), (2, 0))),
    "clip": lambda xp, x, v: xp.clip(x, 1, 3.5) + x.clip(0, 4),
    "einsum": lambda xp, x, v: xp.einsum("ij,j->i", x, v),
    "creation": lambda xp, x, v: xp.zeros_like(x) + xp.full((2, 3), 2.0, dtype=xp.float32),
    "submodules": lambda xp, x, v: xp.fft.rfft(v)[:2] + xp.linalg.norm(x, axis=1),
    "complex": lambda xp, x, v: x * 2j,
    "constants": lambda xp, x, v: x * xp.pi + v[xp.newaxis, :],
    "basic index": lambda xp, x, v: x[1, ::-1] + x[..., 2:][0] + x[-1, 0],
    "integer arrays": lambda xp, x, v: x[xp.asarray([0, 1, 1]), xp.asarray([2, -1, 0])],
    "mixed index": lambda xp, x, v: x[:, xp.asarray([0, 2])] + x[0, None, xp.asarray([0, 2])],
    "mask": lambda xp, x, v: x[x > 3] + x[0, ..., xp.asarray([True, False, True])],
    "ellipsis": lambda xp, x, v: x[..., xp.asarray([2, 0])],
    "take": lambda xp, x, v: xp.take(x, xp.asarray([2, 0]), axis=1),
    "take_along_axis": lambda xp, x, v: xp.take_along_axis(x, xp.asarray([[2], [0]]), 1),
    "outer": lambda xp, x, v: xp.multiply.outer(v, v),
    "reduce": lambda xp, x, v: xp.add.reduce(x) + xp.multiply.reduce(x, axis=0),
    "accumulate": lambda xp, x, v: xp.add.accumulate(x, axis=1),
    "several results": lambda xp, x, v: xp.modf(x / 2)[0] + xp.nonzero(v)[0][-1],
    "view, astype": lambda xp, x, v: x.view(xp.int32) + x.astype(xp.float64),
}


@pytest.mark.parametrize("name", SAME_AS_NUMPY)
def test_computes_what_numpy_computes(name, x):
    compute = SAME_AS_NUMPY[name]
    expected = np.asarray(compute(np, HOST, HOST[1]))
    result = compute(xp, x, xp.asarray(HOST[1]))
    assert type(result) is StrictArray
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.get(), expected)


def test_attributes_are_numpys(x):
    for name in ("shape", "ndim", "size", "dtype", "strides", "nbytes", "itemsize"):
        assert getattr(x, name) == getattr(HOST, name)
    assert len(x) == 2
    assert x.flags.c_contiguous and not x.T.flags.c_contiguous and x.T.flags.f_contiguous
    assert not hasattr(x.flags, "writeable")
    assert not hasattr(x, "flat")
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_explicit_ways_back_to_the_host(x):
    assert type(x.get()) is np.ndarray
    assert x.tolist() == HOST.tolist()
    assert type(x[1, 2].item()) is float
    assert x.item(4) == 4.0
    assert "StrictArray" in repr(x)


def test_no_memory_is_shared_with_the_host():
    source = np.zeros(3)
    for moved in (xp.asarray(source), xp.array(source, copy=False)):
        moved += 1
        moved.get()[:] = 7
        assert source.tolist() == [0, 0, 0]
        assert moved.tolist() == [1, 1, 1]


def test_asarray_takes_what_the_host_has(x):
    assert xp.asarray(np.float32(2)).dtype == np.float32
    assert xp.asarray([1.0, 2.0], dtype=xp.float32).dtype == np.float32
    assert xp.asarray([x[0, 1], x[1, 0]]).tolist() == [1.0, 3.0]
    assert xp.asarray(x) is x
    assert xp.array(x) is not x
    assert xp.asarray(x, dtype=xp.float64).dtype == np.float64
    for unknown in ([object()], np.ones(2, dtype=np.longdouble)):
        with pytest.raises(TypeError, match="a device has no dtype"):
            xp.asarray(unknown)


def test_scalars_stay_arrays_on_the_device(x):
    results = (x.sum(), xp.mean(x), x[0, 0], x[0][1], x.sum() + 1, xp.dot(x[0], x[0]),
               xp.allclose(x, x), xp.array_equal(x, x), xp.count_nonzero(x), xp.exp(1.0))
    for result in results:
        assert type(result) is StrictArray
        assert result.shape == ()


def test_views_share_memory(x):
    x[0] += 10
    x.T[1] *= 2
    x[1, 2] = 50
    x.reshape(-1)[3:4] -= 1
    corner = x[0, 0]
    corner += 5  # one element is a 0-d view, on CuPy too
    assert x.tolist() == [[15, 22, 12], [2, 8, 50]]


def test_advanced_indexing_copies(x):
    for copied in (x[xp.asarray([0, 1])], x[xp.asarray(0)], x[x > -1], x.copy()):
        copied += 100
    assert x.tolist() == HOST.tolist()


ARITHMETIC = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
              operator.imod, operator.ipow]
BITWISE = [operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift]


@pytest.mark.parametrize("update", ARITHMETIC + BITWISE)
@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_in_place_operators_keep_the_object(update, shape):
    value, operand = (5, 3) if update in BITWISE else (5.0, 2.5)
    x = xp.full(shape, value)
    assert update(x, operand) is x
    np.testing.assert_array_equal(x.get(), update(np.full(shape, value), operand))


def test_in_place_does_not_widen(x):
    x += xp.ones((2, 3), dtype=xp.float64)
    assert x.dtype == np.float32
    with pytest.raises(TypeError):
        whole = xp.arange(3)
        whole += 0.5


def test_out_is_honoured_and_returned(x):
    out = xp.empty_like(x)
    base = xp.zeros((2, 4), dtype=xp.float32)
    assert xp.exp(x, out=out) is out
    assert xp.add(x, 1.0, out) is out
    assert xp.multiply(x, 2, out=(out,)) is out
    assert out.tolist() == (2 * HOST).tolist()
    assert xp.add(x, x, out=x) is x
    xp.negative(x, out=base[:, 1:])
    assert base.tolist() == [[0, 0, -2, -4], [0, -6, -8, -10]]
    total = xp.empty((), dtype=xp.float32)
    assert x.sum(out=total) is total
    assert total.item() == 30
    assert xp.take(x, xp.asarray([1, 0]), 0, out) is out


def test_copyto_and_fill(x):
    xp.copyto(x, 9.0, where=x > 3)
    assert x.tolist() == [[0, 1, 2], [3, 9, 9]]
    assert x.fill(2.0) is None
    x[1] = xp.asarray([4, 5, 6])
    assert x.tolist() == [[2, 2, 2], [4, 5, 6]]


HOST_LEAKS = {
    "add": lambda x, host: x + host,
    "radd": lambda x, host: host + x,
    "iadd": lambda x, host: x.__iadd__(host),
    "lt": lambda x, host: host > x,
    "matmul": lambda x, host: x @ host,
    "setitem": lambda x, host: x.__setitem__(0, host),
    "multiply": lambda x, host: xp.multiply(x, host),
    "exp": lambda x, host: xp.exp(host),
    "sum": lambda x, host: xp.sum(host),
    "log": lambda x, host: xp.log(x, out=host),
    "where": lambda x, host: xp.where(x > 1, host, x),
    "concatenate": lambda x, host: xp.concatenate([x, host]),
    "full": lambda x, host: xp.full((2,), host),
    "stack": lambda x, host: xp.stack(([x, (host,)], x)),
    "linalg.norm": lambda x, host: xp.linalg.norm(host),
    "take": lambda x, host: xp.take(host, x),
    "take_along_axis": lambda x, host: xp.take_along_axis(x, host, 1),
    "maximum.at": lambda x, host: xp.maximum.at(x, 0, host),
    "add.reduce": lambda x, host: xp.add.reduce(host),
    "add.outer": lambda x, host: xp.add.outer(x, host),
    "ndarray.dot": lambda x, host: x.dot(host),
    "getitem": lambda x, host: x[host],
    "zeros": lambda x, host: xp.zeros((2, host)),
    "copyto": lambda x, host: xp.copyto(x, 1.0, where=host),
}
REFLECTED_NAMES = {"radd": "add", "lt": "greater"}  # NumPy is asked first, and names its ufunc


@pytest.mark.parametrize("host", [np.ones(3, np.float32), np.float64(2), np.float32(2),
                                  np.int64(1)], ids=["ndarray", "float64", "float32", "int64"])
@pytest.mark.parametrize("name", HOST_LEAKS)
def test_host_arrays_and_numpy_scalars_are_refused_by_name(name, host, x):
    with pytest.raises(TypeError, match=rf"^(np\.)?{REFLECTED_NAMES.get(name, name)}: "):
        HOST_LEAKS[name](x, host)
    assert x.tolist() == HOST.tolist()


@pytest.mark.parametrize("operand", [None, "a", [1, 2, 3], object()])
def test_operands_that_are_no_numbers_are_refused(operand, x):
    for use in (lambda: x + operand, lambda: xp.add(x, operand), lambda: x == operand,
                lambda: x.__setitem__(0, operand), lambda: xp.add.at(x, 0, operand),
                lambda: xp.add.outer(x, operand), lambda: xp.add.reduce(operand)):
        with pytest.raises(TypeError, match="unsupported operand"):
            use()


NUMPY_CALLS = {
    "exp": lambda x: np.exp(x),
    "add": lambda x: np.add.reduce(x),
    "concatenate": lambda x: np.concatenate([x, x]),
    "norm": lambda x: np.linalg.norm(x),
}


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_numpy_functions_refuse_device_arrays_by_name(name, x):
    with pytest.raises(TypeError, match=rf"^np\.{name}: NumPy was called on a device array"):
        NUMPY_CALLS[name](x)


CONVERSIONS = [
    ("__array__", lambda x: np.asarray(x)),
    ("__array__", lambda x: HOST[x]),
    ("__array__", lambda x: HOST.copy().__setitem__(..., x)),
    ("__array__", lambda x: np.random.default_rng(0).permutation(x)),
    ("__float__", lambda x: float(x.sum())),
    ("__float__", lambda x: math.exp(x.sum())),
    ("__int__", lambda x: int(x.sum())),
    ("__complex__", lambda x: complex(x.sum())),
    ("__bool__", lambda x: bool(x.any())),
    ("__bool__", lambda x: max(x.sum(), x.mean())),
    ("__index__", lambda x: [1, 2, 3][x.argmax()]),
    ("__index__", lambda x: x[:x.argmax()]),
    ("__iter__", lambda x: list(x)),
    ("__contains__", lambda x: 2.0 in x),
]


@pytest.mark.parametrize("name, convert", CONVERSIONS)
def test_implicit_conversions_are_refused_by_name(name, convert, x):
    with pytest.raises(TypeError, match=f"^{name}: .*not converted implicitly"):
        convert(x)


def test_right_operands_that_ask_for_it_are_given_the_operation(x):
    assert x + Deferring() == "radd"
    assert x @ Deferring() == "rmatmul"
    assert (x < Deferring()) == "gt"
    y = x
    y += Deferring()
    assert y == "radd"


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8"])
def test_integer_arrays_out_of_range_wrap_silently(dtype):
    x = xp.arange(300)
    index = xp.asarray([100, 127, 3], dtype=dtype)
    assert x[index].tolist() == [100, 127, 3]  # though 300 does not fit into the index's dtype
    short = xp.asarray([[0, 1, 2], [3, 4, 5]])
    assert short[:, index].tolist() == [[1, 1, 0], [4, 4, 3]]
    assert short[index, 1].tolist() == [1, 4, 4]
    assert short[..., None, index].shape == (2, 1, 3)
    deep = xp.arange(24).reshape(2, 3, 4)  # a mask stands for as many axes as it has
    mask = xp.asarray([[True, False, False], [False, False, True]])
    assert deep[mask, xp.asarray([3, 4], dtype=dtype)].tolist() == [3, 20]
    assert xp.take(short, index, axis=1).tolist() == [[1, 1, 0], [4, 4, 3]]
    assert short.take(index, 1).tolist() == [[1, 1, 0], [4, 4, 3]]
    assert xp.take_along_axis(x, index, 0).tolist() == [100, 127, 3]
    assert xp.take_along_axis(short, index[:2, None], -1).tolist() == [[1], [4]]
    short[short > 4] = 9
    short[xp.asarray([7]), 0] = 8
    assert short.tolist() == [[0, 1, 2], [8, 4, 9]]


def test_out_of_range_integers_and_too_many_indices_still_raise(x):
    for index in (2, (0, 3), (0, 0, 0), (xp.asarray([0]), 0, 0)):
        with pytest.raises(IndexError):
            x[index]


def test_index_types_that_hide_a_transfer_are_refused(x):
    for index in ([0, 1], np.array([0]), np.int64(0), True, (0, [1]), "a", 1.0):
        with pytest.raises(TypeError, match="^getitem: cannot index with"):
            x[index]
        with pytest.raises(TypeError, match="^setitem: cannot index with"):
            x[index] = 0.0
    with pytest.raises(TypeError, match="^getitem: got a host int64"):
        x[:np.int64(1)]


def test_setitem_refuses_repeated_places_with_different_values():
    x = xp.zeros(4)
    repeated = xp.asarray([0, 4])  # 4 wraps onto 0
    with pytest.raises(ValueError, match="repeats a place"):
        x[repeated] = xp.asarray([1.0, 2.0])
    with pytest.raises(ValueError, match="repeats a place"):
        x[repeated] += 1
    x[repeated] = xp.asarray([2.0])
    assert x.tolist() == [2, 0, 0, 0]
    x[repeated] = 3.0
    x[xp.asarray([1, 2])] = xp.asarray([1.0, 2.0])
    assert x.tolist() == [3, 1, 2, 0]


def test_at_counts_repeated_places_and_wraps():
    x = xp.zeros((3, 2), dtype=xp.float32)
    xp.add.at(x, xp.asarray([0, 0, 4]), xp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    xp.subtract.at(x, (xp.asarray([2, 2]), xp.asarray([0, 0])), 1.0)
    xp.maximum.at(x, (slice(None), 1), 1.0)
    assert x.tolist() == [[4, 6], [5, 6], [-2, 1]]


def test_what_cupy_lacks_is_refused(x):
    for missing in ("errstate", "vecdot", "geomspace", "cuda", "_core"):
        assert not hasattr(xp, missing)
    assert not hasattr(xp.linalg, "multi_dot")
    for name, use in (("multiply.at", lambda: xp.multiply.at(x, 0, 2.0)),
                      ("maximum.reduce", lambda: xp.maximum.reduce(x)),
                      ("maximum.accumulate", lambda: xp.maximum.accumulate(x))):
        with pytest.raises(NotImplementedError, match=f"^{name}: CuPy has no such method"):
            use()
    with pytest.raises(TypeError, match="^add.at: CuPy does not scatter into int64"):
        xp.add.at(xp.arange(3), 0, 1)


@pytest.mark.parametrize("use, keyword", [
    (lambda x: xp.exp(x, where=x > 1), "where"),
    (lambda x: xp.exp(x, order="C"), "order"),
    (lambda x: x.sum(initial=1.0), "initial"),
    (lambda x: xp.max(x, initial=1.0), "initial"),
    (lambda x: xp.zeros(3, device="cpu"), "device"),
    (lambda x: xp.clip(x, min=0.0), "min"),
])
def test_keywords_that_cupy_lacks_are_refused(use, keyword, x):
    with pytest.raises(TypeError, match=f"CuPy has no keyword '{keyword}'"):
        use(x)


def test_types_and_constants_pass_through():
    assert xp.float32 is np.float32
    assert xp.pi == np.pi
    assert xp.newaxis is None
    assert xp.ndarray is StrictArray
    assert xp.exp is xp.exp
    assert xp.result_type(xp.ones(2, dtype=xp.float32), 1.0) == np.float32
    assert xp.shape(xp.ones((2, 3))) == (2, 3)
    assert xp.broadcast(xp.ones((2, 1)), xp.ones(3), 1.0).shape == (2, 3)


def test_device_generator_is_explicit_and_its_own_stream():
    first, again = xp.random.default_rng(3), xp.random.default_rng(3)
    noise = first.standard_normal((1000,), dtype=np.float32)
    assert type(noise) is StrictArray
    assert noise.dtype == np.float32
    assert noise.tolist() == again.standard_normal((1000,), dtype=np.float32).tolist()
    assert noise.tolist() != np.random.default_rng(3).standard_normal(1000, np.float32).tolist()
    assert abs(noise.mean().item()) < 4 / math.sqrt(1000)
    uniform = first.random((1000,))
    assert 0 <= uniform.min().item() < 0.05
    assert 0.95 < uniform.max().item() < 1
    assert type(first.random()) is StrictArray
    for seed in (None, 0.5, np.int64(3)):
        with pytest.raises(TypeError, match="^random.default_rng: noise needs an explicit"):
            xp.random.default_rng(seed)
    assert not hasattr(xp.random, "standard_normal")
