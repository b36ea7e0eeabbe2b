"""The backend floor: which module, which array, which noise, and what is said where none is."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

import strict
from scratchgen import backend

TESTS = Path(__file__).resolve().parent


class FakeDriverError(RuntimeError):
    """Stands for the error class of the CUDA runtime."""


class FakeDeviceArray:
    """Stands for the array class of the device module."""


def fake_cupy(monkeypatch, devices):
    """Put a module called cupy in place whose driver answers `devices`, or raises it."""
    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    module = ModuleType("cupy")
    module.ndarray = FakeDeviceArray
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count,
                                                          CUDARuntimeError=FakeDriverError))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_numpy_is_always_there():
    assert backend.get("numpy") is np
    assert backend.available()[0] == "numpy"


@pytest.mark.parametrize("name", ["torch", "", "NumPy", "strict"])
def test_unknown_backend_names_the_choices(name):
    with pytest.raises(backend.BackendError) as error:
        backend.get(name)
    assert str(error.value) == f"unknown backend {name!r}: choose one of numpy, cupy"


def test_cupy_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it now raises ImportError
    with pytest.raises(backend.BackendError) as error:
        backend.get("cupy")
    assert "CuPy cannot be imported (" in str(error.value)
    assert "pip install 'scratchgen[cuda12]'" in str(error.value)
    assert str(error.value).endswith("use --backend numpy")
    assert backend.available() == ["numpy"]


def test_cupy_without_a_device(monkeypatch):
    fake_cupy(monkeypatch, devices=0)
    with pytest.raises(backend.BackendError, match="no CUDA device found; use --backend numpy"):
        backend.get("cupy")
    assert backend.available() == ["numpy"]


def test_cupy_whose_driver_fails(monkeypatch):
    fake_cupy(monkeypatch, devices=FakeDriverError("cudaErrorInsufficientDriver"))
    with pytest.raises(backend.BackendError) as error:
        backend.get("cupy")
    assert str(error.value) == ("backend cupy: the CUDA driver reports no device "
                                "(cudaErrorInsufficientDriver); use --backend numpy")
    assert error.value.__suppress_context__  # one sentence for the user, no second traceback
    assert backend.available() == ["numpy"]


def test_cupy_with_a_device(monkeypatch):
    module = fake_cupy(monkeypatch, devices=1)
    assert backend.get("cupy") is module
    assert backend.available() == ["numpy", "cupy"]
    assert backend.module_of(FakeDeviceArray()) is module


def test_module_of(xp):
    assert backend.module_of(xp.zeros(2)) is xp
    assert backend.module_of(xp.zeros(2)[0]) is xp


@pytest.mark.parametrize("value", [1.5, 2, True, np.float32(1), np.ma.zeros(2)])
def test_module_of_host_values_is_numpy(value):
    assert backend.module_of(value) is np


def test_register_makes_a_type_known(monkeypatch):
    class Array:
        pass

    monkeypatch.setattr(backend, "_module_of_type", {})
    assert backend.module_of(Array()) is np
    backend.register(Array, math_module := ModuleType("math_module"))
    assert backend.module_of(Array()) is math_module


def test_to_numpy(xp):
    host = np.arange(6.0).reshape(2, 3)
    back = backend.to_numpy(xp.asarray(host))
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, host)
    np.testing.assert_array_equal(backend.to_numpy(xp.asarray(host).T), host.T)


def test_to_numpy_on_the_host():
    host = np.arange(3)
    assert backend.to_numpy(host) is host
    for scalar in (2.5, np.float64(2.5)):
        assert type(backend.to_numpy(scalar)) is np.ndarray
        assert backend.to_numpy(scalar) == 2.5


def test_index_array(xp):
    rows = xp.asarray(np.arange(6.0).reshape(3, 2))
    index = np.array([2, 0, 2])
    taken = rows[backend.index_array(xp, index)]
    assert backend.to_numpy(taken).tolist() == [[4, 5], [0, 1], [4, 5]]
    assert backend.index_array(np, index) is index


@pytest.mark.parametrize("draw", [backend.standard_normal, backend.uniform])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (0, 2), ()])
def test_host_noise_is_the_same_everywhere(xp, draw, dtype, shape):
    expected = draw(np.random.default_rng(5), shape, dtype, np)
    noise = draw(np.random.default_rng(5), shape, dtype, xp)
    assert backend.module_of(noise) is xp
    assert noise.shape == shape
    assert noise.dtype == dtype
    np.testing.assert_array_equal(backend.to_numpy(noise), expected)


def test_host_noise_has_its_distribution():
    rng = np.random.default_rng(0)
    normal = backend.standard_normal(rng, (10_000,), np.float64, np)
    assert abs(normal.mean()) < 4 / 100
    assert abs(normal.var() - 1) < 4 * np.sqrt(2) / 100
    uniform = backend.uniform(rng, (10_000,), np.float64, np)
    assert 0 <= uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 * np.sqrt(1 / 12) / 100


@pytest.mark.parametrize("draw", [backend.standard_normal, backend.uniform])
def test_device_generator_draws_where_the_arrays_are(xp, draw):
    generator = backend.device_generator(7, xp)
    assert isinstance(generator, np.random.Generator) == (xp is np)
    noise = draw(generator, (4, 2), np.float32, xp)
    again = draw(backend.device_generator(7, xp), (4, 2), np.float32, xp)
    other = draw(backend.device_generator(8, xp), (4, 2), np.float32, xp)
    assert backend.module_of(noise) is xp
    assert noise.shape == (4, 2)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(backend.to_numpy(noise), backend.to_numpy(again))
    assert (backend.to_numpy(noise) != backend.to_numpy(other)).any()


def test_synchronize_waits_for_the_device_and_only_there(xp, monkeypatch):
    assert backend.synchronize(xp) is None
    waits = []
    device = fake_cupy(monkeypatch, devices=1)
    stream = SimpleNamespace(synchronize=lambda: waits.append("waited"))
    device.cuda.get_current_stream = lambda: stream
    backend.synchronize(device)
    assert waits == ["waited"]
    assert not hasattr(strict.xp, "cuda")


def test_runs_of_the_tests_are_reproducible(rng):
    assert rng.random() == np.random.default_rng(0).random()
    assert settings().derandomize
    assert settings().deadline is None
    assert settings().max_examples == 50
    assert os.environ["MPLBACKEND"] == "Agg"


def test_a_run_says_which_backends_it_tested(tmp_path):
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_probe.py").write_text("def test_modules(xp): pass\n"
                                            "def test_files(data_dir): pass\n")
    (tmp_path / "cupy.py").write_text("raise ImportError('kept away by this test')\n")
    path = os.pathsep.join([str(tmp_path), str(TESTS), str(TESTS.parent)])
    environment = dict(os.environ, PYTHONPATH=path, SCRATCHGEN_DATA=str(tmp_path / "absent"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", tmp_path],
        env=environment, cwd=tmp_path, capture_output=True, text=True)
    reason = "no GPU tested here: backend cupy: CuPy cannot be imported (kept away"
    assert "backends tested: numpy, strict (a stand-in for a device array); " + reason in run.stdout
    assert run.stdout.count(reason) == 2  # in the header and among the skips
    assert f"no data folder at {tmp_path / 'absent'}: set SCRATCHGEN_DATA" in run.stdout
    assert "2 passed, 2 skipped" in run.stdout
