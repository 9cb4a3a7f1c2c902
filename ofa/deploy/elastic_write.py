"""From a supernet to an elastic artefact: several subnets in one folder, their common weights once."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ofa.config import to_plain
from ofa.deploy.elastic_format import FOLDER, WEIGHTS, ElasticError, ElasticInfo, SubnetInfo, read_elastic
from ofa.deploy.elastic_graph import Reference, Stored, Weight, find_references, refer_to_weights
from ofa.deploy.elastic_runtime import ElasticRuntime, RuntimeName
from ofa.deploy.elastic_weights import Part, WeightMap, boxes_around
from ofa.deploy.parity import NUM_PARITY_IMAGES, TOLERANCES, Outputs, compare_outputs
from ofa.files import check_file_name, enough_space, resolved
from ofa.formats.onnx import DYNAMO_OPSET, check_opset, to_bytes, to_onnx
from ofa.inputs import Inputs
from ofa.progress import Progress
from ofa.space import Arch, Value
from ofa.supernet.model_sources import code_sha256
from ofa.training import SubnetEvaluator
from ofa.training.evaluation import judge
from ofa.training.recipe import ModelConfig
from ofa.training.run import versions

if TYPE_CHECKING:
    from onnx import ModelProto

SPLIT = "test"  # that subnets are judged on


@dataclass(frozen=True, kw_only=True)
class ElasticOptions:
    """How an artefact is measured.

    Args:
        runtimes: Those that it is compared with torch and measured in.
        threads: Threads that compute one image.
        opset: Of the ONNX graphs.
        rounds, block_seconds: See :func:`ofa.hardware.timing.time_models`.
    """

    runtimes: tuple[RuntimeName, ...] = ("onnxruntime", "torch")
    threads: int = 1
    opset: int = DYNAMO_OPSET
    rounds: int = 10
    block_seconds: float = 0.05

    def __post_init__(self) -> None:
        check_opset(self.opset)


DEFAULTS = ElasticOptions()


@dataclass(frozen=True)
class _Subnet:
    """A subnet on its way into an artefact."""

    info: SubnetInfo
    num_images: int
    module: nn.Module
    graph: ModelProto
    parts: Mapping[str, Part]


def write_elastic(
    evaluator: SubnetEvaluator,
    archs: Mapping[str, Mapping[str, Value]] | Sequence[Mapping[str, Value]],
    out: Path | str,
    *,
    rng: np.random.Generator,
    model: ModelConfig | None = None,
    provenance: Mapping[str, Any] | None = None,
    options: ElasticOptions = DEFAULTS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ElasticInfo:
    """Write subnets of one supernet so that :class:`ElasticRuntime` can switch between them.

    Each is extracted and calibrated. Weights are stored once, as far as some subnet uses them; what a subnet has of its
    own are statistics of batch normalisation, and kernels that passed a learned matrix. Then every subnet is compared
    with the extracted module, and measured, in each runtime.

    Args:
        archs: By name, or in a sequence, whose members are then called ``subnet0``, ``subnet1`` ...
        rng: Draws inputs and the order of measurements.
        model: What the supernet was made of (``run.recipe.model``); torch needs it to build subnets without pickles.
        provenance: More about where the weights came from, plain data.
        overwrite: Replace an artefact that is there; anything else is never replaced.

    Raises:
        ElasticError: If ``out`` is taken, names do not fit, or torch is among the runtimes and there is no ``model``.
        ParityError: If a subnet does not compute what its module computes.
        OpsetError: If a subnet cannot be written in the opset.
    """
    chosen = _named(evaluator, archs)
    if isinstance(evaluator.supernet.timed_inputs(next(iter(chosen.values()))), Inputs):
        raise ElasticError(
            f"an elastic artefact holds networks of one image; export subnets of {evaluator.task.name} one by one"
        )
    if "resolution" not in evaluator.supernet.space.names:
        raise ElasticError(
            f"an elastic artefact holds networks of pictures; export those of {evaluator.task.name} alone"
        )
    if evaluator.task.is_wrapped:
        raise ElasticError(
            f"an elastic artefact holds networks as they are trained, which say something else than those that "
            f"{evaluator.task.name} ships; export subnets one by one"
        )
    if "torch" in options.runtimes and model is None:
        raise ElasticError("torch needs to know what the supernet was made of; give model, or runtimes without torch")
    steps = itertools.count()

    def begin(what: str) -> None:
        if progress is not None:
            progress(next(steps), 2 * len(chosen) + 1 + 2 * len(options.runtimes), what)

    with FOLDER.new(out, overwrite=overwrite) as folder:
        weight_map = WeightMap(evaluator.supernet)
        subnets = [_prepare(evaluator, weight_map, name, arch, options.opset, begin) for name, arch in chosen.items()]
        begin("writing")
        _write_files(folder, evaluator.supernet.model, subnets, for_torch=model is not None)
        info = _info(evaluator, subnets, model, provenance or {})
        FOLDER.seal(folder, info.to_json())
        for name in options.runtimes:
            begin(f"comparing {name} with the extracted subnets")
            runtime = ElasticRuntime(folder, name, options.threads)
            for subnet in subnets:
                subnet.info.max_abs_difference[name] = _check(runtime, evaluator, subnet)
            begin(f"measuring in {name}")
            measurement = runtime.measure(rng=rng, rounds=options.rounds, block_seconds=options.block_seconds)
            info = dataclasses.replace(info, measurements=(*info.measurements, measurement))
            FOLDER.seal(folder, info.to_json())
    return read_elastic(resolved(out))


def _info(
    evaluator: SubnetEvaluator, subnets: Sequence[_Subnet], model: ModelConfig | None, provenance: Mapping[str, Any]
) -> ElasticInfo:
    """The description, before anything is measured."""
    classes = evaluator.task.classes(evaluator.data)
    code = None if model is None else code_sha256(model.name)  # which torch will have to execute
    return ElasticInfo(
        subnets=tuple(subnet.info for subnet in subnets),
        measurements=(),
        classes=classes,
        num_outputs=None if classes else evaluator.task.num_classes(evaluator.data),
        split=SPLIT,
        num_images=subnets[0].num_images,
        channels=evaluator.supernet.input_shape(subnets[0].info.arch)[0],
        model=None if model is None else json.loads(json.dumps(to_plain(model.untrained()))),
        provenance={
            **provenance,
            **({} if code is None else {"code_sha256": code}),
            "exported_with": versions(),
        },
        metric=evaluator.metric,
    )


def _named(
    evaluator: SubnetEvaluator, archs: Mapping[str, Mapping[str, Value]] | Sequence[Mapping[str, Value]]
) -> dict[str, Arch]:
    given = archs if isinstance(archs, Mapping) else {f"subnet{number}": arch for number, arch in enumerate(archs)}
    chosen = {name: evaluator.supernet.space.arch(arch) for name, arch in given.items()}
    if not chosen:
        raise ElasticError("there are no subnets to write; give at least one architecture")
    for name in chosen:
        check_file_name("subnet", name)
    if len(set(chosen.values())) < len(chosen):
        raise ElasticError(f"two of the {len(chosen)} subnets are the same architecture; leave one out")
    return chosen


def _prepare(
    evaluator: SubnetEvaluator, weight_map: WeightMap, name: str, arch: Arch, opset: int, begin: Callable[[str], None]
) -> _Subnet:
    begin(f"calibrating and testing {name}")
    module = evaluator.calibrated(arch).eval()
    score = judge(module, evaluator.batches(SPLIT, arch), evaluator.task.scorer(evaluator.data))
    begin(f"exporting {name}")
    module = module.cpu()
    feed = evaluator.task.feed(evaluator.data, evaluator.supernet.inputs.sizes(arch))
    return _Subnet(
        info=SubnetInfo(
            name=name,
            arch=dict(arch),
            resolution=int(arch["resolution"]),
            score=score.value,
            low=score.low,
            high=score.high,
            max_abs_difference={},
            preprocessing=dataclasses.asdict(feed.preprocessing),
        ),
        num_images=score.num_images,
        module=module,
        graph=to_onnx(module, evaluator.supernet.input_shape(arch), opset=opset),
        parts=weight_map.parts(weight_map.structure(arch)),
    )


def _check(runtime: ElasticRuntime, evaluator: SubnetEvaluator, subnet: _Subnet) -> float:
    """Largest difference of a logit from the extracted module's; :class:`ParityError` if it is too large."""
    inputs = next(iter(evaluator.batches("calibration", subnet.info.arch)))[0].rows(slice(NUM_PARITY_IMAGES))
    (images,) = inputs.map(lambda tensor: tensor.cpu()).tensors
    with torch.inference_mode():
        expected: Outputs = subnet.module(images).numpy()
    runtime.use(subnet.info.name)
    found = runtime.run(images.contiguous().numpy())
    what = f"subnet {subnet.info.name!r} in {runtime.runtime}"
    return compare_outputs(expected, found, what=what, tolerance=TOLERANCES["fp32"])


# -- files -----------------------------------------------------------------------------------------------------------


def _write_files(folder: Path, supernet: nn.Module, subnets: Sequence[_Subnet], *, for_torch: bool) -> None:
    """The weights, and the graphs that take theirs from there."""
    tensors: dict[str, Tensor] = {}
    known: dict[bytes, str] = {}  # digest of a constant that is no parameter -> its key
    references: list[dict[str, Reference]] = []
    weights_of = _weights(supernet, subnets, tensors)
    for subnet, weights in zip(subnets, weights_of, strict=True):
        found, others = find_references(subnet.graph, weights)
        for name, array in others.items():
            key = known.setdefault(sha256(array.tobytes()).digest(), f"{subnet.info.name}/graph/{name}")
            tensors.setdefault(key, torch.from_numpy(array.copy()))
            found[name] = Reference(key, tuple(((0, size),) for size in array.shape))
        references.append(found)
    if not for_torch:
        used = {reference.key for found in references for reference in found.values()}
        tensors = {key: tensor for key, tensor in tensors.items() if key in used}
    separate = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    with enough_space(folder / WEIGHTS, sum(tensor.nbytes for tensor in separate.values())):
        safetensors.torch.save_file(separate, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    stored = _stored(folder / WEIGHTS)
    for subnet, found in zip(subnets, references, strict=True):
        refer_to_weights(subnet.graph, found, stored)
        (folder / subnet.info.graph).write_bytes(to_bytes(subnet.graph))


def _weights(
    supernet: nn.Module, subnets: Sequence[_Subnet], tensors: dict[str, Tensor]
) -> Iterator[dict[str, Weight]]:
    """Each subnet's parameters as parts of ``tensors``, to which is added what is missing: its buffers, too."""
    whole = {name: tensor.detach().cpu() for name, tensor in supernet.named_parameters(remove_duplicate=False)}
    boxes = boxes_around([subnet.parts for subnet in subnets])
    for subnet in subnets:
        weights = {}
        parameters = {name: p.detach() for name, p in subnet.module.named_parameters(remove_duplicate=False)}
        for name, parameter in parameters.items():
            part, common = subnet.parts[name].within(boxes[name]), boxes[name].take(whole[name])
            if torch.equal(part.take(common), parameter):
                tensors[name] = common
                key, runs = name, tuple(selection.runs for selection in part.selections)
            else:  # it passed a learned matrix
                key, runs = f"{subnet.info.name}/{name}", tuple(((0, size),) for size in parameter.shape)
                tensors[key] = parameter
            weights[name] = Weight(key, runs, parameter.contiguous().numpy())
        for name, buffer in subnet.module.state_dict().items():
            if name not in parameters:
                tensors[f"{subnet.info.name}/{name}"] = buffer
        yield weights


def _stored(path: Path) -> dict[str, Stored]:
    """Where a safetensors file has its tensors: their places stand in a JSON header, whose length comes first."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    return {
        name: Stored(tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0], end - start)
        for name, entry in header.items()
        for start, end in [entry["data_offsets"]]
    }
