"""What leaves when, and what comes back, with processes that are made up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ofa.training.reduction import Reduction


class Processes:
    """This one and others with multiples of its values; what is sent arrives when it is waited for."""

    def __init__(self, *factors: float) -> None:
        self.factors, self.sent = factors, list[int]()

    def __call__(self, tensor: Tensor) -> Processes:
        self.sent.append(tensor.numel())
        tensor.mul_(sum(self.factors))
        return self

    def wait(self) -> None: ...


def reduction(parameters: list[nn.Parameter], processes: Processes, bucket_bytes: int = 1000) -> Reduction:
    num = len(processes.factors)
    return Reduction(parameters, num_processes=num, bucket_bytes=bucket_bytes, send=processes)


def parameters_of(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(size)) for size in sizes]


def test_what_a_pass_is_done_with_leaves_while_it_goes_on() -> None:
    """Three layers, a bucket each: at the first layer's gradient two are on their way."""
    first, second, third = parameters = parameters_of(2, 3, 4)
    processes = Processes(1, 1)
    mine = reduction(parameters, processes, bucket_bytes=16)
    at_first: list[list[int]] = []
    first.register_hook(lambda gradient: at_first.append(list(processes.sent)))
    loss = ((first * 2).sum() * second).sum() * third.sum()
    with mine.last_pass(loss):
        loss.backward()
    assert at_first == [[4, 3]] and processes.sent == [4, 3, 2]
    (averaged,), numbers = mine.finish(torch.tensor([5.0, 1.0]))
    assert processes.sent == [4, 3, 2, 2]  # the numbers
    assert [each.tolist() for each in averaged if each is not None] == [[24, 24], [16, 16, 16], [12, 12, 12, 12]]
    assert numbers.tolist() == [5, 1]


def test_gradients_of_all_passes_leave_once() -> None:
    first, second = parameters = parameters_of(2, 3)
    processes = Processes(1, 3)  # on average twice
    mine = reduction(parameters, processes, bucket_bytes=8)
    for loss, is_last in ((first.sum() + second.sum(), False), (first.sum(), True)):
        if not is_last:
            loss.backward()
            assert processes.sent == []
            continue
        with mine.last_pass(loss):
            assert processes.sent == [3]  # nothing more comes for the second
            loss.backward()
    (averaged,), _ = mine.finish(torch.zeros(1))
    assert processes.sent == [3, 2, 1]
    assert [each.tolist() for each in averaged if each is not None] == [[4, 4], [2, 2, 2]]


def test_neighbours_share_a_bucket_and_what_has_no_gradient_is_in_none() -> None:
    parameters = parameters_of(2, 5, 3, 300)
    processes = Processes(1, 1)
    mine = reduction(parameters, processes)
    (parameters[0].sum() + parameters[2].sum()).backward()
    (averaged,), numbers = mine.finish(torch.tensor([4.0]))
    assert processes.sent == [5, 1] and numbers.tolist() == [4]
    assert [each is None for each in averaged] == [False, True, False, True]


def test_a_set_apart_leaves_at_once() -> None:
    parameters = parameters_of(2)
    processes = Processes(1, 2, 3)
    mine = reduction(parameters, processes)
    mine.send_apart([torch.tensor([3.0, 6.0])])
    assert processes.sent == [2]
    parameters[0].sum().backward()
    (apart, rest), numbers = mine.finish(torch.tensor([1.0]))
    assert apart[0] is not None and rest[0] is not None
    assert (apart[0].tolist(), rest[0].tolist(), numbers.tolist()) == ([6, 12], [2, 2], [2])


def test_a_gradient_that_the_graph_did_not_show_is_not_forgotten() -> None:
    """Recomputed by reentrant checkpointing, whose parameters stand in no graph."""
    first, second = parameters = parameters_of(2, 2)
    processes = Processes(1, 1)
    mine = reduction(parameters, processes, bucket_bytes=8)
    inputs = torch.ones(2, requires_grad=True)
    loss = (checkpoint(lambda x: x * second, inputs, use_reentrant=True) * first).sum()
    with mine.last_pass(loss):
        loss.backward()
    (averaged,), _ = mine.finish(torch.zeros(1))
    assert [each.tolist() for each in averaged if each is not None] == [[1, 1], [1, 1]]


def test_the_next_step_begins_anew() -> None:
    (only,) = parameters = parameters_of(2)
    mine = reduction(parameters, Processes(1, 1))
    for factor in (1.0, 2.0):
        only.grad = None
        loss = (only * factor).sum()
        with mine.last_pass(loss):
            loss.backward()
        (averaged,), _ = mine.finish(torch.zeros(1))
        assert averaged[0] is not None and averaged[0].tolist() == [factor, factor]


def test_averages_have_the_layout_of_the_gradients() -> None:
    """torch's fused SGD would pair the elements of a parameter with others of its gradient, and say nothing."""
    parameter = nn.Parameter(torch.zeros(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    mine = reduction([parameter], Processes(1))
    gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    parameter.grad = gradient.contiguous(memory_format=torch.channels_last)
    ((averaged,),), _ = mine.finish(torch.zeros(1))
    parameter.grad = averaged
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), -gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_averages_have_the_type_of_the_gradients(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.zeros((), dtype=dtype))
    mine = reduction([parameter], Processes(1, 2, 3))
    parameter.grad = torch.tensor(9.0, dtype=dtype)
    ((averaged,),), _ = mine.finish(torch.zeros(1))
    assert averaged is not None
    assert (averaged.item(), averaged.dtype, averaged.shape) == (18, dtype, ())
