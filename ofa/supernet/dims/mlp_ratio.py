"""Elastic MLP ratio: the hidden width of the MLPs in transformers, mixers and ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping

from ofa.supernet.anatomy import Anatomy
from ofa.supernet.choices import Choices
from ofa.supernet.dims.elastic import ElasticDim
from ofa.supernet.dims.inner_width import InnerWidth, find_inner_widths


class ElasticMlpRatio(InnerWidth):
    """Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.2."""

    @staticmethod
    def find(anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]) -> list[ElasticDim]:
        return find_inner_widths("mlp_ratio", anatomy, choices, divisor, found, shares=(1 / 2, 3 / 4))
