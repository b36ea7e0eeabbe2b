"""Peak memory of a process that makes training steps: `python -m benchmarks.memory`.

Each contender of the pixelcnn benchmark on the processor makes three steps in a fresh process,
which then says how much memory it ever held; importing the library is part of that.
"""

import resource
import subprocess
import sys

from benchmarks import pixelcnn

STEPS = 3
SIZES = (16, 28, 7, 32)  # batch, side, blocks, h
GOAL = 0.5


def main():
    if len(sys.argv) > 1:
        print(peak(sys.argv[1]))
        return
    peaks = {}
    for name in ("ours", "pytorch"):
        done = subprocess.run([sys.executable, "-m", "benchmarks.memory", name], check=True,
                              capture_output=True, text=True)
        peaks[name] = float(done.stdout)
        print(f"{name}: {peaks[name]:.0f} MB")
    ratio = peaks["ours"] / peaks["pytorch"]
    print(f"ratio {ratio:.2f}, goal {GOAL:.2f} {'met' if ratio <= GOAL else 'missed'}")


def peak(name):
    """The largest resident size of this process, in MB, after a few steps."""
    setup = {"ours": lambda: pixelcnn.ours("numpy", *SIZES),
             "pytorch": lambda: pixelcnn.pytorch("cpu", *SIZES)}[name]
    step = setup()
    for _ in range(STEPS):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
