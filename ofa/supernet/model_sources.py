"""Models from elsewhere than timm and our presets, by names such as ``torchvision:NAME``.

- ``torchvision:NAME``: a classifier, a segmentation model or a single-shot detector of torchvision's;
- ``smp:ARCHITECTURE/ENCODER``: a segmentation model of segmentation-models-pytorch, as ``smp:unet/tu-resnet18``;
- ``fcos:BACKBONE``: a detector without anchors on one of timm's models, as ``fcos:tf_efficientnet_lite0``;
- ``transformers:FOLDER``, ``transformers:bert``: a classifier of texts;
- ``stitch:ANCHOR,ANCHOR``: networks of any of these names, stitched, see :mod:`ofa.supernet.stitching`;
- ``path/file.py:function`` of the user's: such a file is executed.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.detection.ssd import SSD

from ofa.errors import OfaError, unknown_name_message
from ofa.files import sha256_of_file
from ofa.inputs import InputSpec
from ofa.optional import extra, require
from ofa.supernet.detectors import AnchorDetector, PointDetector
from ofa.supernet.hugging_face import CONFIG, allow_no_values, configuration_of, inputs_of_text_model, text_model
from ofa.supernet.weights import WeightsError, fit_weights
from ofa.trust import check_trusted, trust
from ofa.user_code import ModelCodeError, error_in, module_of

SINGLE_SHOT = ["ssdlite320_mobilenet_v3_large"]
"""Detectors of torchvision that have the same number of priors at every place, as our task takes them."""


STITCHED = "stitch:"


class UnknownModelError(OfaError, ValueError):
    """Nobody has a model of this name, or not with these settings."""


class ModelCode(NamedTuple):
    """A function, or a class, in a file of the user's that gives the model."""

    path: Path
    function: str


def stitched_name(anchors: Sequence[str]) -> str:
    """What stitched anchors are called: ``stitch:deit_tiny_patch16_224,deit_small_patch16_224``."""
    return STITCHED + ",".join(anchors)


def anchors_of(name: str) -> tuple[str, ...]:
    """The inverse of :func:`stitched_name`; none of another name."""
    return tuple(name.removeprefix(STITCHED).split(",")) if name.startswith(STITCHED) else ()


def code_of(name: str) -> ModelCode | None:
    """What ``path/file.py:function`` says, the path relative to the current folder; ``None`` for other names.

    Raises:
        UnknownModelError: If the function is missing, or anchors are in several files.
    """
    if anchors := anchors_of(name):
        found = [code_of(anchor) for anchor in anchors]
        paths = {code.path for code in found if code is not None}
        if len(paths) > 1:
            raise UnknownModelError(f"anchors of {name!r} are in {len(paths)} files; put them into one")
        functions = (each if code is None else code.function for each, code in zip(anchors, found, strict=True))
        return ModelCode(paths.pop(), "-".join(functions)) if paths else None
    path, _, function = name.rpartition(":")
    if name.endswith(".py") or (path.endswith(".py") and not function.isidentifier()):
        raise UnknownModelError(f"model {name!r} must say which function of the file makes it: path/file.py:function")
    return ModelCode(Path(path).expanduser(), function) if path.endswith(".py") else None


def code_sha256(name: str, *, is_trusted: bool = False) -> str | None:
    """Checksum of the file of a ``path/file.py:function``; ``None`` for other names.

    Args:
        is_trusted: Put the file on the user's list of trusted ones.
    """
    code = code_of(name)
    return None if code is None else (trust if is_trusted else sha256_of_file)(_existing(code.path))


def check_code(name: str, recorded: str | None, *, where: str, remedy: str, trust_code: bool = False) -> None:
    """Refuse a model that a stored result names if its code may not be executed, see :func:`ofa.trust.check_trusted`.

    Args:
        trust_code: Put the code on the list, as it is now, instead.
    """
    if trust_code:
        code_sha256(name, is_trusted=True)
    elif (code := code_of(name)) is not None:
        check_trusted(code.path, recorded=recorded, where=where, remedy=remedy)


def is_source(name: str) -> bool:
    """Whether a model's name says where it is from; otherwise it is a preset or one of timm's."""
    return ":" in name or code_of(name) is not None


def name_in_files(name: str, code: str | None = None) -> str:
    """What a model is called in names of files: ``resnet18``, ``torchvision-resnet18``, ``function-1a2b3c``.

    Args:
        code: The sha256 of its file; of the file as it is now, if not given.
    """
    own = code_of(name)
    if own is not None:
        return f"{own.function}-{(code or sha256_of_file(_existing(own.path)))[:6]}"
    return re.sub(r"[^\w.-]", "-", public_name(name)) if is_source(name) else name


def public_name(name: str) -> str:
    """What a model is called in what is given to others: a file or folder without the folder that it is in."""
    if anchors := anchors_of(name):
        return stitched_name([public_name(anchor) for anchor in anchors])
    code = code_of(name)
    source, _, own = name.partition(":")
    if source == "transformers":
        return f"{source}:{Path(own).expanduser().resolve().name}"
    return name if code is None else f"{code.path.name}:{code.function}"


def inputs_of_source(name: str) -> InputSpec | None:
    """What a model is called with, where its source tells that it takes no images."""
    source, _, own = name.partition(":")
    return inputs_of_text_model(own) if source == "transformers" else None


def files_of_model(name: str, model: nn.Module) -> dict[str, bytes]:
    """Contents of what a run keeps of a model besides weights, by name of the file, so that it is built again."""
    return {CONFIG: configuration_of(model)} if name.startswith("transformers:") else {}


def name_in_run(name: str, folder: Path) -> str:
    """What a model is built from again in a run folder: from :func:`files_of_model`, where there are some."""
    return f"transformers:{folder}" if name.startswith("transformers:") and (folder / CONFIG).is_file() else name


def settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def model_of_source(name: str, **settings: Any) -> nn.Module:
    """The model of a name for which :func:`is_source` holds.

    Args:
        settings: See :func:`ofa.supernet.presets.create_model`.

    Raises:
        UnknownModelError: If there is no such source, file, function or model.
        ModelCodeError: If the user's file raises an error, or gives something else.
        WeightsError: If pretrained weights cannot be had.
    """
    code = code_of(name)
    if code is not None:
        return _model_of_code(code, **settings)
    source, _, own_name = name.partition(":")
    if source not in _SOURCES:
        known = unknown_name_message("source", source, (*_SOURCES, STITCHED.removesuffix(":")))
        raise UnknownModelError(f"model {name!r}: {known}, path/file.py")
    return _SOURCES[source](own_name, **settings)


# -- torchvision -------------------------------------------------------------------------------------------------------


def _torchvision_model(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    pretrained: bool,
    needs_classifier: bool,
    drop_rate: float,
    drop_path_rate: float,
) -> nn.Module:
    """One of torchvision's classifiers, segmentation models or single-shot detectors.

    A drop rate of 0 leaves what it has of its own.
    """
    known = [
        each
        for module in (torchvision.models, torchvision.models.segmentation)
        for each in torchvision.models.list_models(module=module)
    ]
    known += SINGLE_SHOT
    if name in SINGLE_SHOT and pretrained:
        raise UnknownModelError(
            f"weights of {name} tell COCO's classes from background, which our detectors have not; use "
            "model.pretrained=false"
        )
    if name not in known:
        raise UnknownModelError(unknown_name_message("model of torchvision", name, known, max_listed=5))
    settings: dict[str, Any] = {"num_classes": num_classes}
    settings |= {"dropout": drop_rate} if drop_rate else {}
    settings |= {"stochastic_depth_prob": drop_path_rate} if drop_path_rate else {}
    # These would give several outputs in training.
    settings |= {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    builder = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    settings |= {"weights_backbone": None} if "weights_backbone" in builder else {}
    try:
        if in_chans != 3:
            raise TypeError(f"its images have 3 channels, not in_chans={in_chans}")
        model: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    except TypeError as error:
        raise UnknownModelError(f"torchvision cannot build {name!r} with {settings_text(settings)}: {error}") from None
    if pretrained:
        tensors = _torchvision_weights(name)
        fit_weights(model, tensors, source=f"torchvision's weights of {name}", needs_classifier=needs_classifier)
    return AnchorDetector(model) if isinstance(model, SSD) else model


def _torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:  # no network; another file than its name says
        raise WeightsError(
            f"torchvision's weights of {name} cannot be fetched ({error}); use model.pretrained=false, or put the "
            f"file {weights.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints"
        ) from None
    return {key: tensor for key, tensor in tensors.items() if not key.lower().startswith("aux")}


# -- segmentation-models-pytorch ---------------------------------------------------------------------------------------


def _smp_model(name: str, *, num_classes: int, in_chans: int, pretrained: bool, **others: Any) -> nn.Module:
    """A decoder on an encoder, which begins from its own weights if asked to."""
    smp = require("segmentation_models_pytorch", extra("vision"))
    architecture, _, encoder = name.partition("/")
    known = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture not in known or not encoder:
        what = unknown_name_message("architecture of segmentation-models-pytorch", architecture, known)
        raise UnknownModelError(
            what if encoder else f"model 'smp:{name}' must say which encoder: smp:{name}/tu-resnet18"
        )
    for asked in (each for each, value in others.items() if value):
        raise UnknownModelError(f"'smp:{name}' cannot be had with {asked}={others[asked]}; leave that out")
    try:
        model: nn.Module = smp.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights="imagenet" if pretrained else None,
            in_channels=in_chans,
            classes=num_classes,
        )
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UnknownModelError(
            f"segmentation-models-pytorch cannot build {architecture} on {encoder!r}: {error}; timm's encoders begin "
            "with tu-"
        ) from None
    except OSError as error:  # no network
        raise WeightsError(f"weights of {encoder} cannot be fetched ({error}); use model.pretrained=false") from None
    return model


# -- a detector on a backbone of timm's --------------------------------------------------------------------------------


def _fcos_model(name: str, *, num_classes: int, in_chans: int, pretrained: bool, **others: Any) -> nn.Module:
    """The last three strides of a model for images, with the heads of a detector."""
    if not timm.is_model(name):
        known = unknown_name_message("model of timm", name, timm.list_models(), max_listed=5)
        raise UnknownModelError(f"model 'fcos:{name}': {known}")
    for asked in (each for each, value in others.items() if value):
        raise UnknownModelError(f"'fcos:{name}' cannot be had with {asked}={others[asked]}; leave that out")
    try:
        backbone: Any = timm.create_model(
            name, pretrained=pretrained, in_chans=in_chans, features_only=True, out_indices=(-3, -2, -1)
        )
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as error:
        raise UnknownModelError(f"timm cannot give features of {name!r} at three strides: {error}") from None
    except OSError as error:  # no network
        raise WeightsError(f"weights of {name} cannot be fetched ({error}); use model.pretrained=false") from None
    channels = backbone.feature_info.channels()
    return PointDetector(backbone, channels, num_classes=num_classes)


_SOURCES: Mapping[str, Callable[..., nn.Module]] = {
    "torchvision": _torchvision_model,
    "fcos": _fcos_model,
    "smp": _smp_model,
    "transformers": text_model,
}


# -- a file of the user's ----------------------------------------------------------------------------------------------

# What stands for "not asked for"; the number of classes always is.
_DEFAULTS: Mapping[str, Any] = {"in_chans": 3, "pretrained": False, "drop_rate": 0.0, "drop_path_rate": 0.0}


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UnknownModelError(f"there is no file {path} in {Path.cwd()} to make a model of")
    return path


def _model_of_code(code: ModelCode, *, needs_classifier: bool, **settings: Any) -> nn.Module:
    """What the function gives for those of the settings that it names."""
    module = module_of(_existing(code.path))
    known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    if code.function not in known:
        raise UnknownModelError(unknown_name_message(f"function of {code.path}", code.function, known, max_listed=5))
    function = getattr(module, code.function)
    arguments = _arguments(code, function, settings)
    try:
        model = _called(function, arguments)
    except Exception as error:  # whatever a user's code raises is for the user to know
        raise error_in(code.path, error, f"{code.function}({settings_text(arguments)})") from error
    if "transformers.masking_utils" in sys.modules:
        allow_no_values()
    if not isinstance(model, nn.Module):
        raise ModelCodeError(
            f"{code.function} in {code.path} gave {model!r:.200} of type {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """On the meta device too if that is the default: code that needs values runs on the CPU, and draws nothing."""
    try:
        return function(**arguments)
    except Exception:
        if torch.get_default_device().type != "meta":
            raise
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = function(**arguments)
        return model.to("meta") if isinstance(model, nn.Module) else model


def _arguments(code: ModelCode, function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(function)
    takes_all = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    arguments = {}
    for name, value in settings.items():
        is_asked = value != _DEFAULTS.get(name)
        if name in signature.parameters or (takes_all and (is_asked or name == "in_chans")):
            arguments[name] = value
        elif is_asked and name != "num_classes":
            raise ModelCodeError(
                f"{code.function} in {code.path} has no argument {name}, so {name}={value} cannot be had; add it, or "
                "leave that out"
            )
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelCodeError(
            f"{code.function} in {code.path} cannot be called as {code.function}({settings_text(arguments)}): {error}"
        ) from None
    return arguments
