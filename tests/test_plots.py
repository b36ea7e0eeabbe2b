"""Pictures: where every image of a grid lands, and files that are whole PNGs with ink on them."""

import struct
import zlib

import matplotlib.image
import numpy as np
import pytest

from scratchgen import plots
from scratchgen.run import RunError


def pixels(path):
    """The grey values (H, W) of a PNG in [0, 1]; also checks every chunk's checksum."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position = 8
    kinds = []
    while position < len(content):
        size, = struct.unpack_from(">I", content, position)
        body = content[position + 4:position + 8 + size]
        assert struct.unpack_from(">I", content, position + 8 + size)[0] == zlib.crc32(body)
        kinds.append(body[:4])
        position += 12 + size
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    return matplotlib.image.imread(path)[:, :, :3].mean(axis=2)


# ----------------------------------------------------------------------------------- tile


@pytest.mark.parametrize("n, columns, rows", [(1, 1, 1), (6, 3, 2), (7, 3, 3), (2, 5, 1),
                                              (5, 5, 1), (6, 5, 2)])
@pytest.mark.parametrize("gap", [0, 1, 2])
def test_tile_puts_every_image_in_its_place(rng, n, columns, rows, gap):
    height, width = 3, 4
    images = rng.random((n, height * width))
    canvas = plots.tile(images, (height, width), columns, gap)
    assert canvas.shape == (rows * (height + gap) + gap, columns * (width + gap) + gap)
    untouched = np.ones(canvas.shape, dtype=bool)
    for i in range(n):
        row, column = divmod(i, columns)
        place = (slice(gap + row * (height + gap), gap + row * (height + gap) + height),
                 slice(gap + column * (width + gap), gap + column * (width + gap) + width))
        np.testing.assert_array_equal(canvas[place], 1 - images[i].reshape(height, width))
        untouched[place] = False
    assert untouched.sum() == canvas.size - n * height * width  # no image lies on another
    assert (canvas[untouched] == 1).all()  # lines and empty places are white


def test_tile_exactly():
    canvas = plots.tile(np.array([[0.0, 1.0], [1.0, 0.25], [0.5, 0.0]]), (1, 2), columns=2)
    np.testing.assert_array_equal(canvas, [[1, 1, 1, 1, 1, 1, 1],
                                           [1, 1, 0, 1, 0, 0.75, 1],
                                           [1, 1, 1, 1, 1, 1, 1],
                                           [1, 0.5, 1, 1, 1, 1, 1],
                                           [1, 1, 1, 1, 1, 1, 1]])


def test_tile_keeps_colours_apart(rng):
    images = rng.random((3, 2 * 4 * 3))
    canvas = plots.tile(images, (2, 4, 3), columns=2)
    for colour in range(3):
        grey = images.reshape(3, 8, 3)[:, :, colour]
        np.testing.assert_array_equal(canvas[:, :, colour], plots.tile(grey, (2, 4), columns=2))


# ------------------------------------------------------------------------------ image_grid


def test_a_grid_shows_ink_where_the_images_have_it(tmp_path):
    images = np.zeros((4, 64))
    images[3] = 1  # the lower right one is black, the others are white
    plots.image_grid(tmp_path / "grid.png", images, (8, 8), 2, "title")
    shown = pixels(tmp_path / "grid.png")
    height, width = shown.shape
    assert shown[height // 2 + height // 8:, width // 2 + width // 8:].mean() < 0.5
    assert shown[height // 8:height // 2 - height // 8, :width // 2 - width // 8].mean() > 0.99


@pytest.mark.parametrize("n, columns, shape", [(1, 1, (8, 8)), (7, 3, (8, 8)), (10, 10, (28, 20)),
                                               (3, 16, (2, 2))])
def test_a_grid_of_any_number(tmp_path, rng, n, columns, shape):
    path = tmp_path / "grid.png"
    plots.image_grid(path, rng.random((n, shape[0] * shape[1])), shape, columns, "title")
    shown = pixels(path)
    assert shown.shape[1] == 7 * 150
    assert 60 < shown.shape[0] < 3000
    assert shown.std() > 0.02


def test_values_outside_the_unit_interval_are_shown_as_its_ends(tmp_path):
    beyond = np.array([[-3.0, 0.0, 1.0, 7.0]])
    plots.image_grid(tmp_path / "beyond.png", beyond, (2, 2), 1, "")
    plots.image_grid(tmp_path / "clipped.png", beyond.clip(0, 1), (2, 2), 1, "")
    assert (pixels(tmp_path / "beyond.png") == pixels(tmp_path / "clipped.png")).all()


def test_row_labels_alternate(tmp_path, rng):
    images = rng.random((12, 4))
    plots.image_grid(tmp_path / "plain.png", images, (2, 2), 3, "title")
    plots.image_grid(tmp_path / "labelled.png", images, (2, 2), 3, "title", ["data", "model"])
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "labelled.png").read_bytes()
    pixels(tmp_path / "labelled.png")


def test_a_picture_is_the_same_every_time_and_leaves_nothing_else(tmp_path, rng):
    images = rng.random((5, 64))
    contents = []
    for _ in range(2):
        plots.image_grid(tmp_path / "grid.png", images, (8, 8), 3, "title")
        contents.append((tmp_path / "grid.png").read_bytes())
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="cannot write .*missing.*No such file or directory"):
        plots.image_grid(tmp_path / "missing" / "grid.png", np.zeros((1, 4)), (2, 2), 1, "title")


# ---------------------------------------------------------------------------------- curves


def records(*pairs):
    return [{"epoch": epoch, "train_nats": train, "valid_nats": valid}
            for epoch, (train, valid) in enumerate(pairs, start=1)]


@pytest.mark.parametrize("history", [
    records((20.0, 21.0)),
    records((20.0, 20.0)),
    records((30.0, 31.0), (20.0, 22.0), (19.0, 23.0)),
    records((-500.0, -480.0), (-900.0, -850.0)),
])
@pytest.mark.parametrize("baseline", [None, ("independent pixels", 24.9)])
def test_curves_of_any_length(tmp_path, history, baseline):
    path = tmp_path / "curves.png"
    plots.curves(path, history, ["train_nats", "valid_nats"], "nats", "title", baseline)
    shown = pixels(path)
    assert shown.shape == (600, 1050)
    assert 0.001 < (shown < 0.9).mean() < 0.3


def test_one_epoch_is_a_point_that_can_be_seen(tmp_path):
    plots.curves(tmp_path / "curves.png", records((20.0, 23.0)), ["train_nats", "valid_nats"],
                 "nats", "title", ("independent pixels", 22.0))
    picture = matplotlib.image.imread(tmp_path / "curves.png")[:, 500:650, :3]
    for colour in ("#2563eb", "#d97706"):
        wanted = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (abs(picture - wanted).max(axis=2) < 0.02).sum() > 50


def test_curves_show_what_they_are_given(tmp_path):
    contents = set()
    for last in (19.0, 18.0):
        path = tmp_path / "curves.png"
        plots.curves(path, records((30.0, 31.0), (20.0, last)), ["train_nats", "valid_nats"],
                     "nats", "title")
        contents.add(path.read_bytes())
    assert len(contents) == 2


@pytest.mark.parametrize("baseline", [None, 3.0, 1000.0])
def test_a_baseline_far_above_does_not_flatten_the_curves(tmp_path, baseline):
    records = [{"epoch": 1, "nats": 2.0}, {"epoch": 2, "nats": 1.0}]
    plots.curves(tmp_path / "curves.png", records, ["nats"], "nats", "title",
                 baseline and ("baseline", baseline))
    picture = matplotlib.image.imread(tmp_path / "curves.png")[:, :, :3]
    blue = np.abs(picture - np.array([0x25, 0x63, 0xeb]) / 255).max(axis=2) < 0.1
    assert blue.any(axis=1).sum() > 0.3 * len(picture)  # the rows that the curve passes
