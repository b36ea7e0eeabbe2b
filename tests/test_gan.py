"""The GAN: its theory on worlds small enough to know, whose step changes what, the penalty."""

import math

import numpy as np
import pytest

from gan_helpers import ARCHITECTURES, LATENT, build, images, step
from scratchgen import backend, nn, ops
from scratchgen.check import check_grads
from scratchgen.gradcheck import functional
from scratchgen.models import gan as gans
from scratchgen.models.gan import GAN, GENERATOR_LOSSES, gradient_penalty
from scratchgen.models.gan_networks import Network, conv_gan, mlp_gan
from scratchgen.optim import Adam
from scratchgen.tensor import Tensor, grad
from training_helpers import toy_data, trainer

LOSSES = pytest.mark.parametrize("loss", GENERATOR_LOSSES)


class Fixed(nn.Module):
    """A generator that gives the same rows again and again."""

    def __init__(self, rows):
        self.rows = rows
        self.like = Tensor(np.zeros(1, rows.dtype))

    def forward(self, z, statistics="running"):
        assert len(z) == len(self.rows)
        return self.rows


# ---------------------------------------------------------- the losses, on logits (trap 10)


CLOSED_FORMS = {"minimax": (lambda d: math.log1p(-d), lambda d: -d),
                "non-saturating": (lambda d: -math.log(d), lambda d: d - 1)}


@pytest.mark.parametrize("d", [1e-6, 0.5, 0.9])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("loss", CLOSED_FORMS)
def test_generator_losses_and_their_slopes_are_their_closed_forms(loss, dtype, tolerance, d):
    exact, slope = CLOSED_FORMS[loss]
    logit = Tensor(np.array([math.log(d) - math.log1p(-d)], dtype))
    out = GENERATOR_LOSSES[loss](logit)
    # Half an ulp of the logit moves the loss by more than one of the loss's own.
    assert out.item() == pytest.approx(exact(d), rel=10 * tolerance)
    assert grad(out, logit).item() == pytest.approx(slope(d), rel=tolerance)


def test_minimax_gives_a_million_times_less_to_learn_from_an_obvious_fake():
    logit = Tensor(np.array([math.log(1e-6 / (1 - 1e-6))]))
    slopes = [grad(GENERATOR_LOSSES[loss](logit), logit).item()
              for loss in ("minimax", "non-saturating")]
    assert slopes[1] / slopes[0] == pytest.approx(1e6 - 1, rel=1e-9)


def test_the_wasserstein_loss_is_minus_the_critic():
    out = Tensor(np.array([0.3, -2.0]))
    np.testing.assert_array_equal(gans.wasserstein_loss(out).data, [-0.3, 2.0])
    np.testing.assert_array_equal(gans.wasserstein_value(out, out.data[::-1]).data, [2.3, -2.3])


def test_the_value_is_the_sum_of_two_logarithms():
    real, fake = np.array([0.3, -1.0]), np.array([-0.7, 2.0])
    expected = np.log(1 / (1 + np.exp(-real))) + np.log(1 - 1 / (1 + np.exp(-fake)))
    np.testing.assert_allclose(gans.value(real, fake), expected, rtol=1e-13)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_everything_is_finite_however_sure_the_discriminator_is(xp, logit):
    x = Tensor(xp.asarray(np.array([logit], np.float32)))
    for out in [gans.value(x, x), gans.minimax_loss(x), gans.non_saturating_loss(x)]:
        assert math.isfinite(out.item())
        assert math.isfinite(grad(out, x).item())


# ------------------------------------------------------- the best discriminator (prop. 1)


def world(p, q):
    """A discriminator on the K points of a discrete world, shown p and generated q exactly."""
    x, fake = [np.repeat(np.eye(len(p), dtype=np.float32), counts, axis=0) for counts in (p, q)]
    assert len(x) == len(fake)
    game = mlp_gan(len(p), np.random.default_rng(0), (16,), loss="minimax")
    game.generator = Fixed(fake)
    return game, x


def trained(game, x, lr=0.03):
    """Train the discriminator; returns minus its last loss."""
    player = game.players()[0]
    optimizer = Adam(player.parameters, lr=lr)
    rng = np.random.default_rng(2)
    for _ in range(250):
        loss = player.loss(x, rng)
        optimizer.step(grad(loss, player.parameters))
    return -loss.item()


@pytest.mark.parametrize("p, q", [((8, 4, 4, 3, 1), (1, 4, 9, 0, 6)), ((0, 2, 18), (7, 7, 6))])
def test_the_trained_discriminator_is_p_over_p_plus_q(p, q):
    game, x = world(p, q)
    value = trained(game, x)
    p, q = np.array(p) / sum(p), np.array(q) / sum(q)
    best = p / (p + q)
    d = ops.sigmoid(game.discriminator(np.eye(len(p), dtype=np.float32))).data
    np.testing.assert_allclose(d, best, atol=0.02)
    terms = p[p > 0] @ np.log(best[p > 0]) + q[q > 0] @ np.log1p(-best[q > 0])
    assert value == pytest.approx(terms, abs=0.02)
    assert game.figure(x, np.random.default_rng(2)).data.mean() == pytest.approx(value, abs=1e-3)


def test_the_value_is_minus_log_4_where_the_generator_is_right():
    game, x = world((8, 4, 4, 3, 1), (8, 4, 4, 3, 1))
    assert trained(game, x) == pytest.approx(-math.log(4), abs=1e-3)
    d = ops.sigmoid(game.discriminator(np.eye(5, dtype=np.float32))).data
    np.testing.assert_allclose(d, 0.5, atol=0.02)


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
def test_a_generator_finds_the_data(loss):
    """Samples start around 0 and end, on average over the steps, where the data are."""
    rng = np.random.default_rng(0)
    game = mlp_gan(2, rng, (16,), latent=3, squash=False, loss=loss, d_steps=3)
    players = [(player, Adam(player.parameters, lr=0.005, betas=(0.5, 0.9)))
               for player in game.players()]
    means = []
    for _ in range(150):
        x = (np.array([2.0, 1.0]) + 0.5 * rng.standard_normal((50, 2))).astype(np.float32)
        for player, optimizer in players:
            for _ in range(player.steps):
                optimizer.step(grad(player.loss(x, rng), player.parameters))
        means.append(game.sample(100, rng).mean(axis=0))
    assert abs(means[0]).max() < 0.6
    np.testing.assert_allclose(np.mean(means[-60:], axis=0), [2.0, 1.0], atol=0.15)


# ------------------------------------------------------------------------------- the game


# Batch norm takes the first bias away again, a difference of two outputs of the critic the last.
INDIFFERENT = {"generator.layers.0.bias", "discriminator.layers.0.layers.4.bias",
               "discriminator.layers.6.bias"}


@LOSSES
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_players_step_changes_its_own_network_and_no_byte_of_the_other(xp, architecture, loss):
    game = build(architecture, loss).to(xp)
    for player in game.players():
        before = game.state_dict()
        step(player, images(6, xp))
        after = game.state_dict()
        changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
        own = {name for name in before if name.startswith(player.name + ".")}
        assert own and len(own) < len(before)
        assert own - INDIFFERENT <= changed <= own


@LOSSES
def test_losses_are_those_of_the_game(loss):
    """Both players' losses from the networks' outputs, on the noise that the losses draw."""
    game = build("perceptrons", loss, penalty=3.0).to(dtype=np.float64)
    x = images(6, dtype=np.float64)
    z = np.random.default_rng(3).standard_normal((6, LATENT))
    real, fake = [game.discriminator(rows).data for rows in (x, game.generator(z).data)]
    if loss == "wasserstein":
        rng = np.random.default_rng(3)
        game.noise(6, rng)
        penalty = gradient_penalty(game.discriminator, x, game.generator(z).data, rng).item()
        assert penalty > 0.01
        expected = [(fake - real).mean() + 3 * penalty, -fake.mean()]
    else:
        d_real, d_fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
        lowered = -np.log(d_fake) if loss == "non-saturating" else np.log(1 - d_fake)
        expected = [-(np.log(d_real) + np.log(1 - d_fake)).mean(), lowered.mean()]
    for player, value in zip(game.players(), expected):
        assert player.loss(x, np.random.default_rng(3)).item() == pytest.approx(value, rel=1e-10)


def test_players_and_their_steps():
    players = build("perceptrons", d_steps=3).players()
    assert [(player.name, player.steps) for player in players] == [("discriminator", 3),
                                                                   ("generator", 1)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_figure_is_one_value_per_example_and_moves_nothing(xp, architecture):
    game = build(architecture).to(xp)
    before = game.state_dict()
    x = images(6, xp)
    figure = game.figure(x, np.random.default_rng(3))
    assert figure.shape == (6,)
    for name, array in game.state_dict().items():
        assert array.tobytes() == before[name].tobytes()
    for parameter in game.discriminator.parameters():
        parameter.data[...] = 0
    undecided = game.figure(x, np.random.default_rng(3)).numpy()
    np.testing.assert_allclose(undecided, -math.log(4), rtol=1e-6)


def test_the_one_loop_trains_it_and_its_state_holds_the_running_statistics(tmp_path):
    shape, pixels = (4, 4), np.random.default_rng(0).integers(0, 2, (23, 16)).astype(np.uint8)
    dataset = toy_data()
    for split in (dataset.train, dataset.valid):
        split.__dict__["images"] = pixels
    object.__setattr__(dataset, "shape", shape)

    def new(folder):
        game = conv_gan(shape, np.random.default_rng(0), width=1, latent=2, d_steps=2)
        return trainer(folder, game, dataset, dtype=np.float32, optimizer="adam", batch_size=8)
    first = new(tmp_path / "run")
    first.train(2)
    assert first.run.metrics()[-1].keys() == {
        "epoch", "step", "seconds", "train_discriminator_value", "train_generator_value",
        "valid_value"}
    again = new(tmp_path / "other")
    again.load_state(first.state())
    state = first.model.state_dict()
    assert {name.split(".")[0] for name in state if "running" in name} == {"generator",
                                                                           "discriminator"}
    for name, array in again.model.state_dict().items():
        assert array.tobytes() == state[name].tobytes()


# --------------------------------------------------------------------- the gradient penalty


def linear_critic(*slope):
    critic = Network(nn.Linear(len(slope), 1, np.random.default_rng(0)), lambda x: x.reshape(-1))
    critic.to(dtype=np.float64).layers[0].weight.data[...] = slope
    return critic


def test_the_penalty_of_a_linear_critic_is_its_slope_against_one(xp):
    critic = linear_critic(3.0, 4.0).to(xp)
    x, fake = [xp.asarray(np.random.default_rng(i).random((6, 2))) for i in (1, 2)]
    penalty = gradient_penalty(critic, x, fake, np.random.default_rng(3))
    assert penalty.item() == pytest.approx(16.0, rel=1e-12)
    weight, bias = [backend.to_numpy(g) for g in grad(penalty, critic.parameters())]
    np.testing.assert_allclose(weight, [[2 * 4 * 0.6, 2 * 4 * 0.8]], rtol=1e-12)
    assert bias == 0


def test_the_penalty_is_taken_between_each_example_and_its_fake():
    """f(x) = |x|^2 / 2 has the slope x: the penalty shows where it was taken."""
    x, fake = np.full((500, 1), 5.0), np.full((500, 1), 3.0)
    x[0], fake[0] = 100.0, 100.0
    t = np.random.default_rng(3).random((500, 1))
    points = []

    def critic(between):
        points.append(between.data)
        return ops.sum(0.5 * between * between, axis=1)
    penalty = gradient_penalty(critic, x, fake, np.random.default_rng(3))
    np.testing.assert_allclose(points[0], t * x + (1 - t) * fake)
    assert 3 < points[0][1:].min() < 3.1 and 4.9 < points[0][1:].max() < 5
    assert penalty.item() == pytest.approx(((points[0] - 1) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_of_the_penalty(xp, architecture):
    rng = np.random.default_rng(0)
    if architecture == "perceptrons":
        critic = mlp_gan(16, rng, (5, 4), loss="wasserstein").discriminator.to(xp)
    else:
        critic = conv_gan((4, 4), rng, width=1, loss="wasserstein").discriminator.to(xp)
    x, fake = [xp.asarray(rng.random((2, 16))) for _ in range(2)]

    def penalty():
        own = [array.astype(critic.parameters()[0].dtype) for array in (x, fake)]
        return gradient_penalty(critic, *own, np.random.default_rng(3))
    parameters = [xp.asarray(p.numpy() + 0.1) for p in critic.parameters()]
    check_grads(functional(critic, penalty), *parameters, repeats=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_penalty_is_finite_where_the_critic_is_flat(xp, architecture, dtype):
    critic = build(architecture, "wasserstein").discriminator.to(xp, dtype)
    for parameter in critic.parameters():
        parameter.data[...] = 0
    x = images(3, xp, dtype)
    penalty = gradient_penalty(critic, x, 1 - x, np.random.default_rng(3))
    assert penalty.item() == 1.0
    assert penalty.dtype == dtype
    for g in grad(penalty, critic.parameters()):
        assert g.dtype == dtype
        assert (backend.to_numpy(g) == 0).all()


def test_a_flat_example_leaves_the_others_their_gradient():
    weight = Tensor(np.array([[2.0]]))
    x = np.array([[-1.0], [1.0]])
    penalty = gradient_penalty(lambda between: ops.relu(between) @ weight, x, x,
                               np.random.default_rng(3))
    assert penalty.item() == pytest.approx((1 + 1) / 2)
    assert grad(penalty, weight).item() == pytest.approx(2 * (2 - 1) / 2)


def test_the_best_linear_critic():
    """Two points at distance d: s d - penalty (s - 1)^2 is largest at s = 1 + d / (2 penalty)."""
    slope = 1 + 3 / (2 * 10.0)
    critic = linear_critic(slope)
    game = GAN(Fixed(np.full((4, 1), -1.0)), critic, 2, "wasserstein", penalty=10.0)
    player = game.players()[0]
    x = np.full((4, 1), 2.0)
    loss = player.loss(x, np.random.default_rng(3))
    assert loss.item() == pytest.approx(-(3 * slope - 10 * (slope - 1) ** 2), rel=1e-12)
    assert abs(grad(loss, player.parameters)[0].item()) < 1e-12
    assert game.figure(x, np.random.default_rng(3)).data == pytest.approx(np.full(4, 3 * slope))


def test_a_trained_critic_measures_the_distance():
    """Bound to the line between the two points, it does no better than the best linear one."""
    fake = np.tile(np.array([-1.0, 0.5], np.float32), (32, 1))
    x = fake + np.array([1.8, 2.4], np.float32)
    rng = np.random.default_rng(0)
    game = mlp_gan(2, rng, (16, 16), loss="wasserstein", penalty=10.0)
    game.generator = Fixed(fake)
    trained(game, x, lr=0.01)
    value = game.figure(x, rng).data.mean()
    assert value == pytest.approx(3 * (1 + 3 / (2 * 10.0)), abs=0.02)
