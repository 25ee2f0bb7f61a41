"""What all commands share: numbers refused in the words of this package, and the log on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from stgnn.data.schema import OptionError


class Number(click.ParamType):
    """A number, refused in the words of this package rather than click's."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], expected: str) -> None:
        self.kind, self.expected = kind, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Turn what was typed into a number."""
        try:
            return self.kind(value)
        except ValueError:
            argument = param.opts[0] if param else "number"
            raise OptionError(argument, expected=self.expected, found=repr(value)) from None


VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is being done.")


@contextmanager
def log_to_stderr(verbose: bool) -> Iterator[None]:
    """Send the log, and Python's warnings, to stderr; without ``verbose`` only what needs attention."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("stgnn")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.captureWarnings(True)
    silent = logging.getLogger("py.warnings")
    silent.setLevel(logging.WARNING if verbose else logging.ERROR)
    silent.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(handler)
        silent.removeHandler(handler)
