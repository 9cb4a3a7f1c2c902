"""Search for subnets: architectures as integer arrays, accuracies and latencies as functions of them; no torch.

:func:`ofa.search.run.run_search` is the whole way for one device; the other modules hold one idea each.
"""

from pymoo.config import Config

# Without this, pymoo prints a hint to standard output where its compiled modules, which we do not use, are missing.
Config.warnings["not_compiled"] = False
