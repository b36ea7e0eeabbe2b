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
    """W is strictly lower triangular: (D, D), or (D K, D) for K levels; it starts at zero."""

    constants = ("mask",)

    def __init__(self, dim, levels=2):
        super().__init__(dim, levels)
        outputs = 1 if levels == 2 else levels
        self.weight = Tensor(np.zeros((dim * outputs, dim), dtype=np.float32))
        self.bias = Tensor(np.zeros(dim * outputs, dtype=np.float32))
        # 1 where an output may see an input: j < i.
        before = np.tril(np.ones((dim, dim), dtype=np.float32), -1)
        self.mask = before.repeat(outputs, axis=0)

    def logits(self, x):
        outputs = 1 if self.levels == 2 else self.levels
        flat = ops.linear(self.scaled(x), self.weight * self.mask, self.bias)
        return flat if outputs == 1 else flat.reshape(len(x), self.dim, outputs)

    def fill(self, x, u, missing, progress=None):
        weight, bias = raw(self.weight), raw(self.bias)
        outputs = 1 if self.levels == 2 else self.levels
        for i in missing:
            rows = slice(i * outputs, (i + 1) * outputs)
            logits = ops.linear(self.scaled(x[:, :i]), weight[rows, :i], bias[rows])
            x[:, i] = self.draw(logits[:, 0] if outputs == 1 else logits, u[i])
            if progress is not None:
                progress.update()
