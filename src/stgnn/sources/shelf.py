"""What lies in the cache: files, and lists of data sets that sources have told of, for use without a network."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

from stgnn.data.files import cache_folder
from stgnn.data.schema import FileError
from stgnn.sources.records import Entry, readable

__all__ = ["folder_of", "known", "path_of", "remember", "told"]


def folder_of(cache: str | Path | None) -> Path:
    """Folder of data sets: the one given, or "data" in the one that STGNN_CACHE names, or in the system's.

    Examples
    --------
    >>> folder_of("sets").name
    'sets'
    """
    return cache_folder() / "data" if cache is None else Path(cache)


def path_of(entry: Entry, cache: Path) -> Path:
    """Where the file of an entry lies, or will; nothing in an address leads out of the cache.

    Examples
    --------
    >>> path_of(Entry("stomics:STDS0000058/../a b.h5ad", ""), Path("c")).as_posix()
    'c/stomics/STDS0000058/_/a_b.h5ad'
    """
    source, _, key = entry.address.partition(":")
    parts = [re.sub(r"^\.+$", "_", re.sub(r"[^\w.+-]", "_", part)) for part in key.split("/") if part]
    path = cache.joinpath(source, *parts)
    return path if readable(path.name) else path.with_name(path.name + ".h5ad")


def remember(address: str, entries: list[Entry], cache: Path) -> None:
    """Keep what a source has told of an address.

    Raises
    ------
    FileError
        If the folder cannot be written to.
    """
    path = _list_of(address, cache)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([asdict(entry) for entry in entries], indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        found = f"{str(path.parent)!r}: {error.strerror or error}"
        raise FileError("cache", expected="a folder to write to", found=found) from error


def known(cache: Path) -> list[Entry]:
    """All data sets that sources have told of, with the paths of those that are here."""
    found: dict[str, Entry] = {}
    for path in sorted((cache / "lists").glob("*.json")):
        found |= {entry.address: entry for entry in _read(path)}
    return [_placed(entry, cache) for entry in found.values()]


def told(address: str, cache: Path) -> list[Entry]:
    """What sources have told of an address: itself, or all that a list of it, or of a folder above, has under it."""
    own = [entry for entry in known(cache) if entry.address == address]
    if own:
        return own
    parts = address.split("/")
    for end in range(len(parts), 0, -1):
        listed = _read(_list_of("/".join(parts[:end]), cache))
        under = [_placed(entry, cache) for entry in listed if entry.address.startswith(address + "/")]
        if under:
            return under
    return []


def _list_of(address: str, cache: Path) -> Path:
    return cache / "lists" / f"{quote(address, safe='')}.json"


def _read(path: Path) -> list[Entry]:
    try:
        return [Entry(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):  # none, of another version, or damaged: asked for again when needed
        return []


def _placed(entry: Entry, cache: Path) -> Entry:
    path = path_of(entry, cache)
    return replace(entry, path=str(path) if path.is_file() else "")
