"""The run folder: what training leaves and everything later reads."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ofa.config import Record, check_record
from ofa.errors import OfaError, UsageError
from ofa.files import FORMAT, FileFormatError, atomic_path, read_csv, read_json, sha256_of_file, write_json_atomic
from ofa.inputs import InputSpec, as_size, channels_last
from ofa.metrics import name_in_file
from ofa.progress import Progress
from ofa.space import SearchSpace
from ofa.supernet import Supernet, create_supernet
from ofa.supernet.model_sources import check_code, code_of, files_of_model, is_source, name_in_files, name_in_run
from ofa.supernet.presets import BECAME
from ofa.supernet.weights import not_finite
from ofa.tasks import Task, TaskData
from ofa.tasks.own_code import files_of_classes, trust_classes_of
from ofa.training.recipe import ModelConfig, Recipe

REMEDY = "train it with `ofa train`, or name another run folder"
VERSIONS_OF = ("ofa-toolkit", "torch", "timm", "numpy", "onnx", "onnxruntime")


class RunError(OfaError, ValueError):
    """A run folder cannot be used as asked."""


def versions() -> dict[str, str]:
    """Versions of what results depend on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build_supernet(config: ModelConfig, *, num_classes: int, inputs: InputSpec | None = None) -> Supernet:
    """The supernet that a recipe describes, in channels-last layout.

    Args:
        inputs: The task's; ``None`` leaves them to the model.
    """
    supernet = create_supernet(
        config.name,
        num_classes=num_classes,
        in_chans=config.in_chans,
        input_size=config.input_size,
        pretrained=config.pretrained,
        weights=config.weights,
        anchor_weights=config.anchor_weights,
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path_rate,
        **config.choices(),
        **({} if inputs is None else {"inputs": inputs}),
    )
    if config.subnet:
        supernet.restrict_to(config.subnet)
    return channels_last(supernet)


@dataclass(frozen=True, kw_only=True)
class _Info(Record):
    """What is read of ``supernet.json``; what is in the recipe and the space is checked where they are made."""

    num_classes: int
    data: dict[str, Any]
    recipe: dict[str, Any]
    weights_sha256: str
    space_name: str = ""
    code_sha256: str | None = None


@dataclass(frozen=True)
class Run:
    """An opened run folder; :meth:`open` checks it, :meth:`save` writes one.

    Args:
        path: The folder.
        info: Contents of ``supernet.json``.
        trust_code: Whether a file of code that the run names may be executed as it is, see :meth:`open`.
    """

    path: Path
    info: dict[str, Any]
    trust_code: bool = field(default=False, compare=False)

    @classmethod
    def open(cls, path: Path | str, *, trust_code: bool = False) -> Run:
        """Read ``supernet.json``. A file that it names is executed when it is needed, if it is trusted.

        Args:
            trust_code: Where the model is ``path/file.py:function``, put that file on the user's list of trusted files;
                otherwise it must be there, and be what was trained with. Likewise for task and loss.

        Raises:
            FileFormatError: If the folder holds none, or a damaged one.
        """
        path = Path(path)
        info = read_json(path / "supernet.json", kind="run folder", remedy=REMEDY)
        return cls.of(path, info, trust_code=trust_code)

    @classmethod
    def of(cls, path: Path, info: dict[str, Any], *, trust_code: bool = False) -> Run:
        """A run whose ``supernet.json`` has been read; :class:`FileFormatError` if something of it is missing."""
        missing = {"model", "num_classes", "space", "data", "recipe", "weights_sha256"} - set(info)
        if missing:
            raise FileFormatError(f"{path / 'supernet.json'} lacks {', '.join(sorted(missing))}; {REMEDY}")
        check_record(_Info, info, where=str(path / "supernet.json"), remedy=REMEDY)
        if trust_code:
            trust_classes_of(info["recipe"])
        return cls(path, info, trust_code)

    @classmethod
    def save(
        cls,
        path: Path,
        *,
        recipe: Recipe,
        supernet: Supernet,
        data: TaskData,
        code_sha256: str | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Run:
        """Write ``supernet.safetensors``, then ``supernet.json``, which names its checksum.

        Args:
            code_sha256: Of the file that the model is from, if it is from one.
            origin: Whose weights they are, if they were imported.
        """
        weights = path / "supernet.safetensors"
        tensors = {name: t.detach().cpu().contiguous() for name, t in supernet.model.state_dict().items()}
        with atomic_path(weights, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
            safetensors.torch.save_file(tensors, temporary)
        for name, content in files_of_model(recipe.model.name, supernet.model).items():
            with atomic_path(path / name) as temporary:
                temporary.write_bytes(content)
        # Samples are kept at the largest size, which the space of one subnet does not tell.
        sizes = {"sizes": supernet.largest_sizes} if recipe.model.subnet else {}
        info = {
            "format": FORMAT,
            **name_in_file(recipe.task.metric),
            "model": recipe.to_json()["model"],
            "num_classes": recipe.task.num_classes(data),
            "space": supernet.space.to_json(),
            "data": {**recipe.to_json()["data"], **recipe.task.facts(data), **sizes},
            "recipe": recipe.to_json(),
            "versions": versions(),
            "weights_sha256": sha256_of_file(weights),
            **({"preset": "as published"} if recipe.model.name in BECAME else {}),
            **({} if code_sha256 is None else {"code_sha256": code_sha256}),
            **({} if origin is None else {"origin": dict(origin)}),
        }
        run = cls(path, info)
        info["space_name"] = run.space_name  # for those who read the file without this library
        write_json_atomic(path / "supernet.json", info, indent=None)
        return run

    @property
    def recipe(self) -> Recipe:
        recipe = Recipe.from_json(self.info["recipe"], where=f"recipe in {self.path / 'supernet.json'}")
        name = recipe.model.name
        if name not in BECAME or "preset" in self.info:
            return recipe
        return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, name=BECAME[name]))

    def to_json(self) -> dict[str, Any]:
        """What training left, in short."""
        bounds = dict(zip(("largest", "smallest"), self.bounds(), strict=True))
        scores = {self.task.metric.of(which): value for which, value in bounds.items()}
        return {"run": str(self.path), "num_subnets": self.space.num_archs, **scores}

    def bounds(self) -> tuple[float, float]:
        """What the largest and the smallest subnet were worth on the search split at the end of training."""
        columns = [self.task.metric.of(which) for which in ("largest", "smallest")]
        table = read_csv(self.path / "metrics.csv", numbers=columns, remedy=REMEDY)
        if table.empty:
            raise FileFormatError(f"{self.path / 'metrics.csv'} holds no epoch; {REMEDY}")
        largest, smallest = table[columns].iloc[-1]
        return float(largest), float(smallest)

    @property
    def task(self) -> Task:
        return self.recipe.task

    @property
    def space(self) -> SearchSpace:
        return SearchSpace.from_json(self.info["space"])

    @property
    def space_name(self) -> str:
        """The space in file names: the model's name, with digits of the space where choices were changed."""
        model = self.recipe.model
        name = name_in_files(model.name, self.info.get("code_sha256"))
        if model.in_chans != 3 or model.input_size is not None:
            name += "-" + "x".join(map(str, (model.in_chans, *(model.input_size or ()))))
        changed = model.divisor != 8 or model.coupled or model.dims or model.resolution is not None or model.subnet
        if not changed and self.task.inputs() is None:  # whose size the task decides
            return name
        return f"{name}-{self.space.fingerprint[:6]}"

    @property
    def num_classes(self) -> int:
        return int(self.info["num_classes"])

    @property
    def weights_sha256(self) -> str:
        return str(self.info["weights_sha256"])

    @property
    def code(self) -> tuple[str, ...]:
        """Files of code that it names, for model, task or loss; they are no part of it."""
        match self.info["recipe"]:
            case {"model": {"name": str(name)}}:
                model = code_of(name)
            case _:
                model = None
        named = [] if model is None else [model.path]
        return tuple(dict.fromkeys(str(path) for path in (*named, *files_of_classes(self.info["recipe"]))))

    def check_weights(self) -> Path:
        """The file of the weights; :class:`RunError` unless it is the one that ``supernet.json`` describes."""
        weights = self.path / "supernet.safetensors"
        if not weights.is_file():
            raise RunError(f"{weights} is missing; {REMEDY}")
        if sha256_of_file(weights) != self.weights_sha256:
            raise RunError(f"{weights} is truncated or not the file that supernet.json describes; {REMEDY}")
        return weights

    def supernet(self) -> Supernet:
        """The trained supernet, in eval mode.

        Raises:
            RunError: If the weights are missing, changed or not finite, or the model's space is no longer the one that
                was trained.
            UntrustedCodeError: If the model is in a file that is not on the user's list, or no longer what it was.
        """
        weights = self.check_weights()
        supernet = self._build()
        try:
            tensors = safetensors.torch.load_file(weights)
            supernet.model.load_state_dict(tensors)
        except (safetensors.SafetensorError, RuntimeError) as error:
            name = self.recipe.model.name
            raise RunError(f"{weights} does not fit model {name!r} ({error}); {REMEDY}") from None
        if (bad := not_finite(tensors)) is not None:
            raise RunError(f"{weights} holds values in {bad!r} that are not finite: training diverged; {REMEDY}")
        return supernet.eval()

    def outline(self) -> Supernet:
        """The supernet without weights, on the meta device; raises what :meth:`supernet` does."""
        with torch.device("meta"):
            return self._build()

    def _build(self) -> Supernet:
        config = self.recipe.model.untrained()
        check_code(
            config.name,
            self.info.get("code_sha256"),
            where=f"run folder {self.path}",
            remedy="add --trust-code (Run.open(..., trust_code=True) in Python)",
            trust_code=self.trust_code,
        )
        kept = dataclasses.replace(config, name=name_in_run(config.name, self.path))
        supernet = build_supernet(kept, num_classes=self.num_classes, inputs=self.task.inputs())
        # Where a later version finds more that could vary, that was not trained to.
        if supernet.space != self.space and not supernet.keep_whole(self.space):
            raise RunError(
                f"{self.path / 'supernet.json'} describes space {self.space.fingerprint}, but model "
                f"{config.name!r} gives {supernet.space.fingerprint}; use the versions that it names, or train again"
            )
        return supernet

    def data(self, *, root: str | None = None, progress: Progress | None = None) -> Any:
        """The run's data with the run's splits, as its task has it; ``root`` says where it is now, if it has moved."""
        config = self.recipe.data
        if root is not None:
            config = dataclasses.replace(config, root=root)
        axes = [dim for dim in self.space.dims if "." not in dim.name]  # others are of a stage or block
        sizes = {dim.name: as_size(max(dim.values)) for dim in axes} | self.info["data"].get("sizes", {})
        return self.task.reload(config, self.info["data"], sizes=sizes, progress=progress)


# -- what leaves this machine ------------------------------------------------------------------------------------------

_ABSOLUTE = re.compile(r"(?P<source>[\w-]+:)?[/~]")


def portable(info: Mapping[str, Any]) -> dict[str, Any]:
    """A ``supernet.json`` for others: of absolute paths, to data, weights, code ..., the last part is left."""
    data = {name: _without_folders(value) if name == "root" else value for name, value in info["data"].items()}
    return {**info, "data": data, "model": _without_folders(info["model"]), "recipe": _without_folders(info["recipe"])}


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_folders(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if not isinstance(value, str) or (found := _ABSOLUTE.match(value)) is None:
        return value
    return f"{found['source'] or ''}{Path(value).name}"


# -- what a name on the command line stands for: a run folder, or a model ----------------------------------------------


def is_run_folder(name: str) -> bool:
    """Whether a name is that of a folder, or looks like a path and is not one to a file of code."""
    return Path(name).is_dir() or (os.sep in name and not is_source(name))


def open_named(name: str, *, trust_code: bool = False) -> tuple[Supernet, str]:
    """A run's trained supernet, or an untrained one of a model, in eval mode, and what its space is called in files.

    Args:
        name: A run folder, or what :func:`~ofa.supernet.create_supernet` takes; a file of code is executed.
        trust_code: See :meth:`Run.open`.
    """
    if is_run_folder(name):
        run = Run.open(name, trust_code=trust_code)
        return run.supernet(), run.space_name
    return create_supernet(name).eval(), name_in_files(name)


def outline_named(name: str, choices: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> Supernet:
    """The same without weights, to be looked at only.

    Args:
        choices: What may vary in a model; that is settled in a run.
    """
    if not is_run_folder(name):
        with torch.device("meta"):  # a billion parameters take seconds, and no memory
            return create_supernet(name, **(choices or {}))
    if choices:
        raise UsageError(f"the space of run {name} is settled; choices of {', '.join(choices)} are for other models")
    return Run.open(name, trust_code=trust_code).outline()
