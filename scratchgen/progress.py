"""Floor 5: how far something long has got, and the time left.

tqdm is imported here and nowhere else, when something long begins.
"""

import math
import sys
import time


def bar(total, label, unit, initial=0, leave=False):
    """A bar on a terminal, nothing elsewhere; `update(n)` moves it on by n units."""
    from tqdm import tqdm
    return tqdm(total=total, desc=label, unit=unit, initial=initial, leave=leave,
                unit_scale=unit != "step", dynamic_ncols=True, disable=not sys.stderr.isatty())


class Training:
    """A bar with the time left on a terminal; one plain line for some epochs otherwise."""

    def __init__(self, epochs, done, steps):
        self.epochs = epochs
        self.steps = steps  # of an epoch
        self.done = done
        self.start = time.perf_counter()
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            self.bar = bar(self.epochs * self.steps, None, "step", initial=self.done * self.steps,
                           leave=True)
        return self

    def __exit__(self, *exception):
        if self.bar is not None:
            self.bar.close()

    def update(self):
        if self.bar is not None:
            self.bar.update()

    def report(self, record):
        line = "  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in record.items()
                         if name.startswith(("train", "valid")) and "bits" not in name)
        epoch = record["epoch"]
        if self.bar is not None:
            self.bar.set_postfix_str(line)
        elif epoch in (1, self.epochs) or epoch % math.ceil(self.epochs / 20) == 0:
            elapsed = time.perf_counter() - self.start
            left = elapsed / (epoch - self.done) * (self.epochs - epoch)
            print(f"epoch {epoch}/{self.epochs}  {line}  {left:.0f} s left", flush=True)
