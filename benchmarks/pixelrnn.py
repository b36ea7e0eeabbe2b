"""The layers of PixelRNN, and sampling from it."""

import numpy as np

from benchmarks.runner import Contender, Unavailable
from scratchgen import backend
from scratchgen.models.pixelrnn import PixelRNN
from scratchgen.nn.pixel_recurrent import DiagonalBiLSTM, RowLSTM
from scratchgen.tensor import Tensor, grad, no_grad


class Layer:
    """One layer, 2h maps in and h out, forward and all gradients.

    PyTorch is written in its natural spelling: one convolution for all inputs to states, then a
    loop of one-dimensional convolutions over the states, of a skewed map for the diagonals. All
    biases are zero: PyTorch's skewed map has padding, in which any other would start states.
    """

    REPEATS = 20

    def __init__(self, variant, hidden, goal):
        self.hidden = hidden
        self.goal = goal
        self.layer, self.peer = {"row": (RowLSTM, row_lstm),
                                 "diagonal": (DiagonalBiLSTM, diagonal_bilstm)}[variant]
        self.__doc__ = f"A {self.layer.__name__} layer, h = {hidden}, 16 images of 28x28."

    def contenders(self, tiny):
        sizes = (2, 5, 3) if tiny else (16, 28, self.hidden)  # batch, side, h
        return [
            Contender("scratchgen, NumPy", lambda: self.ours("numpy", *sizes), ours=True),
            Contender("PyTorch", lambda: self.pytorch("cpu", *sizes), needs="torch",
                      reference=True, goal=self.goal),
            Contender("scratchgen, CuPy", lambda: self.ours("cupy", *sizes), ours=True,
                      backend="cupy",
                      synchronize=lambda: backend.synchronize(backend.get("cupy"))),
            Contender("PyTorch, CUDA", lambda: self.pytorch("cuda", *sizes), needs="torch",
                      reference=True, backend="cupy", synchronize=wait_for_cuda)]

    def start(self, batch, side, hidden):
        """The layer that everyone begins with, maps (2h, H, W, N), and the gradient by h."""
        rng = np.random.default_rng(0)
        layer = self.layer(2 * hidden, hidden, rng, forget_bias=0.0)
        return layer, *[rng.standard_normal((maps, side, side, batch), dtype=np.float32)
                        for maps in (2 * hidden, hidden)]

    def ours(self, name, *sizes):
        xp = backend.get(name)
        layer, x, g = self.start(*sizes)
        layer.to(xp)
        x, g = Tensor(xp.asarray(x)), xp.asarray(g)
        wanted = [x, *layer.parameters()]

        def step():
            h = layer(x)
            gradients = grad(h, wanted, g)
            return [h, gradients[0]]

        return step

    def pytorch(self, device, *sizes):
        import torch
        if device == "cuda" and not torch.cuda.is_available():
            raise Unavailable("PyTorch finds no CUDA device")
        torch.set_num_threads(2)
        layer, x, g = self.start(*sizes)
        # PyTorch's layouts: maps (N, C, H, W), weights (out, in, kernel).
        x, g = [torch.tensor(a, device=device).permute(3, 0, 1, 2).contiguous() for a in (x, g)]
        weight_is, weight_ss, bias = [torch.tensor(p.data, device=device)
                                      for p in layer.parameters()]
        if self.layer is RowLSTM:
            unseen = torch.zeros_like(weight_is[:1])
            weight_is = torch.cat([weight_is, unseen]).permute(2, 1, 0)[:, :, None]
            weight_ss = weight_ss.permute(2, 1, 0)
        else:
            weight_is = weight_is.permute(0, 2, 1)[..., None, None]
            weight_ss = weight_ss.permute(0, 3, 2, 1)
        wanted = [a.contiguous().requires_grad_() for a in (x, weight_is, weight_ss, bias)]

        def step():
            h = self.peer(*wanted)
            gradients = torch.autograd.grad(h, wanted, g)
            return [h.permute(1, 2, 3, 0), gradients[0].permute(1, 2, 3, 0)]

        return step


def row_lstm(x, weight_is, weight_ss, bias):
    """PyTorch: x (N, 2h, H, W) -> (N, h, H, W)."""
    import torch
    from torch.nn.functional import conv1d, conv2d
    from_input = conv2d(x, weight_is, bias, padding=(0, 1))
    h = c = x.new_zeros(x.shape[0], bias.shape[0] // 4, x.shape[3])
    rows = []
    for i in range(x.shape[2]):
        h, c = cell(from_input[:, :, i] + conv1d(h, weight_ss, padding=1), c)
        rows.append(h)
    return torch.stack(rows, dim=2)


def cell(a, c):
    import torch
    i, f, g, o = a.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def diagonal_bilstm(x, weight_is, weight_ss, bias):
    """PyTorch: both directions one after the other, the second on mirrored maps."""
    from torch.nn.functional import pad
    from_left = diagonal_lstm(x, weight_is[0], weight_ss[0], bias[0])
    from_right = diagonal_lstm(x.flip(3), weight_is[1], weight_ss[1], bias[1]).flip(3)
    return from_left + pad(from_right[:, :, :-1], (0, 0, 1, 0))


def diagonal_lstm(x, weight_is, weight_ss, bias):
    import torch
    from torch.nn.functional import conv1d, conv2d, pad
    n, channels, height, width = x.shape
    skewed = x.new_zeros(n, channels, height, height + width - 1)
    for i in range(height):
        skewed[:, :, i, i:i + width] = x[:, :, i]
    from_input = conv2d(skewed, weight_is, bias)
    h = c = x.new_zeros(n, bias.shape[0] // 4, height)
    columns = []
    for d in range(skewed.shape[3]):
        h, c = cell(from_input[:, :, :, d] + conv1d(pad(h, (1, 0)), weight_ss), c)
        columns.append(h)
    states = torch.stack(columns, dim=3)
    return torch.stack([states[:, :, i, i:i + width] for i in range(height)], dim=2)


class Sampling:
    """16 binary images of 28x28 from a PixelRNN, beside its own naive sampler.

    The naive sampler runs the whole network for every pixel. It draws one row of each image
    only, 1/28 of the work, so that a round ends; its goal is scaled to that (1/20 in all).
    Both use the same uniform numbers, so the first rows must be the same.
    """

    REPEATS = 6

    def __init__(self, variant):
        self.variant = variant
        self.__doc__ = f"16 binary images of 28x28 from PixelRNN ({variant}, 2 layers, h = 16)."

    def contenders(self, tiny):
        sizes = (3, 6) if tiny else (16, 28)  # batch, side
        side = sizes[1]
        return [
            Contender("scratchgen", lambda: self.draw(*sizes, naive=False), ours=True),
            Contender("scratchgen, naive, one row", lambda: self.draw(*sizes, naive=True),
                      reference=True, goal=side / 20)]

    def draw(self, batch, side, naive):
        model = PixelRNN((side, side), np.random.default_rng(0), self.variant, layers=2, width=16)
        u = np.random.default_rng(3).random((side * side, batch), dtype=np.float32)
        missing = list(range(side if naive else side * side))

        def draw():
            x = np.zeros((batch, side * side), dtype=np.float32)
            with no_grad():
                (model.fill_naive if naive else model.fill)(x, u, missing)
            return [x[:, :side]]

        return draw


def wait_for_cuda():
    import torch
    torch.cuda.synchronize()


BENCHMARKS = {
    "row-lstm-16": Layer("row", 16, goal=0.5),
    "row-lstm-32": Layer("row", 32, goal=0.5),
    "diagonal-bilstm-16": Layer("diagonal", 16, goal=0.25),
    "diagonal-bilstm-32": Layer("diagonal", 32, goal=0.25),
    "row-sampling": Sampling("row"),
    "diagonal-sampling": Sampling("diagonal")}
