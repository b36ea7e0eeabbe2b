"""The run folder: writes that happen whole or not at all, and damage that is refused by name."""

import errno
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from scratchgen.run import Run, RunError, RunExistsError, write_atomically

CONFIG = {"model": "vae", "epochs": 3, "hidden": [16]}


@pytest.fixture
def run(tmp_path):
    """A run folder with a config and a checkpoint of two arrays."""
    made = Run(tmp_path / "run")
    made.create(CONFIG)
    made.save_checkpoint({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array("text")})
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def one_line(error):
    return "\n" not in str(error.value)


def failing(monkeypatch, function, code):
    """Make os.fsync, os.replace, ... fail as a full or read-only disk does."""
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, function, fail)


# -------------------------------------------------------------------------- atomic writes


def test_write_atomically_replaces_the_content(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, function,
                                                                code):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    failing(monkeypatch, function, code)
    with pytest.raises(RunError) as error:
        write_atomically(path, b"new")
    assert str(error.value) == f"cannot write {path}: {os.strerror(code)}"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_fills_up_in_the_middle_of_a_write(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            super().write(content[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("scratchgen.run.open", Full, raising=False)
    with pytest.raises(RunError, match="No space left on device"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_content_is_on_disk_before_the_name_is_taken(tmp_path, monkeypatch):
    path = tmp_path / "file"
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        fsync(descriptor)
        events.append(("fsync", os.fstat(descriptor).st_size))

    def watched_replace(source, target):
        events.append(("replace", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(path, b"12345")
    assert events == [("fsync", 5), ("replace", 5)]


def test_a_folder_of_that_name_is_left_alone(tmp_path):
    (tmp_path / "taken.png" / "inside").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot write .*taken.png: Is a directory"):
        write_atomically(tmp_path / "taken.png", b"new")
    assert names(tmp_path) == ["taken.png"]
    assert names(tmp_path / "taken.png") == ["inside"]


@pytest.mark.parametrize("parent", ["file", "missing"])
def test_no_folder_to_write_into(tmp_path, parent):
    (tmp_path / "file").write_text("I am no folder")
    with pytest.raises(RunError, match="cannot write .*picture.png: N"):
        write_atomically(tmp_path / parent / "picture.png", b"new")
    assert names(tmp_path) == ["file"]


# ------------------------------------------------------------------- making a run, config


def test_create_writes_the_config(tmp_path):
    run = Run(tmp_path / "deep" / "run")
    assert not run.exists()
    run.create(CONFIG)
    assert run.exists()
    assert run.config() == CONFIG
    assert names(run.folder) == ["config.json"]


def test_create_refuses_a_folder_that_holds_a_run(run):
    before = run.config_path.read_bytes()
    with pytest.raises(RunExistsError) as error:
        run.create({"model": "autoencoder"})
    assert str(error.value) == (f"{run.folder} already holds a run: continue it with --resume, "
                                "or choose another --out")
    assert run.config_path.read_bytes() == before


def test_create_where_a_file_is(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="cannot make .*run: File exists"):
        Run(tmp_path / "run").create(CONFIG)
    assert (tmp_path / "run").read_text() == "mine"


def test_create_below_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot make .*run: Not a directory"):
        Run(tmp_path / "file" / "run").create(CONFIG)


def test_create_on_a_disk_that_is_full(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", errno.ENOSPC)
    run = Run(tmp_path / "run")
    with pytest.raises(RunError, match="cannot write .*config.json: No space left on device"):
        run.create(CONFIG)
    assert not run.exists()
    assert names(run.folder) == []


def test_create_without_permission(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("scratchgen.run.open", refuse, raising=False)  # the superuser may write
    with pytest.raises(RunError, match="cannot write .*config.json: Permission denied"):
        Run(tmp_path / "run").create(CONFIG)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"{}", b"\xff\xfe\x00", b"null"])
def test_a_damaged_config_is_named(run, content):
    run.config_path.write_bytes(content)
    with pytest.raises(RunError) as error:
        run.config()
    assert str(error.value).startswith(f"{run.config_path} cannot be read: ")
    assert one_line(error)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="holds no run: there is no config.json in it"):
        Run(tmp_path).config()


# ----------------------------------------------------------------------------- checkpoint


def test_a_checkpoint_comes_back_as_it_was_written(run):
    arrays = run.load_checkpoint()
    assert sorted(arrays) == ["a", "b"]
    assert arrays["a"].dtype == np.float32
    np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
    assert str(arrays["b"]) == "text"


def test_no_checkpoint_yet(tmp_path):
    assert Run(tmp_path).load_checkpoint() is None


def test_a_checkpoint_holds_no_time_of_day(run, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    before = run.checkpoint_path.read_bytes()
    run.save_checkpoint(run.load_checkpoint())
    assert run.checkpoint_path.read_bytes() == before
    with zipfile.ZipFile(run.checkpoint_path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def refused(run):
    """The message of the RunError that loading the checkpoint gives."""
    with pytest.raises(RunError) as error:
        run.load_checkpoint()
    assert one_line(error)
    assert str(error.value).startswith(f"{run.checkpoint_path} is damaged or no checkpoint (")
    assert str(error.value).endswith("restore it, or train again into another --out")
    return str(error.value)


def test_every_truncation_is_refused(run):
    whole = run.checkpoint_path.read_bytes()
    for length in range(0, len(whole), 7):
        run.checkpoint_path.write_bytes(whole[:length])
        refused(run)


def test_every_flipped_bit_is_refused_or_harmless(run):
    whole = run.checkpoint_path.read_bytes()
    arrays = run.load_checkpoint()
    refusals = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        run.checkpoint_path.write_bytes(altered)
        try:
            read = run.load_checkpoint()
        except RunError as error:
            assert "\n" not in str(error)
            refusals += 1
            continue
        assert read.keys() <= arrays.keys()  # who needs a missing one will say so
        for name, array in read.items():
            np.testing.assert_array_equal(array, arrays[name])
            assert array.dtype == arrays[name].dtype
    assert refusals > len(whole) / 2


def test_a_smaller_shape_does_not_hide_the_rest(run):
    run.save_checkpoint({"a": np.zeros((3, 9000))})
    whole = run.checkpoint_path.read_bytes()
    assert whole.count(b"(3, 9000)") == 1
    run.checkpoint_path.write_bytes(whole.replace(b"(3, 9000)", b"(1, 9000)"))
    assert "wrong checksum of a.npy" in refused(run)


class Bomb:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_an_array_of_objects_is_refused_and_never_unpickled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = np.array([Bomb()], dtype=object)
    np.savez(run.checkpoint_path, a=np.zeros(2), b=bomb, allow_pickle=True)
    assert "Object arrays cannot be loaded" in refused(run)
    assert not (tmp_path / "unpickled").exists()


def test_a_pickle_is_refused_and_never_unpickled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.checkpoint_path.write_bytes(pickle.dumps(Bomb()))
    assert "pickle" in refused(run)
    assert not (tmp_path / "unpickled").exists()


def test_other_files_are_refused(run):
    run.checkpoint_path.write_bytes(b"")
    refused(run)
    run.checkpoint_path.write_text("{}")
    refused(run)
    with open(run.checkpoint_path, "wb") as file:
        np.save(file, np.zeros(3))  # an array, but no archive of arrays
    refused(run)
    with zipfile.ZipFile(run.checkpoint_path, "w") as archive:
        archive.writestr("a", b"not an array")
    assert "a is no array" in refused(run)


def test_a_failed_checkpoint_leaves_the_previous_one(run, monkeypatch):
    before = run.checkpoint_path.read_bytes()
    failing(monkeypatch, "replace", errno.ENOSPC)
    with pytest.raises(RunError, match="cannot write .*checkpoint.npz: No space left on device"):
        run.save_checkpoint({"a": np.ones(3)})
    assert run.checkpoint_path.read_bytes() == before
    assert names(run.folder) == ["checkpoint.npz", "config.json"]


# -------------------------------------------------------------------------------- metrics


def test_metrics_are_on_disk_line_by_line(run):
    assert run.metrics() == []
    run.append_metrics({"epoch": 1, "train_nats": 0.1})
    run.append_metrics({"epoch": 2, "train_nats": 1e-300})
    assert run.metrics_path.read_text() == ('{"epoch": 1, "train_nats": 0.1}\n'
                                            '{"epoch": 2, "train_nats": 1e-300}\n')
    assert run.metrics() == [{"epoch": 1, "train_nats": 0.1}, {"epoch": 2, "train_nats": 1e-300}]


@pytest.mark.parametrize("cut", [b'{"epoch": 3, "tra', b"{", b"\xff\xfe", b"4", b"{}"])
def test_a_line_cut_short_ends_the_record(run, cut):
    for epoch in (1, 2):
        run.append_metrics({"epoch": epoch})
    with open(run.metrics_path, "ab") as file:
        file.write(cut)
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]
    run.cut_metrics(2)
    run.append_metrics({"epoch": 3})
    assert run.metrics_path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n'


def test_cut_metrics_drops_what_came_after_the_checkpoint(run):
    records = [{"epoch": epoch, "train_nats": epoch / 3} for epoch in range(1, 5)]
    for record in records:
        run.append_metrics(record)
    run.cut_metrics(2)
    assert run.metrics() == records[:2]
    run.cut_metrics(0)
    assert run.metrics_path.read_text() == ""


def test_metrics_keep_every_digit(run, rng):
    values = [float(value) for value in rng.standard_normal(100)]
    for epoch, value in enumerate(values):
        run.append_metrics({"epoch": epoch, "value": value})
    run.cut_metrics(len(values))
    assert [record["value"] for record in run.metrics()] == values


def test_metrics_that_cannot_be_written(run, monkeypatch):
    failing(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(RunError, match="cannot write .*metrics.jsonl: No space left on device"):
        run.append_metrics({"epoch": 1})


def test_config_is_readable_json(run):
    assert json.loads(run.config_path.read_text()) == CONFIG
    assert run.config_path.read_text().endswith("}\n")
