"""Compare torch with exported files on random architectures of several families of timm models.

    python scripts/fuzz_export.py --out docs/results/deploy/fuzz.csv [--families resnet26d …] [--num-archs 20]
        [--runtime onnxruntime] [--resume]

Supernets are untrained, their weights and statistics drawn so that every layer matters to the logits; images are crops
of scikit-learn's two photographs. Logits may differ by 1e-4 of the largest. Every other architecture is exported with a
free batch, where there is one, and run on one and on four images, the others with a batch of one. An architecture that
departs is made as small as it can be while it still does, and its first layer that departs is looked for. Rows are
appended to ``--out`` as they come. Exit status 1 if anything departs or cannot be exported.

In the manner of differential fuzzing: Liu et al., NNSmith, arXiv:2207.13066, and NeuRI, arXiv:2302.02261. Here networks
are the subnets of real models instead of graphs of random operators.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import ofa
from ofa.deploy.departure import first_departure
from ofa.deploy.parity import TOLERANCES, load_outputs
from ofa.deploy.targets import TARGETS, Network, target_of
from ofa.hardware import Device
from ofa.hardware.runtimes import RUNTIMES
from ofa.setting import Setting
from ofa.space import Arch, SpaceError
from ofa.training.bn_calibration import calibrate_bn

Row: TypeAlias = dict[str, Any]

FAMILIES = (
    "mobilenetv3_small_050",  # hard swish, squeeze-excite with hard sigmoid
    "efficientnet_b0",  # swish, squeeze-excite
    "regnety_002",  # grouped convolutions
    "resnet26d",  # pooling, in shortcuts too
    "convnext_atto",  # layer norms over channels, layer scale
    "vit_tiny_patch16_224",  # attention, class token
    "levit_128s",  # attention biases, batch norms behind linear layers
    "ghostnet_050",  # concatenation
    "mobilevit_xxs",  # images unfolded and folded, resized where patches do not fit
    "edgenext_xx_small",  # attention between channels, positions as sines, splits
)
RUNTIME_NAMES = [
    name
    for target in TARGETS.values()
    for name in target.runtimes
    if "fp32" in target.precisions and RUNTIMES[name]().on_cpu
]
COLUMNS = (
    "runtime",
    "family",
    "arch",
    "resolution",
    "dynamic_batch",
    "num_nodes",
    "max_abs_difference",
    "limit",
    "ok",
    "fault",
)
RESOLUTIONS = (63, 80, 97, 112, 130, 160)  # odd ones too, and such as no stride divides
TOLERANCE = TOLERANCES["fp32"]
NUM_CLASSES = 100
NUM_IMAGES = 4
MAX_SHRINKING_EXPORTS = 60


# -- networks whose logits depend on all of their layers, and images -------------------------------------------------


def make_supernet(family: str, seed: int) -> ofa.Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            supernet = ofa.create_supernet(family, num_classes=NUM_CLASSES, resolution=RESOLUTIONS)
        except SpaceError:  # models that take images of one size
            supernet = ofa.create_supernet(family, num_classes=NUM_CLASSES)
        draw_parameters(supernet.model)
    return supernet.eval()


@torch.no_grad()
def draw_parameters(model: nn.Module) -> None:
    """Draw what untrained models leave at 0, at 1 or close to 0, as layers that end in it do nothing; in place."""
    for name, parameter in model.named_parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            value = float(parameter.flatten()[0])
            if value == 0:  # biases
                parameter.normal_(0, 0.2)
            else:  # scales of norms; those of layers begin at 1e-6 or so
                parameter.uniform_(0.5, 1.5).mul_(value if value >= 0.1 else 0.3)
        elif parameter.dim() >= 2 and name.endswith("weight"):  # what goes in with variance 1 goes out so
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif parameter.dim() >= 2 and "kernel_transform" not in name:  # tokens, positions
            parameter.normal_(0, 0.5)


def extract(supernet: ofa.Supernet, arch: Arch, images: Tensor, rng: np.random.Generator) -> nn.Module:
    """A subnet with statistics of batch norms that are near those of the images, but not quite."""
    subnet = supernet.extract(arch)
    norms = [layer for layer in subnet.modules() if isinstance(layer, _BatchNorm)]
    if norms:
        calibrate_bn(subnet, [images])
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        # A channel that hardly varied would be blown up by other images.
        variance = norm.running_var.clamp(min=0.1 * float(norm.running_var.mean()))
        shift = torch.from_numpy(rng.normal(0, 0.3, norm.num_features)).float()
        norm.running_mean += shift * variance.sqrt()
        norm.running_var.copy_(variance * torch.from_numpy(rng.uniform(0.5, 2, norm.num_features)).float())
    return subnet


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def crops(photos: Sequence[Image.Image], num: int, resolution: int, rng: np.random.Generator) -> Tensor:
    """Random squares, resized and normalised: ``(num, 3, resolution, resolution)``."""
    images = []
    for index in range(num):
        photo = photos[index % len(photos)]
        side = int(rng.integers(min(photo.size) // 2, min(photo.size)))
        left, top = (int(rng.integers(size - side + 1)) for size in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize((resolution, resolution))
        images.append(np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy((np.stack(images) - mean[:, None, None]) / std[:, None, None]).float()


# -- one case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far an exported network departs. ``kind`` is empty, ``departs``, or the type of the error."""

    num_nodes: int = 0
    difference: float = float("nan")
    limit: float = float("nan")
    kind: str = ""
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Fuzzer:
    """Compares subnets of one supernet with what a runtime computes."""

    supernet: ofa.Supernet
    runtime: str
    photos: Sequence[Image.Image] = field(repr=False)

    def case(self, arch: Arch, seed: Sequence[int]) -> tuple[nn.Module, Tensor]:
        """Subnet and images."""
        rng = np.random.default_rng(seed)
        _, _, resolution = self.supernet.input_shape(arch)
        images = crops(self.photos, NUM_IMAGES, resolution, rng)
        return extract(self.supernet, arch, images, rng), images

    def check(self, arch: Arch, *, dynamic_batch: bool, seed: Sequence[int]) -> Outcome:
        subnet, images = self.case(arch, seed)
        with torch.inference_mode():
            expected = torch.cat([subnet(image[None]) for image in images]).numpy()
        largest = float(np.abs(expected).max())
        assert np.ptp(expected, axis=0).max() > 0.05 * largest, "logits hardly depend on the image; draw other weights"
        limit = TOLERANCE * largest
        num_nodes = 0
        try:
            with tempfile.TemporaryDirectory() as folder:
                model, num_nodes = self.export(subnet, images.shape[1:], Path(folder), dynamic_batch)
                found = [self.run(model, images, 1)]
                found += [self.run(model, images, NUM_IMAGES)] if dynamic_batch else []
        except Exception as error:  # whatever exporters and runtimes raise is the result here
            return Outcome(num_nodes=num_nodes, limit=limit, kind=type(error).__name__, fault=message(error))
        difference = float(np.max([np.abs(expected - logits).max() for logits in found]))
        departs = not difference <= limit
        fault = f"departs by {difference:.3g}, where {limit:.3g} is allowed" if departs else ""
        kind = "departs" if departs else ""
        return Outcome(num_nodes=num_nodes, difference=difference, limit=limit, kind=kind, fault=fault)

    def export(
        self, module: nn.Module, input_shape: Sequence[int], folder: Path, dynamic_batch: bool
    ) -> tuple[Path, int]:
        """A file for the runtime, and the number of its nodes (0 if it does not tell)."""
        device = Device(name="here", setting=Setting(runtime=self.runtime))
        network = Network(module=module, input_shape=tuple(input_shape), batch=None if dynamic_batch else 1)
        _, target = target_of(device)
        files = target.export(network, device.setting).files
        for name, data in files.items():
            (folder / name).write_bytes(data)
        path = folder / next(iter(files))
        return path, count_nodes(path)

    def run(self, path: Path, images: Tensor, batch: int) -> npt.NDArray[np.floating]:
        """Outputs of the model for all images, ``batch`` at once, concatenated."""
        setting = Setting(runtime=self.runtime, batch=batch)
        return load_outputs(path, setting=setting, batch=batch)(images.numpy())

    def shrink(self, arch: Arch, outcome: Outcome, *, dynamic_batch: bool, seed: Sequence[int]) -> Arch:
        """Take dims to their smallest values, one by one, as long as the fault stays of the same kind."""
        space, budget = self.supernet.space, MAX_SHRINKING_EXPORTS
        genes = space.to_population(arch)
        again = True
        while again:
            again = False
            for column in range(len(space.dims)):
                for value in range(int(genes[0, column])):
                    smaller = genes.copy()
                    smaller[0, column] = value
                    smaller = space.canonical(smaller)
                    if budget == 0 or np.array_equal(smaller, genes):
                        continue
                    budget -= 1
                    tried = self.check(space.to_archs(smaller)[0], dynamic_batch=dynamic_batch, seed=seed)
                    if tried.kind == outcome.kind:
                        genes, again = smaller, True
                        break
        return space.to_archs(genes)[0]

    def explain(self, arch: Arch, outcome: Outcome, *, dynamic_batch: bool, seed: Sequence[int]) -> str:
        """The smallest architecture with this fault, and the first layer that departs."""
        smallest = self.shrink(arch, outcome, dynamic_batch=dynamic_batch, seed=seed)
        text = f"{outcome.fault}; smallest architecture: {smallest.to_json()}"
        if outcome.kind != "departs":
            return text
        subnet, images = self.case(smallest, seed)

        def run(module: nn.Module, images: Tensor) -> npt.NDArray[np.floating]:
            with tempfile.TemporaryDirectory() as folder:
                model, _ = self.export(module, images.shape[1:], Path(folder), dynamic_batch)
                return self.run(model, images, len(images) if dynamic_batch else 1)

        try:
            departure = first_departure(subnet, images, run, tolerance=TOLERANCE, dynamic_batch=dynamic_batch)
        except Exception as error:  # a part of the network may be too much for them
            return f"{text}; its layers cannot be compared: {message(error)}"
        return f"{text}; {departure or 'all images at once agree'}"


def count_nodes(path: Path) -> int:
    if path.suffix == ".onnx":
        import onnx

        return len(onnx.load(path).graph.node)
    return path.read_bytes().count(b"<layer ") if path.suffix == ".xml" else 0  # as OpenVINO calls them


def message(error: BaseException) -> str:
    """Of what caused it in the first place: exporters report that a step failed, and colour the text."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"


def fuzz(fuzzer: Fuzzer, family: str, num_archs: int, seed: int, known: set[tuple[str, ...]]) -> Iterator[Row]:
    """Rows of a family; those whose key is ``known`` are left out."""
    space = fuzzer.supernet.space
    _, target = target_of(Device(name="here", setting=Setting(runtime=fuzzer.runtime)))
    rng = np.random.default_rng([seed, *family.encode()])
    for index, arch in enumerate(space.to_archs(space.sample_population(num_archs, rng))):
        dynamic_batch = bool(index % 2) and target.free_batch
        row: Row = {
            "runtime": fuzzer.runtime,
            "family": family,
            "arch": arch.to_json(),
            "resolution": arch["resolution"],
            "dynamic_batch": "yes" if dynamic_batch else "no",
        }
        if key(row) in known:
            continue
        seeds = (seed, index)
        outcome = fuzzer.check(arch, dynamic_batch=dynamic_batch, seed=seeds)
        fault = fuzzer.explain(arch, outcome, dynamic_batch=dynamic_batch, seed=seeds) if outcome.kind else ""
        yield row | {
            "num_nodes": outcome.num_nodes or "",
            "max_abs_difference": f"{outcome.difference:.3g}",
            "limit": f"{outcome.limit:.3g}",
            "ok": "no" if outcome.kind else "yes",
            "fault": fault,
        }


# -- many -------------------------------------------------------------------------------------------------------------


def key(row: Row) -> tuple[str, ...]:
    return (row["runtime"], row["family"], row["arch"], row["dynamic_batch"])


def read_rows(path: Path) -> list[Row]:
    """Complete rows of an earlier run: without a line that was being written."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("fault") is not None and row["ok"] in ("yes", "no")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=FAMILIES, metavar="NAME", help="timm models or presets")
    parser.add_argument("--num-archs", type=int, default=20, metavar="N", help="of each family")
    parser.add_argument("--runtime", choices=RUNTIME_NAMES, default="onnxruntime")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    parser.add_argument("--resume", action="store_true", help="keep the rows in --out and add what is missing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(arguments.out) if arguments.resume else []
    known = {key(row) for row in rows}
    photos = photographs()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    total, num_faults = arguments.num_archs * len(arguments.families), sum(row["ok"] == "no" for row in rows)
    done = sum(row["runtime"] == arguments.runtime and row["family"] in arguments.families for row in rows)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        for family in arguments.families:
            fuzzer = Fuzzer(supernet=make_supernet(family, arguments.seed), runtime=arguments.runtime, photos=photos)
            started = time.perf_counter()
            for row in fuzz(fuzzer, family, arguments.num_archs, arguments.seed, known):
                writer.writerow(row)
                file.flush()
                done += 1
                seconds, started = time.perf_counter() - started, time.perf_counter()
                print(
                    f"{done} of {total}: {family} {row['resolution']} px, difference {row['max_abs_difference']} of "
                    f"{row['limit']} {'' if row['ok'] == 'yes' else row['fault']} ({seconds:.1f} s)",
                    flush=True,
                )
                num_faults += row["ok"] == "no"
    print(f"{done} architectures compared in {arguments.runtime}; {num_faults} rows of {arguments.out} have a fault")
    sys.exit(bool(num_faults))


if __name__ == "__main__":
    main()
