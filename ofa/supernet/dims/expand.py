"""Elastic expand ratio: the hidden width of convolutional blocks."""

from __future__ import annotations

from ofa.supernet.dims.inner_width import InnerWidth


class ElasticExpand(InnerWidth):
    """Inverted residuals, bottlenecks, basic blocks and their kin (Once-for-All, arXiv:1908.09791, sec. 3.2)."""

    kind = "expand"
    shares = (1 / 2, 2 / 3)
