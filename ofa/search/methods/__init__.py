"""Search methods. A new one is one file and one line in :data:`METHODS`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ofa.search.methods.linas import linas
from ofa.search.methods.local import local_search
from ofa.search.methods.nsga2 import nsga2_search
from ofa.search.methods.random import random_search
from ofa.search.methods.thompson import thompson
from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals


class Method(Protocol):
    """A search method: a generator that proposes architectures; see :data:`ofa.search.problem.Proposals`."""

    def __call__(self, problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
        """Begin a search.

        Args:
            known: What is known from the start; it may be empty.
            num: How many evaluations there will be, so that shares of them can be planned.
        """
        ...


METHODS: dict[str, Method] = {
    "random": random_search,
    "local": local_search,
    "nsga2": nsga2_search,
    "linas": linas,
    "thompson": thompson,
}
