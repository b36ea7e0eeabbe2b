"""Floor 3: convolution layers with PyTorch's names and weight layouts. Read conv.py before."""

import numpy as np

from scratchgen.conv import conv2d, conv_transpose2d
from scratchgen.nn import init
from scratchgen.nn.module import Module
from scratchgen.tensor import Tensor


class Conv2d(Module):
    """conv2d plus a bias: x (N, in, H, W), weight (out, in, kh, kw), bias (out)."""

    def __init__(self, in_channels, out_channels, kernel_size, rng, stride=1, padding=0,
                 bias=True, initialise=init.torch_default):
        shape = (out_channels, in_channels) + _square(kernel_size)
        self.weight = Tensor(initialise(shape, rng))
        self.bias = Tensor(np.zeros(out_channels, dtype=np.float32)) if bias else None
        self.stride = stride
        self.padding = padding

    def forward(self, x):
        out = conv2d(x, self.weight, stride=self.stride, padding=self.padding)
        return _plus(out, self.bias)


class ConvTranspose2d(Module):
    """conv_transpose2d plus a bias: x (N, in, H, W), weight (in, out, kh, kw), bias (out)."""

    def __init__(self, in_channels, out_channels, kernel_size, rng, stride=1, padding=0,
                 output_padding=0, bias=True, initialise=init.torch_default):
        shape = (in_channels, out_channels) + _square(kernel_size)
        self.weight = Tensor(initialise(shape, rng))
        self.bias = Tensor(np.zeros(out_channels, dtype=np.float32)) if bias else None
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding

    def forward(self, x):
        out = conv_transpose2d(x, self.weight, stride=self.stride, padding=self.padding,
                               output_padding=self.output_padding)
        return _plus(out, self.bias)


def _square(size):
    """A kernel size as a pair, a single number standing for both."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def _plus(out, bias):
    """A bias of (C) added to every pixel of (N, C, H, W)."""
    return out if bias is None else out + bias.reshape(-1, 1, 1)
