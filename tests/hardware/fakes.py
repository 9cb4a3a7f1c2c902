"""A clock that only models move, and a small supernet of plain torch modules."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
from torch import nn

from ofa.cost.latency_table import TableSlot
from ofa.space import Dim, SearchSpace


class FakeClock:
    """What stands in for a :class:`ofa.hardware.timing.SystemClock`, in nanoseconds."""

    def __init__(self):
        self.wall = self.cpu = self.switches = 0
        self.frequency = None

    def wall_ns(self):
        return self.wall

    def now_s(self):
        return self.wall / 1e9

    def cpu_ns(self):
        return self.cpu

    def involuntary_switches(self):
        return self.switches

    def frequency_mhz(self):
        return self.frequency


class FakeModel:
    """Takes ``cost_ns`` of clock time; notes when it ran; ``disturb(clock, num_runs)`` may meddle."""

    def __init__(self, clock, cost_ns, *, name="", log=None, disturb=None):
        self.clock, self.cost_ns, self.name, self.log, self.disturb = clock, cost_ns, name, log, disturb
        self.num_runs = 0

    def __call__(self):
        self.num_runs += 1
        self.clock.wall += self.cost_ns
        self.clock.cpu += self.cost_ns
        if self.log is not None and (not self.log or self.log[-1] != self.name):
            self.log.append(self.name)
        if self.disturb is not None:
            self.disturb(self.clock, self.num_runs)


class FakeSupernet:
    """Stem, a stage of one or two blocks, head; elastic depth, kernel and resolution."""

    measurable_share = 1.0

    def __init__(self, resolutions=(8, 12)):
        kernels = (3, 5)
        self.space = SearchSpace(
            (
                Dim("resolution", resolutions),
                Dim("stage1.depth", (1, 2)),
                Dim("stage1.block0.kernel", kernels),
                Dim("stage1.block1.kernel", kernels, requires=("stage1.depth", (2,))),
            )
        )
        blocks = [[f"block_k{kernel}_r{r}" for kernel in kernels] for r in resolutions]
        self.slots = (
            TableSlot("stem", ("resolution",), np.array([f"stem_r{r}" for r in resolutions], dtype=object)),
            TableSlot("stage1.block0", ("resolution", "stage1.block0.kernel"), np.array(blocks, dtype=object)),
            TableSlot(
                "stage1.block1",
                ("resolution", "stage1.depth", "stage1.block1.kernel"),
                np.array([[["", ""], row] for row in blocks], dtype=object),
            ),
            TableSlot("head", ("resolution",), np.array([f"head_r{r}" for r in resolutions], dtype=object)),
        )
        self.num_exports = Counter()

    def _module(self, kind, kernel=1):
        if kind == "stem":
            return nn.Conv2d(3, 16, 3, padding=1)
        if kind == "head":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
        return nn.Sequential(nn.Conv2d(16, 16, kernel, padding=kernel // 2), nn.ReLU())

    def part(self, key):
        self.num_exports[key] += 1
        kind, *words = key.split("_")
        resolution = int(words[-1][1:])
        fields = {"kind": kind, **({"kernel": int(words[0][1:])} if kind == "block" else {}), "resolution": resolution}
        module = self._module(kind, fields.get("kernel", 1)).eval()
        return SimpleNamespace(
            key=key, fields=fields, module=module, inputs=(3 if kind == "stem" else 16, resolution, resolution)
        )

    def extract(self, arch):
        self.num_exports[arch.to_json()] += 1
        kernels = [arch[f"stage1.block{block}.kernel"] for block in range(arch["stage1.depth"])]
        blocks = [self._module("block", kernel) for kernel in kernels]
        return nn.Sequential(self._module("stem"), *blocks, self._module("head")).eval()

    def timed_inputs(self, arch):
        return (3, arch["resolution"], arch["resolution"])

    def factors(self, cost):
        assert cost == "macs"
        size = {"stem": 27 * 16, "head": 64}
        return [
            (slot.dims, np.vectorize(lambda key: float(size.get(key.split("_")[0], 999)) if key else 0.0)(slot.keys))
            for slot in self.slots
        ]


def time_with_journal(host, job, journal=None, on_block=None):
    """As the profiler times: a journal says what is done, and hears of every block first."""

    def keep(block):
        if journal is not None:
            journal.append(block)
        if on_block is not None:
            on_block(block)

    done = [] if journal is None else list(journal.blocks)
    return host.time(dataclasses.replace(job, done=done, on_block=keep))
