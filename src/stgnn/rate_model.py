"""Networks of rates fitted on slides: which bins are held out, how the slides are seen, what is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stgnn import __version__, siblings
from stgnn.data.expression import Expression, measured
from stgnn.data.images import digest_of
from stgnn.data.schema import OptionError
from stgnn.data.slide import Slide
from stgnn.fields import Features, Field, Pixels
from stgnn.linear_rates import Evidence, LinearRates
from stgnn.placement import Placement, placement
from stgnn.predicting import log_density, mean_profile, scale_of
from stgnn.rate_training import Crop, Lesson, Recipe, draw, loss_of, predict, train
from stgnn.rates import Parts, RateNetwork
from stgnn.train import Plan, autocast, check_device, find_device, fingerprint, progress, seed_of, seeded

if TYPE_CHECKING:
    from jaxtyping import Float

NONE = "none"
"""Name for no encoder."""

_LOOKS = 20
_PATIENCE = 5
_PARTS = (1.0, 0.7, 0.5, 0.3)
_CROPS_TO_CHECK = 8
_STEM = 4


@dataclass(frozen=True)
class Settings:
    """How slides are seen and networks trained.

    Parameters
    ----------
    convolution
        Whether the network slides over the image, else over the frozen features.
    encoder
        Frozen encoder; "none" for none.
    mpp
        Micrometres per pixel at which convolutions see the image.
    feature_um
        Micrometres between frozen features.
    registration
        Whether bins are moved to where the frozen features show what they hold; see :mod:`stgnn.placement`.
    parts, recipe
        Of the network, and of its training; the recipe's scale is set by the slides.
    steps, rate
        Updates, and the highest learning rate.
    members, views
        Networks, and symmetric views of the image, whose words are averaged.
    random_state
        Seed.
    device
        Where to compute.
    checkpoint
        Folder that keeps the state of training.
    """

    convolution: bool
    encoder: str
    mpp: float
    feature_um: float
    registration: bool
    parts: Parts
    recipe: Recipe
    steps: int
    rate: float
    members: int
    views: int
    random_state: int
    device: str
    checkpoint: str | None = None

    def see(self, slide: Slide) -> tuple[Field, Features | None]:
        """What the network slides over, and what it is told of places beside it."""
        features = (
            None if self.encoder == NONE else Features.of(slide.image, self.encoder, self.feature_um, self.device)
        )
        if self.convolution:
            return Pixels.of(slide.image, self.mpp), features
        if features is None:
            raise OptionError("encoder", expected="the name of an encoder, without convolutions", found=repr(NONE))
        return features, None

    def network(
        self,
        channels: int,
        beside: int,
        share: Float[np.ndarray, " g"],
        density: float,
        lines: LinearRates | None,
        seed: int,
    ) -> RateNetwork:
        """A network that says what the linear rates do, and without them the mean everywhere."""
        stem = _STEM if self.convolution else 1
        start = torch.from_numpy(np.asarray(share, dtype=np.float32))
        if self.recipe.likelihood == "gaussian":
            start = torch.exp(torch.log1p(start * self.recipe.scale))
        say = None if lines is None else torch.tensor(lines.say)
        made = seeded(seed, lambda: RateNetwork(channels, stem, start, density, self.parts, beside, say))
        return made.to(find_device(self.device))


@dataclass(frozen=True)
class Rates:
    """What was fitted.

    Parameters
    ----------
    networks
        One a member.
    lines
        What they start from; None without frozen features beside the image, and for the Gaussian.
    placements
        Where the bins of an image lie, by the digest of its file; none for images whose bins lie well.
    scale
        Counts that profiles are scaled to.
    curve
        Losses of training.
    """

    networks: list[RateNetwork]
    lines: LinearRates | None
    placements: dict[str, Placement]
    scale: float
    curve: list[dict[str, float]]


def fit_rates(slides: Sequence[Slide], settings: Settings) -> Rates:
    """Train networks on slides, less those that tell when to stop; linear rates learn from these, too, in the end."""
    _check(settings)
    sights = {id(slide.image): settings.see(slide) for slide in slides}
    placements = _placements(slides, sights, settings)
    seen, held = hold_out([_placed(slide, placements) for slide in slides])
    settings = replace(settings, recipe=replace(settings.recipe, scale=scale_of(seen)))
    share, density = mean_profile(seen)
    if (lines := _lines(seen, sights, share, settings)) is not None:  # which are of log density
        density = float(np.exp(np.concatenate([log_density(slide) for slide in seen]).mean()))
    lessons, tests = ([_lesson(slide, sights, lines) for slide in part] for part in (seen, held))
    field, features = sights[id(slides[0].image)]
    channels, beside = field.crop(0, 0, 1, 1).shape[0], 0 if features is None else features.values.shape[2]
    networks: list[RateNetwork] = []
    curve: list[dict[str, float]] = []
    with progress("training", settings.members * settings.steps) as watch:
        for member in range(settings.members):
            seed = seed_of(settings.random_state, member)
            network = settings.network(channels, beside, share, density, lines, seed)
            curve += _train(network, member, lessons, tests, settings, watch)
            networks.append(network)
    if lines is not None and (more := _lines(held, sights, share, settings)) is not None:
        lines = lines.merged(more)
        for network in networks:
            network.lines = torch.tensor(lines.say, device=network.lines.device)
    return Rates(networks, lines, placements, settings.recipe.scale, curve)


Sights = dict[int, tuple[Field, Features | None]]
"""What is seen of each image, by its identity."""


def _placements(slides: Sequence[Slide], sights: Sights, settings: Settings) -> dict[str, Placement]:
    """Where the bins of each image lie, for those that lie askew."""
    if not settings.registration or settings.encoder == NONE:
        return {}
    told: dict[str, list[Evidence]] = {}
    for slide in slides:
        field, features = sights[id(slide.image)]
        frozen = field if features is None else features  # without convolutions the field is the features
        if isinstance(frozen, Features):
            told.setdefault(digest_of(slide.image), []).append(Evidence(frozen, slide.places, *measured(slide)))
    found = {image: placement(evidence, settings.random_state) for image, evidence in told.items()}
    return {image: own for image, own in found.items() if own is not None}


def _placed(slide: Slide, placements: dict[str, Placement]) -> Slide:
    found = placements.get(digest_of(slide.image)) if placements else None
    return slide if found is None else found.moved(slide)


def _lines(
    slides: Sequence[Slide], sights: Sights, share: Float[np.ndarray, " g"], settings: Settings
) -> LinearRates | None:
    """Linear rates of slides; none without frozen features beside the image, nor of logarithms of counts."""
    told = [(slide, features) for slide in slides if (features := sights[id(slide.image)][1]) is not None]
    if not told or settings.recipe.likelihood == "gaussian":
        return None
    evidence = [Evidence(features, slide.places, *measured(slide)) for slide, features in told]
    return LinearRates.fit(evidence, share, settings.random_state)


def _lesson(slide: Slide, sights: Sights, lines: LinearRates | None) -> Lesson:
    field, features = sights[id(slide.image)]
    return Lesson.of(slide, field, _joined(features, lines))


def _joined(features: Features | None, lines: LinearRates | None) -> Features | None:
    return features if features is None or lines is None else lines.joined(features)


def predict_rates(rates: Rates, slide: Slide, settings: Settings) -> Expression:
    """What networks say of a slide."""
    _check(settings)
    recipe = replace(settings.recipe, scale=rates.scale)
    for network in rates.networks:
        network.to(find_device(settings.device)).eval()
    moved = _placed(slide, rates.placements)
    with progress("predicting", len(slide)) as watch:
        field, features = settings.see(moved)
        said = predict(rates.networks, moved, field, _joined(features, rates.lines), recipe, settings.views, watch)
    if moved is slide:
        return said
    farthest = float(np.linalg.norm(moved.places - slide.places, axis=1).max(initial=0))
    return replace(said, details={**said.details, "moved_um": round(farthest, 1)})


def hold_out(slides: Sequence[Slide]) -> tuple[list[Slide], list[Slide]]:
    """Split off what tells when to stop: of three patients or more the one with the fewest bins, else of three slides.

    A part of a slide would not tell: what was learned of its other parts holds there, too, and longer training only
    makes it better.

    Returns
    -------
    What to learn from, and what is held out, which may be nothing.
    """
    for group in ([slide.patient for slide in slides], [slide.name for slide in slides]):
        names = sorted(set(group))
        if len(names) > 2:
            sizes = [sum(len(s) for s, own in zip(slides, group, strict=True) if own == name) for name in names]
            out = names[int(np.argmin(sizes))]
            seen = [s for s, own in zip(slides, group, strict=True) if own != out]
            return seen, [s for s, own in zip(slides, group, strict=True) if own == out]
    return list(slides), []


def _train(
    network: RateNetwork,
    member: int,
    lessons: Sequence[Lesson],
    tests: Sequence[Lesson],
    settings: Settings,
    watch: Callable[[int], None],
) -> list[dict[str, float]]:
    device, recipe = find_device(settings.device), settings.recipe
    plain = replace(recipe, jitter=0.0)
    rng, stride = np.random.default_rng(settings.random_state), network.pyramid.strides[-1]
    looks, verdict = (
        [draw(tests, plain, stride, rng).to(device) for _ in range(_CROPS_TO_CHECK)] if tests else [] for _ in range(2)
    )

    def losses(crops: Sequence[Crop]) -> np.ndarray:
        network.eval()
        with autocast(network, "bfloat16"), torch.no_grad():
            return np.array([float(loss_of(network, crop, plain)) for crop in crops])

    plan = Plan(
        settings.steps,
        rate=settings.rate,
        check_every=max(1, settings.steps // _LOOKS),
        patience=_PATIENCE,
        precision="bfloat16",
        random_state=seed_of(settings.random_state, member),
    )
    file = _checkpoint([*lessons, *tests], settings, member)
    validate = (lambda: float(losses(looks).mean())) if looks else None
    judged = bool(tests) and len(network.lines) > 0
    if judged:
        start, before = copy.deepcopy(network.state_dict()), _at_best(network, lambda: losses(verdict))
    curve = train(network, lessons, recipe, plan, device, validate, file, watch)
    if judged:
        kept = _is_gain(before - losses(verdict))
        curve[-1]["kept"] = float(kept)
        if not kept:
            network.load_state_dict(start)
    return [{"member": float(member), **record} for record in curve]


def _at_best(network: RateNetwork, losses: Callable[[], np.ndarray]) -> Float[np.ndarray, " crops"]:
    """Losses of linear rates, as far from the mean as fits best: what a network has to beat by more than modesty.

    The rates themselves are left as they are: in the end they are those of more slides, and surer.
    """
    whole, found = network.lines, []
    for part in _PARTS:
        network.lines = part * whole
        found.append(losses())
    network.lines = whole
    return min(found, key=lambda values: float(values.mean()))


def _is_gain(gains: Float[np.ndarray, " crops"]) -> bool:
    """Whether losses have fallen by more than twice the standard error; the least of many looks is lower by luck."""
    return bool(gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)))


def _checkpoint(lessons: Sequence[Lesson], settings: Settings, member: int) -> Path | None:
    """File for the state of training, known by all that training depends on."""
    if settings.checkpoint is None:
        return None
    folder = Path(settings.checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    words: list[object] = ["linear rates", replace(settings, device="", checkpoint=None), member, __version__]
    arrays: list[np.ndarray] = []
    for lesson in lessons:
        counts = lesson.counts
        arrays += [lesson.places, lesson.total, counts.data, counts.indices, counts.indptr]
        words += [lesson.width_um, lesson.round, lesson.field.um, lesson.field.shape, lesson.source]
    return folder / f"rates-{fingerprint(arrays, repr(words))}.pt"


def _check(settings: Settings) -> None:
    """Refuse options that no slide could make right."""
    for name, value, least, most in (
        ("steps", settings.steps, 1, None),
        ("members", settings.members, 1, None),
        ("views", settings.views, 1, 8),
        ("bins", settings.recipe.bins, 1, None),
    ):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            expected = (
                f"a whole number of {least} or more" if most is None else f"a whole number from {least} to {most}"
            )
            raise OptionError(name, expected=expected, found=repr(value))
    for name, number, zero in (
        ("mpp", settings.mpp, False),
        ("feature_um", settings.feature_um, False),
        ("rate", settings.rate, False),
        ("crop_um", settings.recipe.crop_um, False),
        ("points_um", settings.recipe.points_um, False),
        ("coarse_um", settings.recipe.coarse_um, True),
    ):
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            raise OptionError(name, expected="a positive number" + (", or 0" if zero else ""), found=repr(number))
    check_device(settings.device)


def pack(rates: Rates) -> dict[str, np.ndarray]:
    """All arrays of what was fitted, by name."""
    arrays: dict[str, np.ndarray] = {}
    for number, network in enumerate(rates.networks):
        arrays |= siblings.weights_of(network, f"network{number}")
    if rates.lines is not None:
        arrays |= {"lines.own": rates.lines.own, "lines.wide": rates.lines.wide}  # networks keep what they say
    for image, own in rates.placements.items():
        arrays[f"placement.{image}"] = np.vstack([own.shift, own.centre, [own.width, 0.0]])
    return arrays


def unpack(arrays: dict[str, np.ndarray], settings: Settings, scale: float, curve: list[dict[str, float]]) -> Rates:
    """Take back what :func:`pack` gave."""
    lines = None
    if "lines.own" in arrays:
        lines = LinearRates(arrays["lines.own"], arrays["lines.wide"], arrays["network0.lines"])
    networks = []
    for number in range(settings.members):
        name = f"network{number}"
        first = arrays[f"{name}.pyramid.{'enter.0.0' if settings.convolution else 'stages.0.0.0'}.weight"]
        told, genes = arrays.get(f"{name}.told.1.weight"), len(arrays[f"{name}.log_dispersion"])
        beside = 0 if told is None else told.shape[1]
        network = settings.network(first.shape[1], beside, np.ones(genes), 1.0, lines, 0)
        siblings.load_weights(network, name, arrays)
        networks.append(network)
    placements = {
        name.removeprefix("placement."): Placement(values[3], float(values[4, 0]), values[:3])
        for name, values in arrays.items()
        if name.startswith("placement.")
    }
    return Rates(networks, lines, placements, scale, curve)
