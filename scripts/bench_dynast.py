"""LINAS as `dynast` 1.6.0 has it, on the tabulated problem of bench_search.py: what each of its evaluations gives.

    python3 -m venv runs/dynast && runs/dynast/bin/pip install dynast==1.6.0
    runs/dynast/bin/python scripts/bench_dynast.py runs/bench_search/table.csv docs/results/search/dynast.csv

Needs nothing of ofa. The table is registered as one of its super-networks; everything else is its own, with its own
settings (population 50). Packages that only other super-networks of it need may be missing.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import logging
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd

NAME = "ofa_resnet50"  # whose place the table takes
NUM_EVALUATIONS = (50, 100, 250, 500)


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for its other super-networks, and for packages that only they need."""

    packages = ("fairseq", "transformers", "torchprofile", "gdown", "numba", "neural_compressor")
    networks = ("machine_translation", "text_classification", "image_classification.vit", "image_classification.boot")

    def find_spec(self, name, path=None, target=None):
        is_network = name.startswith(tuple(f"dynast.supernetwork.{network}" for network in self.networks))
        if name.split(".")[0] in self.packages or is_network:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Missing())

from dynast.search import search_tactic  # noqa: E402
from dynast.search.encoding import EncodingBase  # noqa: E402
from dynast.supernetwork import supernetwork_registry as registry  # noqa: E402

logging.disable(logging.CRITICAL)


def main() -> None:
    table_path, out_path, num_seeds = Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv[3:], "5")[0])
    table = pd.read_csv(table_path)
    genes = table.drop(columns=["top1_error_percent", "million_macs"])
    varied = [name for name in genes if genes[name].nunique() > 1]
    values = {
        tuple(row): pair
        for row, pair in zip(
            genes[varied].to_numpy().tolist(),
            table[["top1_error_percent", "million_macs"]].to_numpy().tolist(),
            strict=True,
        )
    }

    class Interface:
        def __init__(self, evaluator, manager, optimization_metrics, measurements, csv_path=None, predictor_mode=False):
            self.evaluator, self.manager, self.csv_path = evaluator, manager, csv_path
            self.metrics, self.predictor_mode = optimization_metrics, predictor_mode

        def format_csv(self, header):
            Path(self.csv_path).write_text(",".join(header) + "\n")

        def eval_subnet(self, x):
            x = [round(gene) for gene in x]
            sample = self.manager.translate2param(x)
            if self.predictor_mode:
                features = self.manager.onehot_generic(x).reshape(1, -1)
                found = {
                    "accuracy_top1": self.evaluator["acc"].predict(features)[0],
                    "macs": self.evaluator["macs"].predict(features)[0],
                }
            else:
                error, macs = values[tuple(x)]
                found = {"accuracy_top1": 100 - error, "macs": macs}
                with open(self.csv_path, "a") as file:
                    file.write(f'"{sample}",,0,0,{found["macs"]},{found["accuracy_top1"]}\n')
            found["accuracy_top1"] *= -1
            return (sample, *(found[metric] for metric in self.metrics))

    def runner(**settings):
        return {"acc": settings.get("acc_predictor"), "macs": settings.get("macs_predictor")}

    registry.SUPERNET_PARAMETERS[NAME] = {
        name: {"count": 1, "vars": sorted(genes[name].unique().tolist())} for name in varied
    }
    registry.SUPERNET_ENCODING[NAME] = EncodingBase
    registry.EVALUATION_INTERFACE[NAME] = Interface
    for name in ("SUPERNET_PARAMETERS", "SUPERNET_ENCODING", "EVALUATION_INTERFACE"):
        getattr(search_tactic, name)[NAME] = getattr(registry, name)[NAME]
    search_tactic.OFARunner = runner

    from pymoo.indicators.hv import HV

    points = table[["top1_error_percent", "million_macs"]].to_numpy()
    volume = HV(ref_point=points.max(axis=0))
    whole, rows = volume(points), []
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder) / "results.csv"
            linas = search_tactic.LINAS(
                supernet=NAME,
                optimization_metrics=["accuracy_top1", "macs"],
                measurements=["accuracy_top1", "macs"],
                num_evals=max(NUM_EVALUATIONS),
                results_path=str(path),
                population=50,
                seed=seed,
            )
            linas.search()
            found = pd.read_csv(path).iloc[:, -2:].to_numpy()
        evaluated = np.stack([100 - found[:, 1], found[:, 0]], axis=1)
        for num in NUM_EVALUATIONS:
            share = round(100 * volume(evaluated[:num]) / whole, 4)
            rows.append(
                {"method": "dynast 1.6.0", "num_evaluations": num, "seed": seed, "hypervolume_share_percent": share}
            )
        print(f"seed {seed}: {[row['hypervolume_share_percent'] for row in rows[-4:]]}", flush=True)
    pd.DataFrame(rows).to_csv(out_path, index=False)


if __name__ == "__main__":
    main()
