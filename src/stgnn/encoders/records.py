"""Every encoder by name: where it comes from, what it wants to see, what it gives, and under which terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from stgnn.data.schema import OptionError, nearest

Option = str | int | float | bool
Options = tuple[tuple[str, Option], ...]


@dataclass(frozen=True)
class Encoder:
    """What is known of an image encoder.

    Parameters
    ----------
    name
        What users call it.
    source
        "built-in", or the package that builds the network: "timm" or "transformers".
    hub
        Id on the Hugging Face hub; empty where there is none.
    input_mpp, input_px
        Micrometres per pixel and pixels a side that it was trained to see.
    mean, std
        By which each colour, 0 to 1, is standardised.
    interpolation
        How a crop of another size is resized: "bilinear" or "bicubic".
    features
        Length of a feature vector; 0 where only the network itself knows.
    pooling
        How tokens become one vector: "cls", "mean" of the patches, or "cls+mean", both joined.
    licence, gated
        Terms of the weights, and whether they are only given to whoever asks for them.
    resize_px
        Shortest side before the centre is cut out, where the model's card asks for that; else None.
    prefix
        Tokens before those of patches: the class token and registers.
    architecture
        The network's name in timm, for weights from a local file.
    within
        Start of the weights' names that belong to the network, where a file holds more than it.
    kwargs
        Options of the network, (name, value) each; names of layers are looked up when it is built.
    """

    name: str
    source: Literal["built-in", "timm", "transformers"]
    hub: str
    input_mpp: float
    input_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    features: int
    pooling: Literal["cls", "mean", "cls+mean"]
    licence: str
    gated: bool = False
    resize_px: int | None = None
    prefix: int = 1
    architecture: str = ""
    within: str = ""
    kwargs: Options = ()

    @property
    def restricted(self) -> bool:
        """Whether its terms forbid some uses, or it must be asked for."""
        return self.gated or "NC" in self.licence or "non-commercial" in self.licence

    @property
    def page(self) -> str:
        """Where to read the terms and get the weights."""
        return f"https://huggingface.co/{self.hub}" if self.hub else ""


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.7220), (0.1950, 0.2316, 0.1816))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_NC_ND = "CC-BY-NC-ND-4.0"


def _options(**options: Option) -> Options:
    return tuple(options.items())


_UNI = _options(patch_size=16, init_values=1e-5, num_classes=0, dynamic_img_size=True)
_UNI2 = _options(
    img_size=224,
    patch_size=14,
    depth=24,
    num_heads=24,
    init_values=1e-5,
    embed_dim=1536,
    mlp_ratio=2.66667 * 2,
    num_classes=0,
    no_embed_class=True,
    mlp_layer="SwiGLUPacked",
    act_layer="SiLU",
    reg_tokens=8,
    dynamic_img_size=True,
)
_VIRCHOW: dict[str, Option] = {
    "img_size": 224,
    "init_values": 1e-5,
    "num_classes": 0,
    "mlp_ratio": 5.3375,
    "global_pool": "",
    "dynamic_img_size": True,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
}
_HUGE, _GIANT = "vit_huge_patch14_224", "vit_giant_patch14_reg4_dinov2"
_OPTIMUS_0 = _options(img_size=224, num_classes=0, global_pool="token", init_values=1e-5, dynamic_img_size=False)
_MINI = _options(
    img_size=224,
    num_classes=0,
    global_pool="",
    init_values=1e-5,
    mlp_layer="SwiGLUPacked",
    act_layer="SiLU",
    mlp_ratio=2.66667 * 2,
    reg_tokens=4,
    no_embed_class=True,
    dynamic_img_size=True,
)
_GIGAPATH = _options(
    img_size=224, patch_size=16, embed_dim=1536, depth=40, num_heads=24, mlp_ratio=5.33334, num_classes=0
)
_REMOTE = _options(trust_remote_code=True)

_RECORDS = (
    Encoder("colour-texture", "built-in", "", 1.0, 240, *_HALF, "bilinear", 448, "mean", "BSD-3-Clause"),
    Encoder(
        "resnet50", "timm", "timm/resnet50.tv_in1k", 0.5, 224, *_IMAGENET, "bilinear", 2048, "mean", "BSD-3-Clause",
        prefix=0, architecture="resnet50", kwargs=_options(num_classes=0),
    ),
    Encoder(
        "uni", "timm", "MahmoodLab/UNI", 0.5, 224, *_IMAGENET, "bilinear", 1024, "cls", _NC_ND, True,
        architecture="vit_large_patch16_224", kwargs=_UNI,
    ),
    Encoder(
        "uni2-h", "timm", "MahmoodLab/UNI2-h", 0.5, 224, *_IMAGENET, "bilinear", 1536, "cls", _NC_ND, True,
        prefix=9, architecture="vit_giant_patch14_224", kwargs=_UNI2,
    ),
    Encoder(
        "virchow", "timm", "paige-ai/Virchow", 0.5, 224, *_IMAGENET, "bicubic", 2560, "cls+mean", "Apache-2.0", True,
        architecture=_HUGE, kwargs=_options(**_VIRCHOW),
    ),
    Encoder(
        "virchow2", "timm", "paige-ai/Virchow2", 0.5, 224, *_IMAGENET, "bicubic", 2560, "cls+mean", _NC_ND, True,
        prefix=5, architecture=_HUGE, kwargs=_options(**_VIRCHOW, reg_tokens=4),
    ),
    Encoder(
        "h-optimus-0", "timm", "bioptimus/H-optimus-0", 0.5, 224, *_OPTIMUS, "bilinear", 1536, "cls", "Apache-2.0",
        prefix=5, architecture=_GIANT, kwargs=_OPTIMUS_0,
    ),
    Encoder(
        "h0-mini", "timm", "bioptimus/H0-mini", 0.5, 224, *_OPTIMUS, "bicubic", 1536, "cls+mean", _NC_ND, True,
        prefix=5, architecture="vit_base_patch14_reg4_dinov2", kwargs=_MINI,
    ),
    Encoder(
        "hibou-b", "transformers", "histai/hibou-b", 0.5, 224, *_HIBOU, "bicubic", 768, "cls", "Apache-2.0",
        prefix=5, kwargs=_REMOTE,
    ),
    Encoder(
        "hibou-l", "transformers", "histai/hibou-L", 0.5, 224, *_HIBOU, "bicubic", 1024, "cls", "Apache-2.0", True,
        prefix=5, kwargs=_REMOTE,
    ),
    Encoder(
        "midnight-12k", "transformers", "kaiko-ai/midnight", 0.5, 224, *_HALF, "bilinear", 3072, "cls+mean", "MIT"
    ),
    Encoder(
        "gigapath", "timm", "prov-gigapath/prov-gigapath", 0.5, 224, *_IMAGENET, "bicubic", 1536, "cls",
        "Apache-2.0, for research", True, resize_px=256, architecture="vit_giant_patch14_dinov2", kwargs=_GIGAPATH,
    ),
    # the image trunk's own class token: the pooling that CONCH adds for captions needs its own package
    Encoder(
        "conch", "timm", "MahmoodLab/CONCH", 0.5, 448, *_CLIP, "bicubic", 768, "cls", _NC_ND, True,
        architecture="vit_base_patch16_224", within="visual.trunk.", kwargs=_options(img_size=448, num_classes=0),
    ),
    Encoder(
        "phikon", "transformers", "owkin/phikon", 0.5, 224, *_IMAGENET, "bilinear", 768, "cls", "Owkin non-commercial"
    ),
    Encoder(
        "phikon-v2", "transformers", "owkin/phikon-v2", 0.5, 224, *_IMAGENET, "bilinear", 1024, "cls",
        "Owkin non-commercial",
    ),
    Encoder(
        "kaiko-vitb8", "timm", "1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms", 0.5, 224, *_HALF,
        "bilinear", 768, "cls", "Kaiko non-commercial", architecture="vit_base_patch8_224",
        kwargs=_options(num_classes=0, dynamic_img_size=True),
    ),
)  # fmt: skip

ENCODERS: dict[str, Encoder] = {record.name: record for record in _RECORDS}
"""Encoders by name. Any other of timm is ``timm:NAME``, any other of transformers ``hf:NAME``."""


def find_encoder(name: str) -> Encoder:
    """Record of an encoder.

    Parameters
    ----------
    name
        One of ``ENCODERS``, or ``timm:NAME`` or ``hf:NAME``, whose transform is then taken from the network itself
        and whose pixels are assumed to be of 0.5 micrometres.

    Raises
    ------
    OptionError
        If there is none of that name.

    Examples
    --------
    >>> find_encoder("virchow2").features, find_encoder("timm:resnet18").source
    (2560, 'timm')
    >>> find_encoder("virchow-2")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: encoder: expected one of colour-texture, ...; did you mean 'virchow2'?
    """
    if name in ENCODERS:
        return ENCODERS[name]
    kind, _, rest = name.partition(":")
    other = Encoder(name, "timm", rest, 0.5, 224, *_IMAGENET, "bilinear", 0, "mean", "see its page", prefix=0)
    if kind == "timm" and rest:
        return replace(other, architecture=rest, kwargs=_options(num_classes=0))
    if kind == "hf" and rest:
        return replace(other, source="transformers", pooling="cls", prefix=1)
    expected = "one of " + ", ".join(ENCODERS) + ", or timm:NAME, or hf:NAME"
    raise OptionError("encoder", expected=expected, found=repr(name), hint=nearest(name, ENCODERS))
