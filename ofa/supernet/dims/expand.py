"""Elastic expand ratio: the hidden width of convolutional blocks."""

from __future__ import annotations

from collections.abc import Mapping

from ofa.supernet.anatomy import Anatomy
from ofa.supernet.choices import Choices
from ofa.supernet.dims.elastic import ElasticDim
from ofa.supernet.dims.inner_width import InnerWidth, find_inner_widths


class ElasticExpand(InnerWidth):
    """Inverted residuals, bottlenecks, basic blocks and their kin (Once-for-All, arXiv:1908.09791, sec. 3.2)."""

    @staticmethod
    def find(anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]) -> list[ElasticDim]:
        return find_inner_widths("expand", anatomy, choices, divisor, found, shares=(1 / 2, 2 / 3))
