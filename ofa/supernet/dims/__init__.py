"""The kinds of elastic dims, one file each. Every one finds where it applies by the structure of the model."""

from ofa.supernet.dims.depth import ElasticDepth
from ofa.supernet.dims.elastic import ElasticDim, Finder, Subnet
from ofa.supernet.dims.expand import ElasticExpand
from ofa.supernet.dims.heads import ElasticHeads
from ofa.supernet.dims.kernel import ElasticKernel
from ofa.supernet.dims.mlp_ratio import ElasticMlpRatio
from ofa.supernet.dims.width import ElasticWidth

FINDERS: dict[str, Finder] = {
    "width": ElasticWidth.find,
    "depth": ElasticDepth.find,
    "kernel": ElasticKernel.find,
    "expand": ElasticExpand.find,
    "mlp_ratio": ElasticMlpRatio.find,
    "heads": ElasticHeads.find,
}

__all__ = ["FINDERS", "ElasticDim", "Finder", "Subnet"]
