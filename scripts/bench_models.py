"""Which models of any kind convert as they are, and whether what comes out is exact.

    python scripts/bench_models.py FILE.py [NAME ...] [--minutes 25] [--out docs/results]

``FILE.py`` defines ``ZOO``: ``{name: (group, kind of input, make)}``, where ``make()`` gives a model, and the arguments
and named arguments of one call. Leaves ``models.md`` and ``models.csv`` in ``--out``; a row that is there is not made
again. What a model needs that is not installed is said and skipped.

- exact: the largest subnet gives what the model gives, and extracted subnets what the active ones give, bit for bit or
  to 1e-5 of the largest number.
- macs: what the cost tables predict beside what torch's own counter finds in the largest and the smallest subnet.
- parts: the share of the network's MACs that a latency table would measure.
- onnx: a subnet as an ONNX file gives in ONNX Runtime what it gives in torch, to 1e-4 of the largest number.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from bench_helper import page, parsed, parser_of, read_rows, say, table_text
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ofa.cost import macs
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.formats.onnx import to_bytes, to_onnx
from ofa.inputs import Inputs, InputSpec, tensors_in
from ofa.nn.structure import without_values
from ofa.supernet import Supernet, elasticize

NUM_SUBNETS = 4
EXACT, CLOSE = 1e-5, 1e-4


def zoo_of(path: Path) -> dict[str, tuple[str, str, Callable[[], Any]]]:
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, tuple[str, str, Callable[[], Any]]] = module.ZOO
    return found


def difference(found: Any, expected: Any) -> float:
    """Largest difference over the largest number; infinite if something has another shape."""
    pairs = list(zip(tensors_in(found), tensors_in(expected), strict=False))
    if len(tensors_in(found)) != len(tensors_in(expected)):
        return np.inf
    worst = 0.0
    for mine, other in pairs:
        if mine.shape != other.shape:
            return np.inf
        if other.numel() and other.is_floating_point():
            worst = max(worst, float((mine - other).abs().max() / other.abs().max().clamp(min=1e-9)))
    return worst


def counted_macs(module: nn.Module, inputs: Inputs) -> float:
    """By torch's counter, with attention as its products; without values, where recurrent layers are products too."""

    def grouped(first: Sequence[int], second: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * first[0] * first[1] * second[-1]

    torch.backends.mha.set_fastpath_enabled(False)  # one kernel that the counter does not know
    module.requires_grad_(False)  # the counter hangs hooks on what has gradients, also where there are none
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        inputs.call(module if not inputs.tensors[0].is_meta else without_values(module))
    return counter.get_total_flops() / 2


def row_of(make: Callable[[], Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    model, args, kwargs = make()
    inputs = Inputs(*args, **kwargs)
    with torch.no_grad():
        expected = inputs.call(model.eval())
        started = time.perf_counter()
        supernet = elasticize(model, inputs).eval()
        seconds = time.perf_counter() - started
        space = supernet.space
        row: dict[str, Any] = {"converts": "yes", "seconds": round(seconds, 2)}
        row["kinds"] = " ".join(sorted({dim.kind for dim in supernet.dims}))
        row["with_values"] = supernet.analysis.trace.has_values
        row["num_subnets"] = f"{space.num_archs:.1e}"
        row["largest"] = difference(supernet(*args, arch=space.largest(), **kwargs), expected)
        archs = space.to_archs(space.sample_population(NUM_SUBNETS, np.random.default_rng(0)))
        row["subnets"] = max(extracted_difference(supernet, inputs, arch) for arch in archs)
    smallest, largest = predicted = macs(supernet).predict(space.to_population([space.smallest(), space.largest()]))
    row["smallest_percent"] = 100 * smallest / largest
    errors = []
    for arch, macs_of in zip((space.smallest(), space.largest()), predicted, strict=True):
        example = supernet.analysis.example(supernet.inputs.sizes(arch))
        errors.append(abs(macs_of / counted_macs(supernet.extract(arch), example) - 1))
    row["macs_error_percent"] = 100 * max(errors)
    row["parts_percent"] = 100 * supernet.measurable_share
    row["onnx"] = onnx_difference(supernet, archs[0])
    return row


def extracted_difference(supernet: Supernet, inputs: Inputs, arch: Any) -> float:
    resized = supernet.inputs.resize(inputs, supernet.inputs.sizes(arch))
    return difference(resized.call(supernet.extract(arch)), supernet(*inputs.args, arch=arch, **inputs.kwargs))


def onnx_difference(supernet: Supernet, arch: Any) -> float | str:
    """How far an exported subnet is from the subnet; or what the exporter says."""
    subnet, spec = supernet.extract(arch), supernet.inputs.sized(supernet.inputs.sizes(arch))
    try:
        graph = to_bytes(to_onnx(subnet, InputSpec(spec.example, spec.axes)))
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        tensors = spec.example.tensors
        names = [each.name for each in session.get_inputs()]
        found = session.run(None, {name: x.numpy() for name, x in zip(names, tensors, strict=True)})
    # Whatever the exporter or the runtime says is the answer.
    except Exception as error:
        return _said(error)
    with torch.no_grad():
        return difference([torch.from_numpy(np.asarray(each)) for each in found], spec.example.call(subnet))


def write_page(options: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    made = [row for row in rows if row["converts"] != "not installed"]
    good = [row for row in made if row["converts"] == "yes"]

    def number(value: Any) -> float:
        try:
            return float(value)
        except ValueError:
            return np.inf

    exact = [row for row in good if max(number(row["largest"]), number(row["subnets"])) <= EXACT]
    cells = [
        [
            row["model"],
            row["input"],
            row["kinds"] if row["converts"] == "yes" else row["converts"],
            f"{number(row['num_subnets']):.0e}" if row["converts"] == "yes" else "",
            *("" if row["converts"] != "yes" else f"{number(row[key]):.3g}" for key in NUMBERS),
            "" if row["converts"] != "yes" else _onnx_text(number(row["onnx"]), row["onnx"]),
        ]
        for row in rows
    ]
    text = page(
        "models.md",
        num=len(made),
        num_converted=len(good),
        num_exact=len(exact),
        num_small=sum(number(row["smallest_percent"]) < 70 for row in good),
        num_macs=sum(number(row["macs_error_percent"]) <= 1 for row in good),
        num_onnx=sum(number(row["onnx"]) <= CLOSE for row in good),
        num_values=sum(str(row["with_values"]) == "True" for row in good),
        table=table_text(["model", "input", "elastic", "subnets", *NUMBERS.values(), "ONNX"], cells),
    )
    write_text_atomic(options.out / "models.md", text)


NUMBERS = {
    "largest": "largest",
    "subnets": "extracted",
    "smallest_percent": "smallest (% of MACs)",
    "macs_error_percent": "MACs off by (%)",
    "parts_percent": "in parts (%)",
    "seconds": "s",
}


def _said(error: Exception) -> str:
    """The cause, in a line without colours."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m|[|\s]+", " ", str(error))[:100].strip() or type(error).__name__


def _onnx_text(value: float, said: Any) -> str:
    return f"{value:.0e}" if np.isfinite(value) else f"no: {said}".replace("|", "/")


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("zoo", type=Path, metavar="FILE.py")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names of models; all if none is given")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words)
    until = time.monotonic() + 60 * options.minutes
    path = options.out / "models.csv"
    rows, zoo = read_rows(path), zoo_of(options.zoo)
    for name, (group, kind, make) in zoo.items():
        if any(row["model"] == name for row in rows) or not (
            not options.names or any(part in name for part in options.names)
        ):
            continue
        if time.monotonic() > until:
            say("out of time; the same command goes on")
            break
        say(name)
        row = {"model": name, "group": group, "input": kind}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row |= row_of(make)
        except ModuleNotFoundError as error:
            row["converts"] = "not installed"
            say(f"  {error}")
        # Whatever a model raises is the answer.
        except Exception as error:
            row["converts"] = f"no: {_said(error)}"
            say(f"  {row['converts']}")
        rows.append(row)
        rows.sort(key=lambda row: [*zoo].index(row["model"]) if row["model"] in zoo else len(zoo))
        write_csv_atomic(path, pd.DataFrame(rows))
    write_page(options, pd.read_csv(path, keep_default_na=False).to_dict("records"))


if __name__ == "__main__":
    main()
