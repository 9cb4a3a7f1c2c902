"""A class for each pixel, the whole way."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from ofa.config import ConfigError
from ofa.data import DataError, ImageData, load_data
from ofa.data.masks import IGNORED, targets_of
from ofa.deploy import (
    BundleError,
    ExportOptions,
    ExportResult,
    Latency,
    export_bundle,
    read_bundle,
    verify_bundle,
)
from ofa.hardware import Device
from ofa.metrics import METRICS
from ofa.setting import Setting
from ofa.space import Arch
from ofa.supernet.presets import create_model
from ofa.supernet.weights import WeightsError
from ofa.tasks import Segmentation
from ofa.tasks.segmentation import MaskScorer
from ofa.tasks.task import Exhibit
from ofa.training import Recipe, Run, StoppedError, SubnetEvaluator, load_recipe, train

from .masked import HEIGHT, LEVELS, NAMES, NETWORK, VOID, WIDTH, encoded, picture, write_folder

TASK = f"{{name: segmentation, names: [{', '.join(NAMES)}], void: [{VOID}]}}"
DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))


def recipe(*words: str) -> Recipe:
    own = (
        f"task={TASK}",
        "model.name=net.py:net",
        "model.input_size=[24, 32]",
        "model.resolution=[18, 24]",
        "data.root=shapes",
        "data.crop_scale=0.6",
        "train.batch_size=16",
        "train.epochs=12",
        "train.warmup_epochs=1",
        "train.eval_every_epochs=0",
        "train.learning_rate=0.01",
        "train.device=cpu",
    )
    return load_recipe("segmentation", (*own, *words))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with a network, pictures and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "net.py").write_text(NETWORK)
    write_folder(folder / "shapes", 96)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(recipe(), folder / "run")
        yield folder


@pytest.fixture
def run(work: Path) -> Run:
    return Run.open("run")


@pytest.fixture
def evaluator(run: Run) -> SubnetEvaluator:
    return SubnetEvaluator(run.supernet(), run.data(), run.task)


# -- data --------------------------------------------------------------------------------------------------------------


def test_masks_move_along(work: Path, run: Run) -> None:
    """Crops, shifts and flips: what a pixel shows is still what its mask says, but for edges between classes."""
    config = recipe("data.crop_padding=0.2", "data.horizontal_flip=true", "data.mean=[0]", "data.std=[1]").data
    data = Segmentation(names=NAMES, void=(VOID,)).load(
        config, inputs=run.outline().inputs, sizes={"resolution": HEIGHT}
    )
    agreement, seen = [], set()
    for images, targets in data.train_batches(epoch=0, batch_size=16, seed=0):
        assert images.shape == (16, 3, HEIGHT, WIDTH) and targets.shape == (16, HEIGHT, WIDTH)
        levels = torch.tensor(LEVELS) / 255
        told = (images[:, 0, :, :, None] - levels).abs().argmin(dim=-1)
        known = targets != IGNORED
        agreement.append(float((told == targets)[known].float().mean()))
        seen |= set(targets.unique().tolist())
    assert min(agreement) > 0.93 and seen == {0, 1, 2, IGNORED}


def test_subnets_of_all_resolutions_are_judged_by_the_same_pixels(run: Run) -> None:
    data: ImageData = run.data()
    small, large = (next(data.batches("search", batch_size=4, image_size=size)) for size in (18, 24))
    assert small[0].shape == (4, 3, 18, 24) and large[0].shape == (4, 3, 24, 32)
    torch.testing.assert_close(small[1], large[1])
    assert small[1].dtype == torch.int64 and small[1].shape == (4, 24, 32)


def test_decoding_as_needed_gives_the_same(run: Run) -> None:
    kept = run.data()

    task = run.task
    assert isinstance(task, Segmentation)
    config = task.settled(run.recipe.data)
    as_needed = load_data(
        config,
        image_size=24,
        source=task.source(config),
        proportions=(24, 32),
        splits=run.info["data"]["splits"],
        memory_limit_bytes=1,
        num_workers=0,
    )
    assert not as_needed.pixels
    for size in (18, 24):
        for ours, theirs in zip(
            kept.batches("test", batch_size=5, image_size=size),
            as_needed.batches("test", batch_size=5, image_size=size),
            strict=True,
        ):
            torch.testing.assert_close(ours[1], theirs[1])
            torch.testing.assert_close(ours[0], theirs[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "word", ["data.mixup=0.2", "data.cutmix=1", "data.auto_augment=rand_augment", "data.balance=1"]
)
def test_what_masks_cannot_follow_is_refused(work: Path, word: str, tmp_path: Path) -> None:
    name = word.partition("=")[0]
    with pytest.raises(DataError, match=f"{name} is not for task segmentation, whose masks would not fit"):
        train(recipe(word), tmp_path / "run")


def test_a_mask_of_another_size_is_refused(work: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "shapes", 20)
    Image.new("L", (WIDTH, HEIGHT + 1)).save(tmp_path / "shapes" / "labels" / "003.png")
    with pytest.raises(DataError, match=r"labels/003\.png' has 32 x 25 pixels, its picture 32 x 24"):
        train(recipe(f"data.root={tmp_path / 'shapes'}"), tmp_path / "run")


def test_a_changed_mask_is_noticed(run: Run, tmp_path: Path) -> None:
    write_folder(tmp_path / "shapes", 96)
    assert len(run.data(root=str(tmp_path / "shapes")).splits.train) > 50
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "shapes" / "labels" / "005.png")
    with pytest.raises(DataError, match=r"images/005\.png is no longer what it was"):
        run.data(root=str(tmp_path / "shapes"))


# -- the metric --------------------------------------------------------------------------------------------------------


def test_mean_intersection_over_union() -> None:
    """By hand: of class 0 two of three pixels, of class 1 one of two; class 2 occurs nowhere, one pixel is void."""
    scorer = MaskScorer()
    logits = torch.tensor([[[[3.0, 3, 0], [0, 3, 0]], [[0, 0, 3], [3, 0, 3]], [[-1] * 3, [-1] * 3]]])
    targets = torch.tensor([[[0, 0, 1], [0, IGNORED, 1]]])
    scorer.update({"out": logits, "aux": torch.zeros(1)}, targets)
    np.testing.assert_allclose(scorer.shares, [2 / 3, 2 / 3, np.nan])
    targets[0, 0, 0] = 1
    scorer.update(logits.numpy(), targets.numpy())
    np.testing.assert_allclose(scorer.shares, [3 / 6, 4 / 7, np.nan])
    assert scorer.value() == pytest.approx(100 * (3 / 6 + 4 / 7) / 2)
    assert scorer.pixel_accuracy_percent == pytest.approx(100 * 7 / 10)


def test_the_metric_is_that_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    rng, scorer = torch.Generator().manual_seed(0), MaskScorer()
    theirs = torchmetrics.JaccardIndex(task="multiclass", num_classes=5, ignore_index=IGNORED)
    for _ in range(3):
        logits = torch.randn(4, 5, 8, 9, generator=rng)
        targets = torch.randint(0, 5, (4, 8, 9), generator=rng)
        targets[:, 2] = IGNORED
        scorer.update(logits, targets)
        theirs.update(logits, targets)
    assert scorer.value() == pytest.approx(100 * float(theirs.compute()), rel=1e-5)


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Images of different difficulty; the truth is what many of them give."""
    rng = np.random.default_rng(0)

    def score(num: int) -> MaskScorer:
        scorer = MaskScorer()
        difficulties = rng.uniform(0, 0.6, num)
        targets = rng.integers(0, 3, (num, 6, 6))
        wrong = rng.random(targets.shape) < difficulties[:, None, None]
        found = np.where(wrong, (targets + 1) % 3, targets)
        scorer.update(np.eye(3, dtype=np.float32)[found].transpose(0, 3, 1, 2), targets)
        return scorer

    truth = score(20_000).value()
    intervals = [score(60).score() for _ in range(100)]
    assert 88 <= sum(each.low <= truth <= each.high for each in intervals) <= 100


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_of_something_else_is_refused(work: Path, tmp_path: Path) -> None:
    code = NETWORK.replace('return {"out": logits}', "return logits.mean(dim=(2, 3))")
    Path("other.py").write_text(code)
    with pytest.raises(
        ConfigError, match=r"gives outputs of shape \(3,\), but task 'segmentation' takes \(3, height, width\)"
    ):
        train(recipe("model.name=other.py:net"), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "size"),
    [("torchvision:lraspp_mobilenet_v3_large", (48, 64)), ("smp:unet/tu-mobilenetv3_small_050", (64, 64))],
)
def test_models_of_libraries(name: str, size: tuple[int, int]) -> None:
    from ofa.supernet import create_supernet
    from ofa.supernet.model_sources import name_in_files

    if name.startswith("smp"):
        pytest.importorskip("segmentation_models_pytorch")
    supernet = create_supernet(name, num_classes=5, input_size=size).eval()
    task, images = Segmentation(), torch.rand(2, 3, *size)
    trace = supernet.analysis.trace
    task.check_outputs(trace.output_type, trace.output_shapes, 5)
    arch = supernet.space.smallest()
    given = supernet(supernet.inputs.resize(ofa_inputs(images), supernet.inputs.sizes(arch)).tensors[0], arch)
    assert task.outputs(given, torch.zeros(2, *size)).shape == (2, 5, *size)
    assert "/" not in name_in_files(name) and ":" not in name_in_files(name)


def ofa_inputs(images: torch.Tensor):
    from ofa.inputs import Inputs

    return Inputs(images)


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_it_learns(run: Run, evaluator: SubnetEvaluator) -> None:
    assert run.info["metric"] == "miou_percent" and run.info["data"]["classes"] == list(NAMES)
    metrics = pd.read_csv(run.path / "metrics.csv")
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert metrics["largest_miou_percent"].iloc[-1] > 70 and largest > 70 and smallest > 50


def export(evaluator: SubnetEvaluator, arch: Arch, out: Path, *, from_pixels: bool = False) -> ExportResult:
    quick = Latency(p10=1.0, p50=1.0, p90=1.0)
    return export_bundle(
        evaluator,
        [{"arch": dict(arch), "latency_ms": 1.0}],
        out=out,
        device=DEVICE,
        budget_ms=2.0,
        options=ExportOptions(from_pixels=from_pixels),
        measure=lambda files, speed: [quick for _ in files],
        run_info=Run.open("run").info,
    )


def test_a_resumed_run_is_the_same(work: Path, run: Run, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == 6:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of an epoch

    with pytest.raises(StoppedError):
        train(recipe(), tmp_path / "run", progress=stop)
    assert train(recipe(), tmp_path / "run", resume=True).weights_sha256 == run.weights_sha256


@pytest.mark.parametrize("from_pixels", [False, True])
def test_a_bundle(run: Run, evaluator: SubnetEvaluator, tmp_path: Path, from_pixels: bool) -> None:
    result = export(evaluator, run.space.smallest(), tmp_path / "bundle", from_pixels=from_pixels)
    info, truth = result.info, evaluator.values([run.space.smallest()], split="test")[0]
    assert info.score.value == pytest.approx(truth, abs=0.5)
    assert set(info.score.details["class_iou_percent"]) == set(NAMES)
    assert info.sample_labels == tuple(f"samples/00{number}-mask.png" for number in range(4))
    checks = {check.name: check for check in verify_bundle(result.path).checks}
    assert all(check.ok for check in checks.values()), checks
    own = write_folder(tmp_path / "own", 12, seed=7)
    checks = {check.name: check for check in verify_bundle(result.path, images=own).checks}
    assert checks["accuracy on pictures"].ok, checks["accuracy on pictures"]
    card = (result.path / "README.md").read_text()
    assert "semantic segmentation with 3 classes" in card and "Mean intersection over union" in card
    plain = json.loads((result.path / "bundle.json").read_text())
    for labels in (["../mask.png"] * 4, [1] * 4):
        (result.path / "bundle.json").write_text(json.dumps(plain | {"sample_labels": labels}))
        with pytest.raises(BundleError, match="sample_labels must be files of masks"):
            read_bundle(result.path)


def test_predict(run: Run, evaluator: SubnetEvaluator, tmp_path: Path) -> None:
    out = export(evaluator, run.space.largest(), tmp_path / "bundle").path
    rng = np.random.default_rng(5)
    image, mask = picture(rng)
    image.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    (tmp_path / "small.png").write_bytes(encoded(image))
    words = [sys.executable, "-I", str(out / "predict.py"), "large.png", "small.png", "--csv", "shares.csv"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[name, f"masks/{name}"] for name in ("large.png", "small.png")]
    truth = targets_of(torch.from_numpy(np.where(np.asarray(mask) == VOID, 255, np.asarray(mask)))).numpy()
    with Image.open(tmp_path / "masks" / "small.png") as found:
        assert found.mode == "P" and found.size == (WIDTH, HEIGHT)
        known = truth != IGNORED
        assert (np.asarray(found) == truth)[known].mean() > 0.8
    with Image.open(tmp_path / "masks" / "large.png") as found:
        assert found.size == (2 * WIDTH, 2 * HEIGHT)
    with open(tmp_path / "shares.csv") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "mask", *(f"share of {name}" for name in NAMES)]
    assert all(sum(map(float, row[2:])) == pytest.approx(1, abs=1e-5) for row in rows)


def test_the_metric_of_the_task() -> None:
    assert Segmentation().metric == METRICS["miou_percent"]
    with pytest.raises(ConfigError, match="void must be indices from 0 to 255"):
        Segmentation(void=(300,))


def test_the_page_shows_masks(run: Run, evaluator: SubnetEvaluator, tmp_path: Path) -> None:
    result = export(evaluator, run.space.largest(), tmp_path / "bundle")
    info = json.loads((result.path / "bundle.json").read_text())
    exhibit = Exhibit(name="cpu-1t, 2 ms", folder=result.path, info=info)
    section = run.task.report_section([exhibit])
    assert section is not None and section.head == ("Picture of the test split", "Is", "cpu-1t, 2 ms")
    assert [len(row) for row in section.rows] == [3] * 4
    assert all(cell.count("data:image/webp;base64,") == 1 for row in section.rows for cell in row)
    shares = [float(re.findall(r"([\d.]+) %", row[2])[0]) for row in section.rows]
    assert min(shares) > 80 and all(name in section.note for name in (*NAMES, "no class"))
    (result.path / "samples" / "002.png").unlink()
    assert run.task.report_section([exhibit]) is None


def test_weights_for_other_classes(tmp_path: Path) -> None:
    """LR-ASPP has two classifiers, neither of which fits; the rest does."""
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    found = create_model(
        "torchvision:lraspp_mobilenet_v3_large", num_classes=5, weights=tmp_path / "weights.pth"
    ).state_dict()
    equal = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, found[name])}
    assert {name.rpartition(".")[0] for name in found.keys() - equal} == {
        "classifier.low_classifier",
        "classifier.high_classifier",
    }
    broken = {**model.state_dict(), "classifier.cbr.0.weight": torch.zeros(7, 960, 1, 1)}
    torch.save(broken, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"'classifier\.cbr\.0\.weight' is \(128, 960, 1, 1\) in the model"):
        create_model("torchvision:lraspp_mobilenet_v3_large", num_classes=5, weights=tmp_path / "weights.pth")
