"""The whole way, one call per command of the command line: what it reads, what it leaves, and results as objects.

Heavy libraries are loaded by the call that needs them: packages of ``ofa`` when they are first named. The command line
makes its options and help of these signatures and docstrings (:mod:`ofa.cli.skin`); what several calls take means the
same in all of them:

Args:
    run: Run folder that `ofa train` left.
    device: Device: a name in devices/ or a YAML file.
    arch: A subnet: its dims and values as JSON, a .json file of them, largest or smallest.
    devices: Devices, one or several.
    budgets_ms: Latency budgets, one or several.
    tables: Folder of latency tables.
    any_machine: Take a table that was measured elsewhere or with other software too.
    state: Speed of the machine that latencies and budgets are for: slow, typical or fast.
    percentile: Of the latency, that must keep the budget: 50, 90 or 99.
    search_dir: Instead of RUN/search: the folder that `ofa search` left, or that of one device in it.
    workers: Processes at a time; one per core if not given.
    data_root: Where the run's data is now, if it moved.
    dynamic_batch: Leave the network's batch free; the default is the device's.
    from_pixels: The network takes uint8 pictures (NHWC) and gives probabilities.
    opset: Of the ONNX files: what an older runtime reads needs a lower one.
    max_loss: Points of the metric on the search split that INT8 may cost; more stays in floating point.
    overwrite: Replace what is there, if it is of the same kind.
    fresh: Make everything anew, whatever is there.
    seed: Decides what is drawn and the order of measuring; the same seed gives the same.
    trust_code: Execute the file of code that the run names, and put it on your list of trusted files.
    progress: See :mod:`ofa.progress`.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ofa
from ofa.errors import UsageError, shown, unknown_name_message
from ofa.files import parse_json
from ofa.progress import Progress, only_notices

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    import ofa.cost
    import ofa.deploy
    import ofa.hardware
    import ofa.report
    import ofa.training
    from ofa.cost import LatencyTable
    from ofa.data import DataConfig
    from ofa.data.check import DataCheck
    from ofa.data.fetch import Fetched
    from ofa.data.shards import Sharded
    from ofa.deploy import Deployed, ElasticRuntime, ExportResult, VerifyResult
    from ofa.deploy.verify import Measure
    from ofa.estimate import Estimate, OperatorTable
    from ofa.hardware import Device
    from ofa.hub import Transfer
    from ofa.space import Arch, SearchSpace
    from ofa.states import Speed
    from ofa.supernet import Supernet
    from ofa.supernet.inspect import Inspection
    from ofa.training import Recipe, Run, SubnetEvaluator

TABLES = Path("latency_tables")


def inspect(model: str, overrides: Sequence[str] = (), *, trust_code: bool = False) -> Inspection:
    """Tell what is elastic in a model, what is not and why, and between which costs its subnets lie.

    Takes seconds, whatever the size of the model: no weight is read or made.

    Args:
        model: timm model, preset, torchvision:NAME, transformers:FOLDER, path/file.py:function (which is executed), or
            run folder.
        overrides: What may vary, as in Python: depth=[2,3] expand=["50%","100%"] width.stage1=["75%"]; and the images'
            in_chans=1 input_size=[64,256]

    Raises:
        UsageError: If something is to vary in a run, whose space is settled, or if its space is no longer what it was.
    """
    from ofa.config import apply_overrides
    from ofa.supernet.elasticize import check_choices
    from ofa.supernet.inspect import inspect as take_stock
    from ofa.training.run import outline_named

    wanted = apply_overrides({}, overrides)
    check_choices(wanted, besides=("in_chans", "input_size"), axes=("resolution", "tokens", "seconds"))
    return replace(take_stock(outline_named(model, wanted, trust_code=trust_code)), model=model)


def data_check(
    what: Sequence[str],
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Read every image of a data set once: what is broken, equal, in two splits, under two labels; sizes, classes.

    Exit status 1 if an image is broken or in two splits. `--out` leaves data.html to look at, with some images of each
    class, and data.json, broken.csv, duplicates.csv.

    Args:
        what: A folder, .csv or .parquet file, or settings as in a recipe: data.name=folder data.root=photos
        out: Folder to make.

    Raises:
        DataError: If labels or the list of images cannot be read at all.
        UsageError: If more than one folder or file is given, or a setting that is not of the data.
    """
    from ofa.data.check import check_data

    config = _data_named(what)
    if out is not None:
        page = _file_for(Path(out) / "data.html", begins=r"(?i)\s*<!doctype html", what="a page of ours")
        _file_for(Path(out) / "data.json", begins=r"\s*\{\s*\"format\"", what="a result of ours")
    found = check_data(config, workers=workers, progress=progress)
    if out is not None:
        found.save(page.parent)
        ofa.report.write_data_page(found, page)
    return found


def data_shard(
    what: Sequence[str],
    *,
    out: Path | str,
    shard_mb: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sharded:
    """Write a data set as tar files of many pictures, as WebDataset has them: for data.name=shards.

    Pictures come in random order, their files as they are. Interrupted, the same command goes on.

    Args:
        what: A folder, .csv or .parquet file, or settings as in a recipe: data.name=folder data.root=photos
        out: Folder to make.
        shard_mb: About how large each file is, in megabytes.
        seed: Decides the order.

    Raises:
        DataError: If the data cannot be read, has other targets than a class for each picture, or something else is at
            `out`.
        UsageError: If more than one folder or file is given, or a setting that is not of the data.
    """
    from ofa.data.readers import read_source
    from ofa.data.shards import write_shards

    _check_number("--shard-mb", shard_mb, 1)
    return write_shards(read_source(_data_named(what)), out, shard_mb=shard_mb, seed=seed, progress=progress)


def data_fetch(sources: Sequence[str], *, out: Path | str, progress: Progress | None = None) -> Fetched:
    """Fetch a data set's files into a folder, four at a time: shards are read at random, which a disk is for.

    A URL with ranges, https://host/train-{0000..0127}.tar, or of a folder that `ofa data shard` wrote,
    https://host/shards/; or pipe:COMMAND, whose result is a file: 'pipe:aws s3 cp s3://data/train-{00..31}.tar -'.
    Interrupted, the same command goes on.

    Args:
        sources: URLs, or commands behind pipe:.
        out: Folder to make.

    Raises:
        DataError: If a file cannot be had, or something else is at `out`.
        UsageError: If a source is none of these, or two files would have one name.
    """
    from ofa.data.fetch import fetch

    return fetch(sources, out, progress=progress)


def _data_named(what: Sequence[str]) -> DataConfig:
    """A folder or file, whose kind is guessed, and settings of the data."""
    from ofa.config import apply_overrides, from_mapping
    from ofa.data import DataConfig
    from ofa.data.readers import guess_reader

    roots = [word for word in what if "=" not in word or Path(word).exists()]
    given = apply_overrides({}, [word for word in what if word not in roots])
    if len(roots) > 1 or set(given) - {"data"}:
        raise UsageError("give one folder or file, and settings such as data.label_column=breed; nothing else")
    guessed = {"name": guess_reader(Path(roots[0])), "root": roots[0]} if roots else {}
    return from_mapping(DataConfig, {**guessed, **given.get("data", {})}, where="data")


def train(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | str,
    run: Path | str | None = None,
    arch: str | None = None,
    resume: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train a supernet; leaves weights, metrics.csv, TensorBoard events and checkpoints in RUN.

    On several GPUs: `torchrun --nproc_per_node=4 -m ofa train ...`; the batch size is that of all of them together.
    A model.name=path/file.py:function or task=path/file.py:Class is executed; its file goes on your list of trusted
    ones.

    Args:
        recipe: Packaged recipe, or a .yaml file; see `ofa recipes`.
        overrides: Settings to change: train.epochs=90 data.root=photos
        out: Run folder to make.
        run: Begin from the supernet of this run: its model and weights in place of the recipe's.
        arch: With --run: train this subnet of it alone.
        resume: Continue from the latest checkpoint.

    Raises:
        UsageError: If ``arch`` is given without ``run``, or ``run`` with a recipe that is no name or file.
        RunError, ConfigError, DivergedError, StoppedError, NotEnoughMemoryError: See :func:`ofa.training.train`.
    """
    if run is None and (arch is not None or recipe == "finetune"):
        what = (
            "--arch names a subnet of a run" if arch is not None else "recipe finetune begins from a trained supernet"
        )
        raise UsageError(f"{what}; say of which, as --run RUN")
    if run is not None:
        from ofa.training.finetuning import model_of

        if not isinstance(recipe, (str, Path)):
            raise UsageError("run goes with the name or file of a recipe, not with a Recipe, which has a model")
        opened = ofa.Run.open(run, trust_code=trust_code)
        model = model_of(opened, {} if arch is None else named_arch(opened.space, arch))
        recipe = ofa.training.load_recipe(recipe, overrides, model=model)
    elif isinstance(recipe, (str, Path)):
        recipe = ofa.training.load_recipe(recipe, overrides)
    return ofa.training.train(recipe, out, resume=resume, progress=progress)


def import_(
    project: str | None = None,
    source: str | None = None,
    overrides: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Run | list[dict[str, Any]]:
    """Make a run of a supernet that others trained, or of a pretrained model; without PROJECT, list what is known.

    Search, export and deploy take it as they take a run of `ofa train`. Nothing is trained: pictures serve for
    statistics of batch normalisation, and to judge subnets.

    Args:
        project: once-for-all, autoformer, efficientnet-lite, or timm for any model that `ofa inspect` takes, with its
            own weights.
        source: The project's file, or the model's name.
        overrides: Settings of the run: data.name=folder model.weights=mine.safetensors
        out: Run folder to make.
        data_root: ImageNet's validation pictures, or any in folders called as its classes are: n01440764.

    Raises:
        UsageError: If the project is known, but not what of it, or where the run should be.
        WeightsError: If the file is no network of the project.
        RunError: If something is at ``out``.
        DataError: If the pictures are of other classes.
    """
    from ofa.supernet.published import PUBLISHED, known_networks

    if project is None:
        return known_networks()
    if project not in (*PUBLISHED, "timm"):
        raise UsageError(unknown_name_message("project", project, [*PUBLISHED, "timm"]))
    if source is None or out is None:
        what = "NAME" if project == "timm" else "FILE"
        raise UsageError(f"which network, and where to? ofa import {project} {what} --out RUN --data-root FOLDER")
    from ofa.training.importing import import_run, library_recipe, published_recipe

    make = library_recipe if project == "timm" else partial(published_recipe, project)
    return import_run(*make(source, overrides, data_root=data_root), out, progress=progress)


def finetune(
    run: Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | str,
    arch: str | None = None,
    device: str | None = None,
    budget_ms: float | None = None,
    search_dir: Path | str | None = None,
    resume: bool = False,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train one subnet of a run further; leaves a run folder whose space is that subnet.

    It begins from the run's weights and learns from the run's largest subnet, on the same splits, for a third of the
    epochs at a tenth of the learning rate; settings are changed as in `ofa train`. Export it without a search. For
    other pictures or classes: `ofa train finetune --run RUN --arch ARCH`.

    Args:
        overrides: Settings to change: train.epochs=20 strategy.loss=labels
        out: Run folder to make.
        device: With --budget-ms: the best subnet that a search found on this device within that.
        budget_ms: Latency budget.
        resume: Continue from the latest checkpoint.

    Raises:
        UsageError: Unless it is clear which subnet is meant.
        RunError, ConfigError, DivergedError, StoppedError, NotEnoughMemoryError: See :func:`ofa.training.train`.
    """
    from ofa.training.finetuning import finetuning_recipe

    opened = ofa.Run.open(run, trust_code=trust_code)
    opened.outline()  # its code may be executed, and gives the space that was trained
    if (arch is None) != (device is not None and budget_ms is not None):
        raise UsageError("which subnet? give --arch, or else --device and --budget-ms, which pick one of a search")
    if arch is not None:
        subnet = named_arch(opened.space, arch)
    else:
        name = ofa.hardware.load_device(str(device)).name
        subnet = opened.space.arch(_picked_arch(opened, name, float(budget_ms or 0), search_dir=search_dir))
    recipe = finetuning_recipe(opened, subnet, overrides, data_root=data_root)
    return ofa.training.train(recipe, out, resume=resume, splits_of=opened, progress=progress)


def judge(
    run: Path | str,
    *,
    by: str,
    out: Path | str,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Make a run that is judged by something else, with the same weights; nothing is trained.

    Of a network of several heads: one of them, or all. Of a classifier: another metric. Search, export and report on it
    as on any run.

    Args:
        by: A head, or all; or a metric, such as balanced_accuracy_percent.
        out: Run folder to make.

    Raises:
        UsageError: If the run's task is judged in one way only.
        ConfigError: If it is not judged by that.
        RunError: If the folder is there already.
    """
    from ofa.training.judging import judged_by

    place = _out_of(run, out)
    opened = ofa.Run.open(run, trust_code=trust_code)
    return judged_by(opened, by, out=place, data_root=data_root, progress=progress)


def recipes() -> list[dict[str, Any]]:
    """List the packaged recipes."""
    from ofa.training import list_recipes, load_recipe

    return [{"recipe": name, "description": load_recipe(name).description} for name in list_recipes()]


@dataclass(frozen=True)
class Profiled:
    """A latency table and where it is; ``is_new`` unless there was nothing to measure."""

    csv_path: Path
    table: LatencyTable
    is_new: bool

    @property
    def device(self) -> str:
        return self.table.device

    @property
    def states_text(self) -> str:
        """At which speeds the machine ran, in words."""
        from ofa.states import states_from

        states = states_from(self.table.details.get("states"))
        return "of an earlier version" if states is None else states.text

    def to_json(self) -> dict[str, Any]:
        table = self.table
        facts = {"interval_percent": table.interval_percent, "states": table.details.get("states")}
        return {"csv": str(self.csv_path), "held_out": table.held_out, **facts}


@dataclass(frozen=True)
class ProfiledFleet:
    """Tables of several devices.

    Args:
        failed: Device -> why it has none.
    """

    profiled: list[Profiled]
    failed: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether there is a table of each, to search with."""
        return not self.failed and not any(each.table.refused for each in self.profiled)

    def to_json(self) -> dict[str, Any]:
        return {"profiled": {each.device: each.to_json() for each in self.profiled}, "failed": self.failed}


@dataclass(frozen=True)
class ProfiledOperators:
    """What kernels take on a device, and where that is; ``is_new`` unless it was there."""

    csv_path: Path
    table: OperatorTable
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        return {"csv": str(self.csv_path), "held_out": self.table.held_out, "details": self.table.details}


def profile(
    run: str | None = None,
    devices: Sequence[str] = (),
    *,
    operators: bool = False,
    out: Path | str = TABLES,
    resolutions: Sequence[int] = (),
    num_resolutions: int | None = None,
    num_fit: int | None = None,
    num_held_out: int | None = None,
    rounds: int = 4,
    max_minutes: float | None = None,
    seed: int = 0,
    fresh: bool = False,
    force: bool = False,
    energy: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Profiled | ProfiledFleet | ProfiledOperators:
    """Measure the parts of the space on a device; leaves DIR/NAME/SPACE.csv and .json.

    Continues where it stopped, and adds to a table that is there only what it lacks. Several devices are measured side
    by side, those of one machine one after another; one that fails does not stop the others, and the same command then
    measures it alone.

    Args:
        run: Run folder, or a model as `ofa inspect` takes it; a file of code is executed.
        devices: Device, one or several: names in devices/, YAML files, or a pattern of them: 'boards/*.yaml'.
        operators: Instead of the parts of a space, measure what any network is made of, for `ofa estimate`; leaves
            DIR/NAME.operators.csv and .json.
        out: Folder of latency tables to add to.
        resolutions: Measure only these resolutions.
        num_resolutions: Measure parts at so many resolutions, interpolate the others.
        num_fit: Whole subnets that the correction is fitted on: 36, at one resolution 24.
        num_held_out: Other whole subnets that the table is judged on: 24, at one resolution 16.
        rounds: Blocks of each part and subnet to begin with, and all where a device waits in a queue.
        max_minutes: Measure no longer than that, if more would still help: 10, or 30 with --operators.
        force: Keep a table even if it predicts badly.
        energy: Measure energy too, where this machine has a counter that can be read.

    Raises:
        UsageError: If both ``resolutions`` and ``num_resolutions`` are given; if there is no ``run``, or one and
            ``operators``.
    """
    if operators:
        given: dict[str, object] = {"--run": run, "--resolution": resolutions, "--num-resolutions": num_resolutions}
        given |= {"--num-fit": num_fit, "--num-held-out": num_held_out, "--force": force, "--energy": energy}
        for name in (name for name, value in given.items() if value):
            raise UsageError(f"{name} is about the parts of a space, and goes not with --operators; leave one out")
        return _profile_operators(
            devices, out, rounds=rounds, max_minutes=max_minutes or 30.0, seed=seed, fresh=fresh, progress=progress
        )
    if run is None:
        raise UsageError("which space? give --run RUN, or a model as `ofa inspect` takes it; or --operators")
    from ofa.files import resolved
    from ofa.hardware.fleet import on_each
    from ofa.locks import only_writer
    from ofa.training.run import open_named

    _check_number("--rounds", rounds, 2)
    _check_number("--max-minutes", 0 if max_minutes is None else max_minutes, 0)
    if resolutions and num_resolutions:
        raise UsageError("--resolution says which resolutions to measure, --num-resolutions how many; give one of them")
    names = [devices] if isinstance(devices, str) else devices
    targets, is_fleet = _devices_named(names), len(names) > 1 or any(map(_is_pattern, names))
    _generator(seed)  # says now if it makes no sense
    supernet, space_name = open_named(run, trust_code=trust_code)
    models_dir = resolved(out) / f".{space_name}.models" if is_fleet else None

    def profile_one(target: Device, progress: Progress | None) -> Profiled:
        with _writing_table(out, target.name, space_name, command="ofa profile") as csv_path:
            written_ns = csv_path.stat().st_mtime_ns if csv_path.exists() else None
            table = ofa.hardware.profile(
                supernet,
                target,
                csv_path=csv_path,
                num_fit=num_fit,
                num_held_out=num_held_out,
                rounds=rounds,
                max_minutes=max_minutes or 10.0,
                rng=_generator(seed),
                resolutions=resolutions or None,
                num_resolutions=num_resolutions,
                fresh=fresh,
                force=force,
                energy=energy,
                models_dir=models_dir,
                progress=progress,
            )
            return Profiled(csv_path, table, is_new=csv_path.stat().st_mtime_ns != written_ns)

    if models_dir is None:
        return profile_one(targets[0], progress)
    with only_writer(models_dir, command="ofa profile", beside=True):
        found = dict(zip((target.name for target in targets), on_each(targets, profile_one, progress), strict=True))
        failed = {name: str(each) for name, each in found.items() if not isinstance(each, Profiled)}
        if not failed:
            shutil.rmtree(models_dir, ignore_errors=True)
    return ProfiledFleet([each for each in found.values() if isinstance(each, Profiled)], failed)


def _profile_operators(
    devices: Sequence[str],
    out: Path | str,
    *,
    seed: int,
    progress: Progress | None,
    **settings: Any,
) -> ProfiledOperators:
    from ofa.estimate.profile import check_device

    targets = _devices_named([devices] if isinstance(devices, str) else devices)
    if len(targets) > 1:
        raise UsageError(f"operators are measured on one device at a time, not on {len(targets)}; name one")
    check_device(targets[0])
    rng = _generator(seed)
    from ofa.estimate import profile_operators
    from ofa.estimate.networks import whole_networks
    from ofa.locks import only_writer

    place = _operators_path(out, targets[0].name)
    with only_writer(place, command="ofa profile", beside=True) as csv_path:
        csv_path = _file_for(csv_path, begins="network,role,latency_ms", what="a table of operators")
        written_ns = csv_path.stat().st_mtime_ns if csv_path.exists() else None
        table = profile_operators(
            targets[0], csv_path=csv_path, networks=whole_networks(), rng=rng, progress=progress, **settings
        )
        return ProfiledOperators(csv_path, table, is_new=csv_path.stat().st_mtime_ns != written_ns)


def _operators_path(tables: Path | str, device: str) -> Path:
    from ofa.files import resolved

    return resolved(tables) / f"{device}.operators.csv"


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[") and not Path(name).exists()


def _devices_named(names: Sequence[str]) -> list[Device]:
    """Devices by names, files, or patterns of files; no two with one name."""
    paths: list[str] = []
    for name in names:
        if not _is_pattern(name):
            paths.append(name)
            continue
        matching = sorted(glob(name))
        if not matching:
            raise UsageError(f"--device {name} matches no file; give names of devices, or of .yaml files")
        paths += matching
    if not paths:
        raise UsageError("--device names no device; give one or several")
    targets = [ofa.hardware.load_device(path) for path in dict.fromkeys(paths)]
    called = [target.name for target in targets]
    for name in called:
        if called.count(name) > 1:
            raise UsageError(f"two of the devices are called {name}; leave one out, or rename its file")
    return targets


# -- search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What was picked.

    Args:
        selected: Device -> the content of its ``selected.json``.
        is_new: Unless an earlier search had measured enough.
        files: Folder of the picks' own files, where precision was searched too.
    """

    selected: dict[str, dict[str, Any]]
    is_new: bool = True
    files: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return self.selected


def search(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float] = (),
    *,
    min_metric: Sequence[float] = (),
    tables: Path | str = TABLES,
    out: Path | str | None = None,
    num_evaluations: int = 80,
    workers: int | None = None,
    ray: str | None = None,
    method: str = "auto",
    predictor: str = "auto",
    limits: Sequence[str] = (),
    fleet: bool = False,
    precision: str | None = None,
    int8_device: str | None = None,
    start_from: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    refine: bool = False,
    replace_below: float = 0.6,
    state: str = "slow",
    percentile: int = 50,
    seed: int = 0,
    any_machine: bool = False,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Searched:
    """Search the front of each device and pick a measured subnet per budget.

    Asked again with other budgets, it answers at once from what it measured. Interrupted, it goes on.

    Args:
        min_metric: The fastest subnet that is worth so much by the task's metric (at most so much, where less is
            better), by what all evaluations say of it; beside budgets, or instead of them.
        out: Instead of RUN/search (RUN/mixed with --precision).
        num_evaluations: Subnets truly evaluated by the search, and as many by random search beside it.
        workers: Processes that evaluate subnets side by side, each with the data in its memory; this one if not given,
            or all cores of the cluster.
        ray: Evaluate them on a Ray cluster instead: its address, auto, or local to start one here.
        method: Search method: auto (whatever predicts best), linas, thompson, nsga2, local, random.
        predictor: Predictor that the last candidates are proposed by; auto tries several; once-for-all:FILE is the
            one that was published for an imported supernet.
        limits: Limit of a cost, in its unit or as a share of the largest: macs=60%.
        fleet: Also find the best single subnet for all devices together.
        precision: Search precision too, fp32 or INT8: of the whole network, or of each block (network, block).
        int8_device: With --precision: the same device in INT8, for its latency table.
        start_from: front.csv of another search, whose front is evaluated first.
        evaluations: evaluations.csv from elsewhere, of the same weights: not evaluated again.
        refine: Look closely at new budgets, rather than answer from what was measured before.
        replace_below: A faster subnet is picked instead of the best where its chance of being worse is below that.

    Raises:
        UsageError: If a table is missing or of another space, or options do not go together.
        InfeasibleBudgetError: If no subnet keeps a budget.
        InfeasibleMetricError: If no subnet that was found is worth so much.
    """
    from ofa.search.pick import check_replace_below

    _check_seed(seed)
    _check_number("--num-evaluations", num_evaluations, 2)
    _check_number("--workers", 1 if workers is None else workers, 1)
    check_replace_below(replace_below)
    if not budgets_ms and not min_metric:
        raise UsageError("a search picks for --budget-ms X, for --min-metric X, or for both; give one of them")
    asked = _speed(state, percentile)
    _know_published_predictor(predictor, run)
    if len({Path(device).stem for device in devices}) < len(devices):
        raise UsageError(f"two of the devices {', '.join(devices)} are called alike; leave one out, or rename its file")
    settings: dict[str, Any] = {
        "num_evaluations": num_evaluations,
        "method": method,
        "predictor": predictor,
        "seed": seed,
        "replace_below": replace_below,
    }
    if precision is None:
        return _search_devices(
            Path(run),
            devices,
            budgets_ms,
            min_metric=min_metric,
            tables=Path(tables),
            out_dir=_out_of(run, out, default="search"),
            limits=limits,
            with_fleet=fleet,
            start_from=start_from,
            evaluations=evaluations,
            refine=refine,
            asked=asked,
            any_machine=any_machine,
            data_root=data_root,
            trust_code=trust_code,
            workers=workers,
            ray=ray,
            progress=progress,
            settings=settings,
        )
    given = {"--max": limits, "--fleet": fleet, "--start-from": start_from, "--evaluations": evaluations}
    for name in (name for name, value in {**given, "--workers": workers, "--ray": ray}.items() if value):
        raise UsageError(f"{name} does not go with --precision; leave one of them out")
    pair = _pair_of_devices(devices, int8_device, precision)
    return _search_precision(
        ofa.Run.open(run, trust_code=trust_code),
        pair,
        per=precision,
        tables=Path(tables),
        out_dir=_out_of(run, out, default="mixed"),
        asked=asked,
        any_machine=any_machine,
        data_root=data_root,
        budgets_ms=budgets_ms,
        min_metric=min_metric,
        progress=progress,
        **settings,
    )


def _search_precision(
    run: Run,
    pair: tuple[Device, Device],
    *,
    per: str,
    tables: Path,
    out_dir: Path,
    asked: Speed,
    any_machine: bool,
    data_root: str | None,
    progress: Progress | None,
    **settings: Any,
) -> Searched:
    """Architectures and precision together; a device in fp32 and in INT8."""
    from ofa.precision.mixed_search import search_mixed

    fp32, int8 = (open_table(run, device, tables, any_machine=any_machine) for device in pair)
    speed = _speed_of(asked, fp32)
    evaluator = open_evaluator(run, data_root, progress)
    result = search_mixed(
        evaluator,
        pair[0],
        fp32=_at_speed(fp32, speed),
        int8=_at_speed(int8, speed),
        speed=_speed_here(speed, fp32, pair[0]),
        per=per,  # type: ignore[arg-type]
        costs={"macs": ofa.cost.macs(evaluator.supernet), "params": ofa.cost.params(evaluator.supernet)},
        out_dir=out_dir,
        weights_sha256=run.weights_sha256,
        progress=progress,
        **settings,
    )
    return Searched({pair[0].name: result.selected}, files=out_dir / pair[0].name)


def _know_published_predictor(name: str, run: Path | str) -> None:
    """Make ``once-for-all:FILE`` a predictor like others, for the space of a run."""
    if ":" not in name:
        return
    from ofa.search.predictors import PREDICTORS, Prior
    from ofa.supernet.published import published_weights

    found = published_weights(name)
    if found is None or found[0].accuracy_predictor is None:
        return  # which is said where names are checked
    opened = ofa.Run.open(run)
    if "origin" not in opened.info:
        raise UsageError(f"{name} predicts accuracies of imported weights, and those of {run} were trained since")
    prior = found[0].accuracy_predictor(opened.recipe.model.name, opened.space, found[1])
    PREDICTORS[name] = lambda features: Prior(prior)


def _search_devices(
    run: Path,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    min_metric: Sequence[float],
    tables: Path,
    out_dir: Path,
    limits: Sequence[str],
    with_fleet: bool,
    start_from: Sequence[Path],
    evaluations: Sequence[Path],
    refine: bool,
    asked: Speed,
    trust_code: bool,
    settings: Mapping[str, Any],
    **rest: Any,
) -> Searched:
    """Architectures: answered from an earlier search's files, or searched."""
    from ofa.files import read_json
    from ofa.metrics import metric_of
    from ofa.search.pick import check_min_metric
    from ofa.search.run import check_feasible

    info = read_json(run / "supernet.json", kind="run folder", remedy="train it with `ofa train`")
    check_min_metric(min_metric, metric_of(info))
    names = [Path(device).stem for device in devices]
    if with_fleet and len(names) < 2:
        raise UsageError("a fleet is two devices or more, such as --device cpu-1t cpu-2t")
    known, sums = _read_tables([tables / name / f"{info.get('space_name')}.csv" for name in names])
    data_sha256 = _data_sha256(info)
    facts = {
        "settings": {**settings, "devices": names, **_limits_as_facts(limits), **_speed_as_facts(asked)},
        "weights_sha256": info.get("weights_sha256"),
        **({} if data_sha256 is None else {"data_sha256": data_sha256}),
    }
    if len(known) == len(names) and not (refine or start_from or evaluations):
        wants = {"budgets_ms": budgets_ms, "min_metric": min_metric}
        answers = _answers(out_dir, names, facts=facts, sums=sums, limits=limits, with_fleet=with_fleet, **wants)
        if answers is not None:
            return Searched(answers, is_new=False)
    for name, table in known.items():  # before anything heavy is loaded
        if table.space.to_json() == info.get("space"):
            predictions = {name: _at_speed(table, _speed_of(asked, table)).predict_ms}
            check_feasible(table.space, predictions, budgets_ms, seed=settings["seed"])
    opened = ofa.Run.of(run, info, trust_code=trust_code)
    targets = [ofa.hardware.load_device(device) for device in devices]
    renamed = [target.name for target in targets if target.name not in known]  # in a device file
    more, sums_of_more = _read_tables([tables / name / f"{opened.space_name}.csv" for name in renamed])
    return _search_anew(
        opened,
        targets,
        budgets_ms,
        min_metric=min_metric,
        tables=tables,
        known=known | more,
        sums=sums | sums_of_more,
        out_dir=out_dir,
        limits=limits,
        with_fleet=with_fleet,
        start_from=start_from,
        evaluations=evaluations,
        facts=facts,
        asked=asked,
        settings=settings,
        **rest,
    )


def _search_anew(
    run: Run,
    devices: Sequence[Device],
    budgets_ms: Sequence[float],
    *,
    min_metric: Sequence[float],
    tables: Path,
    known: Mapping[str, LatencyTable],
    sums: Mapping[str, str],
    out_dir: Path,
    limits: Sequence[str],
    with_fleet: bool,
    start_from: Sequence[Path],
    evaluations: Sequence[Path],
    facts: Mapping[str, Any],
    asked: Speed,
    any_machine: bool,
    data_root: str | None,
    workers: int | None,
    ray: str | None,
    progress: Progress | None,
    settings: Mapping[str, Any],
) -> Searched:
    """Architectures, with tables that were read, each once, by device."""
    from ofa import engine
    from ofa.search.evaluation_cache import EvaluationCache, Scores
    from ofa.search.run import Target, TargetSearch
    from ofa.training.elsewhere import RunSource, race_by
    from ofa.training.threads import torch_threads

    measured = [
        open_table(run, device, tables, any_machine=any_machine, table=known.get(device.name)) for device in devices
    ]
    speeds = [_speed_of(asked, table) for table in measured]
    here = [_speed_here(*each) for each in zip(speeds, measured, devices, strict=True)]
    measured = list(map(_at_speed, measured, speeds))
    data_sha256 = facts.get("data_sha256")
    split = "search" if data_sha256 is None else f"search of data {data_sha256[:16]}"
    key = {"weights_sha256": run.weights_sha256, "split": split}
    cache = EvaluationCache(out_dir / "evaluations.csv", values=run.task.metric.columns, **key)
    for path in evaluations:
        cache.import_csv(path)
    initial = [arch for path in start_from for arch in _read_front(path, run)]
    judge = open_evaluator(run, data_root, progress)
    costs, bytes_on, constraints = _costs(run.space, judge.supernet, devices, measured, limits)
    targets = [
        Target(
            device.name,
            table.predict_ms,
            partial(_measure_archs, judge.supernet, device, settings["seed"], speed, progress),
            {"tables_sha256": {device.name: sums[device.name]}},
            own_costs,
            speed,
            table.interval_percent if table.held_out else 0.0,
            table.cost_model,
        )
        for device, table, own_costs, speed in zip(devices, measured, bytes_on, here, strict=True)
    ]
    with engine.opened(workers, ray) as where, torch_threads(progress=progress):
        race = race_by(where, RunSource(run.path.resolve(), run.trust_code, data_root), judge)
        results = TargetSearch(
            space=run.space,
            scores=Scores(judge.metric, race, len(judge.data.splits.search), cache),
            targets=targets,
            costs=costs,
            budgets_ms=budgets_ms,
            min_metric=min_metric,
            out_dir=out_dir,
            constraints=constraints,
            initial=initial,
            by_class=judge.by_class,
            identity=facts,
            with_fleet=with_fleet,
            progress=progress,
            **settings,
        ).run()
    return Searched({name: result.selected for name, result in results.items()})


def _data_sha256(info: Mapping[str, Any]) -> str | None:
    """Of the samples of a run, by its ``supernet.json``; ``None`` for runs of old."""
    match info:
        case {"data": {"splits": {"identity": {"sha256": str(found)}}}}:
            return found
    return None


def _read_tables(paths: Sequence[Path]) -> tuple[dict[str, LatencyTable], dict[str, str]]:
    """The tables that there are, and their checksums, by device."""
    from ofa.files import sha256_of_file

    tables = {path.parent.name: ofa.LatencyTable.load(path) for path in paths if path.exists()}
    return tables, {path.parent.name: sha256_of_file(path) for path in paths if path.exists()}


def _answers(
    folder: Path,
    names: Sequence[str],
    *,
    facts: Mapping[str, Any],
    sums: Mapping[str, str],
    limits: Sequence[str],
    with_fleet: bool,
    **wants: Sequence[float],
) -> dict[str, dict[str, Any]] | None:
    """What an earlier search measured enough for, of each device; ``None`` unless of all."""
    from ofa.search.answer import answer
    from ofa.search.run import FLEET

    answers, costs = {}, list(dict.fromkeys(["macs", "params", *_names(limits)]))
    for name in [*names, FLEET] if with_fleet else names:
        whole = {**facts, "tables_sha256": sums if name == FLEET else {name: sums[name]}}
        found = answer(folder / name, facts=whole, costs=costs, **wants)
        if found is None:
            return None
        answers[name] = found
    return answers


def _names(limits: Sequence[str]) -> list[str]:
    """Costs that are limited, each once."""
    return list(dict.fromkeys(text.partition("=")[0] for text in limits))


def _limits_as_facts(limits: Sequence[str]) -> dict[str, Any]:
    """What of limits a search went by: those in bytes were of fp32, whatever the device, before they said so."""
    own_bytes = {"bytes": "the device's"} if any(name.endswith("_bytes") for name in _names(limits)) else {}
    return {"max": sorted(limits), **own_bytes}


def _costs(
    space: SearchSpace,
    supernet: Supernet,
    targets: Sequence[Device],
    tables: Sequence[LatencyTable],
    limits: Sequence[str],
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Any]]:
    """Costs that all result files name, those that each device's do in its own numbers, and the limits.

    Bytes are those of the device's runtime and precision; a limit of them holds on every device.
    """
    from ofa.cost.energy import ENERGY, energy_mj
    from ofa.search import Constraint
    from ofa.search.problem import Dearest

    names = _names(limits)
    costs = {"macs": ofa.cost.macs(supernet), "params": ofa.cost.params(supernet)}
    if ENERGY in names:
        if len(tables) > 1:
            raise UsageError(f"{ENERGY} is of one device; search for one --device at a time")
        costs[ENERGY] = energy_mj(tables[0])
    bytes_on = [ofa.cost.bytes_on(supernet, target.setting) for target in targets]
    dearest = {name: Dearest([each[name] for each in bytes_on]) for name in bytes_on[0]}
    limited: dict[str, Any] = {**costs, **dearest}
    constraints = []
    for text in limits:
        name, _, value = text.partition("=")
        if name not in limited:
            raise UsageError(unknown_name_message("cost", name, limited))
        constraints.append(Constraint.of(space, name, limited[name], value))
    return costs, [{name: each[name] for name in names if name in each} for each in bytes_on], constraints


def _pair_of_devices(devices: Sequence[str], int8_device: str | None, per: str) -> tuple[Device, Device]:
    """The same device in fp32 and in INT8."""
    if per not in ("network", "block"):
        raise UsageError(f"--precision is network or block, not {per!r}")
    if len(devices) != 1 or int8_device is None:
        raise UsageError(
            "--precision takes one --device in fp32 and the same in INT8: --device cpu-1t --int8-device cpu-int8-1t"
        )
    fp32, int8 = ofa.hardware.load_device(devices[0]), ofa.hardware.load_device(int8_device)
    found = [(each.setting.runtime, each.setting.precision) for each in (fp32, int8)]
    if found != [("onnxruntime", "fp32"), ("onnxruntime", "int8")]:
        raise UsageError(
            f"ONNX Runtime mixes precisions; {fp32.name} is {fp32.setting.precision} on {fp32.setting.runtime}, "
            f"{int8.name} {int8.setting.precision} on {int8.setting.runtime}"
        )
    return fp32, int8


# -- what leaves -----------------------------------------------------------------------------------------------------


def export(
    run: Path | str,
    device: str,
    budget_ms: float | None = None,
    out: Path | str | None = None,
    *,
    arch: str | None = None,
    dynamic_batch: bool = False,
    from_pixels: bool = False,
    opset: int = 18,
    max_loss: float = 0.5,
    overwrite: bool = False,
    search_dir: Path | str | None = None,
    seed: int = 0,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Extract, calibrate, export and check the best subnet within a budget; leaves BUNDLE/.

    The device says in what form: ONNX in fp32, fp16 or INT8, OpenVINO IR, an ExecuTorch program, a LiteRT file, a
    TensorRT engine. Where a file misses the budget, the next subnet down the front is exported, until one holds.

    Args:
        budget_ms: Latency budget that the exported file must keep; may be left out where it is clear which subnet.
        out: Bundle folder to make, instead of RUN/bundles/NAME-BUDGETms (NAME without a budget).
        arch: Export this very subnet, without a search. A run of a single subnet needs none of this.

    Raises:
        InfeasibleBudgetError, ParityError, TargetError, OpsetError, BundleError: See :func:`ofa.deploy.export_bundle`.
        UsageError: Unless it is clear which subnet is meant.
    """
    from ofa.locks import only_writer
    from ofa.training.threads import torch_threads

    options = ofa.deploy.ExportOptions(
        dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss, opset=opset
    )
    target = ofa.hardware.load_device(device)
    ofa.deploy.check_options(target, options)
    name = target.name + ("" if budget_ms is None else f"-{budget_ms:g}ms")
    place = _out_of(run, out, default=f"bundles/{name}")
    opened = ofa.Run.open(run, trust_code=trust_code)
    candidates = _candidates(opened, target.name, budget_ms, search_dir=search_dir, arch=arch)
    speed = _speed_of_search(opened, target.name, search_dir, arch=arch)
    with only_writer(place, command="ofa export", beside=True), torch_threads(progress=progress):
        return ofa.deploy.export_bundle(
            open_evaluator(opened, data_root, progress),
            candidates,
            out=place,
            device=target,
            budget_ms=budget_ms,
            measure=measure_on(target, seed, progress),
            speed=speed,
            run_info=opened.info,
            options=options,
            overwrite=overwrite,
            progress=progress,
        )


def deploy(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    out: Path | str | None = None,
    dynamic_batch: bool = False,
    from_pixels: bool = False,
    opset: int = 18,
    max_loss: float = 0.5,
    search_dir: Path | str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    fresh: bool = False,
    seed: int = 0,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> list[Deployed]:
    """Bundles for several devices and budgets at once; leaves DIR/NAME-BUDGETms/, DIR/index.json and index.csv.

    Interrupted, it goes on: bundles that are there and still hold are kept. Exit status 1 if a budget cannot be kept.
    Exports run side by side, measuring alone.

    Args:
        out: Instead of RUN/deploy.
        ray: Export on a Ray cluster: its address, auto, or local to start one here.

    Raises:
        TargetError, BundleError, ParityError: See :func:`ofa.deploy.deploy`.
    """
    from ofa import engine

    place = _out_of(run, out, default="deploy")
    options = ofa.deploy.ExportOptions(
        dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss, opset=opset
    )
    opened = ofa.Run.open(run, trust_code=trust_code)
    targets = [ofa.hardware.load_device(name) for name in dict.fromkeys(devices)]
    orders = [
        (target, budget, _candidates(opened, target.name, budget, search_dir=search_dir))
        for target in targets
        for budget in sorted(set(budgets_ms))
    ]
    with engine.opened(os.cpu_count() if workers is None and ray is None else workers, ray) as where:
        return ofa.deploy.deploy(
            opened,
            orders,
            out=place,
            measure_on=partial(measure_on, seed=seed, progress=progress),
            speeds={target.name: _speed_of_search(opened, target.name, search_dir) for target in targets},
            options=options,
            data_root=data_root,
            engine=where,
            fresh=fresh,
            progress=progress,
        )


def elastic(
    run: Path | str,
    device: str,
    budgets_ms: Sequence[float],
    out: Path | str,
    *,
    opset: int = 18,
    overwrite: bool = False,
    search_dir: Path | str | None = None,
    seed: int = 0,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> ElasticRuntime:
    """One artefact with the subnets of several budgets, weights stored once, between which a program switches.

    `ofa.deploy.ElasticRuntime(DIR)` runs it; `set_budget_ms` switches between requests.

    Args:
        out: Folder to make.

    Raises:
        InfeasibleBudgetError, ElasticError, ParityError: See :func:`ofa.deploy.write_elastic`.
    """
    out = _out_of(run, out)
    opened, target = ofa.Run.open(run, trust_code=trust_code), ofa.hardware.load_device(device)
    options = ofa.deploy.ElasticOptions(threads=target.setting.threads, opset=opset)
    if opened.space.num_archs == 1:
        raise UsageError(f"{run} holds one subnet; nothing can be switched; use `ofa export`")
    archs = {}
    for budget in sorted(set(budgets_ms)):
        archs[f"{budget:g}ms"] = _picked_arch(opened, target.name, budget, search_dir=search_dir)
    distinct = {str(sorted(arch.items())): name for name, arch in reversed(archs.items())}
    ofa.deploy.write_elastic(
        open_evaluator(opened, data_root, progress),
        {name: archs[name] for name in reversed(distinct.values())},
        out,
        rng=_generator(seed),
        model=opened.recipe.model,
        provenance={"weights_sha256": opened.weights_sha256},
        options=options,
        overwrite=overwrite,
        progress=progress,
    )
    return ofa.deploy.ElasticRuntime(out, threads=target.setting.threads)


def verify(
    bundle: Path | str,
    *,
    device: str | None = None,
    images: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyResult:
    """Check a bundle again: checksums, parity, accuracy, latency. Exit status 1 if something does not hold.

    Args:
        bundle: Bundle folder that `ofa export` left.
        device: Measure the latency on this device too.
        images: Also the accuracy on pictures of yours: FOLDER/<class>/*; on texts: a .tsv or .csv file.

    Raises:
        BundleError: See :func:`ofa.deploy.verify_bundle`.
    """
    target = None if device is None else ofa.hardware.load_device(device)
    measure = None if target is None else measure_on(target, seed, progress)
    return ofa.deploy.verify_bundle(bundle, device=target, measure=measure, images=images, progress=progress)


def report(
    run: Path | str,
    *,
    tables: Path | str = TABLES,
    search_dir: Path | str | None = None,
    out: Path | str | None = None,
) -> list[Path]:
    """Write the page to look at: RUN/report.html, self-contained.

    Args:
        out: Instead of RUN/report.html.
    """
    if out is not None:
        out = _file_for(out, begins=r"(?i)\s*<!doctype html", what="a page of ours")
    return [ofa.report.write_report(run, tables_dir=tables, search_dir=search_dir, out=out)]


def plot(
    run: Path | str,
    *,
    out: Path | str | None = None,
    tables: Path | str = TABLES,
    search_dir: Path | str | None = None,
    file_format: str = "png",
) -> list[Path]:
    """Figures for papers, a column wide: fronts, search, prediction error, training, one device against another.

    Args:
        out: Instead of RUN/plots.
        file_format: png, pdf or svg.
    """
    from ofa.files import resolved

    return ofa.report.write_plots(run, resolved(out or Path(run) / "plots"), tables, file_format, search_dir=search_dir)


# -- to and from others ------------------------------------------------------------------------------------------------


def push(
    folder: Path | str,
    repo: str,
    *,
    public: bool = False,
    license: str | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Send a run or a bundle to a model hub: its files, weights as safetensors, and a card, in one commit.

    A run goes without checkpoints, pages and bundles, and without names of this machine's folders; a bundle whole, with
    its samples. `hf auth login` or HF_TOKEN says who you are, HF_ENDPOINT which hub.

    Args:
        folder: Run or bundle folder.
        repo: Repository on the hub, which is made if there is none.
        public: Whether everybody may see it.
        license: What hubs call your licence, such as apache-2.0, for the card; yours to choose.

    Raises:
        UsageError, HubError: See :func:`ofa.hub.push`.
    """
    from ofa import hub

    return hub.push(folder, repo, public=public, license=license, progress=progress)


def pull(
    repo: str,
    *,
    out: Path | str,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Fetch a run or a bundle from a model hub; it is there if it is whole, and nothing of it is executed.

    Files that are no part of one are left out. Code that a run names is not on your list of trusted files by this.

    Args:
        repo: Repository on the hub.
        out: Folder to make.
        revision: Branch, tag or commit; the latest if not given.

    Raises:
        UsageError, HubError, LockedError: See :func:`ofa.hub.pull`.
    """
    from ofa import hub

    return hub.pull(repo, out, revision=revision, progress=progress)


# -- latencies of other things -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Latencies of models, one row each, see :func:`ofa.hardware.measure`."""

    device: Device
    table: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "device": self.device.to_json(),
            "fingerprint": self.device.host.fingerprint(self.device.setting),
            "timing": self.table.attrs["timing"],
            "models": self.table.reset_index(names="model").to_dict("records"),
        }


def measure(
    models: Sequence[Path],
    *,
    device: str,
    rounds: int = 10,
    block_ms: float = 50.0,
    out: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Time any model file on a device, several against each other, with the care that tables are measured with.

    Args:
        models: ONNX files (or .pte programs).
        rounds: Blocks of each model, in random order.
        block_ms: Length of a block.
        out: JSON file for results, fingerprint and causes of rejection.
    """
    from ofa.files import write_json_atomic

    _check_number("--rounds", rounds, 2)
    _check_number("--block-ms", block_ms, 1, most=60_000)
    target = ofa.hardware.load_device(device)
    if out is not None:
        out = _file_for(out, begins=r'\{\s*"format": 1,\s*"device"', what="a measurement of ours")
    table = ofa.hardware.measure(
        {str(path): path for path in models},
        target,
        rng=_generator(seed),
        rounds=rounds,
        block_seconds=block_ms / 1000,
        progress=progress,
    )
    measured = Measured(target, table)
    if out is not None:
        write_json_atomic(out, measured.to_json())
    return measured


def estimate(
    model: Path | str,
    *,
    device: str,
    tables: Path | str = TABLES,
    any_machine: bool = False,
) -> Estimate:
    """Say what a network takes on a device, from what kernels take there: measure these by `ofa profile --operators`.

    The network is loaded by the device's runtime on this machine, which tells what it makes of it; it is not timed.
    Exit status 1 if more than 5 % of its multiply-accumulates are in kernels of kinds or sizes that were never
    measured.

    Args:
        model: ONNX file, whose sizes are fixed.

    Raises:
        UsageError: If the operators of the device have not been measured.
        ModelError: If the model cannot be loaded.
        AnotherMachineError: If they were measured elsewhere.
    """
    from ofa.hardware.runtimes.session import check_exists

    target = ofa.hardware.load_device(device)
    path = _operators_path(tables, target.name)
    check_exists(str(model), "an ONNX")
    from ofa.estimate.profile import check_device, check_machine

    check_device(target)
    if not path.exists():
        raise UsageError(
            f"no table of operators at {path}; measure it with `ofa profile --operators --device {device} --out "
            f"{tables}`"
        )
    from ofa.estimate import OperatorTable, read_kernels
    from ofa.estimate import estimate as estimate_kernels

    kernels = read_kernels(str(model), target.setting)
    table = OperatorTable.load(path)
    if not any_machine:
        check_machine(table, target.host.fingerprint(target.setting), path)
    return estimate_kernels(kernels, table)


@dataclass(frozen=True)
class Fitted:
    """A table from whole networks, where it is, and architectures to measure next; no table where there was nothing."""

    csv_path: Path
    table: LatencyTable | None
    proposals: list[dict[str, Any]]

    @property
    def is_limited_by_noise(self) -> bool:
        """Whether errors are hardly larger than the scatter of what they are measured by."""
        if self.table is None:
            return False
        mean_of_noise = 0.8 * float(self.table.details["noise_percent"])  # mean of a normal deviation without its sign
        return float(self.table.held_out["mape_percent"]) < 1.3 * mean_of_noise

    def to_json(self) -> Any:
        if self.table is None:
            return self.proposals
        return {"csv": str(self.csv_path), "held_out": self.table.held_out, "proposals": self.proposals}


def fit(
    space: str,
    csv: Path | str,
    device: str,
    *,
    out: Path | str = TABLES,
    prior: Path | str | None = None,
    propose: int = 0,
    overwrite: bool = False,
    seed: int = 0,
    trust_code: bool = False,
) -> Fitted:
    """Fit a latency table from latencies of whole networks, where nothing else can be measured.

    A few dozen networks are enough to begin with. --propose N on an empty file (only the header) names the first N.

    Args:
        space: Run folder, or a model as `ofa inspect` takes it; a file of code is executed.
        csv: Columns arch (JSON) and latency_ms.
        device: What to call the device.
        out: Folder of latency tables to add to.
        prior: Latency table (.csv) of the space on another device, where fewer networks then do.
        propose: Also name so many subnets to measure next.

    Raises:
        FitError: If the file does not hold what it should, or too little.
        UsageError: If there is a table already.
    """
    from ofa.cost.fit import fit_latency_csv, read_latencies
    from ofa.files import check_file_name, resolved
    from ofa.training.run import open_named

    check_file_name("device", device)
    _check_number("--propose", propose, 0)
    prior_table = None if prior is None else ofa.cost.LatencyTable.load(prior)
    supernet, space_name = open_named(space, trust_code=trust_code)
    rng, csv_path = _generator(seed), resolved(out) / device / f"{space_name}.csv"
    if propose and not len(read_latencies(csv, supernet.space)[0]):
        first = supernet.space.to_archs(supernet.space.sample_population(propose, rng))
        return Fitted(csv_path, None, [dict(arch) for arch in first])
    with _writing_table(out, device, space_name, command="ofa fit"):
        if csv_path.exists() and not overwrite:
            raise UsageError(
                f"{csv_path} is there already; replace it with --overwrite, or give another --device or --out"
            )
        fitted = fit_latency_csv(supernet, csv, device=device, prior=prior_table)
        fitted.table.save(csv_path)
    return Fitted(csv_path, fitted.table, [dict(arch) for arch in fitted.propose(propose, rng=rng)] if propose else [])


def devices(*, tables: Path | str = TABLES) -> list[dict[str, Any]]:
    """List the devices: what each needs, whether that is installed here, and which spaces are measured on it."""
    from ofa.hardware.runtimes import RUNTIMES, NotInstalledError

    def installed(device: Device) -> str:
        if device.host.name != "local":
            return f"on {device.host.name} host"
        try:
            versions = RUNTIMES[device.setting.runtime]().versions()
        except NotInstalledError as error:
            return f"no: {error}"
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    def measured(device: Device) -> list[str]:
        files = (Path(tables) / device.name).glob("*.csv")
        return sorted(csv.stem for csv in files if csv.with_suffix(".json").exists())

    found = [ofa.hardware.load_device(path) for path in ofa.hardware.list_devices().values()]
    return [{**each.to_json(), "installed": installed(each), "tables": measured(each)} for each in found]


# -- the demo ----------------------------------------------------------------------------------------------------------


def demo_budgets(run: Path | str, device: str, *, tables: Path | str, num: int = 3) -> list[float]:
    """Budgets, in two digits, from near the fastest subnet to half the slowest, above which digits gain nothing."""
    import numpy as np

    table = open_table(ofa.Run.open(run), ofa.hardware.load_device(device), Path(tables))
    stated = _at_speed(table, _speed_of(_speed("slow", 50), table))
    low, high = stated.predict_ms([table.space.smallest(), table.space.largest()])
    return sorted({float(f"{budget:.2g}") for budget in np.geomspace(1.3 * low, 0.5 * high, num)})


# -- where things go ---------------------------------------------------------------------------------------------------


def _out_of(run: Path | str, out: Path | str | None, default: str = "") -> Path:
    """Where ``--out`` leads, or the run's folder for it; :class:`UsageError` if the run itself is there or below."""
    from ofa.files import resolved

    place, home = resolved(out or Path(run) / default), resolved(run)
    if home.absolute().is_relative_to(place.absolute()):
        raise UsageError(f"--out {out} is {place}, where the run {home} is; give a folder in it, or beside it")
    return place


def _file_for(out: Path | str, *, begins: str, what: str) -> Path:
    """Where a file is to go; :class:`UsageError` if one is there whose beginning is not as of what is to be written."""
    from ofa.files import resolved

    place = resolved(out)
    if place.is_file():
        with place.open("rb") as file:
            if not re.match(begins, file.read(4096).decode(errors="replace")):
                raise UsageError(f"{place} exists and is not {what}; it is left alone: give another --out")
    return place


@contextmanager
def _writing_table(out: Path | str, device: str, space_name: str, *, command: str) -> Iterator[Path]:
    """Where a latency table goes, with nobody else writing it."""
    from ofa.files import resolved
    from ofa.locks import only_writer

    with only_writer(resolved(out) / device / f"{space_name}.csv", command=command, beside=True) as csv_path:
        yield _file_for(csv_path, begins=".*latency_ms_p10", what="a latency table")


# -- opening things ----------------------------------------------------------------------------------------------------


def open_table(
    run: Run, device: Device, tables: Path, *, any_machine: bool = False, table: LatencyTable | None = None
) -> LatencyTable:
    """The device's table of the run's very space, and of the machine that there is now unless ``any_machine``.

    Args:
        table: What has been read of it before.

    Raises:
        UsageError: If it is missing or of another space.
        AnotherMachineError: If it was measured elsewhere.
    """
    from ofa.hardware.profiler import check_machine

    path = tables / device.name / f"{run.space_name}.csv"
    remedy = f"measure it with `ofa profile --run {run.path} --device {device.name} --out {tables}`"
    if table is None:
        if not path.exists():
            raise UsageError(f"no latency table at {path}; {remedy}")
        table = ofa.LatencyTable.load(path)
    if table.space != run.space:
        raise UsageError(
            f"{path} is of space {table.space.fingerprint}, but {run.path} has space {run.space.fingerprint}; {remedy}"
        )
    if not any_machine:
        check_machine(table, device.host.fingerprint(device.setting), device, path)
    return table


def named_arch(space: SearchSpace, text: str) -> Arch:
    """The architecture that ``--arch`` says, in our dims or in the notation of a published supernet.

    Raises:
        UsageError: If it is neither JSON, nor a file of it, nor the name of a bound.
        SpaceError: If it is not of the space.
    """
    from ofa.supernet.published import own_notation

    bounds = {"largest": space.largest, "smallest": space.smallest}
    if text in bounds:
        return bounds[text]()
    try:
        values = parse_json(Path(text).read_text(encoding="utf-8") if text.endswith(".json") else text)
    except ValueError as error:
        raise UsageError(f"--arch {shown(text)} is no JSON ({error}), nor largest, smallest or a .json file") from None
    if not isinstance(values, dict):
        raise UsageError(f"--arch must say dims and values, as in front.csv: {{...}}, not {shown(values)}")
    return space.arch(own_notation(space, values))


def _candidates(
    run: Run, device: str, budget_ms: float | None, *, search_dir: Path | str | None = None, arch: str | None = None
) -> list[dict[str, Any]]:
    """The one subnet that is meant or that there is; otherwise those of a search, best first."""
    if arch is not None or run.space.num_archs == 1:
        return [{"arch": dict(named_arch(run.space, arch or "largest")), "latency_ms": 0.0}]
    if budget_ms is None:
        raise UsageError("which subnet? give --budget-ms, for the best of a search within that, or --arch")
    return ofa.deploy.read_candidates(_folder_of_search(run, device, search_dir), budget_ms)


def _folder_of_search(run: Run, device: str, search_dir: Path | str | None) -> Path:
    folder = Path(search_dir or run.path / "search")
    return folder if (folder / "selected.json").exists() else folder / device


def _picked_arch(run: Run, device: str, budget_ms: float, *, search_dir: Path | str | None = None) -> Mapping[str, Any]:
    """The best subnet within a budget, as a search believes."""
    from ofa.deploy.walk_down import Walk

    candidates = _candidates(run, device, budget_ms, search_dir=search_dir)
    arch: Mapping[str, Any] = Walk(iter(candidates), budget_ms, device).advance()["arch"]
    return arch


def open_evaluator(run: Run, data_root: str | None = None, progress: Progress | None = None) -> SubnetEvaluator:
    """What judges the subnets of a run by its task, on its data."""
    return ofa.training.SubnetEvaluator(run.supernet(), run.data(root=data_root, progress=progress), run.task)


def measure_on(device: Device, seed: int = 0, progress: Progress | None = None) -> Measure:
    """What measures files on a device; the same files in the same order are measured alike."""
    return ofa.deploy.measure_on(device, rng=_generator(seed), progress=progress)


def _check_number(option: str, value: float, least: float, *, most: float = math.inf) -> None:
    """:class:`UsageError` for what is less or more, or no number at all."""
    if not least <= value <= most:
        wanted = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise UsageError(f"{option} must be {wanted}, not {value:g}")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"--seed must be 0 or more, of 64 bits at most, not {seed}")


def _generator(seed: int) -> np.random.Generator:
    import numpy as np

    _check_seed(seed)
    return np.random.default_rng(seed)


# -- at which speed ----------------------------------------------------------------------------------------------------


def _speed(state: str, percentile: int) -> Speed:
    """What is asked for; :class:`UsageError` if it is none."""
    from ofa.states import PERCENTILES, STATES, Speed

    if state not in STATES:
        raise UsageError(f"--state: {unknown_name_message('state', state, STATES)}")
    if percentile not in PERCENTILES:
        raise UsageError(f"--percentile must be one of {', '.join(map(str, PERCENTILES))}, not {percentile}")
    return Speed(state=state, percentile=percentile)  # type: ignore[arg-type]


def _speed_as_facts(asked: Speed) -> dict[str, Any]:
    """What of it a search went by; nothing where it is what everybody asks for."""
    from ofa.states import Speed

    return {} if asked == Speed() else {"state": asked.state, "percentile": asked.percentile}


def _speed_of(asked: Speed, table: LatencyTable) -> Speed:
    """What is asked for, on the machine of a table; one that was made before states were told apart has none."""
    from ofa.states import states_from

    return replace(asked, states=states_from(table.details.get("states")))


def _speed_here(speed: Speed, table: LatencyTable, device: Device) -> Speed:
    """The same for what is measured now; on another machine than the table's, its states tell nothing."""
    is_here = table.fingerprint.get("id") == device.host.fingerprint(device.setting)["id"]
    return speed if is_here else replace(speed, states=None)


def _at_speed(table: LatencyTable, speed: Speed) -> LatencyTable:
    """The table with its latencies stated at a speed, which may be of another table of the same machine."""
    from ofa.states import states_from

    own = states_from(table.details.get("states"))
    if own is None or speed.states is None:
        return table
    return table.times(speed.states.times_as_long_as(own) * speed.factor)


def _speed_of_search(run: Run, device: str, search_dir: Path | str | None, *, arch: str | None = None) -> Speed:
    """What a search stated its latencies at, if one says which subnet is meant."""
    from ofa.deploy.walk_down import read_speed
    from ofa.states import MEDIAN

    if arch is not None or run.space.num_archs == 1:
        return MEDIAN
    return read_speed(_folder_of_search(run, device, search_dir))


def _measure_archs(
    supernet: Supernet, device: Device, seed: int, speed: Speed, progress: Progress | None, archs: list[Arch]
) -> pd.DataFrame:
    """Latency of whole subnets on a device, measured side by side; weights do not matter for it."""
    from ofa.hardware.timed_models import export_model
    from ofa.states import change_text

    models = {
        str(i): export_model(supernet.extract(arch), supernet.timed_inputs(arch), device.setting)
        for i, arch in enumerate(archs)
    }
    rng, notices = _generator(seed), only_notices(progress)
    table = ofa.hardware.measure(models, device, rng=rng, speed=speed, progress=notices)
    now = change_text(table.attrs["times_as_long"] * speed.factor) if speed.states is not None else ""
    if now and progress is not None:
        said = f"{device.name} is {now} than when its table was made; figures are for its {speed.state} speed then"
        progress(0, 0, said)
    return table


def _read_front(path: Path, run: Run) -> list[Arch]:
    """The non-dominated architectures of a ``front.csv``."""
    from ofa.search import non_dominated
    from ofa.search.search_files import archs_of, read_front

    metric, remedy = run.task.metric, "give the front.csv of a search"
    table = read_front(path, metric, remedy=remedy, whole=False).dropna(
        subset=[metric.of("measured"), "predicted_latency_ms"]
    )
    if table.empty:
        raise UsageError(f"{path} holds nothing that was evaluated; {remedy}, or leave --start-from out")
    values = table.assign(error=-metric.sign * table[metric.of("measured")])[["error", "predicted_latency_ms"]]
    return [run.space.arch(arch) for arch in archs_of(table[non_dominated(values)], path, remedy=remedy)]
