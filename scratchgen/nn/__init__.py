"""Floor 3: layers. Modules hold Tensors; layers are modules with a forward."""

from scratchgen.nn import init
from scratchgen.nn.conv import Conv2d, ConvTranspose2d
from scratchgen.nn.linear import ACTIVATIONS, Linear, mlp
from scratchgen.nn.masked import MaskedConv2d
from scratchgen.nn.module import Module, Sequential
from scratchgen.nn.norm import BatchNorm
from scratchgen.nn.pixel_recurrent import DiagonalBiLSTM, RowLSTM
from scratchgen.nn.recurrent import LSTM

__all__ = ["ACTIVATIONS", "BatchNorm", "Conv2d", "ConvTranspose2d", "DiagonalBiLSTM", "LSTM",
           "Linear", "MaskedConv2d", "Module", "RowLSTM", "Sequential", "init", "mlp"]
