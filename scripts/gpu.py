"""What only a machine with an NVIDIA card can tell, in at most six minutes, without a network: `make gpu`.

    python3 scripts/gpu.py [--parts tests tables ...] [--wheels DIR] [--out docs/results] [--minutes 6] [--device cpu]

Each part is a process with a share of the time. One that hangs, crashes or runs out of memory ends alone; when its
share is spent it is stopped, which the page says, its log says where, and what it had found by then is kept. What a
part leaves goes to those after it. The first three, which time nothing, run at the same time. The others run alone, but
each imports, and does what needs the CPU only, while the one before it runs. Rows are in ``--out``/gpu/<card>.csv and
``--out``/gpu-<card>.md after each part, beside those of earlier calls; everything that was printed is in
runs/gpu/<part>.log.

- tests: the tests marked `gpu`.
- training: every recipe for a few steps in bf16.
- options: one recipe in fp32 and in 16-mixed, an average of the weights, stopping and resuming ...
- throughput: a sandwich step against the steps of the same four subnets as networks of their own; peak memory.
- data: pictures a second out of shards, alone and while the largest subnet trains on them; evaluation in fp32 and bf16.
- calibration: BN calibration over a plain forward pass of the same images.
- tables: latency tables of torch, eager and as a CUDA graph, at batch 1 and 64, judged on subnets held out.
- elastic: the runtime that switches between subnets, on the card.
- compile: throughput with the bounds compiled, and training so; last, as compiling takes what time there is.

It runs in a checkout that is not installed, with the machine's own Python and packages: torch, torchvision, timm,
numpy, scipy, pandas, pyarrow, pillow, pyyaml, safetensors, scikit-learn, tensorboard, joblib and Lightning; for
`elastic` and some of the tests also onnx, onnxscript, onnxruntime, jinja2, matplotlib and moocore, and pytest with
hypothesis for `tests`. Those missing are named. ``--wheels`` takes them from a folder; pip does not look for what they
need in turn, so the folder must have it. For moocore these are moocore, cffi and platformdirs.

``--device cpu`` tries all of it in small on any machine and writes to runs/gpu.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import faulthandler
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "gpu"
CARD = "card"
SHARES = {
    "tests": 95,
    "training": 95,
    "options": 95,
    "throughput": 60,
    "data": 45,
    "calibration": 25,
    "tables": 65,
    "elastic": 25,
    "compile": 25,
}
"""Seconds of 340, in the order in which the parts run. cuDNN takes about a tenth of a second for each shape of a
depthwise convolution that it has not met, in every process, and subnets have many."""
TOGETHER = ("tests", "training", "options")  # they have the same seconds
FOR_CARD = 40  # to import torch for the first time; what is left of it goes to the parts
RESERVE = 4.0  # seconds to stop the last part and to write the page
LEAST = 8.0  # a part is not begun with less
ROW = "@row "

# Module -> its distribution, what it is for, and which parts need it (empty: all).
NEEDED: dict[str, tuple[str, str, frozenset[str]]] = {
    "torch": ("torch", "everything", frozenset()),
    "torchvision": ("torchvision", "timm is built on it", frozenset()),
    "timm": ("timm", "the models", frozenset()),
    "numpy": ("numpy", "arrays", frozenset()),
    "scipy": ("scipy", "fitting and channel groups", frozenset()),
    "pandas": ("pandas", "tables", frozenset()),
    "PIL": ("pillow", "images", frozenset()),
    "yaml": ("pyyaml", "recipes and devices", frozenset()),
    "safetensors": ("safetensors", "weights", frozenset()),
    "sklearn": (
        "scikit-learn",
        "its digits",
        frozenset({"tests", "training", "options", "calibration", "elastic", "compile"}),
    ),
    "lightning_fabric": ("pytorch-lightning or lightning-fabric", "the trainer", frozenset()),
    "tensorboard": ("tensorboard", "the trainer", frozenset()),
    "joblib": ("joblib", "exports", frozenset()),
    "onnx": ("onnx", "exports", frozenset({"tests", "elastic"})),
    "onnxscript": ("onnxscript", "exports", frozenset({"tests", "elastic"})),
    "onnxruntime": ("onnxruntime", "checking exports", frozenset({"tests", "elastic"})),
    "moocore": ("moocore", "Pareto fronts, which ofa.deploy imports", frozenset({"tests", "elastic"})),
    "_cffi_backend": ("cffi", "moocore needs it", frozenset({"tests", "elastic"})),
    "platformdirs": ("platformdirs", "moocore needs it", frozenset({"tests", "elastic"})),
    "pytest": ("pytest", "runs the tests", frozenset({"tests"})),
    "hypothesis": ("hypothesis", "the tests use it", frozenset({"tests"})),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- rows and the page -------------------------------------------------------------------------------------------------

COLUMNS = ("part", "what", "value", "unit", "note", "date")
Row = dict[str, str]


@dataclass
class Page:
    """What is known of a card: rows by part and name, on disk after each change."""

    out: Path
    card: str
    about: str
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.card.lower().replace("nvidia", "")).strip("-") or "card"

    @property
    def csv_path(self) -> Path:
        return self.out / "gpu" / f"{self.slug}.csv"

    @property
    def path(self) -> Path:
        return self.out / f"gpu-{self.slug}.md"

    def read(self) -> None:
        """Take the rows of earlier calls."""
        if self.csv_path.exists():
            with self.csv_path.open(newline="", encoding="utf-8") as file:
                self.rows = {(row["part"], row["what"]): dict(row) for row in csv.DictReader(file)}

    def begin(self, part: str) -> None:
        """Forget how a part went before; its other rows stay until there are new ones of the same name."""
        stale = [key for key in self.rows if key[0] == part and (key[1] == "part" or "::" in key[1])]
        for key in stale:
            del self.rows[key]

    def add(self, part: str, values: Mapping[str, Any]) -> None:
        row = {name: str(values.get(name, "")) for name in COLUMNS}
        row |= {"part": part, "date": str(datetime.date.today())}
        self.rows[part, row["what"]] = row

    def ordered(self) -> list[Row]:
        order = {name: place for place, name in enumerate(SHARES)}
        return sorted(self.rows.values(), key=lambda row: order.get(row["part"], len(order)))

    def write(self) -> None:
        self.csv_path.parent.mkdir(parents=True, exist_ok=True)
        with _whole(self.csv_path) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.ordered())
        cells = [[row["part"], row["what"], _value(row), row["note"]] for row in self.ordered()]
        lines = [
            f"# On one {self.card}",
            "",
            f"`make gpu`, {datetime.date.today()}; {self.about}.",
            "Weights are untrained or hardly trained: this says whether it runs, and how fast. With dates: "
            f"[gpu/{self.csv_path.name}](gpu/{self.csv_path.name}).",
            "",
            "| part | what | value | |",
            "| --- | --- | --- | --- |",
            *("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in cells),
        ]
        with _whole(self.path) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def text(self) -> str:
        """The table, for a terminal."""
        cells = [[row["part"], row["what"], _value(row), row["note"]] for row in self.ordered()]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in cells
        )


def _value(row: Row) -> str:
    return f"{row['value']} {row['unit']}".strip()


class _whole:
    """A file beside the one to be written, which it replaces if the block succeeds."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.new")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


# -- what is needed ----------------------------------------------------------------------------------------------------


def missing_modules(parts: Sequence[str], find: Callable[[str], object] = importlib.util.find_spec) -> list[str]:
    """Modules that some of the parts need and that are not there."""
    return [
        module
        for module, (_, _, needed_by) in NEEDED.items()
        if (not needed_by or needed_by & set(parts)) and find(module) is None
    ]


def what_is_missing(modules: Sequence[str], parts: Sequence[str]) -> str:
    """A message with what to do."""
    lines = ["these packages are missing:"]
    able = set(parts)
    for module in modules:
        distribution, purpose, needed_by = NEEDED[module]
        able -= needed_by or set(parts)
        lines.append(f"  {distribution}: {purpose}; needed by {', '.join(sorted(needed_by)) or 'all parts'}")
    lines.append("put wheels of them, and of what they need that is missing too, into a folder: make gpu WHEELS=DIR")
    if able:
        lines.append(f"without them: make gpu PARTS='{' '.join(name for name in parts if name in able)}'")
    return "\n".join(lines)


def install(modules: Sequence[str], wheels: Path, target: Path) -> str:
    """Unpack wheels of these modules into ``target``; gives what went wrong."""
    names = [NEEDED[module][0].split()[0] for module in modules]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--find-links", str(wheels)]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()


# -- the parts, one process after another ------------------------------------------------------------------------------


@dataclass
class Child:
    """A part that gets ready at once and waits for its turn.

    Its rows go to ``on_row``, everything else that it prints to a log.
    """

    part: str
    options: Sequence[str]
    env: Mapping[str, str]
    on_row: Callable[[dict[str, Any]], None]
    stopped: bool = False

    def __post_init__(self) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        self._log = (WORK / f"{self.part}.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--child", self.part, *self.options],
            cwd=ROOT,
            env=dict(self.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, self._log), daemon=True)
        self._reader.start()

    def run(self, seconds: float) -> int | None:
        """Its turn: its exit status; ``None`` if it had to be stopped, after so many seconds."""
        try:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:  # it may have failed already
                stdin.write(f"{seconds:.1f}\n")
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.end()

    def end(self) -> None:
        """Stop it, with whatever it has started."""
        if self.stopped:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # in the driver; nothing more can be done to it
            self._process.wait(1)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join(2)
        self.stopped = True  # a grandchild may still hold the pipe, and the log is closed
        self._log.close()

    def _read(self, process: subprocess.Popen[str], log: Any) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if self.stopped:
                    return
                log.write(line)
                log.flush()
                if line.startswith(ROW):
                    try:
                        row = json.loads(line.removeprefix(ROW))
                    except ValueError:  # a process beside it printed into the line; whoever reads must go on
                        continue
                    self.on_row(row)


def last_line(part: str) -> str:
    """Of a log: what a part that failed said."""
    lines = [line for line in (WORK / f"{part}.log").read_text(encoding="utf-8", errors="replace").splitlines() if line]
    return lines[-1][:300] if lines else "it said nothing"


def turns_of(parts: Sequence[str]) -> list[list[str]]:
    """Parts that run at the same time, one turn after another."""
    together = [part for part in parts if part in TOGETHER]
    return [*([together] if together else []), *([part] for part in parts if part not in TOGETHER)]


class Parent:
    """Runs the parts within the time."""

    def __init__(self, options: argparse.Namespace, env: Mapping[str, str], started: float) -> None:
        self.options, self.env = options, env
        self.deadline = started + 60 * options.minutes - RESERVE
        self.child_options = ["--device", options.device, *(["--small"] if options.small else [])]
        self.found: dict[str, list[Any]] = {part: [] for part in options.parts}
        self._lock = threading.Lock()  # of the page

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self) -> int:
        turns = turns_of(self.options.parts)
        waiting = self._start(turns[0])
        try:
            return self._run(turns, waiting)
        finally:
            for child in waiting:
                child.end()

    def _run(self, turns: Sequence[Sequence[str]], waiting: list[Child]) -> int:
        """Args: waiting: Children that wait for their turn: those of the first turn, later of the next one."""
        found: dict[str, Any] = {}
        card = Child(CARD, self.child_options, self.env, found.update)
        if card.run(min(2 * FOR_CARD, self.left)) != 0 or "card" not in found:
            say(f"no card: {last_line(CARD)}")
            return 2
        self.page = Page(self.options.out, found["card"], found["about"])
        self.page.read()
        say(f"{self.page.card}; {self.page.about}")
        shares = [max(SHARES[part] for part in turn) for turn in turns]
        scale = max(self.left, 0.0) / sum(shares)
        began, planned, failed = time.monotonic(), 0.0, False
        try:
            for number, share in enumerate(shares):
                children = list(waiting)
                waiting[:] = self._start(turns[number + 1]) if number + 1 < len(turns) else []
                planned += share * scale
                # What earlier parts left is this one's too.
                failed |= self._turn(children, min(self.left, planned - (time.monotonic() - began)))
        finally:
            self.page.write()
            print(self.page.text(), flush=True)
            say(f"written to {self.page.path}")
        return int(failed)

    def _start(self, turn: Sequence[str]) -> list[Child]:
        return [Child(part, self.child_options, self.env, partial(self._on_row, part)) for part in turn]

    def _on_row(self, part: str, row: dict[str, Any]) -> None:
        with self._lock:
            self.found[part].append(row.get("value"))
            self.page.add(part, row)
            say(f"  {row['what']}: {row.get('value', '')} {row.get('unit', '')} {row.get('note', '')}"[:200])

    def _turn(self, children: Sequence[Child], seconds: float) -> bool:
        """Run parts at the same time; whether one failed."""
        with ThreadPoolExecutor(len(children)) as pool:
            try:
                return any(list(pool.map(lambda child: self._part(child, seconds), children)))
            finally:  # where this process is stopped too
                for child in children:
                    child.end()

    def _part(self, child: Child, seconds: float) -> bool:
        """Run one; whether it failed."""
        with self._lock:
            self.page.begin(child.part)
        if seconds < LEAST:
            child.end()
            self._report(child.part, "skipped", f"{max(seconds, 0):.0f} s were left")
            return False
        say(f"{child.part}: at most {seconds:.0f} s")
        started = time.monotonic()
        status = child.run(seconds)
        spent, values = time.monotonic() - started, self.found[child.part]
        crashed_at_the_end = status is not None and status < 0 and spent > seconds - 3  # writing where it was
        if status is None or crashed_at_the_end:
            kept = f"; its first {len(values)} rows are here" if values else ""
            self._report(child.part, "skipped", f"{spent:.0f} s were spent{kept}")
        elif status:
            self._report(child.part, "failed", f"after {spent:.0f} s, exit status {status}: {last_line(child.part)}")
        else:
            self._report(child.part, "done", f"in {spent:.0f} s")
        return bool((status and not crashed_at_the_end) or "failed" in values)

    def _report(self, part: str, value: str, note: str) -> None:
        with self._lock:
            say(f"{part}: {value}, {note}")
            self.page.add(part, {"what": "part", "value": value, "note": note})
            self.page.write()


# -- inside a part -----------------------------------------------------------------------------------------------------


class Context:
    """What a part is given: the device, whether in small, and a clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: str = options.device
        self.small: bool = options.small
        self._deadline = time.monotonic()

    def begin(self) -> None:
        """Wait for the turn of this part; what is done before must leave the card alone."""
        seconds = sys.stdin.readline()
        if not seconds:
            sys.exit("nobody waits for this part any more")
        self._deadline = time.monotonic() + float(seconds)
        faulthandler.dump_traceback_later(max(self.left - 1, 0.1))  # where it was when its time was over

    @property
    def left(self) -> float:
        """Seconds until this process is stopped."""
        return self._deadline - time.monotonic()

    def row(self, what: str, value: object = "", unit: str = "", note: str = "") -> None:
        if isinstance(value, float):
            value = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        row = {"what": what, "value": value, "unit": unit, "note": note}
        print(ROW + json.dumps(row), flush=True)

    def has(self, seconds: float, what: str) -> bool:
        """Whether there is so much time left; if not, a row says so."""
        if self.left >= seconds:
            return True
        self.row(what, note=f"skipped: {max(self.left, 0):.0f} s were left, it takes about {seconds:.0f}")
        return False

    @cached_property
    def is_cuda(self) -> bool:
        return self.device != "cpu"

    def peak_gib(self) -> float:
        """Of memory that torch held since :meth:`forget_peak`."""
        import torch

        return torch.cuda.max_memory_allocated() / 2**30 if self.is_cuda else 0.0

    def forget_peak(self) -> None:
        import torch

        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()


def card(context: Context) -> None:
    """What it is, or why there is none."""
    import platform

    import timm
    import torch

    context.begin()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, timm {timm.__version__}, "
    versions += f"Python {platform.python_version()}"
    if not context.is_cuda:
        print(ROW + json.dumps({"card": "CPU", "about": f"{versions}; in small, on the CPU"}))
        return
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --device cpu tries everything in small")
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    found = float(torch.ones(8, device="cuda").sum().item())
    assert found == 8
    print(ROW + json.dumps({"card": properties.name, "about": f"{memory}; {versions}"}))


RESULT = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b")


class Tally:
    """What pytest has said so far."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("PASSED", "FAILED", "ERROR", "SKIPPED"), 0)
        self.reasons: dict[str, str] = {}
        self.last = ""
        self._in_summary = False

    def read(self, line: str) -> None:
        self.last = line.strip() or self.last
        self._in_summary |= "short test summary info" in line
        found = RESULT.search(line)
        if found is None or ("::" not in line and not self._in_summary):
            return
        if not self._in_summary:
            self.counts[found[1]] += 1
            if found[1] in ("FAILED", "ERROR"):
                self.reasons[next(word for word in line.split() if "::" in word)] = "no reason yet"
        elif line.startswith(("FAILED", "ERROR")):
            name, _, reason = line.split(" ", 1)[1].strip().partition(" - ")
            self.counts["ERROR"] += name not in self.reasons  # a file that could not be read
            self.reasons[name] = reason

    def rows(self, context: Context, note: str) -> None:
        context.row("passed", self.counts["PASSED"], note=note)
        context.row("not passed", self.counts["FAILED"] + self.counts["ERROR"])
        if self.counts["SKIPPED"]:
            context.row("left out", self.counts["SKIPPED"])
        for name, reason in self.reasons.items():
            context.row(name.removeprefix("tests/"), "failed", note=reason[:300])


def tests(context: Context) -> None:
    """The tests marked `gpu`; with --device cpu those that run on either, on the CPU."""
    context.begin()
    marked = re.compile(r"mark\.gpu|torch_device")
    files = [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if marked.search(path.read_text("utf-8"))]
    options = ["-v", "-rfE", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    options += ["-W", "default"]  # what libraries warn of on a card is in the log; here it fails no test
    options += ["-m", "gpu"] if context.is_cuda else ["-k", "cpu"]
    if context.is_cuda and importlib.util.find_spec("xdist"):
        options += ["-p", "xdist.plugin", "-n", "6"]
    # Plugins that happen to be there would have a say otherwise.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "300"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *map(str, files)],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    tally, said = Tally(), threading.Lock()

    def give_up() -> None:
        if said.acquire(blocking=False):
            tally.rows(context, "the time was over before the last")
            os._exit(0)  # whoever started this process ends what it has started

    timer = threading.Timer(max(context.left - 2, 1), give_up)
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        tally.read(line)
    status = process.wait()
    if said.acquire(blocking=False):
        timer.cancel()
        tally.rows(context, tally.last.strip("= "))
        if status not in (0, 1):
            context.row("pytest::status", "failed", note=f"exit status {status}: {tally.last}")


class Killed(BaseException):
    """Stands for a signal that ends a run."""


def training(context: Context) -> None:
    """Every recipe whose data is embedded."""
    from ofa.training import list_recipes, load_recipe

    context.begin()
    known = [recipe for recipe in list_recipes() if load_recipe(recipe).data.name == "digits"]
    training_rows(context, [(recipe, "bf16-mixed", "") for recipe in known])


def options(context: Context) -> None:
    """What goes with any recipe."""
    import ofa.training  # noqa: F401, before the turn

    context.begin()
    varied = "data.horizontal_flip=true data.crop_scale=0.5 data.auto_augment=rand_augment data.random_erasing=0.5"
    runs = [
        ("bignas", "16-mixed", ""),
        ("alphanet", "16-mixed", ""),  # its gradients are clipped
        ("bignas", "bf16-mixed", "train.ema_decay=0.9 train.average_epochs=1"),
        ("bignas", "bf16-mixed", "strategy.remove_conflicts=true"),
        ("bignas", "bf16-mixed", "train.optimizer=adamw train.learning_rate=0.001 train.clip_grad_norm=1"),
        ("bignas", "bf16-mixed", f"{varied} data.mixup=0.8 data.cutmix=1.0"),
        ("bignas", "32-true", ""),
    ]
    training_rows(context, runs, resumes=True)


def training_rows(context: Context, runs: Sequence[tuple[str, str, str]], *, resumes: bool = False) -> None:
    """Runs of (recipe, precision, settings), and one that is stopped and goes on."""
    import torch

    torch.set_num_threads(2 if context.is_cuda else torch.get_num_threads())
    folder = Path(tempfile.mkdtemp(prefix="gpu-", dir=WORK))
    try:
        took = 3.0
        for number, (recipe, precision, words) in enumerate(runs):
            name = " ".join([recipe, precision, *(re.sub(r"^\w+\.", "", word) for word in words.split()[:2])])
            if context.has(min(1.5 * took, 15), name):  # the first runs meet most of the shapes
                started = time.monotonic()
                train_row(context, name, folder / str(number), recipe, precision, words)
                took = time.monotonic() - started
        if resumes and context.has(min(5 * took, 30), "stopped and resumed"):
            resume_row(context, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_recipe(context: Context, recipe: str, precision: str, words: str) -> Any:
    """Few steps on the digits: two epochs of four, in small of three."""
    from ofa.training import load_recipe

    steps, batch = (3, 16) if context.small else (4, 64)
    # Few shapes, as each has to be met once.
    few = ["model.resolution=[16, 20]", "model.expand=[2, 4]"]
    if recipe == "instatune":
        few = ["model.resolution=[32, 64]", 'model.kernel=["100%"]', 'model.expand=["50%", "100%"]']
    return load_recipe(
        recipe,
        [
            f"train.device={context.device}",
            f"train.precision={precision}",
            f"data.limit={steps * batch}",
            f"train.batch_size={batch}",
            "train.epochs=2",
            "train.warmup_epochs=1",
            "model.pretrained=false",
            *few,
            *words.split(),
        ],
    )


def train_row(context: Context, name: str, out: Path, recipe: str, precision: str, words: str) -> None:
    import numpy as np
    import pandas as pd
    from safetensors.torch import load_file

    from ofa.training import train

    print(f"-- {name}", flush=True)
    context.forget_peak()
    started = time.monotonic()
    try:
        run = train(short_recipe(context, recipe, precision, words), out)
    except Exception as error:  # the others are to run all the same
        traceback.print_exc()
        context.row(name, "failed", note=f"{type(error).__name__}: {error}"[:300])
        return
    seconds = time.monotonic() - started
    metrics = pd.read_csv(run.path / "metrics.csv")
    losses = metrics.filter(like="loss_").to_numpy(dtype=float)[-1]
    finite = all(tensor.isfinite().all() for tensor in load_file(run.path / "supernet.safetensors").values())
    loss = float(np.nanmean(losses))
    good = np.isfinite(loss) and finite
    note = f"{metrics['step'].iloc[-1]} steps, loss {loss:.3f}, weights {'finite' if finite else 'NOT FINITE'}"
    note += f", peak {context.peak_gib():.2f} GiB" if context.is_cuda else ""
    context.row(name, seconds if good else "failed", "s" if good else "", note)


def resume_row(context: Context, folder: Path) -> None:
    """A run that was killed in its second epoch, against two that were not."""
    from safetensors.torch import load_file

    from ofa.training import train

    recipe = short_recipe(context, "bignas", "bf16-mixed", "train.ema_decay=0.9")

    def progress(done: int, total: int, what: str) -> None:
        if what.startswith("epoch 2"):
            raise Killed

    try:
        runs = [train(recipe, folder / name) for name in ("whole", "again")]
        with contextlib.suppress(Killed):
            train(recipe, folder / "killed", progress=progress)
        runs.append(train(recipe, folder / "killed", resume=True))
    except Exception as error:  # what was found before is to be kept
        traceback.print_exc()
        context.row("stopped and resumed", "failed", note=f"{type(error).__name__}: {error}"[:300])
        return
    whole, again, resumed = (load_file(run.path / "supernet.safetensors") for run in runs)
    resume, repeat = (
        max(float((whole[name].double() - other[name].double()).abs().max()) for name in whole)
        for other in (resumed, again)
    )
    note = f"largest difference of a weight; of the same run done twice {repeat:.2g}"
    context.row("stopped and resumed", f"{resume:.2g}", note=note)


def throughput(context: Context) -> None:
    sandwich_rows(context, compiles=False)


def compiled(context: Context) -> None:
    """Throughput with compiled bounds, then a run of the trainer so."""
    sandwich_rows(context, compiles=True)
    name = "bignas bf16-mixed compile=true"
    if context.has(5 if context.small else 20, name):
        folder = Path(tempfile.mkdtemp(prefix="gpu-", dir=WORK))
        try:
            train_row(context, name, folder / "run", "bignas", "bf16-mixed", "train.compile=true")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sandwich_rows(context: Context, *, compiles: bool) -> None:
    import numpy as np
    from steps import THROUGHPUT_MODEL, StepSettings, interleaved, machine, make_sandwich, milliseconds, step_summary

    context.begin()
    settings = StepSettings(
        machine=machine(context.device),
        device=context.device,
        threads=1,
        batch_size=4 if context.small else 256,
        resolution=32 if context.small else 224,
        rounds=5,
        compile=compiles,
    )
    # Compiling takes seconds a block, and as much again backward.
    model = "ofa_mobilenetv3_tiny" if context.small or compiles else THROUGHPUT_MODEL
    which = f"{model}, batch {settings.batch_size}, {settings.resolution} px, {'bf16' if context.is_cuda else 'fp32'}"
    how = "bounds compiled" if compiles else "eager"
    made = make_sandwich(settings, draw=0, model=model)
    num_images = settings.batch_size * len(made.archs)

    context.forget_peak()
    sandwich = made.steps.sandwich(made.supernet, made.archs)
    first_ms = milliseconds(sandwich, context.device)
    why = "two networks are compiled, forward and backward" if compiles else "every shape is new"
    context.row("sandwich, first step", first_ms / 1000, "s", f"{how}, {which}; {why}")
    warm_ms = [milliseconds(sandwich, context.device) for _ in range(2)]
    context.row("sandwich, peak memory", context.peak_gib(), "GiB", which)
    context.row("sandwich alone", 1000 * num_images / warm_ms[-1], "images/s", f"{how}, {which}; second step")

    context.forget_peak()
    statics = made.steps.static(made.supernet, made.archs)
    static_ms = sum(milliseconds(step, context.device) for step in statics)
    context.row("static subnets, first steps", static_ms / 1000, "s", how)
    context.row("static subnets, peak memory", context.peak_gib(), "GiB", "all four held; one trains at a time")
    actions = [sandwich, *statics]
    warm = interleaved(actions, rounds=1, rng=np.random.default_rng(0), device=context.device)
    round_seconds = max(float(warm.sum()) / 1000, 1e-3)
    rounds = int(np.clip(0.6 * (context.left - 3) / round_seconds, 1, 3 if context.small else 40))
    # The compiler sees its function twice before it settles: two warm-ups besides.
    rng = np.random.default_rng([0, 1])
    times = interleaved(actions, rounds=rounds, rng=rng, device=context.device, num_warmup=1)
    summary = step_summary(times)
    note = f"{how}, {which}; 10th percentile of {rounds} steps"
    context.row("sandwich", 1000 * num_images / summary["sandwich_ms"], "images/s", note)
    context.row("static subnets", 1000 * num_images / summary["static_ms"], "images/s", "the sum of their steps")
    note = "images/s of the sandwich over that of its four subnets alone; aim: at least 0.95"
    context.row("sandwich / static", summary["ratio"], note=note)
    for name, row in zip(("sandwich", "largest", "random", "random 2", "smallest"), times, strict=True):
        context.row(f"step, {name}", float(np.percentile(row, 10)), "ms", how)


def data(context: Context) -> None:
    from contextlib import nullcontext

    import numpy as np
    import torch
    from steps import StepSettings, machine, make_sandwich, milliseconds

    from ofa.data import DataConfig, load_data
    from ofa.inputs import channels_last
    from ofa.training import SubnetEvaluator

    num_images, batch_size, resolution = (64, 4, 32) if context.small else (3_000, 256, 224)
    config = {"crop_scale": 0.08, "crop_padding": 0.0, "horizontal_flip": True, "mean": (0.5,), "std": (0.25,)}
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=WORK) as folder:
        write_pictures(Path(folder) / "shards", num_images)
        loaded = load_data(
            DataConfig(name="shards", root=f"{folder}/shards", search_share=0.1, test_share=0.1, **config),  # type: ignore[arg-type]
            image_size=resolution,
            memory_limit_bytes=num_images * 3 * resolution**2 // 2,  # what subnets are judged by stays in memory
        )
        context.begin()
        settings = StepSettings(
            machine=machine(context.device),
            device=context.device,
            threads=1,
            batch_size=batch_size,
            resolution=resolution,
            rounds=1,
        )
        made = make_sandwich(
            settings, draw=0, model="ofa_mobilenetv3_tiny" if context.small else "ofa_mobilenetv3_w1.0"
        )
        step = made.steps.sandwich(made.supernet, made.archs[:1])  # more would meet more new shapes
        for _ in range(2):
            step()
        held_ms = [milliseconds(step, context.device) for _ in range(8)]

        def rate(epoch: int, use: Callable[[], object]) -> float:
            """Images a second of an epoch each of whose batches is put to use."""
            started, num = time.perf_counter(), 0
            batches = loaded.train_batches(epoch=epoch, batch_size=batch_size, seed=0, device=context.device)
            for images, labels in batches:
                made.steps.images, made.steps.labels = channels_last(images), labels
                use()
                num += len(images)
            milliseconds(lambda: None, context.device)  # until the card has done it
            return num / (time.perf_counter() - started)

        rates = [(rate(epoch, lambda: None), rate(epoch, step)) for epoch in range(3)]
        alone, fed = map(max, zip(*rates[1:], strict=True))  # the first one starts the processes
        held = 1000 * batch_size / float(np.percentile(held_ms, 10))
        how = f"JPEG files of 500 x 375 in shards, random crops to {resolution} px, {loaded.num_workers} processes"
        context.row("pictures alone", alone, "images/s", how)
        context.row("largest subnet, data on the card", held, "images/s", f"batch {batch_size}")
        context.row("largest subnet, data from shards", fed, "images/s", f"{fed / held:.2f} of that; aim: 0.95")
        evaluator = SubnetEvaluator(made.supernet.eval(), loaded, batch_size=batch_size)
        for name, autocast in (("fp32", nullcontext()), ("bf16", torch.autocast(context.device, torch.bfloat16))):
            with autocast:
                evaluator.values(made.archs[:1])
                ms = milliseconds(lambda: evaluator.values(made.archs[:1]), context.device)
            num = len(loaded.splits.search)
            context.row(
                f"evaluation, {name}", 1000 * num / ms, "images/s", f"{num} images and BN calibration in {ms:.3g} ms"
            )


def write_pictures(out: Path, num: int) -> None:
    """Shards of smooth random pictures of ImageNet's usual size, of ten classes."""
    import io

    import numpy as np
    from PIL import Image

    from ofa.data.readers.source import EncodedImages, Source
    from ofa.data.shards import write_shards

    rng, files = np.random.default_rng(0), []
    for number in range(num):
        buffer = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
        files.append((buffer.getvalue(), f"{number:05}.jpg"))
    write_shards(Source(tuple("abcdefghij"), np.arange(num) % 10, EncodedImages(files)), out)


def calibration(context: Context) -> None:
    import numpy as np
    import torch
    from steps import calibration_times

    from ofa.data import DataConfig, load_data
    from ofa.supernet import create_supernet
    from ofa.training import SubnetEvaluator

    model, resolution = ("ofa_mobilenetv3_tiny", 32) if context.small else ("ofa_mobilenetv3_w1.0", 224)
    torch.manual_seed(0)
    config = DataConfig(name="digits", calibration_share=256 if context.small else 1024, search_share=64)
    data = load_data(config, image_size=resolution)
    supernet = create_supernet(model, num_classes=10, resolution=[resolution]).eval()
    context.begin()
    evaluator = SubnetEvaluator(supernet.to(context.device), data, batch_size=256, num_calibration_images=1024)
    rng = np.random.default_rng(0)
    archs = {"smallest": supernet.space.smallest(), "largest": supernet.space.largest()}
    for name, arch in archs.items():
        context.forget_peak()
        found = calibration_times(evaluator, arch, num_images=1024, pairs=2 if context.small else 7, rng=rng)
        note = f"over a forward pass of {found['forward_ms']:.4g} ms, {found['images']} images of {resolution} px; "
        note += f"{found['calibration_ms']:.4g} ms, fp32, peak {context.peak_gib():.2f} GiB; aim: at most 1.1"
        context.row(f"BN calibration, {name}", found["ratio"], "times", note)


def tables(context: Context) -> None:
    import numpy as np

    from ofa.hardware import Device
    from ofa.hardware.profiler import profile
    from ofa.setting import Setting
    from ofa.supernet import create_supernet

    if context.small:
        model, resolutions, num_fit, num_held_out, rounds, block_seconds = "ofa_mobilenetv3_tiny", [20], 5, 5, 2, 0.001
        variants = [("torch", 1), ("torch", 2)]
    else:
        model, resolutions, num_fit, num_held_out, rounds, block_seconds = (
            "ofa_mobilenetv3_w1.0", [160, 224], 20, 30, 4, 0.004
        )  # fmt: skip
        variants = [("torch-cuda-graph", 1), ("torch-cuda", 64), ("torch-cuda-graph", 64), ("torch-cuda", 1)]
    precision = "fp16" if context.is_cuda else "fp32"
    folder = WORK / "tables"
    took = 5.0
    supernet = create_supernet(model).eval()
    context.begin()
    for runtime, batch in variants:
        name = f"{runtime} {precision}, batch {batch}"
        if not context.has(took, name):
            continue
        print(f"-- {name}", flush=True)
        context.forget_peak()
        started = time.monotonic()
        setting = Setting(runtime=runtime, precision=precision, batch=batch)  # type: ignore[arg-type]
        device = Device(name=f"{runtime}-b{batch}", setting=setting)
        shutil.rmtree(folder / f"{device.name}.csv.partial", ignore_errors=True)
        try:
            table = profile(
                supernet,
                device,
                csv_path=folder / f"{device.name}.csv",
                rng=np.random.default_rng(0),
                num_fit=num_fit,
                num_held_out=num_held_out,
                resolutions=resolutions,
                rounds=rounds,
                block_seconds=block_seconds,
                fresh=True,
                force=True,
            )
        except Exception as error:  # the others are to run all the same
            traceback.print_exc()
            context.row(name, "failed", note=f"{type(error).__name__}: {error}"[:300])
            continue
        took = time.monotonic() - started
        held_out, measured = table.held_out or {}, np.array((table.held_out or {})["measured_ms"])
        note = (
            f"held-out MAPE; bias {held_out['bias_percent']:+.2f} %, worst {held_out['worst_percent']:.1f} %, Spearman "
            f"{_rank(held_out['spearman'])}; MACs only: {held_out['macs_only_mape_percent']:.2f} %, Spearman "
            f"{_rank(held_out['macs_only_spearman'])}; 90 % within {table.interval_percent:.2f} %; "
            f"{len(table.entries)} parts and {num_fit} + {num_held_out} subnets of {measured.min():.3g} to "
            f"{measured.max():.3g} ms, {table.details['num_blocks']} blocks, {took:.0f} s"
        )
        note += f", peak {context.peak_gib():.1f} GiB" if context.is_cuda else ""
        context.row(name, held_out["mape_percent"], "%", note)


def _rank(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def elastic(context: Context) -> None:
    import numpy as np
    import torch

    from ofa.data import DataConfig, load_data
    from ofa.deploy.elastic_runtime import ElasticRuntime
    from ofa.deploy.elastic_write import ElasticOptions, write_elastic
    from ofa.supernet import create_supernet
    from ofa.training import SubnetEvaluator
    from ofa.training.recipe import ModelConfig

    model, resolution = ("ofa_mobilenetv3_tiny", 32) if context.small else ("ofa_mobilenetv3_w1.0", 224)
    torch.manual_seed(0)
    torch.set_num_threads(2)  # another part may be timing
    rng = np.random.default_rng(0)
    supernet = create_supernet(model, num_classes=10).eval()
    data = load_data(
        DataConfig(name="digits", limit=64, calibration_share=64, search_share=32, test_share=64),
        image_size=resolution,
    )
    evaluator = SubnetEvaluator(supernet, data, batch_size=32, num_calibration_images=32)
    space = supernet.space
    archs = {
        name: space.arch({**arch, "resolution": resolution})
        for name, arch in {"small": space.smallest(), "middle": space.sample(rng), "large": space.largest()}.items()
    }
    folder = Path(tempfile.mkdtemp(prefix="gpu-", dir=WORK))
    try:
        started = time.monotonic()
        quick = ElasticOptions(runtimes=("torch",), rounds=2, block_seconds=0.002)
        write_elastic(evaluator, archs, folder / "elastic", rng=rng, model=ModelConfig(name=model), options=quick)
        written = time.monotonic() - started
        batches = {
            name: next(iter(evaluator.batches("calibration", arch)))[0].tensors[0] for name, arch in archs.items()
        }
        images = {name: batch[:8].numpy() for name, batch in batches.items()}
        context.begin()
        context.row("written", written, "s", f"on the CPU, three subnets of {model}, {resolution} px")
        elastic_rows(context, folder / "elastic", images, rng)
        one = ElasticRuntime(folder / "elastic", "torch", device=context.device, max_loaded=1)
        switches = []
        for turn in range(6):
            started = time.perf_counter()
            one.use(("small", "large")[turn % 2])
            switches.append(1000 * (time.perf_counter() - started))
        note = "to a subnet that is not loaded (max_loaded=1), with its first image; median"
        context.row("switch and load", float(np.median(switches)), "ms", note)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def elastic_rows(context: Context, path: Path, images: Mapping[str, Any], rng: Any) -> None:
    """Args: images: Of each subnet, such as it was calibrated on; untrained, it makes noise of any others."""
    import numpy as np
    import torch

    from ofa.deploy.elastic_runtime import ElasticRuntime

    context.forget_peak()
    expected, runtime = ElasticRuntime(path, "torch"), ElasticRuntime(path, "torch", device=context.device)

    def difference() -> float:
        """The largest of a logit, over the largest logit."""
        differences = []
        for name, batch in images.items():
            expected.use(name)
            runtime.use(name)
            logits = expected.run(batch)
            differences.append(float(np.abs(runtime.run(batch) - logits).max() / np.abs(logits).max()))
        return max(differences)

    note = "of a logit from that of the CPU, over the largest logit; {}"
    if context.is_cuda:
        context.row("largest difference, TF32", f"{difference():.2g}", note=note.format("untrained weights, cuDNN"))
        torch.backends.cudnn.enabled = False  # which rounds to TF32; torch's own kernels do not
    exact = difference()
    torch.backends.cudnn.enabled = True
    context.row(
        "largest difference", f"{exact:.2g}" if exact < 1e-3 else "failed", note=note.format(f"{exact:.2g} in fp32")
    )
    measured = runtime.measure(rng=rng, rounds=4, block_seconds=0.05)
    for subnet, latency in zip(runtime.subnets, measured.latency_ms, strict=True):
        note = f"p50 of one image numpy to numpy, on {measured.device}; p10 {latency.p10:.4g}, p90 {latency.p90:.4g}"
        context.row(f"latency, {subnet.name}", latency.p50, "ms", note)
    names = [subnet.name for subnet in runtime.subnets]
    times = []
    for turn in range(3000):
        started = time.perf_counter_ns()
        runtime.use(names[turn % len(names)])
        times.append((time.perf_counter_ns() - started) / 1000)
    p50, p99 = np.percentile(times, [50, 99])
    context.row("switch", float(p50), "µs", f"p50; p99 {p99:.2g} µs; all are loaded")
    if context.is_cuda:
        context.row("memory", context.peak_gib() * 1024, "MiB", "peak, three subnets loaded")


DOING: dict[str, Callable[[Context], None]] = {
    CARD: card,
    "tests": tests,
    "training": training,
    "options": options,
    "throughput": throughput,
    "data": data,
    "calibration": calibration,
    "tables": tables,
    "elastic": elastic,
    "compile": compiled,
}


# -- the command -------------------------------------------------------------------------------------------------------


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=list(SHARES), metavar="PART")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is missing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small models and few rounds; always with --device cpu")
    parser.add_argument("--child", choices=tuple(DOING), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.small |= options.device == "cpu"
    options.out = WORK if options.device == "cpu" else options.out.resolve()
    options.parts = [part for part in SHARES if part in options.parts]
    return options


def environment(*first: Path) -> Iterator[tuple[str, str]]:
    """Of the parts: this checkout, and what was installed for them, before everything else."""
    yield from os.environ.items()
    there = os.environ.get("PYTHONPATH")
    yield "PYTHONPATH", os.pathsep.join([*map(str, first), str(ROOT), *([there] if there else [])])
    yield "PYTHONUNBUFFERED", "1"


def main(words: Sequence[str] | None = None) -> int:
    started = time.monotonic()
    options = parse(words)
    if options.child:
        DOING[options.child](Context(options))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped and the page is written
    target = Path(tempfile.mkdtemp(prefix="ofa-gpu-"))
    try:
        missing = missing_modules(options.parts)
        if missing and options.wheels is not None:
            problem = install(missing, options.wheels, target)
            if problem:
                say(f"{problem}\n{what_is_missing(missing, options.parts)}")
                return 2
        elif missing:
            say(what_is_missing(missing, options.parts))
            return 2
        return Parent(options, dict(environment(target)), started).run()
    except KeyboardInterrupt:
        say("interrupted; the parts that had ended are on the page")
        return 130
    finally:
        shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
