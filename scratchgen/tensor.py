"""Floor 1: the engine. A Tensor remembers the op that made it; `grad` walks back along that memory.

An op is called on arrays or on Tensors. On arrays it computes and returns an array. As soon as
one argument is a Tensor it returns a Tensor that holds the same result and remembers
(op, arguments). Its gradient rule stands right under its forward: one function per argument,

    rule(g, out, *inputs, **static) -> dL/d(input),     g = dL/d(out), shaped like out

made of ops and operators only. So a rule can be handed arrays (a plain gradient: fast, not one
Tensor is made) or Tensors (then the gradient is itself a graph that can be differentiated
again); `grad` decides which, and the rules never know.

Arguments that can carry a gradient are positional, everything else is keyword-only. Read from
top to bottom: Op, Tensor, grad; then operators.py, the ops behind Python's operators.
"""

from operator import attrgetter
from functools import lru_cache
from itertools import count

import numpy as np

from scratchgen import backend

OPS = {}  # every op by name: the registry that the gradient checks walk through

_next_index = count().__next__
_recording = True


class no_grad:
    """Within `with no_grad():` ops on Tensors still compute, but nothing is remembered."""

    def __enter__(self):
        global _recording
        self.previous = _recording
        _recording = False

    def __exit__(self, *exception):
        global _recording
        _recording = self.previous


# ------------------------------------------------------------------------------------ ops


class Op:
    """A differentiable operation: a forward on arrays, and one gradient rule per array argument.

    `elementwise` says that the inputs broadcast against each other: `grad` then sums a rule's
    result back to the shape of its input, so that no rule has to. A fused op (`twin` given)
    is written for speed: its forward returns (out, saved), its one joint rule computes all
    gradients at once on arrays, and its twin, the same function in plain ops, says what it
    means and carries the higher derivatives.
    """

    def __init__(self, forward, elementwise=False, twin=None):
        self.forward = forward
        self.name = forward.__name__
        self.__doc__ = forward.__doc__
        self.elementwise = elementwise
        self.twin = twin
        self.joint = None
        self.rules()
        OPS[self.name] = self

    def rules(self, *gradients, every=None):
        """Set the gradient rules, one per array argument; None where there is no gradient.

        An op of any number of arguments gives `every`, a function from position to rule.
        """
        self.gradients = _Rules(self.name, gradients, every)

    def joint_rule(self, rule):
        """Set a fused op's rule: (g, out, saved, needed) -> one gradient per argument."""
        self.joint = rule
        return rule

    def __call__(self, *inputs, **static):
        parents = []
        values = []
        for x in inputs:
            if type(x) is Tensor:
                parents.append(x)
                x = x.data
            values.append(x)
        try:
            out = self.forward(*values, **static)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise _explained(error, self.name, values) from error
        saved = None
        if self.twin is not None:
            out, saved = out
        if not parents:
            return out
        dtype = parents[0].data.dtype
        if out.dtype is not dtype and out.dtype != dtype:
            raise TypeError(f"{self.name}: {_describe(values)} would turn a {dtype} tensor into "
                            f"{out.dtype}; convert the other argument first")
        if not _recording:
            return Tensor(out)
        return Tensor(out, self, inputs, values, parents, static, saved)

    def __repr__(self):
        return f"<op {self.name}>"


class _Rules(dict):
    """An op's gradient rules by argument position; a missing one raises with the op's name."""

    def __init__(self, name, gradients, every):
        super().__init__((i, rule) for i, rule in enumerate(gradients) if rule is not None)
        self.name = name
        self.every = every

    def __missing__(self, position):
        if self.every is None:
            raise NotImplementedError(f"{self.name} has no gradient rule for argument {position}")
        return self.every(position)


def op(forward=None, *, elementwise=False):
    """Turn a forward function on arrays into an Op (decorator)."""
    if forward is None:
        return lambda function: Op(function, elementwise)
    return Op(forward, elementwise)


def fused(twin):
    """Turn a forward that returns (out, saved) into a fused Op with its slow twin (decorator)."""
    return lambda function: Op(function, twin=twin)


def _describe(values):
    return ", ".join(f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)
                     for x in values)


def _explained(error, name, values):
    if isinstance(error, (AttributeError, TypeError)):  # an argument that is no array
        kind = TypeError
    else:
        kind = IndexError if isinstance(error, IndexError) else ValueError
    return kind(f"{name}({_describe(values)}): {error}")


# --------------------------------------------------------------------------------- Tensor


class Tensor:
    """An array that remembers how it was computed.

    `data` is the array (NumPy or CuPy, floating point); a leaf, made by the user, remembers
    nothing. Python's operators, indexing, `sum`, `reshape` and `T` are given to it where their
    ops stand, in operators.py.
    """

    __slots__ = ("data", "op", "inputs", "values", "parents", "static", "saved", "index")
    __array_ufunc__ = None  # array * Tensor is left to Tensor.__rmul__

    def __init__(self, data, op=None, inputs=(), values=(), parents=(), static=None,
                 saved=None):
        if op is None:
            data = data if hasattr(data, "dtype") else np.asarray(data, dtype=np.float32)
            if data.dtype.kind != "f":
                raise TypeError(f"a Tensor holds floating-point numbers, not {data.dtype}")
        self.data = data
        self.op = op
        self.inputs = inputs
        self.values = values  # the inputs as arrays
        self.parents = parents  # those inputs that are Tensors
        self.static = static
        self.saved = saved
        self.index = _next_index()  # inputs always have smaller ones: a topological order

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def __repr__(self):
        made_by = f", {self.op.name}" if self.op else ""
        return f"Tensor({self.data!r}{made_by})"

    def __len__(self):
        return len(self.data)

    def __bool__(self):
        raise TypeError("the truth of a Tensor is ambiguous: compare its .item() or its .data")

    def item(self):
        """The one number of a tensor of size 1, as a Python float."""
        return self.data.item()

    def numpy(self):
        """The values on the host, as a NumPy array without history."""
        return backend.to_numpy(self.data)

    __hash__ = object.__hash__  # by identity: == compares elements


def raw(x):
    """The array inside a Tensor; anything else as it is."""
    return x.data if type(x) is Tensor else x


# ----------------------------------------------------------------------------------- grad


def grad(y, xs, grad_output=None, create_graph=False):
    """The gradients dL/dx for x in xs, where dL/dy = grad_output (1 for a y of one element).

    Returns a list with one array per x, shaped like it, zero where y does not depend on x (a
    single array if `xs` is a Tensor). With `create_graph` they are Tensors that can be
    differentiated again. Nothing is stored in the graph, which can be walked any number of
    times. Raises ValueError for a y of several elements without `grad_output`.
    """
    if type(xs) is Tensor:
        return grad(y, [xs], grad_output, create_graph)[0]
    xs = list(xs)
    for x in [y, *xs]:
        if type(x) is not Tensor:
            raise TypeError(f"grad takes Tensors, not {type(x).__name__}: was y computed from xs?")
    xp = backend.module_of(y.data)
    if grad_output is None:
        if y.size != 1:
            raise ValueError(f"grad of a tensor of shape {y.shape} needs a grad_output")
        grad_output = xp.ones_like(y.data)
    elif grad_output.shape != y.shape:
        raise ValueError(f"grad_output has shape {grad_output.shape}, y has {y.shape}")
    as_rules_see = _as_tensor if create_graph else raw

    wanted = set(xs)
    cotangents = _path(y, wanted)  # dL/d(node), complete when its turn comes
    if cotangents:
        cotangents[y] = as_rules_see(grad_output)
    found = {}
    while cotangents:
        node, g = cotangents.popitem()  # the newest: whatever it went into had its turn
        if node in wanted:
            found[node] = g
        op = node.op
        if op is None:
            continue
        out, inputs = (node, node.inputs) if create_graph else (node.data, node.values)
        rules = op.gradients
        if op.twin is not None:
            rules = _fused_rules(node, g, cotangents, create_graph)
        for i, x in enumerate(node.inputs):
            if type(x) is not Tensor or x not in cotangents:
                continue
            gx = rules[i](g, out, *inputs, **node.static)
            data = x.data
            if gx.shape != data.shape and op.elementwise:
                gx = unbroadcast(gx, data.shape)
            if gx.shape != data.shape or gx.dtype != data.dtype:
                raise AssertionError(f"{op.name}: the gradient of argument {i} is {gx.dtype}"
                                     f"{list(gx.shape)}, the argument {_describe([x])}")
            before = cotangents[x]
            cotangents[x] = gx if before is None else before + gx
    return [found[x] if x in found else as_rules_see(xp.zeros_like(x.data)) for x in xs]


def _as_tensor(x):
    return x if type(x) is Tensor else Tensor(x)


def _path(y, wanted):
    """The nodes that lie between y and the wanted ones, both included, inputs first."""
    oldest = min((x.index for x in wanted), default=0)
    nodes = [y]
    seen = {y}
    for node in nodes:  # the list grows while it is walked: no recursion, any depth
        for x in node.parents:
            if x.index >= oldest and x not in seen:
                seen.add(x)
                nodes.append(x)
    nodes.sort(key=attrgetter("index"))
    path = {}  # its keys, in order
    for node in nodes:
        if node in wanted:
            path[node] = None
            continue
        for x in node.parents:
            if x in path:
                path[node] = None
                break
    return path


def _fused_rules(node, g, path, create_graph):
    """A fused op's gradients, computed all at once and looked up like rules by position."""
    needed = [type(x) is Tensor and x in path for x in node.inputs]
    if create_graph:
        gradients = _through_twin(node, g, needed)
    else:
        gradients = node.op.joint(g, node.data, node.saved, needed)
    return [lambda *inputs, gx=gx, **static: gx for gx in gradients]


def _through_twin(node, g, needed):
    """A fused op's gradients as a graph: its twin's, at inputs cut off from their history."""
    inputs = [alias(x) if is_needed else x for x, is_needed in zip(node.inputs, needed)]
    twin = node.op.twin(*inputs, **node.static)
    chosen = [x for x, is_needed in zip(inputs, needed) if is_needed]
    gradients = iter(grad(twin, chosen, g, create_graph=True))
    return [next(gradients) if is_needed else None for is_needed in needed]


@op
def alias(x):
    """x itself, as a new node of the graph."""
    return x


alias.rules(lambda g, out, x: g)


def unbroadcast(g, shape):
    """Sum g over the axes along which an input of `shape` was broadcast."""
    total = g.sum(axis=_stretched(g.shape, shape))
    return total if total.shape == shape else total.reshape(shape)


@lru_cache
def _stretched(wide, shape):
    """The axes that broadcasting an array of `shape` to the shape `wide` added or stretched."""
    extra = len(wide) - len(shape)
    return tuple(i for i, n in enumerate(wide) if i < extra or shape[i - extra] != n)
