"""What every refusal of bad input has to be."""

from __future__ import annotations

import re

import pytest

from stgnn.data.schema import StgnnError


def refusal(kind: type[StgnnError], function, *args, **options) -> str:
    """Message of the refusal; one line that names what was expected and what was found."""
    with pytest.raises(kind) as error:
        function(*args, **options)
    message = str(error.value)
    assert type(error.value) is kind
    assert "\n" not in message
    assert re.match(r"[^:]+: expected .+; found .+", message)
    return message
