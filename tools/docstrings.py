"""Docstrings as the site shows them: roles of Sphinx as code, its maths as maths."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:\w+:)?(?:func|class|mod|data|meth|attr|obj|exc):`~?([^`]+)`")
_MATHS = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*| *(?=\n\1 +\S)))*)", re.MULTILINE)


class Roles(Extension):
    """Rewrite each docstring before it is parsed."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object, where it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""Write a docstring's roles and maths the way Markdown has them.

    Examples
    --------
    >>> as_markdown("As :func:`stgnn.read` of :math:`x`.")
    'As `stgnn.read` of $x$.'
    >>> as_markdown(".. math:: a = b,\n    c = d")
    '$$ a = b, c = d $$'
    """
    text = _MATHS.sub(lambda found: f"{found[1]}$$ {' '.join(found[2].split())} $$", text)
    return _ROLE.sub(r"`\1`", re.sub(r":math:`([^`]+)`", r"$\1$", text))
