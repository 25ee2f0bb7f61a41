"""CELLxGENE: annotated single cells, and some sections, by collection and data set."""

from __future__ import annotations

import json
import re
from typing import Any

from stgnn.data.schema import FileError, OptionError
from stgnn.data.web import ONLINE, Web, page
from stgnn.sources.records import SITES, Entry, Sites

__all__ = ["FORM", "KNOWN", "TITLE", "UUID", "find", "read_json"]

TITLE = "CELLxGENE, annotated single cells"
FORM = "cellxgene:COLLECTION or cellxgene:COLLECTION/DATASET, identifiers of 36 characters"
KNOWN = (
    Entry("cellxgene:283d65eb-dd53-496d-adb7-7570c7caa443", "Human brain, single nuclei (Human Brain Cell Atlas)"),
    Entry("cellxgene:6f6d381a-7701-4781-935c-db10d30de293", "Human lung, single cells (Human Lung Cell Atlas)"),
    Entry("cellxgene:e5f58829-1a66-40b5-a624-9046778e74f5", "Human tissues, single cells (Tabula Sapiens)"),
)

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHOWN = ("organism", "tissue", "assay")


def find(key: str, sites: Sites = SITES, web: Web = ONLINE) -> list[Entry]:
    """List the data sets of a collection, or the one that is named.

    Parameters
    ----------
    key
        Collection, or collection and data set.
    sites, web
        Where the source is and how the network is used.

    Returns
    -------
    list of Entry
        Those that there is a H5AD file of.

    Raises
    ------
    OptionError
        If the key has another form.
    FileError
        If the server does not answer, knows no such collection, or says what is no JSON.

    Examples
    --------
    >>> find("lung")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: address: expected cellxgene:COLLECTION or ...; found 'cellxgene:lung'
    """
    parts = key.strip("/").split("/")
    if len(parts) > 2 or not all(UUID.fullmatch(part) for part in parts):
        raise OptionError("address", expected=FORM, found=repr(f"cellxgene:{key}"))
    url = f"{sites.cellxgene.rstrip('/')}/collections/" + "/datasets/".join(parts)
    record = read_json(url, web)
    records = [record] if len(parts) == 2 else record.get("datasets", [])
    entries = [_entry(parts[0], each) for each in records if isinstance(each, dict)]
    return [entry for entry in entries if entry is not None]


def read_json(url: str, web: Web) -> dict[str, Any]:
    """Read a record that a server sends as JSON.

    Raises
    ------
    FileError
        If it sends something else.
    """
    text = page(url, web)
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        start = " ".join(text[:60].split())
        raise FileError("url", expected=f"a record in JSON at {url}", found=f"{start!r}", hint="try later")
    return record


def _entry(collection: str, record: dict[str, Any]) -> Entry | None:
    files = [asset for asset in record.get("assets", []) if asset.get("filetype") == "H5AD" and asset.get("url")]
    identifier = record.get("dataset_id") or record.get("id")
    if not files or not identifier:
        return None
    words = [", ".join(str(item.get("label", "")) for item in record.get(field) or []) for field in _SHOWN]
    title = "; ".join(word for word in (record.get("title", ""), *words) if word)
    return Entry(f"cellxgene:{collection}/{identifier}", title, files[0]["url"])
