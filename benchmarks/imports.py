"""`import scratchgen` against `import numpy`, each in a fresh interpreter.

Starting Python is in every figure; the first row says how much that is. The last row is what
the command line imports before it does anything.
"""

import subprocess
import sys
from pathlib import Path

import scratchgen
from benchmarks.runner import Contender

REPEATS = 15
FOLDER = Path(scratchgen.__file__).parents[1]  # where `import scratchgen` finds this very package


def contenders(tiny):
    return [
        Contender("Python alone", lambda: fresh("pass")),
        Contender("import numpy", lambda: fresh("import numpy"), reference=True, goal=1.3),
        Contender("import scratchgen", lambda: fresh("import scratchgen"), ours=True),
        Contender("import scratchgen.cli", lambda: fresh("import scratchgen.cli"))]


def fresh(statement):
    """A function that runs `statement` in an interpreter of its own."""
    def call():
        subprocess.run([sys.executable, "-c", statement], cwd=FOLDER, check=True)
    return call
