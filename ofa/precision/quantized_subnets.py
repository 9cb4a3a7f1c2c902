"""Subnets whose blocks are in INT8 or fp32, as ONNX: their true accuracy, and files to be timed.

All is done by ONNX Runtime on the quantized graph itself, with activation ranges from calibration images; nothing here
simulates quantization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from ofa.formats.calibration import Ranges
from ofa.formats.onnx import INPUT, export_for_timing, to_bytes
from ofa.formats.onnx_int8 import activation_ranges, nodes_by_place, quantize_qdq
from ofa.hardware.runtimes import RUNTIMES
from ofa.precision.mixed_space import Per, place_of, split_precision, with_precision
from ofa.progress import Progress
from ofa.setting import REFERENCE
from ofa.space import Arch, SearchSpace
from ofa.supernet import Supernet
from ofa.training import SubnetEvaluator

Images = npt.NDArray[np.float32]

BATCH_SIZE = 32  # images in one call of ONNX Runtime


def mixed_onnx_for_timing(supernet: Supernet, space: SearchSpace, arch: Arch) -> bytes:
    """A subnet of mixed precision as a static ONNX graph that is timed and thrown away.

    Its speed is right, what it computes is not: activations have made-up ranges. Give it to
    :func:`ofa.hardware.measure` on a device with the runtime ``onnxruntime``, whose precision does not matter: the
    graph says what is in INT8.

    Args:
        supernet: Trained or not.
        space: Its space with precision; see :func:`ofa.precision.with_precision`.
        arch: Of that space.

    Raises:
        SpaceError: If ``arch`` does not fit ``space``.
        QuantizationError: If precisions are mixed and the graph's nodes do not tell which block they are of.
    """
    plain, precisions = split_precision(space, supernet.slots, arch)
    model = export_for_timing(supernet.extract(plain), supernet.input_shape(plain))
    if "int8" not in precisions.values():
        return model
    return _quantized(supernet, onnx.load_from_string(model), precisions)


@dataclass
class MixedPrecisionEvaluator:
    """Evaluates subnets of the extended space by running their quantized graphs in ONNX Runtime on one thread.

    Args:
        evaluator: Extracts and BN-calibrates subnets, and has the images.
        per: As of :func:`ofa.precision.with_precision`.
        num_calibration_images: At most this many of the calibration split give the ranges of activations: their least
            and greatest values (MinMax).
    """

    evaluator: SubnetEvaluator
    per: Per = "block"
    num_calibration_images: int = 256
    _last: tuple[Arch, int, ModelProto] | None = field(default=None, repr=False)
    _last_ranges: Ranges | None = field(default=None, repr=False)

    @cached_property
    def space(self) -> SearchSpace:
        """The supernet's space with precision."""
        return with_precision(self.evaluator.supernet.space, self.evaluator.supernet.slots, per=self.per)

    def values(self, archs: Sequence[Arch], *, progress: Progress | None = None) -> npt.NDArray[np.float64]:
        """The metric of each subnet on the search split and what is kept of it, shape ``(N, len(metric.columns))``.

        Neighbours in ``archs`` that differ in precision only share extraction, export, and calibration.

        Args:
            archs: Of :attr:`space`.

        Raises:
            SpaceError: If one does not fit the space.
            ValueError: If the split holds no images.
            QuantizationError: See :func:`mixed_onnx_for_timing`.
        """
        metric = self.evaluator.metric
        scores = np.empty((len(archs), len(metric.columns)))
        for row, arch in enumerate(archs):
            session = RUNTIMES[REFERENCE.runtime]().prepare(self.onnx(arch, batch=BATCH_SIZE), REFERENCE)
            scorer = self.evaluator.task.scorer(self.evaluator.data)
            for images, labels in self._batches("search", arch):
                (logits,) = session.run({INPUT: _filled(images, BATCH_SIZE)})
                scorer.update(logits[: len(labels)], labels)
            scores[row] = metric.row(scorer.score())
            if progress is not None:
                progress(row + 1, len(archs), "evaluating quantized subnets")
        return scores

    def onnx(self, arch: Arch, *, batch: int = 1) -> bytes:
        """A BN-calibrated subnet as a static ONNX graph, INT8 where ``arch`` says so, with true activation ranges.

        Raises:
            SpaceError: If ``arch`` does not fit the space.
            QuantizationError: See :func:`mixed_onnx_for_timing`.
        """
        supernet = self.evaluator.supernet
        plain, precisions = split_precision(self.space, supernet.slots, arch)
        graph = self._exported(plain, batch)
        if "int8" not in precisions.values():
            return to_bytes(graph)
        if self._last_ranges is None:
            self._last_ranges = activation_ranges(graph, self._calibration_images(plain, batch))
        return _quantized(supernet, graph, precisions, self._last_ranges)

    def _exported(self, plain: Arch, batch: int) -> ModelProto:
        if self._last is None or self._last[:2] != (plain, batch):
            module = self.evaluator.calibrated(plain).cpu()
            model = export_for_timing(module, self.evaluator.supernet.input_shape(plain), batch)
            self._last, self._last_ranges = (plain, batch, onnx.load_from_string(model)), None
        return self._last[2]

    def _batches(self, split: str, arch: Arch) -> Iterator[tuple[Images, npt.NDArray[np.int64]]]:
        """Images ``(N, C, H, W)`` and labels, at most :data:`BATCH_SIZE` at a time."""
        for inputs, labels in self.evaluator.batches(split, arch):
            (images,) = inputs.tensors
            for start in range(0, len(labels), BATCH_SIZE):
                few = slice(start, start + BATCH_SIZE)
                yield images[few].contiguous().cpu().numpy(), labels[few].cpu().numpy()

    def _calibration_images(self, arch: Arch, batch: int) -> Iterator[Images]:
        num_images = 0
        for images, _ in self._batches("calibration", arch):
            images = images[: self.num_calibration_images - num_images]
            num_images += len(images)
            for start in range(0, len(images), batch):
                yield _filled(images[start : start + batch], batch)
            if num_images >= self.num_calibration_images:
                return


def _filled(images: Images, num: int) -> Images:
    """So many images, of which those beyond the given ones repeat them: the graph takes no fewer."""
    return images if len(images) == num else np.resize(images, (num, *images.shape[1:]))


def _quantized(
    supernet: Supernet,
    graph: ModelProto,
    precisions: Mapping[str, str],
    ranges: Ranges | None = None,
) -> bytes:
    """The graph in INT8; where some slots are in fp32, all nodes stay so that are of no INT8 place."""
    float_nodes = []
    if "fp32" in precisions.values():
        blocks = {block.name: block.path for stage in supernet.stages for block in stage.blocks}
        by_place = nodes_by_place(graph, blocks, {place_of(slot.name) for slot in supernet.slots})
        int8_places = {place_of(name) for name, precision in precisions.items() if precision == "int8"}
        float_nodes = [node for place, nodes in by_place.items() if place not in int8_places for node in nodes]
    return to_bytes(quantize_qdq(graph, ranges, float_nodes=float_nodes))
