"""HTTP: pages, and files that come piece by piece and are gone on with after a cut."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from stgnn.data.files import PARTIAL
from stgnn.data.schema import FileError

if TYPE_CHECKING:
    from requests import Response

__all__ = ["ONLINE", "Web", "complete", "forget", "needs_network", "page"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18  # bytes
_MOST_REDIRECTS = 20
_LONGEST_PAUSE_S = 30
_GO_ON = "run the same command again to go on"


@dataclass(frozen=True)
class Web:
    """How the network is used.

    Parameters
    ----------
    offline
        Whether not to use it at all.
    timeout_s
        Seconds without an answer after which a connection is given up.
    tries
        How often a download that was cut is taken up again before it is given up.
    pause_s
        Seconds between two tries.
    """

    offline: bool = False
    timeout_s: float = 30.0
    tries: int = 4
    pause_s: float = 1.0


ONLINE = Web()


def page(url: str, web: Web = ONLINE) -> str:
    """Text of a small page.

    Raises
    ------
    FileError
        If there is no network, or no such page.
    """
    requests = _requests()
    try:
        with _open(url, {}, web) as answer:
            return answer.text
    except requests.RequestException as error:
        raise _unreachable(url, error) from error


def complete(url: str, partial: Path, web: Web) -> None:
    """Download what a partial file still lacks, taking up a cut download a few times.

    Parameters
    ----------
    url
        Address, http or https.
    partial
        File to go on with, or to begin.
    web
        How the network is used.

    Raises
    ------
    FileError
        If there is no network, no such file, a page in its place, or a cut that tries do not mend.
    """
    for number in range(web.tries):
        if number:
            time.sleep(web.pause_s)
        if _go_on(url, partial, web):
            _tag(partial).unlink(missing_ok=True)
            return
    size = partial.stat().st_size if partial.is_file() else 0
    found = f"connection cut {web.tries} times, {size:,} bytes so far"
    raise FileError("url", expected=f"all of {url}", found=found, hint=_GO_ON)


def _go_on(url: str, partial: Path, web: Web) -> bool:
    """Download from where the partial file ends; False if the connection was cut, or if all must begin anew."""
    from urllib3.exceptions import HTTPError

    start, version = _left(partial, url)
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    # a compressed answer has another length than the file
    with _open(url, headers | {"Accept-Encoding": "identity"}, web) as answer:
        resumed = start and answer.status_code == 206
        if answer.status_code == 416 or (resumed and not _begins(answer, start)):
            forget(partial)
            return False
        start = start if resumed else 0
        length = int(answer.headers.get("Content-Length", 0))
        try:
            _write(answer, partial, start, length, url)
        except HTTPError as error:
            logger.info("%s: cut (%s)", url, error)
            return False
        except OSError as error:
            found = f"{type(error).__name__}: {error.strerror or error}"
            raise FileError("cache", expected=f"to write {str(partial)!r}", found=found, hint=_GO_ON) from error
    return not length or partial.stat().st_size == start + length


def _open(url: str, headers: dict[str, str], web: Web) -> Response:
    """Ask for a file, following redirects, at the pace that the server asks for."""
    if web.offline:
        raise needs_network(url)
    requests = _requests()
    place = url
    for _ in range(_MOST_REDIRECTS):
        try:
            answer = requests.get(place, headers=headers, stream=True, timeout=web.timeout_s, allow_redirects=False)
        except (requests.RequestException, ValueError) as error:
            raise _unreachable(url, error) from error
        if not answer.is_redirect:
            break
        answer.close()
        pause = answer.headers.get("Retry-After", "")
        time.sleep(min(int(pause), _LONGEST_PAUSE_S) if pause.isdigit() else 0)
        place = urljoin(place, answer.headers["Location"])
    if answer.status_code in (200, 206, 416):
        return answer
    answer.close()
    gone = answer.status_code in (404, 410)
    found = f"{answer.status_code} {answer.reason}"
    raise FileError("url", expected=f"a file at {url}", found=found, hint="check the address" if gone else "try later")


def _write(answer: Response, partial: Path, start: int, length: int, url: str) -> None:
    """Append what the server sends to a partial file, or begin one."""
    chunks = iter(lambda: answer.raw.read1(_CHUNK), b"")  # iter_content loses what came just before a cut
    first = next(chunks, b"")
    if not start:
        if _is_page(answer, first):
            raise FileError("url", expected=f"a file at {url}", found="an HTML page", hint="open it in a browser")
        forget(partial)
        version = answer.headers.get("ETag", "")
        version = version if version and not version.startswith("W/") else answer.headers.get("Last-Modified", "")
        _tag(partial).write_text(f"{url}\n{version}", encoding="utf-8")
    with open(partial, "ab") as file, _bar(partial.name.removesuffix(PARTIAL), start, length) as advance:
        file.write(first)
        advance(len(first))
        for chunk in chunks:
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _is_page(answer: Response, first: bytes) -> bool:
    kind = answer.headers.get("Content-Type", "").lower()
    return kind.startswith("text/html") or first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


def _begins(answer: Response, start: int) -> bool:
    """Whether a part of a file is the one that was asked for."""
    return answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _left(partial: Path, url: str) -> tuple[int, str]:
    """Bytes of an earlier try and the version they are of; 0 if it cannot be gone on with."""
    try:
        source, version = _tag(partial).read_text(encoding="utf-8").split("\n", 1)
        size = partial.stat().st_size
    except (OSError, ValueError):
        return 0, ""
    return (size, version) if source == url and version else (0, "")


def _tag(partial: Path) -> Path:
    """File that says which version of which address a partial file is of."""
    return partial.with_name(partial.name + ".tag")


def forget(partial: Path) -> None:
    """Remove a partial file."""
    for path in (partial, _tag(partial)):
        path.unlink(missing_ok=True)


@contextmanager
def _bar(name: str, start: int, length: int) -> Iterator[Callable[[int], Any]]:
    """Progress on stderr, where it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task(name, total=start + length if length else None, completed=start)
        yield lambda number: progress.advance(task, number)


def _requests() -> ModuleType:
    try:
        import requests
    except ImportError as error:
        raise FileError(
            "url", expected="pooch and requests, to download files", found="none", hint="pip install 'stgnn[data]'"
        ) from error
    return requests


def needs_network(url: str) -> FileError:
    """Error for what would need a network in offline mode."""
    found = f"offline mode and no copy of {url}"
    return FileError("url", expected="a network, or a file fetched before", found=found, hint="run it once online")


def _unreachable(url: str, error: Exception) -> FileError:
    """Error for a server that does not answer; what libraries say of it is long, so that the end is enough."""
    reason = str(error).rsplit(": ", 1)[-1].rstrip(" ')\"")[:120]
    reason += ")" * (reason.count("(") - reason.count(")"))
    found = f"no connection ({type(error).__name__}: {reason})"
    hint = "check the network; with --offline, files fetched before are used"
    return FileError("url", expected=f"an answer from {url}", found=found, hint=hint)
