"""Elastic MLP ratio: the hidden width of the MLPs in transformers, mixers and ConvNeXt."""

from __future__ import annotations

from ofa.supernet.dims.inner_width import InnerWidth


class ElasticMlpRatio(InnerWidth):
    """Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.2."""

    kind = "mlp_ratio"
    shares = (1 / 2, 3 / 4)
