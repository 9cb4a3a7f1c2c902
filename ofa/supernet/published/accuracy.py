"""Once-for-All's accuracy predictors: networks that it trained on subnets of its own supernets, judged on ImageNet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.space import Population, SearchSpace, SpaceError
from ofa.supernet.weights import WeightsError, read_weights

Values = npt.NDArray[np.float64]
Layers = Sequence[tuple[Values, Values | float]]

RESNET_RESOLUTIONS = (128, 144, 160, 176, 192, 224, 240, 256)


def accuracy_predictor(preset: str, space: SearchSpace, file: Path | str) -> Callable[[Population], Values]:
    """Top-1 accuracy of ImageNet in percent, as a published predictor has it, of architectures ``(N, D)``.

    Args:
        preset: The supernet, whose weights the predictor was trained on.
        space: Of it, or a part of that.
        file: ``acc_predictor.pth`` (for ``ofa_mobilenetv3_w1.2``) or ``ofa_resnet50_acc_predictor.pth``.

    Raises:
        WeightsError: If the file is no such predictor.
        SpaceError: If it is another supernet's, or the space has resolutions that the predictor does not know.
    """
    layers = _layers(file)
    num_inputs = len(layers[0][0][0])
    if num_inputs not in _KNOWN:
        raise WeightsError(f"{file} takes {num_inputs} numbers; Once-for-All's predictors take {[*_KNOWN]}")
    own, resolutions, columns_of = _KNOWN[num_inputs]
    if preset != own:
        raise SpaceError(f"{file} predicts accuracies of {own}'s subnets, not of {preset}'s; take another predictor")
    columns = columns_of(space)
    if len(columns) != num_inputs:
        raise SpaceError(f"{file} predicts accuracies of the whole space of {own}; choices were left out of this one")
    unknown = sorted(set(space["resolution"].values) - set(resolutions))
    if unknown:
        raise SpaceError(
            f"{file} knows resolutions {', '.join(map(str, resolutions))} and not {', '.join(map(str, unknown[:4]))}: "
            f"import again with model.resolution={[each for each in resolutions if each in range(128, 225, 4)]}"
        )

    def predict(population: Population) -> Values:
        active = space.active(population)
        values = np.stack([_column(space, population, active, *each) for each in columns], axis=1)
        for weights, bias in layers[:-1]:
            values = np.maximum(values @ weights.T + bias, 0)
        weights, bias = layers[-1]
        return np.asarray(100 * (values @ weights.T + bias)[:, 0])

    return predict


Column = tuple[str, object]
"""A dim and a value of it: 1 where an architecture has it, 0 where not, and where the dim is inactive."""


def _column(
    space: SearchSpace, population: Population, active: npt.NDArray[np.bool_], name: str, value: object
) -> Values:
    if name not in space.names or value not in space[name].values:
        return np.zeros(len(population))
    column = space.column(name)
    has = active[:, column] & (population[:, column] == space[name].values.index(value))
    return has.astype(np.float64)


def _of_mobile(space: SearchSpace) -> list[Column]:
    blocks = _blocks(space)
    kernels = [(f"{block}.kernel", value) for block in blocks for value in (3, 5, 7)]
    ratios = [(f"{block}.expand", value) for block in blocks for value in (3, 4, 6)]
    return [*kernels, *ratios, *(("resolution", value) for value in range(112, 225, 16))]


def _of_resnet(space: SearchSpace) -> list[Column]:
    blocks = _blocks(space)
    stem = [("stage0.depth", value) for value in space["stage0.depth"].values]
    # Two of the three widths of the stem are the same: the first of their columns stands for both.
    widths: list[Column] = [("stage0.width", 24), ("", None), ("stage0.width", 32)]
    for name in ("stage0.width1", *(f"stage{i}.width" for i in range(1, 5))):
        widths += [(name, value) for value in space[name].values]
    ratios = [(f"{block}.expand", value) for block in blocks for value in (0.2, 0.25, 0.35)]
    return [*(("resolution", value) for value in RESNET_RESOLUTIONS), *stem, *widths, *ratios]


_KNOWN: dict[int, tuple[str, Sequence[int], Callable[[SearchSpace], list[Column]]]] = {
    128: ("ofa_mobilenetv3_w1.2", tuple(range(160, 225, 16)), _of_mobile),
    82: ("ofa_resnet50d", RESNET_RESOLUTIONS, _of_resnet),
}
"""By the numbers that a predictor takes: its supernet, resolutions that it knows, what the numbers are. That of
MobileNetV3 has places for 112, 128 and 144 px too, but was not trained on them: it holds 144 px for better than 192."""


def _blocks(space: SearchSpace) -> list[str]:
    return [name.rpartition(".")[0] for name in space.names if re.fullmatch(r"stage\d+\.block\d+\.expand", name)]


def _layers(file: Path | str) -> Layers:
    """Weights and biases, first to last; the ResNets' last has no bias but ``base_acc``."""
    tensors = {name: tensor.double().numpy() for name, tensor in read_weights(file).items()}
    names = [name for name in tensors if name.endswith("weight")]
    if len(names) != 4 or any(tensors[name].ndim != 2 for name in names):
        held = ", ".join([*tensors][:4])
        raise WeightsError(f"{file} is no accuracy predictor of Once-for-All's: it holds {held}, …")
    biases = [tensors.get(name.replace("weight", "bias"), tensors.get("base_acc", 0.0)) for name in names]
    return [(tensors[name], bias) for name, bias in zip(names, biases, strict=True)]
