"""scratchgen: the generative models of CS231n lecture 13, from scratch on NumPy or CuPy."""

from scratchgen import operators, ops
from scratchgen.check import check_grads
from scratchgen.tensor import Tensor, grad, no_grad

__all__ = ["Tensor", "check_grads", "grad", "no_grad", "operators", "ops"]
__version__ = "0.1.0"
