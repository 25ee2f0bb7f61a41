"""Which bins of which slides are learned from and which are tested: whole patients, or blocks within a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stgnn.data.expression import learnable
from stgnn.data.images import digest_of
from stgnn.data.schema import InputError, OptionError, check_option
from stgnn.data.slide import Slide, take
from stgnn.splits import block_folds, contiguous_blocks, patient_folds

BLOCKS = 4
"""Blocks that a slide is cut into which has none of its own."""

BUFFER_UM = 128.0
"""Left out on each side of a cut."""

SPLITS = ("patient", "block")


@dataclass(frozen=True)
class Holdout:
    """One split of slides into training and test, at any width of bins.

    Parameters
    ----------
    name
        What is tested.
    kind
        One of ``stgnn.splits.KINDS``, to be printed with every score.
    slides
        Names of the slides tested.
    block
        Block of the one slide that is tested, the others of which are trained on; None to test slides whole and to
        train on all others.
    """

    name: str
    kind: str
    slides: tuple[str, ...]
    block: int | None = None

    def test(self, slide: Slide) -> np.ndarray:
        """Rows of the bins of a slide that are tested, ascending; guards between blocks never are."""
        inside = slide.name in self.slides
        if self.block is None:
            return np.flatnonzero(np.full(len(slide), inside) & ~slide.guard)
        return np.flatnonzero(inside & (slide.block == self.block) & ~slide.guard)

    def train(self, slide: Slide) -> np.ndarray:
        """Rows of the bins of a slide that are learned from, ascending."""
        inside = slide.name in self.slides
        if self.block is None:
            return np.flatnonzero(np.full(len(slide), not inside) & ~slide.guard)
        return np.flatnonzero(inside & (slide.block != self.block) & (slide.block >= 0) & ~slide.guard)


def holdouts(slides: Sequence[Slide], split: str) -> list[Holdout]:
    """Leave one patient out, or one block of a slide.

    Parameters
    ----------
    slides
        Slides, of which those of equal name are the same tissue; with blocks, see :func:`with_blocks`.
    split
        ``"patient"``, or ``"block"``: each block of each slide in turn, learned from the other blocks of that slide.

    Returns
    -------
    list of Holdout
        Every bin outside of the guards is tested once.

    Raises
    ------
    OptionError
        If there is one patient only, or no two blocks with a guard between them.

    Examples
    --------
    >>> holdouts([], "spots")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: split: expected one of patient, block; found 'spots'; random splits ...
    """
    if split not in SPLITS:
        hint = "random splits of spots leak: a spot's neighbours tell what it holds"
        raise OptionError("split", expected=f"one of {', '.join(SPLITS)}", found=repr(split), hint=hint)
    names = list(dict.fromkeys(slide.name for slide in slides))
    if split == "patient":
        patient = {slide.name: slide.patient for slide in slides}
        folds = patient_folds(np.array([patient[name] for name in names]))
        return [Holdout(fold.name, fold.kind, tuple(names[row] for row in fold.test)) for fold in folds]
    out = []
    for name in names:
        own = [slide for slide in slides if slide.name == name]
        block = np.concatenate([slide.block for slide in own])
        guard = np.concatenate([slide.guard for slide in own]) | (block < 0)
        for code in np.unique(block[~guard]) if block_folds(block[block >= 0], guard[block >= 0]) else ():
            called = str(code) if len(names) == 1 else f"{name}/{code}"
            out.append(Holdout(called, "within-slide", (name,), int(code)))
    return out


def check_names(slides: Sequence[Slide]) -> None:
    """Refuse slides of one image under several names, and of several images or patients under one.

    Raises
    ------
    InputError
        If training and test could share tissue for that reason.
    """
    for one in slides:
        for other in slides:
            same = one.image.path.resolve() == other.image.path.resolve() and (
                one.image is other.image or digest_of(one.image) == digest_of(other.image)
            )
            if same != (one.name == other.name) or (same and one.patient != other.patient):
                found = f"{one.name!r} of {one.patient!r} and {other.name!r} of {other.patient!r}"
                raise InputError(
                    "slides",
                    expected="one name and one patient for the slides of an image, and for them alone",
                    found=f"{found}, with {'one image' if same else 'two images'}",
                    hint="write them as obs['slide'] and obs['patient']",
                )


def held_out(slides: Sequence[Slide], names: Sequence[str]) -> Holdout:
    """Test the slides of these names and learn from all others.

    Raises
    ------
    OptionError
        If a name is none of the slides, or a patient stands on both sides.
    """
    known = {slide.name: slide.patient for slide in slides}
    for name in names:
        check_option("test", name, known)
    shared = {known[name] for name in names} & {patient for name, patient in known.items() if name not in names}
    if shared:
        found = f"{', '.join(sorted(shared))} on both sides"
        raise OptionError("test", expected="all slides of a patient on one side", found=found)
    if len(set(names)) == len(known):
        raise OptionError("test", expected="slides to learn from", found="none but those tested")
    return Holdout("+".join(names), "patients", tuple(names))


def with_blocks(slides: Sequence[Slide], n: int = BLOCKS, buffer_um: float = BUFFER_UM) -> list[Slide]:
    """Cut slides that have no blocks into some, with a guard on both sides of each cut.

    Parameters
    ----------
    slides
        Slides; those of equal name are cut along the same lines.
    n
        Number of blocks.
    buffer_um
        Left out on each side of a cut, in micrometres.

    Returns
    -------
    list of Slide
        Those with blocks of their own as they are.

    Raises
    ------
    OptionError
        If the slide is too small for that.
    """
    out = list(slides)
    for name in dict.fromkeys(slide.name for slide in slides):
        own = [number for number, slide in enumerate(slides) if slide.name == name]
        if any((slides[number].block >= 0).any() for number in own):
            continue
        places = np.concatenate([slides[number].places for number in own])
        block, guard = contiguous_blocks(places, n, buffer_um)
        start = 0
        for number in own:
            rows = slice(start, start + len(slides[number]))
            out[number] = replace(slides[number], block=block[rows], guard=guard[rows])
            start += len(slides[number])
    return out


def training(slides: Sequence[Slide], fold: Holdout) -> list[Slide]:
    """Bins of slides to learn from in a fold, the good ones alone."""
    parts = [take(slide, rows) for slide in slides if len(rows := fold.train(slide))]
    return [learnable(part) for part in parts]
