"""A strict stand-in for a device array: NumPy leaking into device code fails without a GPU.

`StrictArray` holds a NumPy array that nobody can reach by accident; `xp` offers NumPy's functions
on it. What CuPy refuses is refused, and so are the conversions that CuPy does silently and slowly
(a scalar read back, a host array sent over): host and device meet in `xp.asarray`, `xp.array`,
`.get()`, `.item()` and `.tolist()` only. Checked against the names and signatures of CuPy 14.2.
"""

import operator
from types import SimpleNamespace

import numpy as np

DTYPES = "?bBhHiIlLqQefdFD"  # as dtype.char: CuPy has no objects, strings, dates or long doubles

# What NumPy 2.4 has and CuPy 14.2 has not.
ABSENT = frozenset("""
    False_ True_ ScalarType asmatrix block bmat busday_count busday_offset busdaycalendar bytes_
    char character clongdouble complex256 core ctypeslib datetime64 datetime_as_string
    datetime_data dtypes einsum_path emath errstate f2py flexible float128 frompyfunc fromregex
    geomspace get_include getbufsize geterr geterrcall histogram_bin_edges info insert is_busday
    isnat little_endian longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate
    nditer nested_iters object_ polyder polydiv polyint rec recarray record sctypeDict setbufsize
    seterr seterrcall show_runtime spacing str_ strings test timedelta64 typecodes unstack vecdot
    vecmat void
    linalg.diagonal linalg.matrix_norm linalg.multi_dot linalg.outer linalg.svdvals
    linalg.tensordot linalg.trace linalg.vecdot linalg.vector_norm
    """.split())

# NumPy answers these with a Python bool or int, CuPy with a 0-d array that stays on the device.
ANSWERS_ON_DEVICE = frozenset(["allclose", "array_equal", "array_equiv", "count_nonzero"])

# Keywords of NumPy that no function of CuPy has (copyto's where apart), or that one has not.
MISSING_KEYWORDS = frozenset("initial where device like subok correction stable clip.min clip.max"
                             .split())

SCATTERING = frozenset(["add", "subtract", "maximum", "minimum",
                        "bitwise_and", "bitwise_or", "bitwise_xor"])  # ufuncs with .at
SCATTER_DTYPES = "iILQefd"  # atomic additions exist for these; note int64 is not among them


def unwrap(value, name, owners, from_host=False):
    """`value` with the array inside each StrictArray; `owners` remembers whose each array is."""
    if isinstance(value, StrictArray):
        owners[id(value._array)] = value
        return value._array
    if isinstance(value, (np.ndarray, np.generic)) and not from_host:
        raise TypeError(f"{name}: got a host {type(value).__name__} where a device array or a "
                        "Python number is expected; move it with xp.asarray, or call .item()")
    if isinstance(value, (list, tuple)):
        return type(value)([unwrap(item, name, owners, from_host) for item in value])
    return value


def wrap(value, owners):
    """`value` with each array and NumPy scalar in it as a StrictArray, the same one for `out=`."""
    if isinstance(value, (np.ndarray, np.generic)):
        return owners[id(value)] if id(value) in owners else StrictArray(np.asarray(value))
    if isinstance(value, (list, tuple)):
        items = [wrap(item, owners) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def call(name, function, args, kwargs):
    """function(*args, **kwargs) on the arrays inside, refusing what `name` refuses on a device."""
    for keyword in kwargs:
        missing = keyword in MISSING_KEYWORDS or f"{name}.{keyword}" in MISSING_KEYWORDS
        if missing and (name, keyword) != ("copyto", "where"):
            raise TypeError(f"{name}: CuPy has no keyword {keyword!r} here")
    owners = {}
    args = unwrap(list(args), name, owners)
    kwargs = {key: unwrap(value, name, owners) for key, value in kwargs.items()}
    result = function(*args, **kwargs)
    return wrap(np.asarray(result) if name in ANSWERS_ON_DEVICE else result, owners)


def check_operands(name, operands):
    """Raise TypeError unless every operand is a StrictArray or a Python number."""
    for operand in operands:
        if not isinstance(operand, (StrictArray, bool, int, float, complex)):
            raise TypeError(f"{name}: unsupported operand of type {type(operand).__name__}; a "
                            "device array or a Python number is expected (xp.asarray moves "
                            "host arrays)")


def operate(symbol, left, right):
    """`left symbol right`, or NotImplemented where a type says `__array_ufunc__ = None`."""
    for operand in (left, right):
        if getattr(type(operand), "__array_ufunc__", "absent") is None:
            return NotImplemented
    check_operands(symbol, (left, right))
    return call(symbol, getattr(operator, f"__{symbol}__"), (left, right), {})


def wrap_index(name, index, shape):
    """`index` for NumPy, its integers taken modulo the axis, and whether it holds an array."""
    owners = {}
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if type(part) not in (int, slice, type(None), type(Ellipsis), StrictArray):
            raise TypeError(f"{name}: cannot index with {type(part).__name__}; use an int, a "
                            "slice, None, Ellipsis or a device array (xp.asarray)")
        if type(part) is slice:
            unwrap([part.start, part.stop, part.step], name, owners)
    parts = unwrap(list(parts), name, owners)
    consumed = [axes_consumed(part) for part in parts]
    rest = len(shape) - sum(consumed)
    axis = 0
    for position, part in enumerate(parts):
        if isinstance(part, np.ndarray) and part.dtype.kind in "iu" and shape[axis] > 0:
            parts[position] = part.astype(np.int64) % shape[axis]
        axis += rest if part is Ellipsis else consumed[position]
    return tuple(parts), bool(owners)


def axes_consumed(part):
    """How many axes of the indexed array one part of an index stands for, Ellipsis apart."""
    if part is None or part is Ellipsis:
        return 0
    is_mask = isinstance(part, np.ndarray) and part.dtype.kind == "b"
    return part.ndim if is_mask else 1


class StrictArray:
    """An array that lives "elsewhere": NumPy's methods and operators, no implicit conversion."""

    __hash__ = None

    def __init__(self, array):
        if array.dtype.char not in DTYPES:
            raise TypeError(f"StrictArray: a device has no dtype {array.dtype}")
        self._array = array

    def __repr__(self):
        return f"StrictArray({self._array!r})"

    shape = property(lambda self: self._array.shape)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    dtype = property(lambda self: self._array.dtype)
    strides = property(lambda self: self._array.strides)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    T = property(lambda self: StrictArray(self._array.T))

    @property
    def flags(self):
        """The three flags that a device array has (it is never read-only)."""
        flags = self._array.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous,
                               owndata=flags.owndata)

    def __len__(self):
        return len(self._array)

    def get(self):
        """A copy on the host, as a NumPy array."""
        return np.array(self._array, order="C")

    def item(self, *index):
        """One element as a Python number."""
        return self._array.item(*index)

    def tolist(self):
        """The elements as nested lists of Python numbers."""
        return self._array.tolist()

    def take(self, indices, axis=None, out=None):
        """NumPy's take; indices out of range wrap around without a word, as CuPy's do."""
        return call("ndarray.take", np.take, (self, indices, axis, out), {"mode": "wrap"})

    def __getitem__(self, index):
        index, has_array = wrap_index("getitem", index, self.shape)
        if has_array:
            return StrictArray(np.array(self._array[index]))
        if not any(part is Ellipsis for part in index):
            index = (*index, Ellipsis)  # then NumPy, too, answers one element with a 0-d view
        return StrictArray(self._array[index])

    def __setitem__(self, index, value):
        check_operands("setitem", [value])
        index, has_array = wrap_index("setitem", index, self.shape)
        if has_array and isinstance(value, StrictArray) and value.size > 1:
            # Threads race for a repeated place: which value stays is anybody's guess.
            hits = np.zeros(self.shape, dtype=int)
            np.add.at(hits, index, 1)
            if (hits > 1).any():
                raise ValueError("setitem: the index repeats a place, and CuPy does not say which "
                                 "value stays; use xp.add.at or distinct indices")
        self._array[index] = unwrap(value, "setitem", {})

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        raise TypeError(f"np.{ufunc.__name__}: NumPy was called on a device array; use the "
                        "function of the module that owns the array")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"np.{function.__name__}: NumPy was called on a device array; use the "
                        "function of the module that owns the array")


def _method(name):
    def method(self, *args, **kwargs):
        return call(f"ndarray.{name}", getattr(np.ndarray, name), (self, *args), kwargs)
    return method


def _refusal(name):
    def method(self, *args, **kwargs):
        raise TypeError(f"{name}: a device array is not converted implicitly; call .item() for "
                        "one number, .get() for a NumPy array")
    return method


def _binary(symbol):
    def forward(self, other):
        return operate(symbol, self, other)

    def reflected(self, other):
        return operate(symbol, other, self)
    return forward, reflected


def _unary(symbol):
    def method(self):
        return call(symbol, getattr(operator, f"__{symbol}__"), (self,), {})
    return method


for _name in """all any argmax argmin argsort astype clip copy cumprod cumsum diagonal dot fill
        flatten max mean min nonzero prod ravel repeat reshape round searchsorted sort squeeze
        std sum swapaxes trace transpose var view""".split():
    setattr(StrictArray, _name, _method(_name))
for _name in "array float int complex bool index iter contains".split():
    setattr(StrictArray, f"__{_name}__", _refusal(f"__{_name}__"))
for _name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    _forward, _reflected = _binary(_name)
    setattr(StrictArray, f"__{_name}__", _forward)
    setattr(StrictArray, f"__r{_name}__", _reflected)
for _name in "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift".split():
    setattr(StrictArray, f"__{_name}__", _binary(_name)[0])  # CuPy has no `@=`
for _name in "eq ne lt le gt ge".split():
    setattr(StrictArray, f"__{_name}__", _binary(_name)[0])
for _name in "neg pos abs invert".split():
    setattr(StrictArray, f"__{_name}__", _unary(_name))


class StrictUfunc:
    """A NumPy ufunc on StrictArrays and Python numbers, with the methods that CuPy's has."""

    def __init__(self, ufunc):
        self._ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args, **kwargs):
        for keyword in kwargs:
            if keyword not in ("out", "dtype", "casting"):
                raise TypeError(f"{self.__name__}: CuPy has no keyword {keyword!r} here")
        check_operands(self.__name__, args)
        return call(self.__name__, self._ufunc, args, kwargs)

    def at(self, array, indices, values):
        """array[indices] = ufunc(array[indices], values), repeated places counted each time."""
        name = f"{self.__name__}.at"
        if self.__name__ not in SCATTERING:
            raise NotImplementedError(f"{name}: CuPy has no such method")
        check_operands(name, [array, values])
        if array.dtype.char not in SCATTER_DTYPES:
            raise TypeError(f"{name}: CuPy does not scatter into {array.dtype}")
        index, _ = wrap_index(name, indices, array.shape)
        self._ufunc.at(array._array, index, unwrap(values, name, {}))

    def outer(self, left, right, **kwargs):
        """The ufunc of every pair of elements."""
        check_operands(f"{self.__name__}.outer", [left, right])
        return call(f"{self.__name__}.outer", self._ufunc.outer, (left, right), kwargs)

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        """The sum or product along an axis; CuPy has no other."""
        return self._along("reduce", array, axis, dtype, out, keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        """The running sum or product along an axis; CuPy has no other."""
        return self._along("accumulate", array, axis, dtype, out)

    def _along(self, method, *args):
        name = f"{self.__name__}.{method}"
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"{name}: CuPy has no such method")
        check_operands(name, args[:1])
        return call(name, getattr(self._ufunc, method), args, {})


class Namespace:
    """A NumPy module seen from the device: functions wrapped, types and constants left alone."""

    def __init__(self, module, prefix=""):
        self._module = module
        self._prefix = prefix

    def __getattr__(self, attribute):
        name = self._prefix + attribute
        if attribute.startswith("_") or name in ABSENT:
            raise AttributeError(f"xp.{name}: CuPy has no such name")
        found = self._wrapped(name, getattr(self._module, attribute))
        setattr(self, attribute, found)
        return found

    def _wrapped(self, name, found):
        if isinstance(found, np.ufunc):
            return StrictUfunc(found)
        if not callable(found) or isinstance(found, type) and found is not np.broadcast:
            return found

        def function(*args, **kwargs):
            return call(name, found, args, kwargs)
        return function


class DeviceGenerator:
    """Draws on the device: not a numpy.random.Generator, and not its stream of numbers."""

    def __init__(self, seed):
        self._generator = np.random.default_rng([seed, 1])

    def standard_normal(self, size=None, dtype=np.float64):
        return StrictArray(np.asarray(self._generator.standard_normal(size, dtype=dtype)))

    def random(self, size=None, dtype=np.float64):
        return StrictArray(np.asarray(self._generator.random(size, dtype=dtype)))


class StrictRandom:
    """`xp.random`: generators that were given a seed, and no global state."""

    def default_rng(self, seed=None):
        if type(seed) is not int:
            raise TypeError("random.default_rng: noise needs an explicit integer seed, "
                            f"not {seed!r}")
        return DeviceGenerator(seed)


class StrictModule(Namespace):
    """What `import cupy as xp` would give: the module that owns StrictArrays."""

    ndarray = StrictArray

    def __init__(self):
        super().__init__(np)
        self.random = StrictRandom()
        self.linalg = Namespace(np.linalg, "linalg.")
        self.fft = Namespace(np.fft, "fft.")

    def __repr__(self):
        return "<strict stand-in for a device array module>"

    def array(self, value, dtype=None, copy=True, order="K", ndmin=0):
        """A device array holding a copy of host data, nested lists or another device array."""
        owners = {}
        bare = unwrap(value, "array", owners, from_host=True)
        # Nothing on the device shares memory with the host, whatever `copy` says.
        copy = copy or not isinstance(value, StrictArray)
        return wrap(np.array(bare, dtype=dtype, copy=copy or None, order=order, ndmin=ndmin),
                    owners)

    def asarray(self, value, dtype=None, order="K"):
        """`value` itself where it is a device array of that dtype, or a copy on the device."""
        return self.array(value, dtype, copy=False, order=order)

    def take(self, array, indices, axis=None, out=None):
        """NumPy's take, with CuPy's wrap-around."""
        return call("take", np.take, (array, indices, axis, out), {"mode": "wrap"})

    def take_along_axis(self, array, indices, axis):
        """NumPy's take_along_axis, with CuPy's wrap-around."""
        size = array.size if axis is None else array.shape[axis]
        wrapped = indices.astype(np.int64) % size
        return call("take_along_axis", np.take_along_axis, (array, wrapped, axis), {})


xp = StrictModule()
