"""Modules in the form that a runtime takes, to be timed and thrown away."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ofa.errors import UsageError
from ofa.files import atomic_path
from ofa.formats import FORMATS
from ofa.hardware.runtimes import RUNTIMES, Model, ShapedModule
from ofa.inputs import Inputs
from ofa.setting import Setting
from ofa.system import tied

MANY = 100
"""Models for which it pays to start processes, each of which loads torch first."""

Source = Callable[[], tuple[nn.Module, tuple[int, ...] | Inputs]]
"""Gives a module in eval mode and the shape of its input, without the batch, or a sample of its inputs."""


def export_model(module: nn.Module, inputs: tuple[int, ...] | Inputs, setting: Setting) -> Model:
    """A module in the form that a runtime takes.

    Args:
        module: In eval mode, on the CPU.
        inputs: Shape of its input, without the batch, which is the setting's; or one sample of its inputs.

    Raises:
        NotInstalledError: If the exporter is not there.
        UsageError: If the runtime takes no such inputs.
    """
    format = RUNTIMES[setting.runtime]().format
    if format != "module":
        return FORMATS[format].to_time(module, inputs, setting)
    if isinstance(inputs, Inputs):
        raise UsageError(
            f"runtime {setting.runtime!r} takes one input of floats here, not {inputs}; choose onnxruntime"
        )
    return ShapedModule(module, (setting.batch, *inputs))


def export_all(
    sources: Mapping[str, Source], setting: Setting, folder: Path, *, step: Callable[[], None]
) -> dict[str, Model]:
    """Modules as files that a runtime takes, made once each, however often the work is interrupted.

    Args:
        folder: Belongs to these modules: a file is known by the name of its module.
        step: Called after each.

    Returns:
        Paths, by name and in the order of ``sources``; modules where the runtime takes these.
    """
    from joblib import Parallel, delayed

    format = RUNTIMES[setting.runtime]().format
    if format == "module":
        models: dict[str, Model] = {}
        for name, source in sources.items():
            models[name] = export_model(*source(), setting)
            step()
        return models
    made_with = f"{torch.__version__} {setting.runtime} {setting.precision} {setting.batch}"
    paths = {
        name: folder / f"{hashlib.sha256(f'{made_with} {name}'.encode()).hexdigest()[:20]}.{format}" for name in sources
    }
    missing = [name for name, path in paths.items() if not path.exists()]
    for _ in range(len(paths) - len(missing)):
        step()
    is_worth_it = FORMATS[format].is_slow or len(missing) > MANY
    num_processes = -1 if is_worth_it else 1  # one per core; each model is made when one is free for it
    parallel = Parallel(num_processes, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
    export = delayed(partial(tied, os.getpid(), _export_file))
    for _ in parallel(export(*sources[name](), setting, paths[name]) for name in missing):
        step()
    return dict(paths)


def _export_file(module: nn.Module, inputs: tuple[int, ...] | Inputs, setting: Setting, path: Path) -> None:
    data = export_model(module, inputs, setting)
    assert isinstance(data, bytes)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def empty_model(setting: Setting) -> Model:
    """A model that does nothing: what one call of the runtime costs."""
    return export_model(nn.Identity(), (3, 8, 8), setting)


def anchor_model(setting: Setting) -> Model:
    """A small network, timed again and again to notice a changed machine.

    Four inverted bottlenecks at ever lower resolution, with weights and activations for all levels of a cache: beside a
    busy neighbour it slows down as networks do. A single convolution does by another factor.
    """
    layers: list[nn.Module] = []
    for width, hidden, kernel, next_width in ((24, 96, 3, 48), (48, 192, 5, 96), (96, 480, 3, 160), (160, 960, 5, 0)):
        layers += [_convolution(width, hidden), nn.ReLU(), _convolution(hidden, hidden, kernel, groups=hidden)]
        layers += [nn.ReLU(), _convolution(hidden, width)]
        layers += [_convolution(width, next_width, 3, stride=2)] if next_width else []
    anchor = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in anchor.parameters():
            parameter.fill_(0.01)
    return export_model(anchor.eval(), (24, 48, 48), Setting(runtime=setting.runtime))


def _convolution(width: int, out: int, kernel: int = 1, **options: int) -> nn.Module:
    """Without the draw from the global seed."""
    return torch.nn.utils.skip_init(nn.Conv2d, width, out, kernel, padding=kernel // 2, **options)
