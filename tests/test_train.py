"""The training loop: it learns, stops, resumes, and shares its work, and none of this changes the result."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn import train
from stgnn.train import Plan, fit

CELLS, GENES, TYPES = 32, 10, 4


def small(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(GENES, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, TYPES))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CELLS, GENES, generator=generator), torch.randint(0, TYPES, (CELLS,), generator=generator)


def loss_of(network: nn.Module, parts: int = 1) -> Callable[[int, int], Tensor]:
    """Loss of the cells that fall to a part; noise of its own shows whether seeds are kept."""
    x, y = data()

    def loss(step: int, part: int) -> Tensor:
        seen = x[part::parts] + 0.01 * torch.randn(x[part::parts].shape)
        return F.cross_entropy(network(seen), y[part::parts], reduction="sum") / CELLS

    return loss


def validation_of(network: nn.Module) -> Callable[[], float]:
    x, y = data()
    return lambda: float(F.cross_entropy(network(x), y).detach())


def assert_same(left: nn.Module, right: nn.Module) -> None:
    other = right.state_dict()
    for name, value in left.state_dict().items():
        assert torch.equal(value, other[name]), name


def test_32_cells_are_learnt_by_heart():
    network = small()
    start = validation_of(network)()
    curve = fit(network, loss_of(network), 1, Plan(150, rate=3e-2, check_every=10))
    assert start > 1
    assert curve[-1]["loss"] < 0.05
    assert validation_of(network)() < 0.05
    assert [record["step"] for record in curve] == list(range(10, 151, 10))


def test_equal_seeds_give_equal_results():
    networks = []
    for seed in (0, 0, 1):
        networks.append(small(dropout=0.5))
        fit(networks[-1], loss_of(networks[-1]), 1, Plan(5, random_state=seed))
    assert_same(networks[0], networks[1])
    assert not torch.equal(networks[0][0].weight, networks[2][0].weight)


@pytest.mark.parametrize("killed_at", [7, 8, 9, 19])  # before, at and after a checkpoint; near the end
def test_resumed_equals_uninterrupted(tmp_path, killed_at):
    plan = Plan(20, check_every=3, save_every=4, patience=100)

    def run(network: nn.Module, file: Path, loss: Callable[[int, int], Tensor]) -> list[dict[str, float]]:
        return fit(network, loss, 2, plan, validate=validation_of(network), checkpoint=file)

    whole = small(dropout=0.5)
    want = run(whole, tmp_path / "whole.pt", loss_of(whole, 2))

    broken = small(dropout=0.5)
    healthy = loss_of(broken, 2)

    def killed(step: int, part: int) -> Tensor:
        if (step, part) == (killed_at, 1):
            raise KeyboardInterrupt
        return healthy(step, part)

    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "broken.pt", killed)
    again = small(seed=5, dropout=0.5)
    steps = []
    inner = loss_of(again, 2)

    def watched(step: int, part: int) -> Tensor:
        steps.append(step)
        return inner(step, part)

    assert run(again, tmp_path / "broken.pt", watched) == want
    assert_same(again, whole)
    assert min(steps) == killed_at // 4 * 4


def test_finished_work_is_not_done_again(tmp_path):
    network = small()
    curve = fit(network, loss_of(network), 1, Plan(6, check_every=2), checkpoint=tmp_path / "state.pt")

    def never(step: int, part: int) -> Tensor:
        raise AssertionError

    again = small(seed=5)
    assert fit(again, never, 1, Plan(6, check_every=2), checkpoint=tmp_path / "state.pt") == curve
    assert_same(again, network)


def test_checkpoints_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    network, file, seen = small(), tmp_path / "state.pt", []

    def look(step: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    fit(network, loss_of(network), 1, Plan(6, save_every=2), checkpoint=file, watch=look)
    assert seen == [[], [], *[["state.pt"]] * 4]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]

    before = file.read_bytes()
    file.unlink()
    file.with_name("older.pt").write_bytes(before)

    def fails(saved: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(train.torch, "save", fails)
    again = small()
    with pytest.raises(OSError, match="disk full"):
        fit(again, loss_of(again), 1, Plan(6, save_every=2), checkpoint=file)
    assert not file.exists()  # what is half written never has the name of a checkpoint


def stop(scores: list[float], patience: int, steps: int = 30) -> tuple[nn.Module, list[dict[str, float]], list[Tensor]]:
    """Train with given validation losses; also return the weights at each look."""
    network, states = small(), []

    def validate() -> float:
        assert not network.training
        assert not torch.is_grad_enabled()
        states.append(network[0].weight.detach().clone())
        return scores[len(states) - 1]

    curve = fit(network, loss_of(network), 1, Plan(steps, check_every=1, patience=patience), validate=validate)
    return network, curve, states


@pytest.mark.parametrize(
    ("scores", "patience", "looks", "best"),
    [
        ([3, 2, 2.5, 2.1, 9, 9], 2, 4, 1),  # two looks without improvement
        ([3, 2, 2.5, 1.9, 2, 2, 1], 2, 6, 3),  # an improvement starts the count again
        ([3, 3, 3, 3], 3, 4, 0),  # no worse is not better
        ([3, 4, 1], 1, 2, 0),
    ],
)
def test_early_stop_keeps_the_best_state(scores, patience, looks, best):
    network, curve, states = stop(scores, patience)
    assert [record["validation"] for record in curve] == scores[:looks]
    assert torch.equal(network[0].weight, states[best])
    assert not torch.equal(network[0].weight, states[-1])


def test_patience_and_the_best_state_outlast_an_interruption(tmp_path):
    scores, networks, curves = [3, 2, 9, 9, 9, 9, 9, 9], [], []
    for killed_at in (None, 4):
        network, file = small(), tmp_path / f"{killed_at}.pt"
        inner, now = loss_of(network), [0]

        def loss(step: int, part: int, inner=inner, now=now, killed_at=killed_at) -> Tensor:
            now[0] = step
            if step == killed_at and len(now) == 1:
                now.append(1)
                raise KeyboardInterrupt
            return inner(step, part)

        def run(network=network, loss=loss, now=now, file=file) -> list[dict[str, float]]:
            plan = Plan(8, check_every=1, patience=3, save_every=4)
            return fit(network, loss, 1, plan, validate=lambda: float(scores[now[0]]), checkpoint=file)

        if killed_at is not None:
            with pytest.raises(KeyboardInterrupt):
                run()
        curves.append(run())
        networks.append(network)
    assert len(curves[0]) == 5
    assert curves[1] == curves[0]
    assert_same(networks[1], networks[0])


def test_without_an_early_stop_too_the_best_state_is_kept():
    network, curve, states = stop([3, 1, 2, 2], patience=9, steps=4)
    assert len(curve) == 4
    assert torch.equal(network[0].weight, states[1])


def test_the_loss_in_the_curve_is_the_mean_since_the_last_look():
    network = small()
    values = iter(float(i) for i in range(8))
    zero = lambda: 0.0 * network(data()[0]).sum()
    curve = fit(network, lambda step, part: zero() + next(values), 2, Plan(4, check_every=2))
    assert [record["loss"] for record in curve] == [(1 + 5) / 2, (9 + 13) / 2]


WORKER = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_train import Plan, fit, loss_of, small, validation_of
torch.set_num_threads(1)
network = small(dropout=0.5)
folder = Path(sys.argv[2])
curve = fit(network, loss_of(network, 3), 3, Plan(12, check_every=4, save_every=5),
            validate=validation_of(network), checkpoint=folder / "state.pt")
torch.save((network.state_dict(), curve), folder / f"rank{torch.distributed.get_rank()}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(tmp_path)]
    workers = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=100)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
    network = small(dropout=0.5)
    validate = validation_of(network)
    curve = fit(network, loss_of(network, 3), 3, Plan(12, check_every=4, save_every=5), validate=validate)
    for rank in range(2):
        state, records = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)
        for have, want in zip(records, curve, strict=True):
            assert have == pytest.approx(want, abs=1e-5)
    assert not list(tmp_path.glob("*.partial"))


def test_gradients_are_clipped():
    plan = Plan(1, rate=1.0, decay=0.0, clip=0.5, warm=0.0)
    network = small()
    fit(network, lambda step, part: 1e4 * loss_of(network)(step, part), 1, plan)
    norm = torch.cat([p.grad.ravel() for p in network.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_find_device():
    assert train.find_device("cpu") == torch.device("cpu")
    assert train.find_device("cuda:1") == torch.device("cuda", 1)
    assert train.find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("precision", "kind"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_precision_on_a_processor(precision, kind):
    network, kinds = small(), set()

    def loss(step: int, part: int) -> Tensor:
        out = network(data()[0])
        kinds.add(out.dtype)
        return F.cross_entropy(out.float(), data()[1])

    curve = fit(network, loss, 1, Plan(20, rate=1e-2, check_every=10, precision=precision))
    assert kinds == {kind}
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("warm", [0.0, 0.2, 1.0])
def test_one_cycle_stays_within_its_bounds(warm):
    rates = [train.one_cycle(step / 100, warm) for step in range(101)]
    assert all(0 <= rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert top == round(100 * warm)
    assert max(rates) == pytest.approx(1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_rate_follows_the_cycle(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    network = small()
    fit(network, loss_of(network), 1, Plan(10, rate=0.5, warm=0.3))
    assert rates == [0.5 * train.one_cycle(i / 10, 0.3) for i in range(10)]


def test_seeds_are_the_same_everywhere_and_differ():
    assert train.seed_of(0, 1, 2) == 3884055042
    seeds = {train.seed_of(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_fingerprints_tell_work_apart():
    import numpy as np

    x = np.arange(6.0)
    assert train.fingerprint([x], "a") == train.fingerprint([x.copy()], "a")
    assert len({train.fingerprint([x], "a"), train.fingerprint([x + 1], "a"), train.fingerprint([x], "b")}) == 3


def test_every_step_is_told_once():
    told: list[int] = []
    fit(network := small(), loss_of(network), 1, Plan(6, save_every=2), watch=told.append)
    assert told == [1] * 6
