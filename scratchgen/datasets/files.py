"""Where files come from: the package, a folder the user names, or the network, once.

`--data-dir` beats the environment variable SCRATCHGEN_DATA, which beats the network. A named
folder has one subfolder a data set with the publishers' file names, and with one nothing is ever
downloaded. A download goes to a temporary file, which takes the real name only when its SHA-256 is
right; so what stands in the cache is whole, and is not asked for again.
"""

import hashlib
import os
import sys
from pathlib import Path

from scratchgen.datasets.core import DataError

VARIABLE = "SCRATCHGEN_DATA"
SECONDS = 30  # without an answer from a mirror before the next one is tried


def data_folder(data_dir=None):
    """The folder the user named, as argument or in the environment; None where there is none."""
    named = data_dir or os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "--data-dir" if data_dir else VARIABLE
        raise DataError(f"{origin} names {folder}, which is not a folder: name the one that holds "
                        "the data sets' subfolders, or leave it out to download them")
    return folder


def cache_folder():
    """The user's own cache, where downloads stay."""
    import pooch
    return Path(pooch.os_cache("scratchgen"))


def check(path, sha256):
    """DataError unless the file at `path` has this SHA-256."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path}: wrong checksum: expected SHA-256 {sha256}, got {found}; "
                        "delete it and get the published one")


def check_contents(path, what, array, sha256):
    """The same for the values of an array read from `path`, however the file packs them."""
    found = hashlib.sha256(array.tobytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{path}: wrong checksum of the {what} images: expected SHA-256 {sha256}, "
                        f"got {found}; delete it and get the published one")


def fetch(name, sha256, mirrors, folder):
    """The path of `folder`/`name`, downloaded unless it is there and right.

    mirrors: addresses of folders, tried in turn. When all have failed, DataError lists what
    each of them said.
    """
    import pooch
    import requests

    # Otherwise a server may call a .gz file compressed text, and it would arrive unpacked.
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS,
                                      chunk_size=2**16, headers={"Accept-Encoding": "identity"})
    failures = []
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, known_hash=f"sha256:{sha256}", fname=name,
                                       path=folder, downloader=downloader))
        except requests.HTTPError as error:
            reason = f"HTTP {error.response.status_code} {error.response.reason}"
        except requests.Timeout:
            reason = f"no answer in {SECONDS} seconds"
        except requests.exceptions.ChunkedEncodingError:
            reason = "cut short"
        except requests.ConnectionError as error:
            reason = f"no connection ({type(error).__name__})"
        except OSError as error:  # the disk's errors, and any other of requests'
            reason = str(error)
        except ValueError as error:
            reason = "wrong checksum: " + str(error).partition(". ")[0]
        failures.append(f"{mirror}: {reason}")
    raise DataError(f"{name} could not be downloaded ({'; '.join(failures)}): try again later, or "
                    f"name a folder that holds {folder.name}/{name} with --data-dir or {VARIABLE}")
