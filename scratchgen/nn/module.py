"""Floor 3: a Module is an object whose Tensors are its parameters.

No registration and no magic: the attributes of a module are looked through in the order in
which they were set. A Tensor is a parameter, a Module or a list of Modules holds more of them.
"""

import numpy as np

from scratchgen import backend
from scratchgen.tensor import Tensor, raw


class Module:
    """Base class of layers and models.

    `constants` names attributes that are arrays (or lists of them) but not trained, such as
    masks: `to` moves them along; they do not belong to the state. `buffers` names arrays that
    are not trained but counted along, such as running means: they do belong to the state.
    """

    constants = ()
    buffers = ()

    def modules(self):
        """Yield this module and all modules inside it."""
        yield self
        for value in vars(self).values():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, Module):
                    yield from item.modules()

    def named_parameters(self, prefix=""):
        """Yield (name, Tensor) in definition order, e.g. ("encoder.0.weight", Tensor)."""
        for name, value in self._named_state(prefix):
            if type(value) is Tensor:
                yield name, value

    def _named_state(self, prefix=""):
        """Yield (name, parameter or buffer) in definition order."""
        for name, value in vars(self).items():
            if type(value) is Tensor or name in self.buffers:
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value._named_state(f"{prefix}{name}.")
            elif isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item._named_state(f"{prefix}{name}.{i}.")

    def parameters(self):
        """The parameters as a list, in definition order."""
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self):
        """Copies of all parameters and buffers as NumPy arrays, by name."""
        return {name: np.array(backend.to_numpy(raw(value)))
                for name, value in self._named_state()}

    def load_state_dict(self, state):
        """Set everything from `state`, whose names, shapes and dtypes must be the module's."""
        arrays = {name: raw(value) for name, value in self._named_state()}
        if arrays.keys() != state.keys():
            missing = sorted(arrays.keys() - state.keys())
            unknown = sorted(state.keys() - arrays.keys())
            raise ValueError(f"another model's parameters: missing {missing}, unknown {unknown}")
        for name, array in arrays.items():
            value = state[name]
            if value.shape != array.shape or value.dtype != array.dtype:
                raise ValueError(f"parameter {name} is {array.dtype}{list(array.shape)}, "
                                 f"not {value.dtype}{list(value.shape)}")
        for name, array in arrays.items():
            array[...] = backend.module_of(array).asarray(state[name])

    def to(self, xp=None, dtype=None):
        """Move all parameters, buffers and constants to `xp` and `dtype`, in place; return self."""
        def moved(array):
            target = xp or backend.module_of(array)
            return target.asarray(backend.to_numpy(array).astype(dtype or array.dtype))
        for parameter in self.parameters():
            parameter.data = moved(parameter.data)
        for module in self.modules():
            for name in (*module.buffers, *module.constants):
                value = getattr(module, name)
                several = isinstance(value, list)
                setattr(module, name, [moved(x) for x in value] if several else moved(value))
        return self

    def __call__(self, *args, **options):
        return self.forward(*args, **options)


class Sequential(Module):
    """Modules and functions applied one after the other."""

    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
