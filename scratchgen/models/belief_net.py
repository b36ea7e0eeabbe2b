"""Floor 4: the fully visible belief net. Read autoregressive.py before.

The simplest chain-rule model: each sub-pixel is a (multinomial) logistic regression on all the
sub-pixels before it,

    logit p(x_i = 1 | x_<i) = b_i + sum_{j<i} W_ij x_j.

Frey, Hinton & Dayan 1996, "Does the wake-sleep algorithm produce good density estimators?";
Frey 1998, "Graphical models for machine learning and digital communication", section 2.
"""

import numpy as np

from scratchgen import ops
from scratchgen.models.autoregressive import AutoregressiveModel
from scratchgen.tensor import Tensor, raw


class BeliefNet(AutoregressiveModel):
    """W is strictly lower triangular: (D, D), or (D K, D) for K levels; it starts at zero.

    log_odds (D,): of the training images' pixels, 2 levels only; training starts from them.
    """

    constants = ("mask",)

    def __init__(self, dim, levels=2, log_odds=None):
        super().__init__(dim, levels)
        self.weight = Tensor(np.zeros((dim * self.outputs, dim), dtype=np.float32))
        self.bias = Tensor(self.first_bias(log_odds).reshape(-1))
        # 1 where an output may see an input: j < i.
        before = np.tril(np.ones((dim, dim), dtype=np.float32), -1)
        self.mask = before.repeat(self.outputs, axis=0)

    def logits(self, x):
        flat = ops.linear(self.scaled(x), self.weight * self.mask, self.bias)
        return flat if self.levels == 2 else flat.reshape(len(x), self.dim, self.levels)

    def fill(self, x, u, missing, progress=None):
        weight, bias = raw(self.weight), raw(self.bias)
        for i in missing:
            rows = slice(i * self.outputs, (i + 1) * self.outputs)
            logits = ops.linear(self.scaled(x[:, :i]), weight[rows, :i], bias[rows])
            x[:, i] = self.draw(logits[:, 0] if self.levels == 2 else logits, u[i])
            if progress is not None:
                progress.update()
