"""Break things while `ofa` works, and see whether something is lost, hangs, or ends in a traceback.

    python scripts/faults.py --out docs/results/faults/trials.csv [--trials 300] [--kinds killed lying …] [--work DIR]

A trial takes a command of `ofa`, does something to it or to what it reads, and judges what is left: nothing that
was said to be saved is lost, the command ends in time, a user's mistake gets exit status 2 and a message, no stranger's
code runs. Kinds take turns. Everything works on digits with a network of seconds, in ``--work``, which is made first
and used again. Rows are appended to ``--out`` as they come, and a second start goes on after them; the same ``--seed``
draws the same trials. 300 take about 40 minutes on two cores. The page of results is written beside the folder of
``--out``. Exit status 1 if something broke.

What needs a disk of its own (full, read-only) mounts one in memory, and is skipped where that is not allowed.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import page, parsed, parser_of, read_rows, say, table_text

from ofa.deploy import ElasticRuntime
from ofa.files import sha256_of_file, write_text_atomic

LIMIT_SECONDS = 180
LEFT_SECONDS = 20  # until a stopped command's own processes have ended
DEVICE = "cpu-1t"
TINY = ["data.limit=128", "train.epochs=3", "train.batch_size=32", "train.device=cpu", "model.resolution=[12,16]"]
TINY += ["model.depth=[1,2]", "train.eval_every_epochs=1"]
BUDGETS = ["--budget-ms", "900", "1000"]
OUTCOMES = ("held", "broke", "skipped")
COLUMNS = ("kind", "number", "what", "outcome", "detail", "seconds")
CANARY = "canary"


class BrokeError(Exception):
    """Something that must hold does not."""


class SkippedError(Exception):
    """This machine does not allow the trial."""


def check(holds: object, detail: str) -> None:
    if not holds:
        raise BrokeError(detail)


@dataclass(frozen=True)
class Ended:
    """How a command ended; ``status`` is negative where a signal ended it."""

    status: int
    output: str

    def judge(self, *allowed: int) -> Ended:
        """No traceback, but where it says that the fault is its own, and one of the exit statuses."""
        last = " ".join(self.output.split())[-300:]
        check("Traceback (most recent call last)" not in self.output, f"traceback: {last}")
        check(self.status in allowed, f"status {self.status}, not {' or '.join(map(str, allowed))}: {last}")
        return self


@dataclass(frozen=True)
class World:
    """What all trials begin with, and how commands are called.

    Args:
        base: Run, tables, bundle and artefact, which nothing changes.
        seconds: How long each command takes undisturbed.
    """

    base: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def command(self, name: str, out: Path, base: Path | None = None) -> list[str]:
        """One of :data:`COMMANDS` that writes below ``out``; ``base`` has what it reads."""
        places = {"base": str(base or self.base), "out": str(out)}
        return [word.format(**places) for word in COMMANDS[name]]

    def start(self, words: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[bytes]:
        """The command in a session of its own; what it prints is in a file in ``folder``."""
        own = {"XDG_CONFIG_HOME": str(self.base / "config"), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
        with (folder / f"{len(list(folder.glob('*.log')))}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ofa", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **own, **environment},
                start_new_session=True,
            )
        process.log = Path(log.name)  # type: ignore[attr-defined]
        return process

    def end(self, process: subprocess.Popen[bytes], limit_seconds: float = LIMIT_SECONDS) -> Ended:
        """Wait; :class:`BrokeError` if it takes too long, or leaves processes behind."""
        try:
            status = process.wait(limit_seconds)
            check(alone(process.pid), "processes of its own go on after it has ended")
        except subprocess.TimeoutExpired:
            raise BrokeError(f"not done in {limit_seconds:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ended(status, process.log.read_text(errors="replace"))  # type: ignore[attr-defined]

    def run(self, words: Sequence[str], folder: Path, **environment: str) -> Ended:
        return self.end(self.start(words, folder, **environment))


def alone(group: int) -> bool:
    """Whether all processes of a group end within some seconds."""
    patience = time.monotonic() + LEFT_SECONDS
    while time.monotonic() < patience:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


WHERE = ["--run", "{base}/run", "--device", DEVICE]
COMMANDS = {
    "train": ["train", "demo", *TINY, "--out", "{out}/run", "--resume"],
    "profile": ["profile", *WHERE, "--out", "{out}/tables", "--num-fit", "4", "--num-held-out", "2", "--force"],
    "search": [
        "search",
        *WHERE,
        "--tables",
        "{base}/tables",
        "--out",
        "{out}/search",
        "--num-evaluations",
        "8",
        *BUDGETS,
    ],
    "export": ["export", *WHERE, *BUDGETS[:2], "--out", "{out}/bundle", "--overwrite"],
    "deploy": ["deploy", *WHERE, *BUDGETS, "--out", "{out}/deploy", "--workers", "2"],
    "elastic": ["elastic", *WHERE, *BUDGETS, "--out", "{out}/elastic", "--overwrite"],
    "finetune": ["finetune", "--run", "{base}/run", "--arch", "smallest", "--out", "{out}/tuned", "--resume"],
    "report": ["report", "--run", "{base}/run", "--tables", "{base}/tables", "--out", "{out}/report.html"],
    "data check": ["data", "check", "data.name=digits", "--out", "{out}/data", "--workers", "2"],
    "verify": ["verify", "{base}/bundle"],
}
LONG = [name for name in COMMANDS if name != "verify"]
RUNS = {"train": "run", "finetune": "tuned"}
MAKES = {"export": "bundle", "elastic": "elastic"}
"""Folders that are replaced whole: the old one or the new one is there at any time."""


def make_world(base: Path) -> World:
    """Everything that trials read, made once."""
    world, log = World(base), base / "seconds.json"
    if not log.exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        for name in COMMANDS:
            say(f"making what trials begin with: {name}")
            words, started = world.command(name, base), time.monotonic()
            if name == "search":
                words[words.index("--out") + 1] = str(base / "run" / "search")
            world.run(words, base).judge(0)
            world.seconds[name] = time.monotonic() - started
        log.write_text(json.dumps(world.seconds))
    world.seconds.update(json.loads(log.read_text()))
    return world


def judge_result(world: World, name: str, out: Path) -> None:
    """What a command left, when it has come to its end at last, is what it would have left undisturbed."""
    if name in RUNS:
        runs = [each / RUNS[name] for each in (out, world.base)]
        found, expected = (sha256_of_file(run / "supernet.safetensors") for run in runs)
        check(found == expected, "the weights are not those of an undisturbed training")
        epochs = [pd.read_csv(run / "metrics.csv")["step"].tolist() for run in runs]
        check(epochs[0] == epochs[1], f"metrics.csv has steps {epochs[0]}, not {epochs[1]}")
    elif name == "profile":
        tables = [list((each / "tables").glob(f"{DEVICE}/*.json")) for each in (out, world.base)]
        keys = [json.loads(path.read_text())["keys"] for (path,) in tables]
        check(keys[0] == keys[1], "the table has other parts")
    elif name == "search":
        picks = json.loads((out / "search" / DEVICE / "selected.json").read_text())["picks"]
        check(len(picks) == 2, f"{len(picks)} picks for two budgets")
    elif name == "report":
        check("</html>" in (out / "report.html").read_text(), "the page is not whole")
    elif name == "data check":
        found, expected = (sha256_of_file(each / "data/data.json") for each in (out, world.base))
        check(found == expected, "other findings than those of an undisturbed check")
    else:
        judge_folders(world, name, out)


def judge_folders(world: World, name: str, out: Path) -> None:
    """Bundles verify, an artefact opens, and nothing lies about beside them."""
    for bundle in sorted(out.glob("bundle/bundle.json")) + sorted(out.glob("deploy/*/bundle.json")):
        world.run(["verify", str(bundle.parent)], out).judge(0)
    if name == "elastic":
        ElasticRuntime(out / "elastic")
    litter = [path.name for path in out.glob(".*") if path.is_dir()]
    check(not litter, f"left behind: {', '.join(litter)}")


# -- what is done to them: a kind of trial each, by name; each says what it did, or raises -----------------------------


@dataclass(frozen=True)
class Trial:
    """One trial: its folder, which is new and empty, its number and its randomness."""

    world: World
    folder: Path
    number: int
    rng: np.random.Generator

    def pick(self, choices: Sequence[Any]) -> Any:
        """Each in turn, so that few trials see many."""
        return choices[self.number % len(choices)]

    def run(self, words: Sequence[str], **environment: str) -> Ended:
        return self.world.run(words, self.folder, **environment)

    def copied(self) -> Path:
        """What all trials begin with, to be changed."""
        return Path(shutil.copytree(self.world.base, self.folder / "base"))


def ended_early(trial: Trial, signum: signal.Signals) -> str:
    """A command is ended at a random moment, and started again."""
    world, out, name = trial.world, trial.folder, trial.pick(LONG)
    after = float(trial.rng.uniform(0.2, 1.05)) * world.seconds[name]
    if name in MAKES:
        shutil.copytree(world.base / MAKES[name], out / MAKES[name])
    words = world.command(name, out)
    process = world.start(words, out)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    if process.poll() is None:
        os.kill(process.pid, signum)
    # A signal that comes before the command has set anything up ends it as it ends any program.
    allowed = [0, -signum] if signum == signal.SIGKILL else [0, 128 + signum, -signum]
    world.end(process).judge(*allowed)
    what = f"{name}, {signum.name} after {after:.1f} s"
    if name in MAKES:
        check((out / MAKES[name]).is_dir(), f"{what}: neither the old nor the new {MAKES[name]} is there")
        with contextlib.suppress(BrokeError):  # litter is for the next start to remove
            judge_folders(world, name, out)
    trial.run(words).judge(0)
    judge_result(world, name, out)
    return what


def killed(trial: Trial) -> str:
    return ended_early(trial, signal.SIGKILL)


def stopped(trial: Trial) -> str:
    return ended_early(trial, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP][trial.number // len(LONG) % 3])


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A disk in memory."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        raise SkippedError("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def full_disk(trial: Trial) -> str:
    """There is less space than the command needs; then there is enough."""
    name, size = trial.pick(LONG), int(trial.rng.integers(4, 600))
    with disk(trial.folder / "disk", f"size={size}k") as out:
        words = trial.world.command(name, out)
        ended = trial.run(words).judge(0, 2)
        if ended.status == 2:
            subprocess.run(["mount", "-o", "remount,size=1g", out], check=True)
            trial.run(words).judge(0)
        judge_result(trial.world, name, out)
    return f"{name}, {size} kB"


def read_only_disk(trial: Trial) -> str:
    name = trial.pick(LONG)
    with disk(trial.folder / "disk", "size=1m") as out:
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        ended = trial.run(trial.world.command(name, out)).judge(2)
        check("disk" in ended.output, f"the message names no place: {ended.output[-200:]}")
    return name


READERS = {
    "run/supernet.json": ["profile", "search", "report", "export"],
    "run/supernet.safetensors": ["profile", "export"],
    "run/metrics.csv": ["report"],
    "run/checkpoints/*": ["train"],
    f"run/search/{DEVICE}/front.csv": ["report", "export", "deploy"],
    f"run/search/{DEVICE}/selected.json": ["report", "elastic"],
    "run/search/evaluations.csv": ["search"],
    f"tables/{DEVICE}/*.json": ["search", "report"],
    f"tables/{DEVICE}/*.csv": ["search"],
    "bundle/bundle.json": ["verify"],
    "bundle/SHA256SUMS": ["verify"],
    "bundle/model.onnx": ["verify"],
    "bundle/samples/outputs.npy": ["verify"],
    "bundle/samples/000.png": ["verify"],
    "config/ofa/trusted.json": ["report"],
}


def damaged(trial: Trial) -> str:
    """A file is cut, zeroed, overwritten or doubled in some place."""
    base, pattern = trial.copied(), trial.pick(list(READERS))
    name = READERS[pattern][trial.number // len(READERS) % len(READERS[pattern])]
    file = next(iter(sorted(base.glob(pattern))), base / "none")
    content = file.read_bytes() if file.exists() else b""
    place = int(trial.rng.integers(len(content) + 1))
    end = place + int(trial.rng.integers(1, 2000))
    how, changed = [
        ("cut", content[:place]),
        ("zeroed", content[:place] + bytes(len(content[place:end])) + content[end:]),
        ("overwritten", content[:place] + trial.rng.bytes(len(content[place:end])) + content[end:]),
        ("doubled", content + content[place:]),
        ("emptied", b""),
    ][int(trial.rng.integers(5))]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(changed)
    if name == "train":
        (base / "run/supernet.json").unlink()  # else there is nothing to go on with
    out = base if name == "train" else trial.folder
    words = trial.world.command(name, out, base)
    words += ["--refine"] if name == "search" and "evaluations" in pattern else []
    trial.run(words, XDG_CONFIG_HOME=str(base / "config")).judge(0, 1, 2)
    return f"{name}, {pattern} {how} at {place}"


ABSURD = [
    ["train", "demo", "train.epochs=.inf", "--out", "x"],
    ["train", "demo", "train.clip_grad_norm=.nan", "--out", "x"],
    ["train", "demo", "train.optimizer=adamv", "--out", "x"],
    ["train", "demo", "train.seed=" + "9" * 5000, "--out", "x"],
    ["train", "demo", "model.depth={1: [1]}", "--out", "x"],
    ["train", "demo", "model.depth=" + "[" * 3000, "--out", "x"],
    ["train", "demo", "data.root=/dev/zero", "data.name=folder", "--out", "x"],
    ["train", "demo", "train.learning_rate=!!int x", "--out", "x"],
    ["inspect", "mobilenetv3_larg_100"],
    ["inspect", "resnet18", "depth={1: [1]}"],
    ["profile", *WHERE, "--seed", "-1", "--out", "x"],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "inf"],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "nan"],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "1", "--seed", str(1 << 70)],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "1000", "--num-evaluations", "0", "--refine"],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "1000", "--start-from", "/dev/null", "--refine"],
    ["search", *WHERE, "--tables", "{base}/tables", "--budget-ms", "1000", "--max", "macs=-5", "--refine"],
    ["export", *WHERE, "--budget-ms", "-1", "--out", "x"],
    ["export", *WHERE, "--budget-ms", "1e-9", "--out", "x"],
    ["deploy", *WHERE, "--budget-ms", "inf", "--out", "x"],
    ["verify", "/dev/null"],
    ["verify", "{base}/bundle", "--device", "../../etc/passwd"],
    ["report", "--run", "{base}/run/[/red]"],
    ["fit", "--space", "{base}/run", "--csv", "/dev/null", "--device", "../../x"],
]


def absurd(trial: Trial) -> str:
    """What nobody should ask for gets exit status 2, a message, and leaves nothing."""
    words = [word.replace("{base}", str(trial.world.base)) for word in trial.pick(ABSURD)]
    ended = trial.run(words).judge(2)
    check(ended.output.strip(), "no message")
    check(len(ended.output) < 5000, f"a message of {len(ended.output)} characters")
    return " ".join(words)[:100]


def hostile(trial: Trial) -> str:
    """What a stranger sends runs no code, writes nowhere else, and does not hang."""
    base, name = trial.copied(), trial.pick(list(HOSTILE))
    trial.run(HOSTILE[name](base), XDG_CONFIG_HOME=str(base / "config")).judge(0, 1, 2)
    found = [*trial.folder.glob(f"{CANARY}*"), *base.glob(f"{CANARY}*")]
    check(not found, "a stranger's code has run, or it has written elsewhere")
    return name


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def hostile_pickle(base: Path) -> list[str]:
    opens = f"cbuiltins\nopen\n(V{base / CANARY}\nVw\ntR."
    (base / "weights.pth").write_bytes(opens.encode())
    return ["train", "demo", *TINY, f"model.weights={base / 'weights.pth'}", "--out", f"{base}/new"]


def hostile_yaml(base: Path) -> list[str]:
    (base / "evil.yaml").write_text(f"name: !!python/object/apply:builtins.open ['{base / CANARY}', w]\n")
    return ["train", f"{base}/evil.yaml", "--out", f"{base}/new"]


def hostile_aliases(base: Path) -> list[str]:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    (base / "evil.yaml").write_text("\n".join(lines))
    return ["train", f"{base}/evil.yaml", "--out", f"{base}/new"]


def hostile_model(base: Path) -> list[str]:
    (base / "evil.py").write_text(f"open({str(base / CANARY)!r}, 'w')\ndef build(**kwargs): ...\n")
    edited(base / "run/supernet.json", lambda info: info["recipe"]["model"].update(name=f"{base}/evil.py:build"))
    return ["profile", "--run", f"{base}/run", "--device", DEVICE, "--out", f"{base}/new"]


def hostile_device(base: Path) -> list[str]:
    (base / "evil.yaml").write_text(f"name: ../../{CANARY}\nruntime: onnxruntime\n")
    return ["profile", "--run", f"{base}/run", "--device", f"{base}/evil.yaml", "--out", f"{base}/new"]


def hostile_picture(base: Path) -> list[str]:
    """PostScript that is called a picture, and a pipe among the others."""
    for label in "ab":
        (base / "photos" / label).mkdir(parents=True)
    (base / "photos/a/x.png").write_text(
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({base / CANARY}) (w) file\n"
    )
    os.mkfifo(base / "photos/b/y.png")
    return ["train", "demo", "data.name=folder", f"data.root={base}/photos", "--out", f"{base}/new"]


def hostile_script(base: Path) -> list[str]:
    with (base / "bundle/predict.py").open("a") as file:
        file.write(f"\nopen({str(base / CANARY)!r}, 'w')\n")
    return ["verify", f"{base}/bundle"]


def hostile_names(base: Path) -> list[str]:
    edited(base / "bundle/bundle.json", lambda info: info.update(device="\x1b[2J[/red][bold]", classes=["[/x]"] * 10))
    return ["verify", f"{base}/bundle"]


def hostile_link(base: Path) -> list[str]:
    (base / "bundle/model.onnx").unlink()
    (base / "bundle/model.onnx").symlink_to("/dev/zero")
    return ["verify", f"{base}/bundle"]


def hostile_page(base: Path) -> list[str]:
    edited(base / "run/supernet.json", lambda info: info["recipe"].update(name="<script>alert(1)</script>"))
    return ["report", "--run", f"{base}/run", "--out", f"{base}/new.html"]


HOSTILE = {
    each.__name__.removeprefix("hostile_"): each
    for each in (
        *(hostile_pickle, hostile_yaml, hostile_aliases, hostile_model, hostile_device, hostile_picture),
        *(hostile_script, hostile_names, hostile_link, hostile_page),
    )
}


def two_at_once(trial: Trial) -> str:
    """Two of one command into one folder: one is done, the other as well or refused, and the result is whole."""
    world, out, name = trial.world, trial.folder, trial.pick(LONG)
    words = world.command(name, out)
    first = world.start(words, out)
    time.sleep(float(trial.rng.uniform(0, 0.5)) * world.seconds[name])
    second = world.start(words, out)
    ended = [world.end(process).judge(0, 2) for process in (first, second)]
    check(any(each.status == 0 for each in ended), "neither of the two is done")
    judge_result(world, name, out)
    return name


LIES = {
    "says nothing": "",
    "hangs in a process of its own": "subprocess.run(['sleep', '600'])",
    "hangs": "time.sleep(600)",
    "talks without end": "while True: say('{}')",
    "talks without line ends": "while True: print('x' * 4096, end='')",
    "progress without end": 'while True: say(\'{"lines": [], "offset": 0}\'); time.sleep(0.1)',
    "no JSON": "say('{')",
    "a list": "say('[]')",
    "no keys": "say('{}')",
    "nested": "say('[' * 100_000)",
    "digits": "say('9' * 100_000)",
    "wrong types": 'say(\'{"missing": 5, "numpy": [], "state": {}, "result": 1, "lines": 3, "offset": []}\')',
    "other files": 'say(\'{"missing": ["../../canary"], "numpy": true, "state": "finished", "result": {}}\')',
    "escapes": "sys.exit('\\x1b[2J[/red]')",
    "bytes": "sys.stdout.buffer.write(b'ofa: \\xff\\xfe\\n')",
}
LIAR = """#!{python}
import subprocess, sys, time
def say(text): print("ofa: " + text, flush=True)
{lie}
"""


def lying(trial: Trial) -> str:
    """A machine at the other end of ssh that answers what no runner does."""
    name = trial.pick(list(LIES))
    program = trial.folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(LIAR.format(python=sys.executable, lie=LIES[name]))
    program.chmod(0o755)
    (trial.folder / "liar.yaml").write_text(
        "runtime: onnxruntime\n"
        "host: {name: ssh, address: liar, retries: 0, answer_seconds: 5, connect_seconds: 1, job_seconds: 20}\n"
    )
    words = ["profile", "--run", f"{trial.world.base}/run", "--device", "liar.yaml", "--out", "tables"]
    ended = trial.run(words, PATH=f"{program.parent}:{os.environ['PATH']}").judge(2)
    check("\x1b[2J" not in ended.output, "its escape sequences reach the terminal")
    return name


def threads(trial: Trial) -> str:
    """Requests of several threads while another one switches: each is answered by one subnet, whole."""
    runtime = ElasticRuntime(trial.world.base / "elastic")
    names = [subnet.name for subnet in runtime.info.subnets]
    expected, pictures = {}, {}
    for name in names:
        runtime.use(name)
        shape = runtime.current.input_shape
        pictures.setdefault(shape, trial.rng.random((1, *shape), dtype=np.float32))
        expected[name] = runtime.run(pictures[shape])
    wrong: list[str] = []
    until = time.monotonic() + 2

    def ask() -> None:
        while time.monotonic() < until:
            subnet = runtime.current
            found = subnet.run(pictures[subnet.input_shape])
            if not np.allclose(found, expected[subnet.name], atol=1e-5):
                wrong.append(subnet.name)

    workers = [threading.Thread(target=ask) for _ in range(4)]
    for worker in workers:
        worker.start()
    num_switches = 0
    while time.monotonic() < until:
        runtime.use(names[int(trial.rng.integers(len(names)))])
        num_switches += 1
    for worker in workers:
        worker.join()
    check(not wrong, f"{len(wrong)} wrong answers")
    return f"{num_switches} switches"


KINDS: dict[str, Callable[[Trial], str]] = {
    each.__name__: each
    for each in (*(killed, stopped, full_disk, read_only_disk, damaged, absurd, hostile, two_at_once, lying, threads),)
}
ABOUT = {
    "killed": "SIGKILL at a random moment, then the command again",
    "stopped": "SIGTERM, SIGINT, SIGHUP likewise",
    "full_disk": "4 to 600 kB of space, then enough",
    "read_only_disk": "a place that cannot be written",
    "damaged": "a file cut, zeroed, overwritten, doubled, emptied",
    "absurd": "values that nobody should ask for",
    "hostile": "files that a stranger made to run code, to write elsewhere, or to hang",
    "two_at_once": "two of one command into one folder",
    "lying": "a machine behind ssh that answers nonsense, or without end",
    "threads": "four threads ask an elastic artefact while it switches",
}


# -- the campaign ------------------------------------------------------------------------------------------------------


def plan(kinds: Sequence[str], num_trials: int, done: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Kinds and numbers of the trials that are left; kinds take turns."""
    wanted = [(kinds[index % len(kinds)], index // len(kinds)) for index in range(num_trials)]
    known = {(row["kind"], int(row["number"])) for row in done}
    return [each for each in wanted if each not in known]


def try_out(world: World, kind: str, number: int, seed: int) -> dict[str, Any]:
    """A trial as a row."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    row: dict[str, Any] = {"kind": kind, "number": number, "what": "", "outcome": "held", "detail": ""}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ofa-faults-", ignore_cleanup_errors=True) as folder:
        try:
            row["what"] = KINDS[kind](Trial(world, Path(folder), number, rng))
        except (BrokeError, SkippedError) as error:
            row |= {"outcome": "broke" if isinstance(error, BrokeError) else "skipped", "detail": str(error)}
    plain = {name: " ".join(str(value).split()) for name, value in row.items()}
    return {**plain, "number": number, "seconds": round(time.monotonic() - started, 1)}


def append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A line per kind, in Markdown."""
    lines = []
    for kind, about in ABOUT.items():
        own = [row for row in rows if row["kind"] == kind]
        counts = [sum(row["outcome"] == outcome for row in own) for outcome in OUTCOMES]
        if own:
            lines.append([kind.replace("_", " "), about, len(own), *counts])
    return table_text(["kind", "what is done", "trials", *OUTCOMES], lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/faults/trials.csv"))
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/faults"))
    options = parsed(parser, words)
    world = make_world(options.work.resolve())
    rows = read_rows(options.out, what=str, detail=str)
    left = plan(options.kinds, options.trials, rows)
    for index, (kind, number) in enumerate(left, start=1):
        row = try_out(world, kind, number, options.seed)
        append(options.out, row)
        rows.append(row)
        say(f"{index}/{len(left)} {kind}: {row['outcome']}: {row['what'] or row['detail']} ({row['seconds']} s)")
    broken = [row for row in rows if row["outcome"] == "broke"]
    text = page(
        "faults.md",
        command=f"python scripts/faults.py {' '.join(options.words)}".strip(),
        num=len(rows),
        table=summary(rows),
        broken=table_text(
            ["kind", "number", "what was found"], [[r["kind"], r["number"], r["detail"][:200]] for r in broken]
        ),
        num_broken=len(broken),
        csv=f"{options.out.parent.name}/{options.out.name}",
    )
    write_text_atomic(options.out.parent.with_suffix(".md"), text)
    print(summary(rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
