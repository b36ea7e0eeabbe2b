"""Floor 3: layers. Modules hold Tensors; layers are modules with a forward."""

from scratchgen.nn import init
from scratchgen.nn.linear import ACTIVATIONS, Linear, mlp
from scratchgen.nn.module import Module, Sequential

__all__ = ["ACTIVATIONS", "Linear", "Module", "Sequential", "init", "mlp"]
