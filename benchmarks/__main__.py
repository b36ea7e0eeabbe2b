"""What `python -m benchmarks` runs: fix the number of threads, then hand over to command.py."""

import os
import sys

THREADS = "2"


def main():
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, THREADS)
    # Only now: the libraries read these variables once, when they are first imported.
    from benchmarks import command
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
