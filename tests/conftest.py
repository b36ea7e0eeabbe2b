"""What every test gets: the array modules to run on, a seeded generator, the shared data folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import strict
from scratchgen import backend

os.environ["MPLBACKEND"] = "Agg"  # also for the commands that tests start: no window anywhere

settings.register_profile("scratchgen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("scratchgen")

backend.register(strict.StrictArray, strict.xp)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_report_header():
    """Say on which backends this run tests, and why not on a GPU."""
    tested = "backends tested: numpy, strict (a stand-in for a device array)"
    try:
        backend.get("cupy")
    except backend.BackendError as error:
        return f"{tested}; no GPU tested here: {error}"
    return f"{tested}, cupy"


# Not function-scoped, so that hypothesis tests may use it: it holds no state.
@pytest.fixture(scope="module", params=["numpy", "strict", "cupy"])
def xp(request):
    """The array module to run on: NumPy, the strict stand-in, and CuPy where a device answers."""
    if request.param == "strict":
        return strict.xp
    try:
        return backend.get(request.param)
    except backend.BackendError as error:
        pytest.skip(f"no GPU tested here: {error}")


@pytest.fixture
def rng():
    """A host generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_dir():
    """The folder of the publishers' files: $SCRATCHGEN_DATA, or ../shared/data beside the repo."""
    folder = Path(os.environ.get("SCRATCHGEN_DATA", SHARED_DATA))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set SCRATCHGEN_DATA to test on the real files")
    return folder
