"""Latency of any network on a device, from its kernels: measured there as samples, summed for the network."""

from ofa.estimate.estimate import Estimate, estimate
from ofa.estimate.kernels import Kernel, KernelError, read_kernels
from ofa.estimate.operators import OperatorTable
from ofa.estimate.profile import profile_operators

__all__ = ["Estimate", "Kernel", "KernelError", "OperatorTable", "estimate", "profile_operators", "read_kernels"]
