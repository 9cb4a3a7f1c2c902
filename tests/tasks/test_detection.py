"""Objects, the whole way: rectangles and their colours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.data.boxes import NONE
from ofa.deploy import read_bundle, verify_bundle
from ofa.hardware import Device
from ofa.metrics import MAP
from ofa.setting import Setting
from ofa.supernet import create_supernet
from ofa.tasks import Detection
from ofa.tasks.average_precision import RECALLS, THRESHOLDS, average_precisions, matched
from ofa.tasks.losses.quality_focal import Candidates, QualityFocal, assign, brought_to, joined, taken_apart
from ofa.tasks.predict_boxes import Objects, corners, grids_of, objects_in, overlaps, priors_of, suppressed
from ofa.tasks.task import Exhibit
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import check_schema, make_bundle

NAMES = ("blue", "red")
COLOURS = ((40, 60, 220), (220, 50, 40))
WIDTH, HEIGHT = 96, 72
WORDS = (
    "model.name=fcos:mobilenetv3_small_050",
    "model.resolution=[64, 96]",
    "task.sides=[0.2, 0.4, 0.8]",
    "train.epochs=30",
    "train.batch_size=8",
    "train.learning_rate=0.004",
    "train.eval_every_epochs=0",
    "train.device=cpu",
)
SSD: dict[str, Any] = {"priors": "boxes", "strides": (16, 32, 64, 128, 256, 512)}


def scene(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int, int, int, int]]]:
    """Rectangles in two colours on noise, apart from each other: class, left, top, right and bottom in pixels."""
    pixels = rng.integers(90, 160, size=(HEIGHT, WIDTH, 3)).astype(np.uint8)
    found: list[tuple[int, int, int, int, int]] = []
    for _ in range(int(rng.integers(1, 5))):
        width, height = rng.integers(16, 36, size=2).tolist()
        left, top = int(rng.integers(WIDTH - width)), int(rng.integers(HEIGHT - height))
        box = (left, top, left + width, top + height)
        if found and overlaps(np.array([box]), np.array(found)[:, 1:]).max() > 0:
            continue
        kind = int(rng.integers(2))
        pixels[top : box[3], left : box[2]] = COLOURS[kind]
        found.append((kind, *box))
    return pixels, found


def write_voc(folder: Path, num: int) -> Path:
    rng, splits = np.random.default_rng(0), {"train": list[str](), "test": list[str]()}
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for index in range(num):
        pixels, objects = scene(rng)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{index:03}.png")
        root = ElementTree.Element("annotation")
        size = ElementTree.SubElement(root, "size")
        for name, value in (("width", WIDTH), ("height", HEIGHT)):
            ElementTree.SubElement(size, name).text = str(value)
        for kind, *box in objects:
            thing = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(thing, "name").text = NAMES[kind]
            sides = ElementTree.SubElement(thing, "bndbox")
            for name, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ElementTree.SubElement(sides, name).text = str(side)
        ElementTree.ElementTree(root).write(folder / "Annotations" / f"{index:03}.xml")
        splits["train" if index < num * 0.75 else "test"].append(f"{index:03}")
    for split, names in splits.items():
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("boxes")
    write_voc(folder / "voc", 120)
    train(load_recipe("detection", (f"data.root={folder / 'voc'}", *WORDS)), folder / "run")
    return folder


# -- data --------------------------------------------------------------------------------------------------------------


def source_of(name: str, root: Path, **task: Any) -> Any:
    return Detection(**task).source(DataConfig(name=name, root=str(root)))


def test_the_three_forms_are_read_alike(work: Path, tmp_path: Path) -> None:
    voc = source_of("voc", work / "voc")
    assert voc.classes == NAMES and voc.num_test == 30 and len(voc.images) == 120
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "red"}]}
    content["categories"].append({"id": 3, "name": "blue"})
    for row, rows in enumerate(voc.objects):
        split = "train" if row < 90 else "test"
        picture = Path(voc.images.encoded[row][0])
        for place in (tmp_path / "yolo" / split, tmp_path / "coco" / f"{split}2017"):
            place.mkdir(parents=True, exist_ok=True)
        (tmp_path / "yolo" / split / "images").mkdir(exist_ok=True)
        (tmp_path / "yolo" / split / "labels").mkdir(exist_ok=True)
        (tmp_path / "yolo" / split / "images" / picture.name).write_bytes(picture.read_bytes())
        (tmp_path / "coco" / f"{split}2017" / picture.name).write_bytes(picture.read_bytes())
        objects = rows[rows[:, 0] != NONE].astype(float)
        lines = [f"{int(k)} {(a + c) / 2} {(b + d) / 2} {c - a} {d - b}" for k, a, b, c, d in objects]
        (tmp_path / "yolo" / split / "labels" / f"{picture.stem}.txt").write_text("\n".join(lines))
        if split == "train":
            image = {"id": row, "file_name": picture.name, "width": WIDTH, "height": HEIGHT}
            content["images"].append(image)
            for kind, left, top, right, bottom in objects:
                box = [left * WIDTH, top * HEIGHT, (right - left) * WIDTH, (bottom - top) * HEIGHT]
                content["annotations"].append({"image_id": row, "category_id": 3 if kind == 0 else 7, "bbox": box})
    content["annotations"].append({"image_id": 0, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    (tmp_path / "yolo" / "data.yaml").write_text("names:\n  0: blue\n  1: red\n")
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    yolo, coco = source_of("yolo", tmp_path / "yolo"), source_of("coco", tmp_path / "coco")
    assert yolo.classes == coco.classes == NAMES
    assert yolo.num_test == 30 and coco.num_test == 0 and coco.ignored == ("1 boxes of crowds",)
    for source in (yolo, coco):
        for row, there in enumerate(source.objects):
            own, other = (each[each[:, 0] != NONE] for each in (there, voc.objects[row]))
            np.testing.assert_allclose(own, other, atol=1e-6)
    assert Path(coco.images.encoded[0][0]).parent.name == "train2017"


def test_boxes_that_leave_the_picture_are_cut_and_empty_ones_left_out(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", 2)
    file = tmp_path / "voc" / "Annotations" / "000.xml"
    tree = ElementTree.parse(file)
    for each in tree.getroot().findall("object"):
        tree.getroot().remove(each)
    for left, right in ((-9, 48), (30, 30)):
        thing = ElementTree.SubElement(tree.getroot(), "object")
        ElementTree.SubElement(thing, "name").text = "red"
        sides = ElementTree.SubElement(thing, "bndbox")
        for name, side in (("xmin", left), ("ymin", 0), ("xmax", right), ("ymax", 72)):
            ElementTree.SubElement(sides, name).text = str(side)
    tree.write(file)
    source = source_of("voc", tmp_path / "voc")
    row = source.objects[0]
    np.testing.assert_allclose(row[row[:, 0] != NONE], [[source.classes.index("red"), 0, 0, 0.5, 1]])
    assert source.ignored == ("1 boxes without area",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "Annotations/001.xml").write_text("<annotation>"), "001.xml cannot be read"),
        (lambda root: (root / "JPEGImages/001.png").unlink(), "has no picture 001"),
        (lambda root: _replace(root / "Annotations/001.xml", "96", "wide"), "size/width is 'wide'"),
        (lambda root: _replace(root / "Annotations/001.xml", "96", "0"), "the picture has 0 x 72 pixels"),
        (lambda root: [path.unlink() for path in root.glob("Annotations/*")], "found no .xml files"),
    ],
)
def test_broken_data_is_named(tmp_path: Path, change: Any, message: str) -> None:
    change(write_voc(tmp_path / "voc", 3))
    with pytest.raises(DataError, match=message):
        source_of("voc", tmp_path / "voc")


def test_lines_that_are_no_boxes(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "a.png")
    label = tmp_path / "labels" / "train" / "a.txt"
    for text, message in (
        ("0 0.5 0.5\n", "line 1 is '0 0.5 0.5'"),
        ("4 0.5 0.5 0.1 0.1\n", "line 1 has class 4, but there are 2 names"),
        ("0 0.5 x 0.1 0.1\n", "line 1 is 'x', which is no number"),
        ("\n", "have no boxes"),
    ):
        label.write_text(text)
        with pytest.raises(DataError, match=message):
            source_of("yolo", tmp_path, names=NAMES)
    label.write_text("1 0.1 0.2 0.5 0.3 0.4 0.9\n")  # a polygon
    np.testing.assert_allclose(source_of("yolo", tmp_path, names=NAMES).objects[0], [[1, 0.1, 0.2, 0.5, 0.9]])


def write_yolo(root: Path, split: str = "train", names: str = "") -> Path:
    """One red box in one picture."""
    for name in ("images", "labels"):
        (root / name / split).mkdir(parents=True)
    Image.new("RGB", (8, 8), COLOURS[1]).save(root / "images" / split / "a.png")
    (root / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    if names:
        (root / "data.yaml").write_text(names)
    return root


def test_numbers_of_classes_mean_what_their_own_file_says(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "one", names="names: [red, blue]\n")
    for classes in ((), ("blue", "red")):
        source = source_of("yolo", root, names=classes)
        assert source.classes[int(source.objects[0, 0, 0])] == "red"
    bare = source_of("yolo", write_yolo(tmp_path / "two"), names=("red", "blue"))
    assert bare.classes[int(bare.objects[0, 0, 0])] == "red"
    with pytest.raises(DataError, match="names must be a list, or a name for each index"):
        source_of("yolo", write_yolo(tmp_path / "three", names="names: {1: red}\n"))


def test_own_pictures_need_no_split_to_train_on(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "val2017")
    with pytest.raises(DataError, match="found no pictures with boxes to train on"):
        source_of("yolo", root)
    ((file, label),) = Detection().labelled(root, ("red",))
    assert file.name == "a.png" and label.objects == [[0, 0.25, 0.25, 0.75, 0.75]] and label.size == (8, 8)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no boxes"):
        Detection().labelled(tmp_path / "none", ("red",))


def test_boxes_of_another_picture(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", 2)
    picture = tmp_path / "voc" / "JPEGImages" / "001.png"
    Image.open(picture).resize((HEIGHT, WIDTH)).save(picture)
    with pytest.raises(DataError, match=r"001.png has 72 x 96 pixels, upright, but its boxes were drawn on 96 x 72"):
        source_of("voc", tmp_path / "voc")


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png"])
def test_pictures_outside_of_the_data_are_not_read(name: str, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": name, "width": 8, "height": 8}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (tmp_path / "data" / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="leads out of the data set"):
        source_of("coco", tmp_path / "data")


def test_levels_that_are_elsewhere(work: Path, tmp_path: Path) -> None:
    words = (f"data.root={work / 'voc'}", *WORDS, "task.strides=[4, 8, 16]")
    with pytest.raises(ConfigError, match=r"its levels have .* places, but with task.strides \[4, 8, 16\]"):
        train(load_recipe("detection", words), tmp_path / "run")


def _replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(f">{old}<", f">{new}<", 1))


@pytest.mark.parametrize("fit", ["squash", "crop", "letterbox"])
def test_boxes_move_along(work: Path, fit: str) -> None:
    """Where a box is there is its colour, and around it there is not, however the picture was moved."""
    config = DataConfig(
        name="voc", root=str(work / "voc"), fit=fit, horizontal_flip=True, crop_scale=0.5, crop_padding=0.1
    )
    spec = create_supernet("fcos:mobilenetv3_small_050", num_classes=2, resolution=[96]).inputs
    data = Detection().load(config, inputs=spec, sizes={"resolution": 96})
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    above = list[float]()
    batches = [
        data.batches("test", batch_size=8),
        data.train_batches(epoch=0, batch_size=16, seed=0),
    ]
    for images, objects in (pair for batch in batches for pair in batch):
        pixels = 255 * (images * std + mean)
        colours = [torch.tensor(colour, dtype=torch.float32)[:, None, None] for colour in COLOURS]
        is_painted = [(pixels - colour).abs().amax(1) < 40 for colour in colours]
        for row, boxes in enumerate(objects):
            for kind, *box in boxes[boxes[:, 0] != NONE].tolist():
                left, top, right, bottom = (round(96 * side) for side in box)
                if right - left < 4 or bottom - top < 4:  # nearly cut off
                    continue
                inside = is_painted[int(kind)][row, top + 1 : bottom - 1, left + 1 : right - 1]
                assert inside.float().mean() > 0.97
                if top > 3:
                    strip = is_painted[int(kind)][row, top - 3 : top - 1, left + 1 : right - 1]
                    above.append(float(strip.float().mean()))
    assert len(above) > 50 and np.mean(above) < 0.1


# -- what is found -----------------------------------------------------------------------------------------------------


def test_priors_are_those_of_torchvision() -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.image_list import ImageList

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images = torch.zeros(1, 3, 320, 320)
    features = list(model.backbone(images).values())
    expected = model.anchor_generator(ImageList(images, [(320, 320)]), features)[0] / 320
    task = {"sides": (), "aspect_ratios": (2.0, 3.0), **SSD}
    grids = grids_of((320, 320), task)
    assert grids == [tuple(each.shape[2:]) for each in features]
    priors = priors_of(grids, task)
    found = np.stack(corners(np.zeros((len(priors), 4)), priors, "boxes"), axis=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)
    raw = np.random.default_rng(0).normal(size=(len(priors), 4))
    decoded = model.box_coder.decode_single(torch.from_numpy(raw), torch.from_numpy(found)).numpy()
    np.testing.assert_allclose(np.stack(corners(raw, priors, "boxes"), axis=1), decoded, atol=1e-4)


def test_points_say_distances() -> None:
    priors = np.array([[0.5, 0.5, 0.2, 0.2]])
    np.testing.assert_allclose(np.stack(corners(np.zeros((1, 4)), priors, "points"), 1), [[0.4, 0.4, 0.6, 0.6]])
    raw = np.log([[2.0, 1.0, 3.0, 0.5]])
    np.testing.assert_allclose(np.stack(corners(raw, priors, "points"), 1), [[0.3, 0.4, 0.8, 0.55]])


def test_what_overlaps_is_left_out_as_torchvision_does() -> None:
    from torchvision.ops import batched_nms, box_iou

    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.7, size=(300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, size=(300, 2))], axis=1)
    classes, scores = rng.integers(3, size=300), np.sort(rng.uniform(size=300))[::-1].copy()
    tensors = [torch.from_numpy(each) for each in (boxes, scores, classes)]
    assert suppressed(boxes, classes, 0.6) == batched_nms(*tensors, 0.6).tolist()
    np.testing.assert_allclose(overlaps(boxes, boxes), box_iou(tensors[0], tensors[0]).numpy(), atol=1e-9)


def _random_pictures(rng: np.random.Generator, num: int) -> list[tuple[Objects, npt.NDArray[np.float32]]]:
    pictures = []
    for _ in range(num):
        there = np.concatenate([rng.integers(3, size=(6, 1)), rng.uniform(0, 0.5, size=(6, 4))], axis=1)
        there[:, 3:] = there[:, 1:3] + rng.uniform(0.1, 0.5, size=(6, 2))
        there[rng.integers(6) :, 0] = NONE
        found = np.repeat(there[there[:, 0] != NONE], 2, axis=0)
        boxes = found[:, 1:] + rng.normal(scale=0.03, size=(len(found), 4))
        scores = np.sort(rng.uniform(size=len(found)))[::-1]
        classes = np.where(rng.uniform(size=len(found)) < 0.8, found[:, 0], 1).astype(int)
        pictures.append((Objects(classes, scores, boxes), there.astype(np.float32)))
    return pictures


def test_average_precision_is_that_of_coco() -> None:
    pictures = _random_pictures(np.random.default_rng(0), 40)
    ours = average_precisions([matched(found, there, 3) for found, there in pictures], np.ones((1, 40), dtype=int))[0]
    metric = pytest.importorskip("torchmetrics.detection").MeanAveragePrecision
    pytest.importorskip("pycocotools")
    # In double precision, as in COCO's own code: torchmetrics' own miss a recall that is just reached.
    judge = metric(class_metrics=True, iou_thresholds=THRESHOLDS.tolist(), rec_thresholds=RECALLS.tolist())
    for found, there in pictures:
        known = torch.from_numpy(there[there[:, 0] != NONE])
        judge.update(
            [
                {
                    "boxes": torch.from_numpy(found.boxes),
                    "scores": torch.from_numpy(found.scores.copy()),
                    "labels": torch.from_numpy(found.classes),
                }
            ],
            [{"boxes": known[:, 1:], "labels": known[:, 0].long()}],
        )
    expected = judge.compute()
    assert ours.mean() == pytest.approx(float(expected["map"]), abs=1e-4)
    assert ours[:, 0].mean() == pytest.approx(float(expected["map_50"]), abs=1e-4)
    np.testing.assert_allclose(ours.mean(axis=1), expected["map_per_class"].numpy(), atol=1e-4)


def test_average_precision_by_hand() -> None:
    """Two of three found, with a wrong one between: 34 recalls at precision 1, 33 at 2 of 3, 34 at 0."""
    there = np.array([[0, 0, 0, 0.1, 0.1], [0, 0.2, 0, 0.3, 0.1], [0, 0.4, 0, 0.5, 0.1]], dtype=np.float32)
    boxes = np.array([[0, 0, 0.1, 0.1], [0.8, 0.8, 0.9, 0.9], [0.2, 0, 0.3, 0.1]])
    found = Objects(np.zeros(3, dtype=int), np.array([0.9, 0.8, 0.7]), boxes)
    each = average_precisions([matched(found, there, 2)], np.ones((1, 1), dtype=int))[0]
    np.testing.assert_allclose(each[0], (34 + 33 * 2 / 3) / 101)
    assert np.isnan(each[1]).all()
    twice = average_precisions([matched(found, there, 2)] * 2, np.array([[2, 0], [1, 1]]))
    np.testing.assert_allclose(twice[0, 0], twice[1, 0])


def test_objects_are_assigned_to_places_that_fit() -> None:
    task = Detection(sides=(0.1, 0.2, 0.4))
    grids = task.grids_of((160, 160))
    priors = torch.from_numpy(task.priors_of(grids)).float()
    outputs = Candidates(torch.zeros(1, len(priors), 2), torch.zeros(1, len(priors), 4), priors, grids)
    targets = torch.tensor([[[0, 0.1, 0.1, 0.2, 0.2], [1, 0.4, 0.4, 0.8, 0.8], [NONE, 0, 0, 0, 0]]])
    assigned = assign(outputs, targets)[0]
    assert set(assigned.tolist()) == {-1, 0, 1}
    small, large = (priors[assigned == index] for index in range(2))
    assert (small[:, 2] < 0.3).all() and (small[:, 2] < 0.15).float().mean() > 0.7 and (large[:, 2] > 0.3).all()
    for places, box in ((small, targets[0, 0]), (large, targets[0, 1])):
        assert ((places[:, :2] > box[1:3]) & (places[:, :2] < box[3:])).all()
    assert (assign(outputs, torch.tensor([[[NONE, 0.0, 0, 0, 0]]])) == -1).all()


def test_a_teacher_of_another_size_teaches_the_same() -> None:
    """What is the same everywhere stays so, and the order of places is kept."""
    rng = torch.Generator().manual_seed(0)
    grids, smaller = [(4, 6), (2, 3)], [(2, 3), (1, 2)]
    values = torch.randn(2, (24 + 6) * 3, 5, generator=rng)
    maps = taken_apart(values, grids, 3)
    assert [tuple(each.shape) for each in maps] == [(2, 15, 4, 6), (2, 15, 2, 3)]
    torch.testing.assert_close(joined(maps, 3), values)
    even = [torch.arange(15.0)[None, :, None, None].expand(2, 15, *grid) for grid in grids]
    np.testing.assert_allclose(joined(brought_to(even, smaller), 3)[0, :3], np.arange(15).reshape(3, 5), atol=1e-6)


def test_a_loss_is_least_where_all_is_right() -> None:
    task = Detection(sides=(0.1, 0.2, 0.4))
    grids = task.grids_of((96, 96))
    priors = torch.from_numpy(task.priors_of(grids)).float()
    targets = torch.tensor([[[1, 0.3, 0.2, 0.5, 0.5]]])
    empty = Candidates(torch.full((1, len(priors), 2), -5.0), torch.zeros(1, len(priors), 4), priors, grids)
    is_object = assign(empty, targets) >= 0
    logits = empty.logits.clone()
    logits[..., 1][is_object] = 6.0
    right = Candidates(logits, targets[:, :1, 1:].expand(1, len(priors), 4), priors, grids)
    loss = QualityFocal()
    assert float(loss.label_loss(right, targets)) < 0.05 < 1 < float(loss.label_loss(empty, targets))
    nothing = torch.tensor([[[float(NONE), 0, 0, 0, 0]]])
    assert float(loss.label_loss(empty, nothing)) < 0.05
    taught = task.teaching(right)
    assert float(loss.distil(right, targets, taught)) < 0.1 < float(loss.distil(empty, targets, taught))


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_it_finds_what_is_there(run: Run, evaluator: SubnetEvaluator) -> None:
    assert run.task.metric == MAP and run.num_classes == 2
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert min(largest, smallest) > 30


def test_a_bundle(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    assert isinstance(info.task, Detection) and info.model.output == "candidates"
    assert info.score.value == pytest.approx(float(evaluator.values([run.space.smallest()], split="test")[0]), abs=0.5)
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    details = json.loads((bundle / "bundle.json").read_text())["map_percent"]["details"]
    assert details["map50_percent"] > 50 and set(details["class_average_precision_percent"]) == set(NAMES)
    assert verify_bundle(bundle, images=work / "voc").ok
    picture = work / "voc" / "JPEGImages" / "119.png"
    command = [sys.executable, bundle / "predict.py", picture, "--out", tmp_path, "--csv", tmp_path / "found.csv"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = ElementTree.parse(work / "voc" / "Annotations" / "119.xml").getroot().findall("object")
    there = [[float(value.text or "") for value in each.findall("bndbox/*")] for each in expected]
    found = np.array([[float(word) for word in line.split("\t")[3:]] for line in said])
    assert overlaps(found, np.array(there)).max(axis=0).mean() > 0.5
    (drawn,) = tmp_path.rglob("119.png")
    with Image.open(drawn) as image:
        assert image.size == (WIDTH, HEIGHT)
    assert (tmp_path / "found.csv").read_text().startswith("file,class,score,left")


def test_a_bundle_that_takes_pixels(run: Run, evaluator: SubnetEvaluator, bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(evaluator, run, tmp_path / "pixels", from_pixels=True)
    assert verify_bundle(other).ok
    one, another = (np.load(folder / "samples" / "outputs.npy") for folder in (bundle, other))
    np.testing.assert_allclose(one, another, atol=1e-3)


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("executorch", marks=pytest.mark.slow)])
def test_bundles_of_other_runtimes(runtime: str, run: Run, evaluator: SubnetEvaluator, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    device = Device(name=f"{runtime}-1t", setting=Setting(runtime=runtime))
    assert verify_bundle(make_bundle(evaluator, run, tmp_path / runtime, device=device)).ok


def test_the_page_shows_boxes(bundle: Path, run: Run) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    section = run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=info)])
    assert section is not None and len(section.rows) == 8 and "found" in section.rows[0][1]
    broken = {**info, "task": {"name": "detection"}}
    assert run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=broken)]) is None


def test_outputs_in_numpy_are_those_of_torch(bundle: Path, evaluator: SubnetEvaluator, run: Run) -> None:
    """What a file gives, decoded as ``predict.py`` does, is what the judge sees of the model."""
    task = run.task
    assert isinstance(task, Detection)
    arch = run.space.smallest()
    inputs, targets = next(iter(evaluator.batches("test", arch)))
    with torch.inference_mode():
        given = inputs.call(evaluator.calibrated(arch).eval())
    raw, grids = task.candidates(given)
    found = objects_in(raw[0].astype(float), task.priors_of(grids), task.priors)
    boxes = task.outputs(given, targets).boxes[0].detach().numpy()
    assert all(np.abs(boxes - box).max(axis=1).min() < 1e-4 for box in found.boxes if 0 < box.min() < box.max() < 1)


def test_ssdlite_of_torchvision() -> None:
    supernet = create_supernet("torchvision:ssdlite320_mobilenet_v3_large", num_classes=3, resolution=[224, 320])
    assert {dim.kind for dim in supernet.dims} >= {"expand", "kernel"}
    trace = supernet.analysis.trace
    Detection(**SSD).check_outputs(trace.output_type, trace.output_shapes, 3)
    with pytest.raises(ConfigError, match=r"task 'detection' with 3 strides and priors=points takes 3 of \(3, h, w\)"):
        Detection().check_outputs(trace.output_type, trace.output_shapes, 3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.mixup=0.2", "whose boxes would not fit"),
        ("task.strides=[16, 8]", "each more than the one before"),
        ("task.sides=[0.1]", "for each of the 3 strides"),
        ("data.name=digits", "known: voc, coco, yolo|voc, coco, yolo"),
        ("model.name=fcos:mobilenetv9", "'fcos:mobilenetv9': "),
    ],
)
def test_what_does_not_go_together(work: Path, word: str, message: str) -> None:
    from ofa.errors import OfaError
    from ofa.training.preflight import check_recipe

    with pytest.raises((ConfigError, DataError, OfaError), match=message):
        check_recipe(load_recipe("detection", (f"data.root={work / 'voc'}", *WORDS, word)))
