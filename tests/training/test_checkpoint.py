from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from ofa.files import FileFormatError
from ofa.training.checkpoint import (
    checkpoints_in,
    load_checkpoint,
    optimizer_state_dict,
    optimizer_tensors,
    save_checkpoint,
)


def test_round_trip(tmp_path: Path) -> None:
    tensors = {
        "model": {"a/b.weight": torch.randn(2, 3).t(), "count": torch.tensor(3)},
        "ema": {"x": torch.zeros(1, dtype=torch.bfloat16)},
    }
    state = {"epoch": 3, "metrics": [{"loss": 0.1 + 0.2, "top1": None}]}
    save_checkpoint(tmp_path / "c.safetensors", tensors, state)
    groups, loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded == state
    assert {group: list(named) for group, named in groups.items()} == {"model": ["a/b.weight", "count"], "ema": ["x"]}
    for group, named in tensors.items():
        for name, tensor in named.items():
            assert torch.equal(groups[group][name], tensor)
            assert groups[group][name].dtype == tensor.dtype


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8, torch.bool],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 4)])
def test_any_dtype_and_shape(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (10 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    save_checkpoint(tmp_path / "c.safetensors", {"group": {"x": tensor}}, {})
    loaded = load_checkpoint(tmp_path / "c.safetensors")[0]["group"]["x"]
    assert (loaded.dtype, loaded.shape) == (dtype, shape)
    assert torch.equal(loaded, tensor)


def test_a_group_without_tensors_leaves_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", {"model": {"x": torch.ones(1)}, "average": {}}, {"step": 1})
    assert list(load_checkpoint(tmp_path / "c.safetensors")[0]) == ["model"]
    save_checkpoint(tmp_path / "c.safetensors", {}, {"step": 2})
    assert load_checkpoint(tmp_path / "c.safetensors") == ({}, {"step": 2})


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, {"model": {"x": torch.ones(3)}}, {"step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model": {"x": torch.zeros(1000)}}, {"epoch": 1})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        FileFormatError, match=r"checkpoint .*c.safetensors is truncated or damaged .*; delete it to use the one"
    ):
        load_checkpoint(path)


def test_missing_or_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(FileFormatError, match=r"no checkpoint at .*c.safetensors"):
        load_checkpoint(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FileFormatError, match="is of another format"):
        load_checkpoint(path)


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_optimizer_goes_on_where_it_was(tmp_path: Path, optimizer_type: type[torch.optim.Optimizer]) -> None:
    def make() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        kwargs: dict[str, Any] = {} if optimizer_type is torch.optim.AdamW else {"momentum": 0.9}
        return model, optimizer_type(model.parameters(), lr=0.1, **kwargs)  # type: ignore[call-arg]

    def step(model: nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()

    model, optimizer = make()
    step(model, optimizer, 1)
    tensors, numbers = optimizer_tensors(optimizer.state_dict())
    save_checkpoint(
        tmp_path / "c.safetensors", {"model": model.state_dict(), "optimizer": tensors}, {"numbers": numbers}
    )
    step(model, optimizer, 2)

    resumed, resumed_optimizer = make()
    groups, state = load_checkpoint(tmp_path / "c.safetensors")
    resumed.load_state_dict(groups["model"])
    resumed_optimizer.load_state_dict(optimizer_state_dict(groups["optimizer"], state["numbers"]))
    step(resumed, resumed_optimizer, 2)
    assert torch.equal(resumed.weight, model.weight)


def test_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path / "none") == []
    for epoch in (10, 9, 100):
        (tmp_path / f"step-{epoch:05d}.safetensors").touch()
    (tmp_path / ".step-00011.safetensors.x.safetensors").touch()  # what a killed process left
    assert [path.stem for path in checkpoints_in(tmp_path)] == ["step-00009", "step-00010", "step-00100"]


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model": {"x": torch.ones(1000)}, "average": {}}, {"step": 1})
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="its checksum does not match its contents"):
        load_checkpoint(path)


def test_no_byte_can_change_and_none_can_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"model": {"x": torch.ones(5), "n": torch.tensor(3)}}, {"step": 1, "metrics": [0.5]})
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        for damaged in (bytes(flipped), data[:position]):
            path.write_bytes(damaged)
            with pytest.raises(FileFormatError, match=r"checkpoint .*c.safetensors is"):
                load_checkpoint(path)
    path.write_bytes(data)
    assert load_checkpoint(path)[1] == {"step": 1, "metrics": [0.5]}


def test_a_format_of_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.training.checkpoint.FORMAT", 999)
    save_checkpoint(tmp_path / "c.safetensors", {"model": {"x": torch.ones(1)}}, {})
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match="is of another format; train again, or use the version that wrote it"):
        load_checkpoint(tmp_path / "c.safetensors")
