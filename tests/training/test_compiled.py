"""Compiled subnets compute what the eager ones do; a network of two layers, as compiling takes seconds a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ofa.inputs import Inputs
from ofa.space import Arch
from ofa.training.compiled import CompiledSubnets


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 4)]
        return nn.Sequential(*layers).train()


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_compiled_equals_eager(bf16: bool, torch_device: str) -> None:
    arch = Arch({"resolution": 16})
    compiled = CompiledSubnets([arch])
    assert arch in compiled and Arch({"resolution": 20}) not in compiled
    for seed in range(2):  # the same code, other tensors
        expected, found = (
            network(seed).to(torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for _ in range(2)
        )
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(torch_device)
        images = images.to(memory_format=torch.channels_last)
        losses: list[Tensor] = []
        for compiles, module in ((False, expected), (True, found)):
            with torch.autocast(torch_device, torch.bfloat16, enabled=bf16):
                logits = compiled(arch, module, Inputs(images)) if compiles else module(images)
            losses.append(logits.float().logsumexp(1).mean())
            losses[-1].backward()
        # On a GPU convolutions round to TF32, eager and compiled ones in different orders.
        limits = {"atol": 3e-2, "rtol": 3e-2} if bf16 or torch_device != "cpu" else {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(losses[1], losses[0], **limits)
        for (name, one), other in zip(expected.named_parameters(), found.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            size = float(one.grad.abs().max())
            if name != "0.bias":  # before batch normalisation: its gradient is nothing but rounding
                torch.testing.assert_close(other.grad, one.grad, atol=limits["atol"] * max(size, 1e-3), rtol=0)
        for one, other in zip(expected.buffers(), found.buffers(), strict=True):
            torch.testing.assert_close(other, one, **limits)
