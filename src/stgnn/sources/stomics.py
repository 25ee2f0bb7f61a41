"""STOmicsDB: AnnData of many spatial studies, in folders that a server lists as HTML."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urljoin

from stgnn.data.schema import OptionError
from stgnn.data.web import ONLINE, Web, page
from stgnn.sources.records import SITES, Entry, Sites, readable

__all__ = ["FORM", "KNOWN", "TITLE", "find"]

TITLE = "STOmicsDB, spatial studies"
FORM = "stomics:STDS0000058, stomics:STDS0000058/NAME.h5ad or stomics:STDS0000058/SAMPLE/NAME.h5ad"
KNOWN = (
    Entry("stomics:STDS0000056", "Axolotl brain, development and regeneration, Stereo-seq (ARTISTA)"),
    Entry("stomics:STDS0000058", "Mouse embryos E9.5 to E16.5 and mouse brain, Stereo-seq (MOSTA)"),
    Entry("stomics:STDS0000058/Mouse_brain.h5ad", "Adult mouse brain, Stereo-seq (MOSTA)"),
    Entry(
        "stomics:STDS0000058/E16.5_E1S3_cell_bin_whole_brain.h5ad",
        "Brain of a mouse embryo, E16.5, segmented cells, Stereo-seq (MOSTA)",
    ),
    Entry("stomics:STDS0000060", "Drosophila embryos and larvae, Stereo-seq (Flysta3D)"),
)


def find(key: str, sites: Sites = SITES, web: Web = ONLINE) -> list[Entry]:
    """List the files of a study.

    Parameters
    ----------
    key
        Study, or study and folder; or the whole of a file's name, for which no index is asked.
    sites, web
        Where the source is and how the network is used.

    Returns
    -------
    list of Entry
        Files that can be read, those in folders of samples included.

    Raises
    ------
    OptionError
        If the key has another form.
    FileError
        If the server does not answer, or knows no such study.

    Examples
    --------
    >>> find("STDS0000058/Mouse_brain.h5ad")[0].url
    'https://ftp.cngb.org/pub/SciRAID/stomics/STDS0000058/stomics/Mouse_brain.h5ad'
    """
    study, *rest = key.strip("/").split("/")
    if not re.fullmatch(r"STDS\d{7}", study) or ".." in rest:
        raise OptionError("address", expected=FORM, found=repr(f"stomics:{key}"))
    base = f"{sites.stomics.rstrip('/')}/{study}/stomics/"
    if rest and readable(rest[-1]):
        return [_entry(study, base, base + quote("/".join(rest)))]
    start = base + quote("".join(f"{part}/" for part in rest))
    links = _links(start, web)
    for folder in [link for link in links if link.endswith("/")]:
        links += _links(folder, web)
    return [_entry(study, base, link) for link in links if readable(link)]


def _links(folder: str, web: Web) -> list[str]:
    """Addresses of what an index lists below its own folder."""
    hrefs = re.findall(r"""href\s*=\s*["']([^"'?#]+)["']""", page(folder, web), re.IGNORECASE)
    links = dict.fromkeys(urljoin(folder, href) for href in hrefs)
    return [link for link in links if link.startswith(folder) and link != folder]


def _entry(study: str, base: str, url: str) -> Entry:
    name = unquote(url.removeprefix(base))
    return Entry(f"stomics:{study}/{name}", f"STOmicsDB {study}, {name}", url)
