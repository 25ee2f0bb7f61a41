"""Fixtures: small simulated tissue, and the folder of real data where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from anndata import AnnData

from stgnn.data.toy import toy


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data: the environment variable STGNN_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STGNN_DATA", beside))
    if not (folder / "cells").is_dir():
        pytest.skip(f"no real data: {folder}/cells does not exist; set STGNN_DATA to the folder that holds cells/")
    return folder


@pytest.fixture(scope="module")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep features of images in a folder of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STGNN_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def toy_tissue() -> tuple[AnnData, AnnData]:
    """Reference and query of 400 cells each, with known types; do not modify (see ``reference`` and ``query``)."""
    return toy(n_cells=400, random_state=1)


@pytest.fixture
def reference(toy_tissue: tuple[AnnData, AnnData]) -> AnnData:
    """Toy reference, a copy for each test."""
    return toy_tissue[0].copy()


@pytest.fixture
def query(toy_tissue: tuple[AnnData, AnnData]) -> AnnData:
    """Toy query, a copy for each test."""
    return toy_tissue[1].copy()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As many threads as a laptop has at least, whatever the tests run with."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
