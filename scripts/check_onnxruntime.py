"""Run bundles and elastic artefacts in other versions of ONNX Runtime, and compare with what they should give.

    python scripts/check_onnxruntime.py BUNDLE ... [--versions 1.16 1.20 newest] --out CSV [--environments DIR]

Each version gets a virtual environment of its own, which pip fills; nothing of this package is in it. A bundle's own
samples are what it is given, and ``samples/outputs.npy`` what it should give; graphs of an elastic artefact get random
images, and are compared with ONNX Runtime here. Rows are written as they come, and those of ``--out`` are not made
again; environments in ``--environments`` are kept. Exit status 1 if one does not agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from ofa.deploy import ElasticRuntime, read_bundle
from ofa.deploy.elastic_format import read_elastic
from ofa.deploy.parity import TOLERANCES, Images, Outputs
from ofa.files import sha256_of_file, write_csv_atomic
from ofa.formats.onnx import opset_of

NEWEST = "newest"
FIRST_WITH_NUMPY_2 = (1, 19)
NUM_IMAGES = 8
PROGRAM = """
import json, platform, sys
import numpy, onnxruntime

model, images, batch, out = sys.argv[1], numpy.load(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
chunks = []
for start in range(0, len(images), batch):
    chunk = images[start : start + batch]
    chunks.append(session.run(None, {name: numpy.resize(chunk, (batch, *chunk.shape[1:]))})[0][: len(chunk)])
numpy.save(out, numpy.concatenate(chunks))
versions = {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__, "python": platform.python_version()}
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Case:
    """A graph, what it is given in calls of ``batch`` images, and what it should give."""

    name: str
    file: Path
    precision: str
    images: Images
    expected: Outputs
    batch: int = 1


def cases_of(path: Path) -> Iterator[Case]:
    if (path / "elastic.json").exists():
        rng, runtime = np.random.default_rng(0), ElasticRuntime(path)
        for subnet in read_elastic(path).subnets:
            runtime.use(subnet.name)
            images = rng.standard_normal((NUM_IMAGES, *runtime.current.input_shape)).astype(np.float32)
            yield Case(f"{path.name}/{subnet.name}", path / subnet.graph, "fp32", images, runtime.run(images))
        return
    info = read_bundle(path)
    images = np.stack(
        [info.task.read_input(path / name, info.preprocessing, stored=True) for name in info.sample_names]
    )
    expected = np.load(path / "samples" / "outputs.npy", allow_pickle=False)
    for name in info.model.files:
        if name.endswith(".onnx"):
            yield Case(path.name, path / name, info.model.precision, images, expected, info.model.batch or 1)


def environment(folder: Path, version: str, python: str) -> Path:
    """The interpreter of an environment with that version and numpy alone; made if it is not there."""
    found = folder / f"onnxruntime-{version}" / "bin" / "python"
    done = found.parents[1] / "filled"
    if not done.exists():
        wanted, old_numpy = "onnxruntime", []
        if version != NEWEST:
            wanted = f"onnxruntime=={version}.*"
            is_old = tuple(map(int, version.split(".")[:2])) < FIRST_WITH_NUMPY_2
            old_numpy = ["numpy<2"] if is_old else []
        run(python, "-m", "venv", "--clear", str(found.parents[1]))
        run(str(found), "-m", "pip", "install", "--quiet", wanted, *old_numpy)
        done.touch()
    return found


def run(*command: str) -> str:
    """What a program prints; RuntimeError with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return done.stdout


def check(case: Case, version: str, folder: Path, python: str) -> dict[str, Any]:
    """A row: whether the graph loads and agrees."""
    model = onnx.load(case.file, load_external_data=False)
    row: dict[str, Any] = {
        "bundle": case.name,
        "precision": case.precision,
        "opset": opset_of(model),
        "ir_version": model.ir_version,
        "sha256": sha256_of_file(case.file),
        "version": version,
    }
    try:
        with tempfile.TemporaryDirectory() as scratch:
            images, outputs = Path(scratch) / "images.npy", Path(scratch) / "outputs.npy"
            np.save(images, case.images)
            interpreter = str(environment(folder, version, python))
            command = ["-c", PROGRAM, str(case.file), str(images), str(case.batch), str(outputs)]
            row |= json.loads(run(interpreter, *command))
            found = np.load(outputs)
    except RuntimeError as error:
        return row | {"holds": False, "error": str(error)}
    difference = float(np.abs(found - case.expected).max())
    allowed = TOLERANCES[case.precision] * float(np.abs(case.expected).max())
    same = (found.argmax(axis=1) == case.expected.argmax(axis=1)).sum() if found.ndim == 2 else len(found)
    return row | {
        "num_inputs": len(found),
        "num_same_class": int(same),
        "max_abs_difference": float(f"{difference:.3g}"),
        "allowed": float(f"{allowed:.3g}"),
        "holds": difference <= allowed,
        "error": "",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundles, elastic artefacts")
    parser.add_argument("--versions", nargs="+", default=["1.16", "1.20", NEWEST])
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    parser.add_argument("--environments", type=Path, help="folder to keep them in; a temporary one if not given")
    parser.add_argument("--python", default=sys.executable, help="what environments are made with; 1.16 needs 3.11")
    given = parser.parse_args()
    rows = pd.read_csv(given.out, dtype={"version": str}).to_dict("records") if given.out.exists() else []
    known = {(row["bundle"], row["sha256"], row["version"]) for row in rows}
    with tempfile.TemporaryDirectory() as temporary:
        for case in (case for path in given.bundles for case in cases_of(path)):
            for version in given.versions:
                if (case.name, sha256_of_file(case.file), version) in known:
                    continue
                rows.append(check(case, version, given.environments or Path(temporary), given.python))
                write_csv_atomic(given.out, pd.DataFrame(rows))
                print({key: value for key, value in rows[-1].items() if key != "sha256"}, flush=True)
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
