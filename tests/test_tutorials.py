"""The tutorials run, on real data where it lies beside the project."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def code(name: str) -> str:
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))


@pytest.mark.usefixtures("feature_cache")
def test_from_histology_to_types(data_folder, capsys):
    kidney = data_folder / "histology" / "kidney_visium_hd"
    if not kidney.is_dir():
        pytest.skip(f"no slide of the kidney: {kidney} does not exist")
    text = code("histology_to_types")
    default = "stgnn.tl.annotate(section, reference)"
    assert default in text
    names: dict[str, object] = {"KIDNEY": kidney}
    # the default annotator takes a minute longer
    exec(text.replace(default, 'stgnn.tl.annotate(section, reference, method="logistic")'), names)
    found = names["accuracy"]
    assert "predicted" in capsys.readouterr().out
    assert found["the commonest structure"] + 0.1 < found["predicted"] < found["measured"] - 0.1
    assert found["measured"] > 0.7
    truth, called = names["truth"], names["predicted"].obs["stgnn"].astype(str)
    assert np.isin(called, [*np.unique(truth), "unknown"]).all()
