"""Pieces of tissue judged by the workers of a dask cluster.

A task names a saved model and the rows of a file, and changes nothing: it may run anywhere, and again. One process
gathers what is said, in order, and writes it once; so the death of a worker costs time and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stgnn.data.schema import OptionError
from stgnn.methods.base import Annotator, load
from stgnn.sweep import Each, P, Said

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""In place of an address: processes of this machine, one a core."""

ANSWER_S = 30
"""Seconds within which a scheduler has to answer."""

_AHEAD = 3
"""Pieces handed out for each worker: one at work, one waiting, one on its way."""


@contextmanager
def judges(scheduler: str, folder: Path) -> Iterator[Each]:
    """Have pieces judged by the workers of a cluster.

    Parameters
    ----------
    scheduler
        Address of a dask scheduler, such as ``"tcp://10.0.0.1:8786"``, or ``"local"``.
    folder
        Where the model is put for workers to load; they must see it, and the counts, under the same path.

    Yields
    ------
    Each
        What :meth:`stgnn.methods.spatial_transformer_gnn.SpatialTransformerGNN.predict` takes.

    Raises
    ------
    OptionError
        If ``distributed`` is not installed, nobody answers at the address, or workers die over one piece after another.
    """
    try:
        from distributed import Client
    except ImportError as error:
        hint = "pip install 'stgnn[cluster]'"
        raise OptionError("scheduler", expected="dask's distributed", found="none installed", hint=hint) from error
    try:
        client = Client(**_where(scheduler), timeout=ANSWER_S)
    except (OSError, TimeoutError, ValueError) as error:
        found = f"none at {scheduler!r} ({type(error).__name__}: {error})"
        raise OptionError("scheduler", expected="a dask scheduler that answers", found=found) from error
    with client:
        yield lambda judge, model, pieces: _by_workers(client, folder, judge, model, pieces)


def _where(scheduler: str) -> dict[str, Any]:
    if scheduler != LOCAL:
        return {"address": scheduler}
    # threads of one process would wait for one another: council and networks hold Python's lock for most of the time
    return {"threads_per_worker": 1, "dashboard_address": None}


def _by_workers(
    client: Client, folder: Path, judge: Callable[[Any, P], Said], model: Annotator, pieces: Iterable[P]
) -> Iterator[Said]:
    """Hand pieces out, a few ahead of those whose results are awaited."""
    from distributed import KilledWorker

    place = folder / f"model-{uuid4().hex}"  # a name of its own: workers remember models by their names
    model.save(place)
    device, waiting = getattr(model, "device", "auto"), deque[Any]()
    try:
        for piece in pieces:
            waiting.append(client.submit(_judged, judge, str(place), device, piece, pure=False))
            if len(waiting) >= _AHEAD * max(len(client.nthreads()), 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KilledWorker as error:
        hint = "they may lack memory: give each more, or make pieces smaller by cells_per_piece"
        raise OptionError("scheduler", expected="workers that stay alive", found=str(error), hint=hint) from error


def _judged(judge: Callable[[Any, P], Said], model: str, device: str, piece: P) -> Said:
    return judge(_loaded(model, device), piece)


@lru_cache(maxsize=1)
def _loaded(model: str, device: str) -> Annotator:
    """The model, once for each worker."""
    found = load(model, device=device)
    if not isinstance(found, Annotator):
        raise TypeError(f"model: expected one that annotates; found {type(found).__name__}")
    return found
