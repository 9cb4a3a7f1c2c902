"""Classifiers of texts from transformers: a folder with a ``config.json``, or a small BERT to be trained from scratch.

Nothing is fetched, and no code that a folder brings along is executed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ofa.errors import OfaError, unknown_name_message
from ofa.inputs import InputSpec
from ofa.optional import extra, require
from ofa.supernet.weights import fit_weights, read_weights

SMALL: dict[str, dict[str, Any]] = {
    "bert": {
        "model_type": "bert",
        "vocab_size": 8192,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
    }
}
"""Configurations that need no folder."""
NUM_TOKENS = 64
"""Of the texts that a model is looked at with, where no task says more."""
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OLDER_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class TextModelError(OfaError, ValueError):
    """A model of transformers cannot be had as asked."""


def text_model(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    pretrained: bool,
    needs_classifier: bool,
    drop_rate: float,
    drop_path_rate: float,
) -> nn.Module:
    """A model that takes ``input_ids`` and ``attention_mask`` ``(N, T)`` and gives logits ``(N, num_classes)``.

    A drop rate of 0 leaves what it has of its own.

    Args:
        name: A folder, or a name of :data:`SMALL`.
        pretrained: Begin from the weights in the folder.

    Raises:
        TextModelError: If there is no such model, or not with these settings.
        WeightsError: If the folder's weights do not fit.
        NotInstalledError: Without transformers.
    """
    transformers = require("transformers", extra("text"))
    config = _config(transformers, name)
    if in_chans != 3 or drop_path_rate:
        raise TextModelError(
            f"model transformers:{name} takes texts and has no stochastic depth: leave in_chans={in_chans} and "
            f"drop_path_rate={drop_path_rate} out"
        )
    if pretrained and name in SMALL:
        raise TextModelError(f"transformers:{name} has no pretrained weights; use model.pretrained=false, or a folder")
    config.num_labels = num_classes
    if drop_rate:
        config.classifier_dropout = drop_rate
    try:
        made = transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # no classifier of this kind; sizes that misfit
        raise TextModelError(f"transformers makes no classifier of transformers:{name}: {error}") from None
    model: nn.Module = made.float()
    if pretrained:
        _load(model, Path(name).expanduser(), needs_classifier=needs_classifier)
    allow_no_values()
    return model


def configuration_of(model: Any) -> bytes:
    """What ``config.json`` says of such a model; not where it is from."""
    settings = json.loads(model.config.to_json_string())
    settings.pop("_name_or_path", None)
    return json.dumps(settings, indent=2, sort_keys=True).encode()


def inputs_of_text_model(name: str) -> InputSpec:
    """What such a model is called with, where no task says how long texts are."""
    config = _config(require("transformers", extra("text")), name)
    return InputSpec.texts(min(NUM_TOKENS, getattr(config, "max_position_embeddings", NUM_TOKENS)))


def _config(transformers: ModuleType, name: str) -> Any:
    if name in SMALL:
        settings = dict(SMALL[name])
        return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    folder = Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        where = f"{folder} in {Path.cwd()}" if not folder.is_absolute() else str(folder)
        known = unknown_name_message("model of transformers", name, SMALL)
        raise TextModelError(f"{known}, or a folder with a {CONFIG}; there is none in {where}")
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise TextModelError(
            f"{folder / CONFIG} is no configuration that transformers {transformers.__version__} reads ({reason}); get "
            "the folder again"
        ) from None


def allow_no_values() -> None:
    """Let models of transformers run on the meta device.

    They leave the mask out where no text of a batch is padded, for which they look at its values. Where there are none
    it now stays; nothing changes for other tensors.
    """
    masking = require("transformers.masking_utils", extra("text"))
    for name in ("sdpa", "eager"):
        original = masking.ALL_MASK_ATTENTION_FUNCTIONS[name]
        if original not in _masks:
            masking.AttentionMaskInterface.register(name, _mask_without_values(original))


_masks: set[Callable[..., Any]] = set()


def _mask_without_values(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def mask(*args: Any, attention_mask: Tensor | None = None, **settings: Any) -> Any:
        if attention_mask is not None and attention_mask.is_meta:
            settings |= {"allow_is_bidirectional_skip": False, "allow_is_causal_skip": False}
        return original(*args, attention_mask=attention_mask, **settings)

    _masks.add(mask)
    return mask


def _load(model: Any, folder: Path, *, needs_classifier: bool) -> None:
    """Weights of the encoder, and of the classifier where the folder has one for as many classes."""
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise TextModelError(f"{folder} has no {' or '.join(WEIGHTS)}; use model.pretrained=false, or another folder")
    own, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    found = {}
    for name, tensor in read_weights(file).items():
        for old, new in OLDER_NAMES.items():
            name = name.replace(old, new)
        found[name if name in own else prefix + name] = tensor
    # A folder of an encoder alone has no classifier nor, maybe, what pools for it; one of another task has more.
    fitting = {name: tensor for name, tensor in found.items() if name in own}
    optional = {name for name in own if ".pooler." in name or not (needs_classifier or name.startswith(prefix))}
    fit_weights(model, fitting, source=f"weights {file}", needs_classifier=needs_classifier, optional=optional)
