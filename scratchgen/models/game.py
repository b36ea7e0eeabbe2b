"""Floor 4: what the training loop sees of a model: a game of one or more players.

A likelihood model is a game of one player, who lowers its loss; a GAN is a game of two. Each
player owns some parameters, and its step changes no others.
"""

import dataclasses
from collections.abc import Callable

from scratchgen.nn import Module


@dataclasses.dataclass(frozen=True)
class Player:
    """One player: `loss(x, rng)` is a scalar Tensor, minimised over `parameters` alone."""

    name: str
    parameters: list
    loss: Callable
    steps: int = 1  # updates of this player for one batch


class LikelihoodModel(Module):
    """A game of one player, for models whose loss is a mean over examples.

    A subclass has `objective(x, rng)`: a Tensor (N,), the number to be raised for each example.
    `unit` is what it is measured in, `figure_name` what it is called in tables.
    """

    unit = "nats"
    figure_name = "exact"

    def loss(self, x, rng):
        """The mean over the batch of -objective."""
        objective = self.objective(x, rng)
        return objective.sum() * (-1 / objective.size)

    def figure(self, x, rng):
        """What validation lowers, for each example (N,)."""
        return -self.objective(x, rng)

    def players(self):
        """The one player, who owns all parameters."""
        return [Player("model", self.parameters(), self.loss)]
