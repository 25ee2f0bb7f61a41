"""One file from the web into a folder: whole or not at all, checked, by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from stgnn.data.files import PARTIAL
from stgnn.data.schema import FileError, OptionError
from stgnn.data.web import ONLINE, Web, complete, forget, needs_network

__all__ = ["alone", "check_checksum", "fetch"]

logger = logging.getLogger(__name__)


def fetch(
    url: str, path: str | Path, *, checksum: str = "", check: Callable[[Path], None] | None = None, web: Web = ONLINE
) -> Path:
    """Download a file, unless it is there.

    What has come so far lies beside it, under a name that ends in ``.partial``, and is gone on with by the next call if
    the server still has the same version of the file.

    Parameters
    ----------
    url
        Address, http or https.
    path
        Where the file goes; folders are made.
    checksum
        What it must have, such as ``"sha256:9f86..."``; empty for none. A file there that has another is replaced.
    check
        Raises :class:`FileError` if a downloaded file is not what it should be; it is removed then.
    web
        How the network is used.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    FileError
        If there is no network, no such file, a page in its place, a cut that tries do not mend, or another checksum;
        or if pooch is not installed.
    OptionError
        If ``checksum`` is not one.

    Examples
    --------
    >>> fetch("https://example.org/a.h5ad", "no_such_folder/a.h5ad", web=Web(offline=True))
    Traceback (most recent call last):
    stgnn.data.schema.FileError: url: expected a network, or a file fetched before; found offline mode and no ...
    """
    check_checksum(checksum)
    path = Path(path)
    if path.is_file() and (not checksum or _has(path, checksum)):
        return path
    if web.offline:
        raise needs_network(url)
    pooch = _pooch()
    with alone(path), _quiet(pooch):
        _sweep(path.parent)

        def download(url: str, output: str, _: object) -> None:
            partial = path.with_name(path.name + PARTIAL)
            complete(url, partial, web)
            if check is not None:
                _check(check, partial)
            os.replace(partial, output)

        try:
            pooch.retrieve(url, checksum or None, fname=path.name, path=path.parent, downloader=download)
        except ValueError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(
                "checksum", expected=checksum, found=f"another, of what {url} sent", hint="it was removed: try again"
            ) from error
    return path


def check_checksum(checksum: str) -> None:
    """Raise :class:`OptionError` unless a checksum is empty, or an algorithm, a colon and hexadecimal digits."""
    if checksum and not re.fullmatch(r"(md5|sha1|sha256|sha512):[0-9a-fA-F]+", checksum):
        raise OptionError("checksum", expected="md5, sha1, sha256 or sha512, a colon, digits", found=repr(checksum))


def _has(path: Path, checksum: str) -> bool:
    kind, digits = checksum.split(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == digits.lower()


def _pooch() -> ModuleType:
    try:
        import filelock  # noqa: F401
        import pooch
        import requests  # noqa: F401
    except ImportError as error:
        raise FileError(
            "url", expected="pooch, to download files", found=f"none ({error})", hint="pip install 'stgnn[data]'"
        ) from error
    return pooch


@contextmanager
def _quiet(pooch: ModuleType) -> Iterator[None]:
    """Keep pooch from telling of each file on stderr, here and nowhere else."""
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from fetching the same file; a lock goes with the process that holds it.

    Raises
    ------
    FileError
        If the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("%s: another process fetches it; waiting", path.name)
            lock.acquire()
    except OSError as error:
        found = f"{str(path.parent)!r}: {error.strerror or error}"
        raise FileError("cache", expected="a folder to write to", found=found) from error
    try:
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Remove the empty files under which pooch keeps a place, left by killed processes."""
    for place in folder.glob("tmp*"):
        if re.fullmatch(r"tmp\w{8}", place.name) and place.is_file() and not place.stat().st_size:
            place.unlink(missing_ok=True)


def _check(check: Callable[[Path], None], partial: Path) -> None:
    try:
        check(partial)
    except FileError:
        forget(partial)
        raise
