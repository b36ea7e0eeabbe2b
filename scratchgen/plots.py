"""Floor 5: pictures. Every function takes NumPy arrays and writes one PNG file.

matplotlib is imported here and nowhere else, when a picture is asked for. Figures are made
without pyplot, so that no window and no global state is involved.
"""

import io

import numpy as np

from scratchgen.run import write_atomically

_INK = "#1f2937"
_COLOURS = ["#2563eb", "#d97706", "#059669", "#dc2626"]


def _figure(width, height):
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def tile(images, shape, columns, gap=1):
    """Images (N, D) in [0, 1] as one picture, row by row, with white lines between them.

    shape: (H, W), or (H, W, 3) for colours; 0 is drawn white, and 1 black.
    """
    height, width, *channels = shape
    rows = -(-len(images) // columns)
    canvas = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, *channels))
    for i, image in enumerate(images):
        top = gap + i // columns * (height + gap)
        left = gap + i % columns * (width + gap)
        canvas[top:top + height, left:left + width] = 1 - image.reshape(shape)
    return canvas


def image_grid(path, images, shape, columns, title, row_labels=None):
    """A grid of images as in `tile`; values beyond [0, 1] are shown as its ends."""
    canvas = tile(images.clip(0, 1), shape, columns)
    rows = -(-len(images) // columns)
    width = 7
    figure = _figure(width, width * canvas.shape[0] / canvas.shape[1] + 0.5)
    axes = figure.add_subplot()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    if row_labels:
        step = shape[0] + 1
        axes.set_yticks([step * row + step / 2 for row in range(rows)],
                        [row_labels[row % len(row_labels)] for row in range(rows)], fontsize=8)
        axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _save(figure, path)


def curves(path, records, keys, ylabel, title, baseline=None):
    """Figures against epochs: `keys` of the metrics records, with a dashed baseline."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    epochs = [record["epoch"] for record in records]
    marker = "o" if len(records) == 1 else None  # one point makes no line
    for key, colour in zip(keys, _COLOURS):
        axes.plot(epochs, [record[key] for record in records], color=colour, linewidth=1.5,
                  marker=marker, label=key.replace("_", " "))
    lowest = min(record[key] for record in records for key in keys)
    top = max(records[0][key] for key in keys)
    if baseline is not None:
        name, value = baseline
        label = f"{name} {value:.1f}"
        if value - lowest > 3 * (top - lowest) > 0:  # so far up that the curves would be flat
            label += ", above"
        else:
            top = max(top, value)
        axes.axhline(value, color=_INK, linewidth=1, linestyle="--", label=label)
    margin = 0.05 * (top - lowest) or 1
    axes.set_ylim(lowest - margin, top + margin)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)
