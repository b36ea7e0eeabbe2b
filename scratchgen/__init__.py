"""scratchgen: the generative models of CS231n lecture 13, from scratch on NumPy or CuPy."""

__version__ = "0.1.0"
