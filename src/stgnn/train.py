"""The one training loop: it knows a network, a loss of numbered parts, and nothing of biology.

A step is the sum of ``parts`` losses. Every part draws from a seed of its own, (random_state, step, part), so a step
is the same whether one process computes all parts or several share them, and whether training was interrupted or not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import operator
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stgnn.data.schema import OptionError
from stgnn.threads import at_once, by_threads

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether this process is at a piece of work of its own; see :func:`shared`."""

_DEALT: list[int] = []
"""Pieces of work that were dealt out so far, the same in every process."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    steps
        Number of updates at most.
    rate, decay, clip
        Highest learning rate of a one-cycle schedule, weight decay, largest norm of the gradient.
    warm
        Share of the steps over which the rate rises.
    check_every
        Steps between two looks at the validation loss.
    patience
        Looks without improvement before training stops; the best state is kept.
    save_every
        Steps between two checkpoints.
    precision
        "float32", "bfloat16" or "auto": bfloat16 on a GPU that has it.
    random_state
        Seed.
    """

    steps: int
    rate: float = 3e-3
    decay: float = 1e-2
    clip: float = 1.0
    warm: float = 0.2
    check_every: int = 20
    patience: int = 4
    save_every: int = 50
    precision: str = "auto"
    random_state: int = 0


def fit(
    network: nn.Module,
    loss: Callable[[int, int], Tensor],
    parts: int,
    plan: Plan,
    *,
    validate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train a network in place.

    Parameters
    ----------
    network
        What to train.
    loss
        Loss of one part of one step: ``loss(step, part)``.
    parts
        Number of parts; processes under torchrun share them.
    plan
        How to train.
    validate
        Loss on cells set aside; lower is better.
    checkpoint
        File that keeps the state; if it exists, training goes on from there.
    watch
        Called after each step with the number of steps done since the last call: 1, at first those resumed too.

    Returns
    -------
    list of dict
        One record a look: step, training loss, validation loss where there is one.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=plan.decay, fused=True)
    state = _resume(checkpoint, network, optimiser)
    told, (rank, world) = 0, _world()
    for step in range(state.step, plan.steps):
        network.train()
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * one_cycle(step / plan.steps, plan.warm)
        optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(rank, parts, world):
            torch.manual_seed(seed_of(plan.random_state, step, part))
            with autocast(network, plan.precision):
                value = loss(step, part)
            value.backward()
            total += float(value.detach())
        total = _sum_over_processes(network, total)
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimiser.step()
        state.running.append(total)
        state.step = step + 1
        if watch is not None:
            watch(state.step - told)
            told = state.step
        due = state.step % plan.check_every == 0 or state.step == plan.steps
        if due and _look(network, validate, state, plan):
            break
        if state.step % plan.save_every == 0:
            _save(checkpoint, network, optimiser, state)
    if state.best is not None:
        network.load_state_dict(state.best)
    state.step = plan.steps
    _save(checkpoint, network, optimiser, state)
    return state.curve


@dataclass
class _State:
    step: int
    running: list[float]
    curve: list[dict[str, float]]
    best_loss: float
    best: dict[str, Tensor] | None
    stale: int


def _look(network: nn.Module, validate: Callable[[], float] | None, state: _State, plan: Plan) -> bool:
    """Record the losses, keep the best state, and say whether patience has run out."""
    record = {"step": float(state.step), "loss": float(np.mean(state.running))}
    state.running.clear()
    stop = False
    if validate is not None:
        network.eval()
        with torch.no_grad():
            record["validation"] = validate()
        if record["validation"] < state.best_loss:
            state.best_loss, state.stale = record["validation"], 0
            state.best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        else:
            state.stale += 1
            stop = state.stale >= plan.patience
    state.curve.append(record)
    return stop


def one_cycle(progress: float, warm: float) -> float:
    """Share of the highest rate: a cosine up over ``warm`` of the way, then a cosine down to zero.

    Examples
    --------
    >>> [round(one_cycle(p, 0.2), 2) for p in (0.0, 0.2, 0.6, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if progress < warm:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / warm))
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / max(1 - warm, 1e-9)))


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence([int(n) for n in numbers]).generate_state(1)[0])


def seeded(seed: int, make: Callable[[], T]) -> T:
    """Make a network from a seed; whoever loads a model keeps the state of torch's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def check_device(name: str) -> None:
    """Refuse what is no name of a device, or of none that this machine has.

    Raises
    ------
    OptionError
        If it is.

    Examples
    --------
    >>> check_device("gpu")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: device: expected auto, cpu, cuda, cuda:1 or mps; found 'gpu'
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise OptionError("device", expected="auto, cpu, cuda, cuda:1 or mps", found=repr(name))
    there = torch.backends.mps.is_available() if name == "mps" else True
    if name.startswith("cuda"):
        there = int(name.partition(":")[2] or 0) < torch.cuda.device_count()
    if not there:
        raise OptionError("device", expected="a device of this machine", found=repr(name), hint="auto takes the best")


def find_device(name: str) -> torch.device:
    """Device of that name; "auto" takes a GPU where there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(network: nn.Module, precision: str) -> torch.autocast:
    """Context in which dense layers run in bfloat16, where that is wanted and pays.

    Layers of this package are about 100 wide: on a CPU the casts cost what the products gain, so "auto" keeps float32.
    """
    kind = next(network.parameters()).device.type
    gains = kind == "cuda" and torch.cuda.is_bf16_supported()
    wanted = precision == "bfloat16" or (precision == "auto" and gains)
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=wanted)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Bar of so many steps on stderr, quiet where that is no terminal; yields a function to tell of steps done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def fingerprint(arrays: list[np.ndarray], words: str) -> str:
    """Short digest of inputs and options, so that a checkpoint is only resumed for the same work."""
    digest = hashlib.sha256(words.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def shared(work: Sequence[Callable[[], T]], *, threads: bool = False) -> list[T]:
    """Results of pieces of work that do not depend on one another, in order; processes under torchrun share them.

    Every process must ask for the same work, and is told all results. Within a piece of work nothing more is shared.

    Parameters
    ----------
    work
        What is to be done.
    threads
        Whether threads share it, too: only for work that does not draw from torch's generator, which is all threads'.

    Examples
    --------
    >>> shared([lambda: 1, lambda: 2])
    [1, 2]
    """
    if _ALONE.get():
        return list(map(operator.call, work))
    rank, world = _world()
    first = sum(_DEALT) % world  # who comes next: else the first process would have all that is left over
    _DEALT.append(len(work))
    numbers = range((rank - first) % world, len(work), world)
    todo, several = [work[number] for number in numbers], at_once(len(numbers)) if threads else 1
    token = _ALONE.set(True)
    try:
        own = list(by_threads(todo, several) if several > 1 else map(operator.call, todo))
    finally:
        _ALONE.reset(token)
    if world == 1:
        return own
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, dict(zip(numbers, own, strict=True)))
    return [everyone[(number + first) % world][number] for number in range(len(work))]


def is_first_process() -> bool:
    """Whether this process is the one that writes: the only one, or the first under torchrun."""
    return _world()[0] == 0


def _world() -> tuple[int, int]:
    """Number of this process, and of processes that share the work at hand."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if _ALONE.get() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _sum_over_processes(network: nn.Module, total: float) -> float:
    if _world()[1] == 1:
        return total
    for parameter in network.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
    both = torch.tensor([total], device=next(network.parameters()).device)
    dist.all_reduce(both)
    return float(both)


def _resume(path: Path | None, network: nn.Module, optimiser: torch.optim.Optimizer) -> _State:
    if path is None or not path.exists():
        return _State(0, [], [], math.inf, None, 0)
    saved = torch.load(path, weights_only=True, map_location=next(network.parameters()).device)
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    logger.info("resuming %s at step %d", path.name, saved["step"])
    return _State(saved["step"], saved["running"], saved["curve"], saved["best_loss"], saved["best"], saved["stale"])


def _save(path: Path | None, network: nn.Module, optimiser: torch.optim.Optimizer, state: _State) -> None:
    if path is None or not is_first_process():
        return
    partial = path.with_name(path.name + ".partial")
    saved = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), **vars(state)}
    torch.save(saved, partial)
    os.replace(partial, path)
