"""Human Cell Atlas: matrices of projects, found in the tree that its service gives of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from stgnn.data.schema import OptionError
from stgnn.data.web import ONLINE, Web
from stgnn.sources.cellxgene import UUID, read_json
from stgnn.sources.records import SITES, Entry, Sites, readable

__all__ = ["FORM", "KNOWN", "TITLE", "find"]

TITLE = "Human Cell Atlas, projects"
FORM = "hca:PROJECT or hca:PROJECT/NAME, with the project's identifier of 36 characters"
KNOWN = (Entry("hca:74b6d569-3b11-42ef-b6b1-a0454522b4a0", "Mouse brain E18, 1.3 million cells, 10x"),)


def find(key: str, sites: Sites = SITES, web: Web = ONLINE) -> list[Entry]:
    """List the matrices of a project.

    Parameters
    ----------
    key
        Project, or project and name of a file.
    sites, web
        Where the source is and how the network is used.

    Returns
    -------
    list of Entry
        Matrices that can be read: contributed ones, then those that the atlas has made.

    Raises
    ------
    OptionError
        If the key has another form.
    FileError
        If the server does not answer, knows no such project, or says what is no JSON.

    Examples
    --------
    >>> find("lung")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: address: expected hca:PROJECT ...; found 'hca:lung'
    """
    project = key.split("/")[0]
    if not UUID.fullmatch(project):
        raise OptionError("address", expected=FORM, found=repr(f"hca:{key}"))
    base = sites.hca.rstrip("/")
    record = read_json(f"{base}/index/projects/{project}", web)
    entries: dict[str, Entry] = {}
    for about in record.get("projects", []):
        for tree in (about.get("contributedAnalyses"), about.get("matrices")):
            for file in _files(tree):
                entry = _entry(base, project, str(about.get("projectTitle", "")), file)
                entries.setdefault(entry.address, entry)
    return list(entries.values())


def _files(tree: Any) -> Iterator[dict[str, Any]]:
    """Files at the ends of a tree of organisms, stages, organs and libraries."""
    if isinstance(tree, dict) and readable(str(tree.get("name", ""))) and tree.get("uuid"):
        yield tree
    elif isinstance(tree, dict | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _files(branch)


def _entry(base: str, project: str, title: str, file: dict[str, Any]) -> Entry:
    name = str(file["name"]).replace("/", "_")
    version = f"?version={quote(file['version'])}" if file.get("version") else ""
    url = file.get("azul_url") or file.get("url") or f"{base}/repository/files/{file['uuid']}{version}"
    checksum = f"sha256:{file['sha256']}" if file.get("sha256") else ""
    return Entry(f"hca:{project}/{name}", f"{title}, {name}", url, checksum)
