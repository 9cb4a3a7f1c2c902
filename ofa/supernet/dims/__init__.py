"""The kinds of elastic dims. Every one finds where it applies by the structure of the model."""

from ofa.supernet.dims.choice import ElasticChoice
from ofa.supernet.dims.depth import ElasticDepth
from ofa.supernet.dims.elastic import ElasticDim, Narrowing
from ofa.supernet.dims.heads import ElasticHeads
from ofa.supernet.dims.inner_width import ElasticExpand, ElasticMlpRatio
from ofa.supernet.dims.kernel import ElasticKernel
from ofa.supernet.dims.route import ElasticRoute
from ofa.supernet.dims.width import ElasticWidth

# Whoever names kinds asks here: elasticize() and `ofa inspect` what they take, recipes what they hold.
DIM_KINDS: dict[str, type[ElasticDim]] = {
    "depth": ElasticDepth,
    "kernel": ElasticKernel,
    "expand": ElasticExpand,
    "mlp_ratio": ElasticMlpRatio,
    "heads": ElasticHeads,
    "width": ElasticWidth,
    "route": ElasticRoute,
    "choice": ElasticChoice,
}

__all__ = ["DIM_KINDS", "ElasticDim", "Narrowing"]
