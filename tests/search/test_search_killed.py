"""A search that is killed, again and again, ends as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

SCRIPT = """
import sys, time
import numpy as np
from ofa.search import search
from ofa.space import Dim, SearchSpace

space = SearchSpace(tuple(Dim(f"d{number}", (1, 2, 3, 4)) for number in range(10)))
cache, result, log, seconds = sys.argv[1:]

def evaluate(population):
    values = []
    for genes in population:
        with open(log, "a") as file:
            print(genes.tolist(), file=file)
        time.sleep(float(seconds))
        values.append([100 - np.sqrt(1 + genes).sum(), float(genes.sum())])
    return np.array(values)

size = lambda population: population.sum(axis=1).astype(float)
found = search(space, evaluate, num_evaluations=40, seed=5, free={"latency_ms": size}, cache=cache, chunk_size=1)
found.assign(arch=[arch.to_json() for arch in found["arch"]]).to_csv(result, index=False)
"""


def command(folder, seconds):
    paths = [folder / name for name in ("cache.csv", "result.csv", "log.txt")]
    return [sys.executable, "-c", SCRIPT, *map(str, paths), str(seconds)]


@pytest.mark.slow
def test_killed_three_times_it_gives_the_same(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    subprocess.run(command(whole, 0), check=True, timeout=120)
    for num_lines in (4, 19, 26):  # in the first batch, and in later ones
        process = subprocess.Popen(command(killed, 0.05))
        log, patience = killed / "log.txt", time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") >= num_lines) and time.monotonic() < patience:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command(killed, 0), check=True, timeout=120)
    pd.testing.assert_frame_equal(pd.read_csv(killed / "result.csv"), pd.read_csv(whole / "result.csv"))
