"""Every task by every method with every seed, each in a fresh process; a failure is a record, never an end."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stgnn.bench import expression_tables, genes, spots
from stgnn.bench.expression_tasks import ExpressionTask
from stgnn.bench.genes import GeneTask
from stgnn.bench.measure import Job
from stgnn.bench.records import ABSENT, RUNS, append, read, write_tables
from stgnn.bench.scale import ScaleTask
from stgnn.bench.spots import SpotTask
from stgnn.bench.tasks import load
from stgnn.data.schema import FileError, InputError, OptionError

if TYPE_CHECKING:
    from stgnn.bench.methods import Method
    from stgnn.bench.tasks import Task

_log = logging.getLogger(__name__)


def run(
    tasks: Sequence[Task | ExpressionTask | SpotTask | GeneTask | ScaleTask],
    methods: Sequence[Method],
    *,
    data_dir: str | Path,
    output: str | Path,
    seeds: int = 3,
    jobs: int = 1,
    threads: int = 1,
    timeout: float | None = None,
    interpreters: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Run what the results lack.

    A run that is recorded without an error, of the same task, method and seed with the same settings, is not repeated;
    one that failed is.

    Parameters
    ----------
    tasks
        What to annotate from what, folds of expression to predict, spots to give shares, or genes to impute.
    methods
        By whom.
    data_dir
        Folder with the data of the tasks.
    output
        Folder of the results; made if missing.
    seeds
        Number of seeds: 0, 1, ...
    jobs
        Runs side by side.
    threads
        Threads of each.
    timeout
        Seconds after which a run is ended, as a failure; None for no limit.
    interpreters
        Python that runs each peer, by name.

    Returns
    -------
    list of dict
        Records of the runs asked for. Writes ``runs.jsonl``, ``metrics.csv`` and ``metrics.parquet``.

    Raises
    ------
    OptionError
        If a number is out of range.
    InputError
        If pyarrow is missing, data are missing or do not fit their task, or the folder cannot be written to, or another
        run is writing to it.

    Examples
    --------
    >>> from stgnn.bench.tasks import find
    >>> run(find("main"), [], data_dir="data", output="results", seeds=0)
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: seeds: expected 1 or more; found 0
    """
    _check(seeds, jobs, threads, timeout)
    folder, interpreters = Path(output), interpreters or {}
    wanted = [
        Job(task, method, seed, str(data_dir), interpreters.get(method.name))
        for seed in range(seeds)
        for task in tasks
        for method in methods
    ]
    known = {_key(record): record for record in read(folder) if record["error"] is None}
    missing = [job for job in wanted if not _is_done(job, known.get(_job_key(job)))]
    for task in dict.fromkeys(job.task for job in missing):  # what is wrong with data should show now, not after hours
        if isinstance(task, SpotTask):
            spots.load(task, data_dir)
        elif isinstance(task, GeneTask):
            genes.load(task, data_dir)
        elif not isinstance(task, (ExpressionTask, ScaleTask)):  # read by now, or just made
            load(task, data_dir)
    _make(folder)
    with (
        _alone(folder),
        TemporaryDirectory() as scratch,
        ThreadPoolExecutor(jobs) as pool,
        _lifeline() as lifeline,
        _progress(len(missing)) as advance,
    ):
        shared = [replace(job, scratch=scratch) if job.method.group == "ablations" else job for job in missing]
        futures = [pool.submit(_in_process, job, threads, timeout, lifeline) for job in shared]
        try:
            for future in as_completed(futures):
                record = future.result()
                append(folder, record)
                advance(record)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        write_tables(folder)
        expression_tables.write(folder)
    latest = {_key(record): record for record in read(folder)}
    return [latest[_job_key(job)] for job in wanted]


def _check(seeds: int, jobs: int, threads: int, timeout: float | None) -> None:
    for name, value in (("seeds", seeds), ("jobs", jobs), ("threads", threads)):
        if value < 1:
            raise OptionError(name, expected="1 or more", found=str(value))
    if timeout is not None and not timeout > 0:
        raise OptionError("timeout", expected="seconds above 0", found=str(timeout))
    if find_spec("pyarrow") is None:
        raise InputError(
            "output", expected="pyarrow, to write metrics.parquet", found="none", hint="pip install 'stgnn[bench]'"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            "output", expected="a folder to write to", found=f"{str(folder)!r}: {error.strerror}"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError("output", expected="a folder to write to", found=f"{str(folder)!r}, which is not writable")


def _key(record: dict[str, Any]) -> tuple[str, str, int]:
    return record["task"], record["method"], record["seed"]


def _job_key(job: Job) -> tuple[str, str, int]:
    return job.task.name, job.method.name, job.seed


def _definition(job: Job) -> dict[str, Any]:
    """All that a run's result depends on, as JSON holds it."""
    return json.loads(json.dumps({"task": asdict(job.task), "method": asdict(job.method)}))


def _is_done(job: Job, record: dict[str, Any] | None) -> bool:
    return record is not None and record.get("definition") == _definition(job)


def _in_process(job: Job, threads: int, timeout: float | None, lifeline: int) -> dict[str, Any]:
    """Run one job in a fresh process; whatever happens to it becomes its record."""
    record = {
        "task": job.task.name,
        "method": job.method.name,
        "group": job.method.group,
        "seed": job.seed,
        "threads": threads,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "definition": _definition(job),
        "error": None,
    }
    if job.method.group == "peers" and job.interpreter is None:
        return record | {"error": f"{ABSENT}no interpreter given"}
    try:
        code, out, err = _call(job, threads, timeout, lifeline)
    except subprocess.TimeoutExpired:
        return record | {"error": f"timeout: not done after {timeout:g} seconds", "seconds": timeout}
    except OSError as error:  # such as no memory for one more process
        return record | {"error": f"{type(error).__name__}: {error}"}
    found = None if code else _found(out)
    return record | ({"error": _last_line(err, code)} if found is None else found)


def _found(out: str) -> dict[str, Any] | None:
    """The record among whatever else a method has printed; None if there is none."""
    for line in reversed(out.splitlines()):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and "scores" in found:
            return found
    return None


def _call(job: Job, threads: int, timeout: float | None, lifeline: int) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that runs one job."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stgnn.bench.measure", json.dumps(asdict(job))],
        stdin=lifeline,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ
        | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        start_new_session=True,  # so that it can be ended together with all it has started
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, out, err


def _last_line(text: str, code: int) -> str:
    if code < 0:  # the system ended it, as it does where memory runs out
        return f"killed by {signal.Signals(-code).name}"
    lines = text.strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the system lets go of it when this process ends, however it ends."""
    with (folder / RUNS).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = f"{str(folder)!r}, which another run is writing to"
            raise FileError("output", expected="a folder of its own", found=found, hint="wait for its end") from error
        yield


@contextmanager
def _lifeline() -> Iterator[int]:
    """Give the end of a pipe that closes when this process ends, however it ends: children that read it end too."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(write_end)
        os.close(read_end)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Give a function to call with each finished record: a bar on a terminal, lines of the log elsewhere."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    column = TextColumn("{task.description}", markup=False)
    with Progress(
        column, MofNCompleteColumn(), TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        line = bar.add_task("runs", total=total)

        def advance(record: dict[str, Any]) -> None:
            said = f"{record['task']}, {record['method']}, seed {record['seed']}"
            outcome = record["error"] or f"{record['seconds']:.0f} s"
            _log.info("%s: %s", said, outcome)
            bar.update(line, advance=1, description=f"{said}: {outcome}"[:80])

        yield advance
