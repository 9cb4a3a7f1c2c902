"""Elastic batch normalisation: the statistics and scales of the first channels."""

from __future__ import annotations

from torch import nn


def narrow_batch_norm(norm: nn.BatchNorm2d, num_features: int) -> None:
    """Keep the first ``num_features`` channels, in place on a clone.

    The running statistics are those of the widest layer and are wrong for any other input; subnets need BN calibration
    (:mod:`ofa.training.bn_calibration`) before they are judged (Yu et al., BigNAS, arXiv:2003.11142, sec. 3.4).
    """
    for tensors in (norm._parameters, norm._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and tensor.ndim:  # num_batches_tracked is a scalar
                tensors[name] = tensor.narrow(0, 0, num_features)  # type: ignore[assignment]
    norm.num_features = num_features
