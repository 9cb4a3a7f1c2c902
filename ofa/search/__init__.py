"""Search for subnets: architectures as integer arrays, accuracies and latencies as functions of them; no torch.

:func:`search` minimises anything over any space; :class:`ofa.search.run.TargetSearch` is the whole way for devices
and budgets; the other modules hold one idea each.
"""

from ofa.search.driver import search
from ofa.search.pareto import hypervolume, non_dominated
from ofa.search.problem import Constraint, InfeasibleError

__all__ = ["Constraint", "InfeasibleError", "hypervolume", "non_dominated", "search"]
