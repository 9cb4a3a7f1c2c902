"""Search for subnets: architectures as integer arrays, accuracies and latencies as functions of them; no torch.

:func:`search` minimises anything over any space; :func:`exact_front` and :func:`exact_best` find what is best without a
search where all are sums of factors; :class:`ofa.search.run.TargetSearch` is the whole way for devices and budgets;
the other modules hold one idea each.
"""

from ofa.search.bucket_elimination import exact_front, gap
from ofa.search.driver import search
from ofa.search.integer_program import exact_best
from ofa.search.pareto import hypervolume, non_dominated
from ofa.search.problem import Constraint, InfeasibleError

__all__ = [
    "Constraint",
    "InfeasibleError",
    "exact_best",
    "exact_front",
    "gap",
    "hypervolume",
    "non_dominated",
    "search",
]
