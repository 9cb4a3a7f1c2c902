"""Samplers: which subnets train on one mini-batch. A new one is a file here and a line below."""

from ofa.config import registry
from ofa.training.samplers.attentive import Attentive
from ofa.training.samplers.multi_arch import MultiArch
from ofa.training.samplers.sampler import ROLES, Draw, Role, Sampler, Step
from ofa.training.samplers.sandwich import Sandwich
from ofa.training.samplers.single import Single
from ofa.training.samplers.sorted import Sorted
from ofa.training.samplers.uniform import Uniform

SAMPLERS: dict[str, type[Sampler]] = registry(
    Sampler,
    {
        "sandwich": Sandwich,
        "uniform": Uniform,
        "attentive": Attentive,
        "sorted": Sorted,
        "multi_arch": MultiArch,
        "single": Single,
    },
)

__all__ = ["ROLES", "SAMPLERS", "Draw", "Role", "Sampler", "Step"]
