"""Where files come from: a folder, the environment, a download; and what is never left behind."""

import dataclasses
import gzip
import socket

import numpy as np
import pytest

from dataset_helpers import (NAMES, idx_bytes, serving, small_arrays, small_binarized, small_files,
                             small_mnist, source_of, write_files)
from scratchgen.datasets import DataError, describe, layouts, load
from scratchgen.datasets.files import fetch


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No data folder from outside, and no proxy between a test and its server."""
    monkeypatch.delenv("SCRATCHGEN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    """A server with the small MNIST in two folders, good and bad; the tests spoil the bad one."""
    files = {}
    for folder in ("good", "bad"):
        files |= {f"{folder}/{name}": content for name, content in small_files().items()}
    with serving(files) as running:
        yield running


def contents(folder):
    """Name -> bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def one_line(failure):
    return "\n" not in str(failure.value)


# A folder

def test_mnist_from_a_folder(tmp_path):
    write_files(tmp_path / "mnist", small_files())
    images, labels, test_images, test_labels = small_arrays()
    dataset = load("mnist", tmp_path, registry=small_mnist())
    assert dataset.protocol == "mnist (dynamic)"
    assert (dataset.shape, dataset.dim) == ((3, 4), 12)
    assert np.array_equal(dataset.train.images, images[:20].reshape(20, 12))
    assert np.array_equal(dataset.valid.images, images[20:].reshape(5, 12))
    assert np.array_equal(dataset.test.images, test_images.reshape(7, 12))
    assert np.array_equal(dataset.train.labels, labels[:20])
    assert np.array_equal(dataset.valid.labels, labels[20:])
    assert np.array_equal(dataset.test.labels, test_labels)


def test_argument_beats_environment_beats_network(tmp_path, monkeypatch, server):
    tests = {}
    for seed, place in enumerate(("argument", "environment", "network")):
        tests[place] = small_arrays(seed)[2].reshape(7, 12)
        folder = tmp_path / place / "mnist"
        write_files(folder, small_files(seed))
    server.files |= {f"good/{name}": content for name, content in small_files(2).items()}
    mirrors = [server.address("good")]

    def read(seed, data_dir=None):
        registry = small_mnist(mirrors, seed)
        return load("mnist", data_dir, registry=registry, cache=tmp_path / "cache").test.images

    assert np.array_equal(read(2), tests["network"])
    assert len(server.asked) == 4
    monkeypatch.setenv("SCRATCHGEN_DATA", str(tmp_path / "environment"))
    assert np.array_equal(read(1), tests["environment"])
    assert np.array_equal(read(0, tmp_path / "argument"), tests["argument"])
    monkeypatch.setenv("SCRATCHGEN_DATA", "")  # empty is as good as unset
    assert np.array_equal(read(2), tests["network"])
    assert len(server.asked) == 4


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_file_is_named_and_never_downloaded(missing, tmp_path, server):
    write_files(tmp_path / "mnist", small_files())
    (tmp_path / "mnist" / missing).unlink()
    with pytest.raises(DataError) as failure:
        load("mnist", tmp_path, registry=small_mnist([server.address("good")]))
    assert str(failure.value).startswith(f"{tmp_path / 'mnist' / missing} is missing: put")
    assert one_line(failure)
    assert server.asked == []


def test_a_folder_without_the_data_set_names_its_first_file(tmp_path):
    with pytest.raises(DataError, match=f"mnist/{NAMES[0]} is missing"):
        load("mnist", tmp_path)
    with pytest.raises(DataError, match="binarized-mnist/binarized_mnist_packed.npz is missing"):
        load("binarized-mnist", tmp_path)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_folder_that_is_none(by, tmp_path, monkeypatch):
    missing = tmp_path / "nowhere"
    monkeypatch.setenv("SCRATCHGEN_DATA", str(missing if by == "environment" else tmp_path))
    named = "--data-dir" if by == "argument" else "SCRATCHGEN_DATA"
    with pytest.raises(DataError, match=f"^{named} names {missing}, which is not a folder") as e:
        load("mnist", missing if by == "argument" else None, registry=small_mnist())
    assert one_line(e)


def test_a_whole_file_of_other_content_is_refused(tmp_path):
    write_files(tmp_path / "mnist", small_files() | {NAMES[3]: small_files(seed=1)[NAMES[3]]})
    with pytest.raises(DataError, match="wrong checksum: expected SHA-256 .*, got ") as failure:
        load("mnist", tmp_path, registry=small_mnist())
    assert str(failure.value).startswith(f"{tmp_path / 'mnist' / NAMES[3]}: ")
    assert one_line(failure)


@pytest.mark.parametrize("position, array, message", [
    (0, np.zeros((24, 3, 4), np.uint8), "24 images, but .*labels-idx1-ubyte.gz holds 25 labels"),
    (3, np.zeros(8, np.uint8), "7 images, but .*t10k-labels-idx1-ubyte.gz holds 8 labels"),
    (0, np.zeros((25, 4, 3), np.uint8), r"images: found uint8 of shape \(25, 4, 3\), expected "
                                        r"uint8 of shape \(25, 3, 4\)"),
    (2, small_arrays()[3], r"images: found uint8 of shape \(7,\)"),
    (1, np.zeros((25, 1), np.uint8), r"labels: found uint8 of shape \(25, 1\)"),
])
def test_sizes_that_do_not_match(position, array, message, tmp_path):
    # The registry holds the checksum of the unfit file, so only its sizes speak against it.
    files = small_files() | {NAMES[position]: gzip.compress(idx_bytes(array))}
    write_files(tmp_path / "mnist", files)
    registry = {"mnist": source_of("mnist", [(files, layouts.mnist, None)])}
    with pytest.raises(DataError, match=message) as failure:
        load("mnist", tmp_path, registry=registry)
    assert one_line(failure)


def test_images_and_labels_of_one_wrong_size(tmp_path):
    files = small_files()
    files[NAMES[0]] = gzip.compress(idx_bytes(np.zeros((9, 3, 4), np.uint8)))
    files[NAMES[1]] = gzip.compress(idx_bytes(np.zeros(9, np.uint8)))
    write_files(tmp_path / "mnist", files)
    with pytest.raises(DataError, match=r"images: found uint8 of shape \(9, 3, 4\), expected"):
        load("mnist", tmp_path, registry=small_mnist())


def test_cut_short_is_said_before_the_checksum(tmp_path):
    files = small_files()
    write_files(tmp_path / "mnist", files | {NAMES[0]: files[NAMES[0]][:-9]})
    with pytest.raises(DataError, match=f"{NAMES[0]}: the gzip file is cut short"):
        load("mnist", tmp_path, registry=small_mnist())


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    write_files(tmp_path / "mnist", small_files())
    (tmp_path / "mnist" / NAMES[0]).unlink()
    (tmp_path / "mnist" / NAMES[0]).mkdir()
    with pytest.raises(DataError, match=f"{NAMES[0]}: Is a directory: the data set mnist") as e:
        load("mnist", tmp_path, registry=small_mnist())
    assert one_line(e)


# The published 0/1 file, as text and packed

def test_binarized_text_and_packed_are_the_same(tmp_path):
    registry, texts, splits = small_binarized()
    write_files(tmp_path / "text" / "binarized-mnist", texts)
    packed = tmp_path / "packed" / "binarized-mnist"
    packed.mkdir(parents=True)
    np.savez(packed / layouts.PACKED, **{name: np.packbits(bits, axis=1) for name, bits
                                         in zip(layouts.SPLITS, splits, strict=True)})
    for folder in ("text", "packed"):
        dataset = load("binarized-mnist", tmp_path / folder, registry=registry)
        assert (dataset.protocol, dataset.levels) == ("binarized-mnist (static)", 2)
        for name, bits in zip(layouts.SPLITS, splits, strict=True):
            assert np.array_equal(dataset.split(name).images, bits)
            assert dataset.split(name).images.flags.c_contiguous
            assert dataset.split(name).labels is None
    assert set(contents(tmp_path / "text")) == {f"binarized-mnist/{name}" for name in texts}


def test_binarized_of_other_content_is_refused(tmp_path):
    registry, texts, splits = small_binarized()
    splits[1][0, 0] ^= 1
    folder = tmp_path / "binarized-mnist"
    folder.mkdir()
    np.savez(folder / layouts.PACKED, **{name: np.packbits(bits, axis=1) for name, bits
                                         in zip(layouts.SPLITS, splits, strict=True)})
    with pytest.raises(DataError, match="packed.npz: wrong checksum of the valid images: expec"):
        load("binarized-mnist", tmp_path, registry=registry)


@pytest.mark.parametrize("encoding", ["threshold", "fixed", "dynamic", "grey", "levels"])
def test_binarized_has_no_other_encoding_and_needs_no_file_to_say_so(encoding, tmp_path):
    with pytest.raises(DataError, match="^binarized-mnist was published as zeros and ones"):
        load("binarized-mnist", tmp_path, encoding=encoding)


# Downloads

def test_download_once(tmp_path, server):
    registry = small_mnist([server.address("good")])
    first = load("mnist", registry=registry, cache=tmp_path)
    assert server.asked == [f"good/{name}" for name in NAMES]
    again = load("mnist", registry=registry, cache=tmp_path)
    assert len(server.asked) == 4
    assert np.array_equal(first.train.images, again.train.images)
    assert np.array_equal(first.test.images, small_arrays()[2].reshape(7, 12))
    assert contents(tmp_path / "mnist") == small_files()


@pytest.mark.parametrize("fault, reason", [
    ("missing", "HTTP 404 Not Found"),
    ("short", "cut short"),
    ("other", "wrong checksum: SHA256 hash of downloaded file .* expected .* but got [0-9a-f]{64}"),
    ("refused", "no connection"),
])
def test_a_bad_mirror_is_passed_over_and_named_when_it_is_alone(fault, reason, tmp_path, server):
    spoilt = f"bad/{NAMES[0]}"
    mirror = server.address("bad")
    if fault == "missing":
        del server.files[spoilt]
    elif fault == "short":
        server.short.add(spoilt)
    elif fault == "other":
        server.files[spoilt] = small_files(seed=1)[NAMES[0]]
    else:
        mirror = closed_address()
    with pytest.raises(DataError, match=rf"^{NAMES[0]} could not be downloaded \({mirror}: "
                                        rf"{reason}.*\): try again later, or name a folder that "
                                        rf"holds mnist/{NAMES[0]} with --data-dir") as failure:
        load("mnist", registry=small_mnist([mirror]), cache=tmp_path)
    assert one_line(failure)
    assert contents(tmp_path) == {}
    load("mnist", registry=small_mnist([mirror, server.address("good")]), cache=tmp_path)
    assert contents(tmp_path / "mnist") == small_files()


def closed_address():
    """An address on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_a_mirror_that_never_answers_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr("scratchgen.datasets.files.SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DataError, match=f"{mirror}: no answer in 0.1 seconds"):
            load("mnist", registry=small_mnist([mirror]), cache=tmp_path)
        load("mnist", registry=small_mnist([mirror, server.address("good")]), cache=tmp_path)
    assert contents(tmp_path / "mnist") == small_files()


def test_every_mirrors_answer_is_listed(tmp_path, server):
    server.short.add(f"bad/{NAMES[0]}")
    mirrors = [server.address("nowhere"), server.address("bad"), closed_address()]
    with pytest.raises(DataError) as failure:
        load("mnist", registry=small_mnist(mirrors), cache=tmp_path)
    message = str(failure.value)
    assert (f"({mirrors[0]}: HTTP 404 Not Found; {mirrors[1]}: cut short; "
            f"{mirrors[2]}: no connection") in message
    assert one_line(failure)


def test_a_damaged_file_in_the_cache_is_replaced_whole_or_not_at_all(tmp_path, server):
    write_files(tmp_path / "mnist", small_files() | {NAMES[2]: b"half a f"})
    server.short.add(f"bad/{NAMES[2]}")
    before = contents(tmp_path)
    with pytest.raises(DataError, match="cut short"):
        load("mnist", registry=small_mnist([server.address("bad")]), cache=tmp_path)
    assert contents(tmp_path) == before
    load("mnist", registry=small_mnist([server.address("good")]), cache=tmp_path)
    assert contents(tmp_path / "mnist") == small_files()
    assert server.asked == [f"bad/{NAMES[2]}", f"good/{NAMES[2]}"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, server):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="could not be downloaded") as failure:
        load("mnist", registry=small_mnist([server.address("good")]), cache=tmp_path / "cache")
    assert one_line(failure)


def test_fetch_gives_the_path_and_asks_for_no_compression(tmp_path, server):
    name = NAMES[0]
    sha256 = small_mnist()["mnist"].layouts[0].files[name]
    path = fetch(name, sha256, [server.address("good")], tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / name
    assert path.read_bytes() == small_files()[name]
    assert server.headers[-1]["Accept-Encoding"] == "identity"


def test_downloaded_text_is_kept_packed(tmp_path):
    with serving({}) as server:
        registry, texts, splits = small_binarized([server.address("texts")])
        server.files |= {f"texts/{name}": content for name, content in texts.items()}
        load("binarized-mnist", registry=registry, cache=tmp_path)
        assert set(contents(tmp_path)) == {f"binarized-mnist/{layouts.PACKED}"}
        dataset = load("binarized-mnist", registry=registry, cache=tmp_path)
        assert len(server.asked) == 3
    for name, bits in zip(layouts.SPLITS, splits, strict=True):
        assert np.array_equal(dataset.split(name).images, bits)


def test_a_failed_packing_leaves_the_text(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(layouts.np, "savez_compressed", full)
    with serving({}) as server:
        registry, texts, splits = small_binarized([server.address("texts")])
        server.files |= {f"texts/{name}": content for name, content in texts.items()}
        dataset = load("binarized-mnist", registry=registry, cache=tmp_path)
    assert np.array_equal(dataset.test.images, splits[2])
    assert contents(tmp_path / "binarized-mnist") == texts


def test_real_sources_have_two_mirrors_and_a_checksum_a_file():
    for name, source in load.__kwdefaults__["registry"].items():
        for layout in source.layouts:
            for sha256 in layout.files.values():
                assert source.contents if sha256 is None else len(sha256) == 64
        if not source.embedded:
            assert len(source.layouts[-1].mirrors) >= 2, name
            assert all(mirror.endswith("/") for mirror in source.layouts[-1].mirrors)


# What there is

def test_describe(tmp_path):
    write_files(tmp_path / "mnist", small_files())
    (tmp_path / "fashion-mnist").mkdir()
    rows = {row["name"]: row for row in describe(tmp_path)}
    assert list(rows) == ["digits", "coloured-digits", "mnist", "fashion-mnist", "binarized-mnist",
                          "frey-face"]
    present = [name for name, row in rows.items() if row["present"]]
    assert present == ["digits", "coloured-digits", "mnist"]
    assert rows["mnist"]["where"] == str(tmp_path / "mnist")
    assert rows["mnist"]["sizes"] == (50000, 10000, 10000)
    assert rows["digits"]["licence"] == "CC BY 4.0"
    assert "10.24432/C50P49" in rows["digits"]["credit"]
    (tmp_path / "mnist" / NAMES[3]).unlink()
    assert not {row["name"]: row for row in describe(tmp_path)}["mnist"]["present"]


def test_describe_looks_into_the_cache_without_a_folder(tmp_path):
    write_files(tmp_path / "mnist", small_files())
    rows = describe(registry=small_mnist(), cache=tmp_path)
    assert rows[0]["where"] == str(tmp_path / "mnist")
    assert rows[0]["present"]


def test_a_default_cache_is_scratchgens():
    pooch = pytest.importorskip("pooch")
    assert describe(registry=small_mnist())[0]["where"] == str(pooch.os_cache("scratchgen")
                                                               / "mnist")


def test_contents_of_text_are_checked_where_they_are_listed(tmp_path):
    registry, texts, _ = small_binarized()
    write_files(tmp_path / "binarized-mnist", texts)
    source = registry["binarized-mnist"]
    wrong = dataclasses.replace(source, contents=("0" * 64,) * 3)
    with pytest.raises(DataError, match="wrong checksum of the train images"):
        load("binarized-mnist", tmp_path, registry={"binarized-mnist": wrong})
    without = dataclasses.replace(source, contents=())
    load("binarized-mnist", tmp_path, registry={"binarized-mnist": without})
