"""Search methods. A new one is one file and one line in :data:`METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ofa.search.methods.auto import auto
from ofa.search.methods.linas import linas
from ofa.search.methods.local import local_search
from ofa.search.methods.nsga2 import nsga2_search
from ofa.search.methods.random import random_search
from ofa.search.methods.thompson import thompson
from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals

Method: TypeAlias = Callable[[Problem, Evaluations, int, np.random.Generator], Proposals]
"""Begins a search: ``(problem, known, num, rng)``. What is known from the start may be empty; ``num`` is how many
evaluations there will be, so that shares of them can be planned. It proposes architectures as :data:`Proposals` do."""

METHODS: dict[str, Method] = {
    "auto": auto,
    "random": random_search,
    "local": local_search,
    "nsga2": nsga2_search,
    "linas": linas,
    "thompson": thompson,
}
