"""The command line as a user meets it: messages, exit statuses, no tracebacks."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

import ofa.cli
import ofa.cli.commands
import ofa.cli.inspection
import ofa.cli.printing
from ofa import workflow
from ofa.training import Run, StoppedError, load_recipe, train

ROOT = Path(__file__).parents[1]
TINY = ["data.limit=200", "train.epochs=1", "train.batch_size=64", "model.resolution=[16,20]", "model.depth=[1,2]"]

TINNY = ["--run", "ofa_mobilenetv3_tinny", "--device", "cpu-1t"]
WHOLE = [f'model.{kind}=["100%"]' for kind in ("depth", "expand", "width")]


def ofa_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the entry point in this process; exit status, standard output, standard error with its line breaks undone."""
    arguments, sys.argv = sys.argv, ["ofa", *words]
    try:
        ofa.cli.main()
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.argv = arguments
    captured = capsys.readouterr()
    return status, captured.out, " ".join(captured.err.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained for an epoch."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(load_recipe("demo", TINY), out)
    return out


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "demx", "--out", "x"], "unknown recipe 'demx'; did you mean 'demo'?"),
        (["train", "demo", "train.epohcs=3", "--out", "x"], "unknown key 'epohcs'; did you mean 'epochs'?"),
        (["train", "demo", "train.epochs=many", "--out", "x"], "train: epochs must be a finite number, not 'many'"),
        (["train", "demo", "model.name=mobilenetv33", "--out", "x"], "unknown preset or timm model 'mobilenetv33'"),
        (["train", "demo", "model.name=resnet18", *WHOLE, "--out", "x"], "nothing in ResNet can be made elastic"),
        (["train", "demo", "model.grow_from=nowhere/small", "--out", "x"], "no run folder at nowhere/small"),
        (["train", "demo", "model.growth=linear", "--out", "x"], "needs a run to grow from; give model.grow_from"),
        (["train", "demo", "model.kernel=[4]", "--out", "x"], "choices of 'kernel' must be odd"),
        pytest.param(
            ["train", "demo", "train.device=cuda", "--out", "x"],
            "torch sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        (["train", "demo", "data.name=folder", "data.root=nowhere", "--out", "x"], "nowhere"),
        (["inspect", "mobilenetv3_larg_100"], "did you mean 'mobilenetv3_large_100'? the nearest of "),
        (
            ["inspect", "resnet18", "dept=[1]"],
            "unknown elastic choice 'dept'; did you mean 'depth'? known: depth, kernel",
        ),
        (["inspect", "resnet18", "depth=2"], "choices of 'depth' must be a list of positive numbers"),
        (["inspect", "resnet18", "width.stag1=[8]"], "unknown stage in choices of 'width': 'stag1'"),
        (
            ["inspect", "resnet18", 'expand=["100%"]', 'depth=["100%"]', 'width=["100%"]'],
            "nothing in ResNet can be made",
        ),
        (["inspect", "test_vit", "resolution=[100]"], "100 pixel"),
        (["inspect", "nowhere/run"], "no run folder at nowhere"),
        (["profile", *TINNY], "did you mean 'ofa_mobilenetv3_tiny'?"),
        (["profile", "--run", "ofa_mobilenetv3_tiny", "--device", "cpu-1"], "cpu-1t"),
        (["profile", *TINNY, "--rounds", "1"], "--rounds must be at least 2, not 1"),
        (["profile", *TINNY, "--max-minutes", "nan"], "--max-minutes must be at least 0, not nan"),
        (["measure", "x.onnx", "--device", "cpu-1t", "--rounds", "0"], "--rounds must be at least 2, not 0"),
        (
            ["measure", "x.onnx", "--device", "cpu-1t", "--block-ms", "nan"],
            "--block-ms must be from 1 to 60000",
        ),
        (
            ["fit", "--space", "x", "--csv", "x", "--device", "x", "--propose", "-3"],
            "--propose must be at least 0",
        ),
        (["data", "shard", ".", "--out", "x", "--shard-mb", "0"], "--shard-mb must be at least 1, not 0"),
        (["search", "--run", "nowhere", "--device", "cpu-1t", "--budget-ms", "1"], "no run folder at nowhere"),
        (
            ["search", "--run", "x", "--device", "x", "--budget-ms", "1", "--num-evaluations", "1"],
            "--num-evaluations must be at least 2, not 1",
        ),
        (
            ["search", "--run", "x", "--device", "x", "--budget-ms", "1", "--workers", "0"],
            "--workers must be at least 1, not 0",
        ),
        (["search", "--run", "nowhere", "--device", "cpu-1t"], "for --budget-ms X, for --min-metric X, or for both"),
        (["search", "--run", "nowhere", "--device", "cpu-1t", "--min-top1", "90"], "no run folder at nowhere"),
        (
            ["search", "--run", "nowhere", "--device", "cpu-1t", "--budget-ms", "1", "--replace-below", "60"],
            "a chance between 0 and 1, such as 0.6, not 60",
        ),
        (["verify", "nowhere"], "nowhere"),
        (["report", "--run", "nowhere"], "no run folder at nowhere"),
        (["push", "nowhere", "me/flowers"], "nowhere is neither a run nor a bundle: there is no such folder"),
        (["push", "nowhere", "flowers"], "'flowers' names no repository; say OWNER/NAME"),
        (["pull", "flowers", "--out", "x"], "'flowers' names no repository; say OWNER/NAME"),
    ],
)
def test_mistakes_get_a_message_and_status_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = ofa_command(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_the_whole_way_in_small(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command takes what the one before left; --json gives scripts what people read."""
    tables, search, bundle = (str(tmp_path / name) for name in ("tables", "search", "bundle"))
    where = ["--run", str(run), "--device", "cpu-1t"]
    words = ["profile", *where, "--out", tables, "--num-fit", "4", "--num-held-out", "4", "--force", "--json"]
    status, out, _ = ofa_command(capsys, *words)
    assert status == 0
    assert json.loads(out)["held_out"]["num"] == 4

    words = ["search", *where, "--tables", tables, "--out", search, "--num-evaluations", "6", "--json"]
    status, out, err = ofa_command(capsys, *words, "--budget-ms", "1e-6")
    assert (status, out) == (2, "")
    assert "no subnet keeps a budget of 1e-06 ms" in err
    status, out, _ = ofa_command(capsys, *words, "--budget-ms", "1000")
    assert status == 0
    (pick,) = json.loads(out)["cpu-1t"]["picks"]
    assert pick["measured_latency_ms"] <= 1000
    data_sha256 = Run.open(run).info["data"]["splits"]["identity"]["sha256"]
    assert json.loads(out)["cpu-1t"]["facts"]["data_sha256"] == data_sha256
    splits = set(pd.read_csv(Path(search) / "evaluations.csv")["split"])
    assert f"search of data {data_sha256[:16]}" in splits and "search" not in splits

    status, out, err = ofa_command(capsys, *words, "--budget-ms", "999")
    assert status == 0 and "answered from what the earlier search measured" in err
    assert json.loads(out)["cpu-1t"]["picks"][0]["arch"] == pick["arch"]
    header, empty = (tmp_path / "search/cpu-1t/front.csv").read_text().partition("\n")[0], str(tmp_path / "empty.csv")
    Path(empty).write_text(header + "\n")
    for mistake, message in {
        ("--max", "masc=60%"): "unknown cost 'masc'; did you mean 'macs'",
        ("--max", "macs=0%"): "the limit of macs is a positive number, or a share of the largest",
        ("--max", "macs=1"): "; ask for at least that",
        ("--seed", "-1"): "--seed must be 0 or more, of 64 bits at most, not -1",
        ("--device", "a/board.yaml", "b/board.yaml"): "a/board.yaml, b/board.yaml are called alike; leave one out",
        ("--fleet",): "a fleet is two devices or more",
        ("--method", "lians"): "unknown search method 'lians'; did you mean 'linas'",
        ("--predictor", "rigde"): "unknown predictor 'rigde'; did you mean 'ridge'",
        ("--start-from", "nowhere.csv"): "no front nowhere.csv; give the front.csv of a search",
        ("--start-from", empty): "holds nothing that was evaluated; give the front.csv of a search, or leave --start",
        ("--seed", str(1 << 70)): "--seed must be 0 or more, of 64 bits at most",
        ("--budget-ms", "inf"): "budgets are positive numbers of milliseconds",
        ("--evaluations", "nowhere.csv"): "nowhere.csv",
    }.items():
        status, out, err = ofa_command(capsys, *words, "--budget-ms", "500", *mistake, "--refine")
        assert (status, out) == (2, ""), err
        assert message in err and "Traceback" not in err
    status, out, _ = ofa_command(capsys, *words, "--budget-ms", "1000")  # what follows exports this one

    words = ["export", *where, "--search", f"{search}/cpu-1t", "--budget-ms", "1000", "--out", bundle, "--json"]
    status, out, _ = ofa_command(capsys, *words, "--dynamic-batch")
    assert status == 0
    assert json.loads(out)["info"]["arch"] == pick["arch"]
    status, out, _ = ofa_command(capsys, "verify", bundle, "--device", "cpu-1t", "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)

    (tmp_path / "bundle" / "samples" / "000.png").write_bytes(b"")
    status, _, err = ofa_command(capsys, "verify", bundle)
    assert status == 1
    assert "does not hold what it promises: samples/000.png" in err
    status, _, _ = ofa_command(
        capsys, "report", "--run", str(run), "--tables", tables, "--out", str(tmp_path / "a.html")
    )
    assert status == 0
    assert "</html>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_an_existing_run_is_not_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "supernet.safetensors").read_bytes()
    status, _, err = ofa_command(capsys, "train", "demo", *TINY, "--out", str(run))
    assert status == 2
    assert f"already holds a finished run; to train it further, give another --out and model.weights={run}" in err
    assert (run / "supernet.safetensors").read_bytes() == before


def test_truncated_weights_are_named(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = broken / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, _, err = ofa_command(capsys, "profile", "--run", f"{broken}/", "--device", "cpu-1t", "--out", str(broken))
    assert status == 2
    assert "supernet.safetensors is truncated" in err


def test_a_truncated_checkpoint_is_named(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "supernet.json").unlink()
    checkpoint = next((broken / "checkpoints").iterdir())
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    status, _, err = ofa_command(capsys, "train", "demo", *TINY, "--out", str(broken), "--resume")
    assert status == 2
    assert f"{checkpoint.name} is truncated or damaged" in err


def test_a_missing_table_says_how_to_measure_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "--run", str(run), "--device", "cpu-1t", "--budget-ms", "1", "--tables", str(tmp_path)]
    status, _, err = ofa_command(capsys, *words)
    assert status == 2
    assert "no latency table" in err
    assert f"ofa profile --run {run} --device cpu-1t" in err


def test_a_run_of_another_space_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((broken / "supernet.json").read_text())
    info["space"][0]["values"] = [16, 24]
    (broken / "supernet.json").write_text(json.dumps(info))
    words = ["profile", "--run", f"{broken}/", "--device", "cpu-1t", "--out", str(broken)]
    status, _, err = ofa_command(capsys, *words)
    assert status == 2
    assert "describes space" in err


def test_inspect_tells_what_is_elastic_and_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ofa_command(capsys, "inspect", "resnet18", "width.stage1=[64,128]", "depth=[1,2]")
    assert (status, out) == (0, "")
    assert "resnet18: ResNet, 224 pixels" in err
    assert "stage1 layer2 BasicBlock × 2 depth 1, 2 width 64, 128 expand" in err
    assert "stage0-3 kernel 3×3 is the smallest kernel" in err
    # 11.69 M and 1.81 G: He et al., arXiv:1512.03385, table 1, and timm's own table of results.
    assert "to 1.81 G; parameters" in err
    assert err.endswith("to 11.7 M")


def test_inspect_gives_scripts_what_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ofa_command(capsys, "inspect", "resnet18", "--json")
    data = json.loads(out)
    assert status == 0 and "resnet18: ResNet" in err
    assert (data["model"], data["model_class"]) == ("resnet18", "ResNet")
    assert data["largest"]["params"] == 11_689_512
    assert data["num_subnets"] > 1


def test_inspect_of_a_run_tells_its_space(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "supernet.safetensors").unlink()  # weights are not read
    status, out, _ = ofa_command(capsys, "inspect", f"{broken}/", "--json")
    data = json.loads(out)
    assert status == 0
    assert data["num_subnets"] == Run.open(broken).space.num_archs
    assert data["dims"][0]["values"] == [16, 20]

    status, _, err = ofa_command(capsys, "inspect", f"{broken}/", "depth=[1]")
    assert status == 2
    assert "is settled" in err
    info = json.loads((broken / "supernet.json").read_text())
    info["space"][0]["values"] = [16, 24]
    (broken / "supernet.json").write_text(json.dumps(info))
    status, _, err = ofa_command(capsys, "inspect", f"{broken}/")
    assert status == 2
    assert "use the versions that" in err


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12"), (78732, "78,732"), (10**6, "1.0e+6"), (2 * 10**400, "2.0e+400")]
)
def test_numbers_of_subnets(count: int, text: str) -> None:
    assert ofa.cli.inspection.count_text(count) == text


def test_the_unit_of_a_span_is_that_of_the_larger() -> None:
    assert ofa.cli.inspection.span_text(50_000_000, 570_000_000) == "50 M to 570 M"
    assert ofa.cli.inspection.span_text(50_000_000, 1_570_000_000) == "0.05 G to 1.57 G"
    assert ofa.cli.inspection.span_text(7, 12) == "7 to 12"


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), ValueError("a bug"), IndexError(3)])
def test_our_own_mistakes_keep_their_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the class, and wherever it was raised: who is to blame is not guessed from the traceback."""
    monkeypatch.setattr("ofa.training.load_recipe", Raising(error))
    status, out, err = ofa_command(capsys, "train", "demo", "--out", "x")
    assert (status, out) == (70, "")
    assert "Traceback" in err and type(error).__name__ in err
    assert "this is a fault of ofa" in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "here"), "here: No such file or directory;"),
        (PermissionError(errno.EACCES, "Permission denied", "a", None, "b"), "a -> b: Permission denied; give a place"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device; make space, or"),
        (OSError("no number"), "error: no number"),
    ],
)
def test_what_the_system_refuses_is_told_with_path_and_remedy(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ofa.training.load_recipe", Raising(error))
    status, out, err = ofa_command(capsys, "train", "demo", "--out", "x")
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_interrupted_and_stopped_keep_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, expected in ((KeyboardInterrupt(), 130), (StoppedError("stopped at step 3", signal.SIGTERM), 143)):
        monkeypatch.setattr("ofa.training.load_recipe", Raising(error))
        status, _, err = ofa_command(capsys, "train", "demo", "--out", "x")
        assert status == expected
        assert "Traceback" not in err and "error:" not in err
        assert ("interrupted; what was finished is kept" in err) is (expected == 130)


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error


HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066",
    "\r",
    "\x7f",
    "\ud800",
    "[/red]",
    "[red",
    "\\[/]",
    ":boom:",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_printed_steers_no_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    ofa.cli.printing.say(f"a {text}\nb", head=f"head {text}")
    ofa.cli.printing.print_table([f"column {text}"], [[f"cell {text}"], ["wrote\nall"]], title=f"title {text}")
    err = capsys.readouterr().err
    assert all(char.isprintable() or char == "\n" for char in err)
    shown = text if text.isprintable() else ascii(text)[1:-1]
    assert all(f"{word} {shown}" in err for word in ("head", "a", "column", "cell", "title"))
    assert "\n  b\n" in err and "wrote\\nall" in err  # no line that looks like one of ours


def test_colours_are_ours_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    ofa.cli.printing.say("[bold]plain[/] \x1b[31mtext", head="error:")
    assert capsys.readouterr().err == "\x1b[31merror:\x1b[0m[bold]plain[/] \\x1b[31mtext\n"


def test_names_of_a_bundle_and_its_folder_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "[").mkdir()
    bundle = Path(shutil.copytree(ROOT / "tests" / "fixtures" / "0.1.0" / "bundle", tmp_path / "[" / "red]"))
    info = json.loads((bundle / "bundle.json").read_text())
    info["files"]["\x1b[2J[/red]"] = {"sha256": "\x1b[8m", "bytes": "[/]"}
    (bundle / "bundle.json").write_text(json.dumps(info))
    (bundle / "[bold]\x1b[1m").write_text("")
    monkeypatch.chdir(tmp_path)
    status, _, err = ofa_command(capsys, "verify", "[/red]")
    assert status == 1
    assert "\x1b" not in err and "\\x1b[2J[/red]" in err and "[bold]\\x1b[1m" in err
    assert "[/red] does not hold what it promises" in err
    status, _, err = ofa_command(capsys, "verify", "[/nowhere]\x1b[2J")
    assert (status, err.startswith("error: no bundle at [/nowhere]\\x1b[2J/bundle.json")) == (2, True)


def test_a_fault_of_ours_shows_what_it_is_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ofa.training.load_recipe", Raising(RuntimeError("\x1b[2J[/red]")))
    status, _, err = ofa_command(capsys, "train", "demo", "--out", "x")
    assert status == 70 and "\x1b" not in err and "RuntimeError: \\x1b[2J[/red]" in err


def test_every_command_of_the_contract_has_help() -> None:
    for command in ("demo", "inspect", "train", "profile", "search", "export", "verify", "report"):
        result = CliRunner().invoke(ofa.cli.app, [command, "--help"])
        assert result.exit_code == 0
        assert "Usage" in result.output


@pytest.mark.slow
def test_whole_way_on_the_command_line(tmp_path: Path) -> None:
    """`ofa demo`, as a user runs it; what it must show is in its table and exit status."""
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "ofa", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "demo")
    bundles = [json.loads(path.read_text()) for path in (run.path / "bundles").glob("*/bundle.json")]
    assert len(bundles) >= 3
    for bundle in bundles:
        assert bundle["latency_ms"]["p50"] <= bundle["budget_ms"]
        assert bundle["top1_percent"]["value"] >= 95
    assert "<html" in (run.path / "report.html").read_text()


def test_measure_times_files_against_each_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from torch import nn

    from ofa.formats.onnx import export_for_timing

    paths = [tmp_path / "small.onnx", tmp_path / "large.onnx"]
    for path, width in zip(paths, (4, 64), strict=True):
        path.write_bytes(export_for_timing(nn.Conv2d(3, width, 5).eval(), (3, 48, 48)))
    out = tmp_path / "measured.json"
    words = ["--device", "cpu-1t", "--rounds", "2", "--block-ms", "2", "--out", str(out), "--json"]
    status, printed, err = ofa_command(capsys, "measure", *map(str, paths), *words)
    assert status == 0, err
    result = json.loads(printed)
    assert result == json.loads(out.read_text())
    assert [entry["model"] for entry in result["models"]] == [str(path) for path in paths]
    assert result["models"][0]["latency_ms_p10"] < result["models"][1]["latency_ms_p10"]
    assert result["fingerprint"]["id"]
    assert "blocks measured again" in err
    status, _, err = ofa_command(capsys, "measure", str(tmp_path / "none.onnx"), "--device", "cpu-1t")
    assert (status, "none.onnx" in err) == (2, True)


def test_devices_say_what_is_installed_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    status, printed, err = ofa_command(capsys, "devices", "--json", "--tables", str(ROOT / "latency_tables"))
    assert status == 0
    rows = {row["name"]: row for row in json.loads(printed)}
    assert rows["cpu-1t"]["installed"].startswith("onnxruntime ")
    assert "ofa_mobilenetv3_w1.0" in rows["cpu-1t"]["tables"]
    assert rows["raspberry-pi"]["host"]["name"] == "ssh"
    assert "executorch-1t" in err


def test_fit_proposes_fits_and_proposes_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    csv = tmp_path / "phone.csv"
    csv.write_text("arch,latency_ms\n")
    words = ["fit", "--space", "ofa_mobilenetv3_tiny", "--csv", str(csv), "--device", "phone", "--out", str(tmp_path)]
    status, printed, err = ofa_command(capsys, *words, "--propose", "24")
    assert status == 0, err
    archs = json.loads(printed)
    assert len(archs) == 24
    rows = [f'"{json.dumps(arch).replace(chr(34), chr(34) * 2)}",{1 + arch["resolution"] ** 2 / 500}' for arch in archs]
    csv.write_text("\n".join(["arch,latency_ms", *rows]) + "\n")
    status, printed, err = ofa_command(capsys, *words, "--propose", "3", "--json")
    assert status == 0, err
    result = json.loads(printed)
    assert result["held_out"]["num"] == 24
    assert len(result["proposals"]) == 3
    assert "24 networks, each predicted without it" in err
    status, _, err = ofa_command(capsys, *words)
    assert (status, "is there already; replace it with --overwrite" in err) == (2, True)
    csv.write_text("\n".join(["arch,latency_ms", *rows[:3], "{},1"]) + "\n")
    status, _, err = ofa_command(capsys, *words, "--overwrite")
    assert (status, "phone.csv, line 5: arch" in err) == (2, True)


@pytest.mark.slow
def test_a_table_of_another_machine_is_not_searched_with(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from ofa.hardware import load_device
    from ofa.hardware.transports import Local

    words = ["--run", f"{run}/", "--device", "cpu-1t"]
    profiled = ofa_command(
        capsys, "profile", *words, "--out", str(tmp_path), "--num-fit", "4", "--num-held-out", "4", "--force"
    )
    assert profiled[0] == 0, profiled[2]
    (path,) = (tmp_path / "cpu-1t").glob("*.json")
    table = json.loads(path.read_text())
    assert table["fingerprint"]["id"] == Local().fingerprint(load_device("cpu-1t").setting)["id"]
    table["fingerprint"] |= {"id": "other", "cpu": "Another CPU"}
    path.write_text(json.dumps(table))
    status, _, err = ofa_command(capsys, "search", *words, "--budget-ms", "1", "--tables", str(tmp_path))
    assert status == 2
    assert "was measured elsewhere or with other software (cpu Another CPU there" in err


@pytest.mark.slow
@pytest.mark.parametrize("per", ["network", "block"])
def test_architecture_and_precision_are_searched_together(
    run: Path, per: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = str(tmp_path / "tables"), tmp_path / "mixed"
    for device in ("cpu-1t", "cpu-int8-1t"):
        words = ["profile", "--run", str(run), "--device", device, "--out", tables]
        status, _, _ = ofa_command(capsys, *words, "--num-fit", "2", "--num-held-out", "2", "--force")
        assert status == 0
    words = ["search", "--run", str(run), "--tables", tables, "--device", "cpu-1t", "--num-evaluations", "4"]
    words += ["--budget-ms", "1000", "--out", str(out)]
    mixed = [*words, "--int8-device", "cpu-int8-1t", "--precision", per]
    status, text, _ = ofa_command(capsys, *mixed, "--json")
    assert status == 0
    (pick,) = json.loads(text)["cpu-1t"]["picks"]
    front = pd.read_csv(out / "cpu-1t/front.csv")
    names = {name for arch in front["arch"] for name in json.loads(arch) if name.endswith("precision")}
    assert names == {"precision"} if per == "network" else {"stem.precision", "head.precision"} < names
    assert front["measured_top1_percent"].between(0, 100).all()
    graph = onnx.load(out / "cpu-1t/1000ms.onnx").graph
    is_quantized = any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert is_quantized == ("int8" in pick["arch"].values())

    for mistake, message in (
        ([*words, "--precision", per], "takes one --device in fp32 and the same in INT8"),
        ([*mixed, "--max", "macs=60%"], "--max does not go with --precision"),
        ([*mixed, "--precision", "layer"], "--precision is network or block, not 'layer'"),
        ([*mixed, "--int8-device", "cpu-2t"], "cpu-1t is fp32 on onnxruntime, cpu-2t fp32 on onnxruntime"),
    ):
        status, _, err = ofa_command(capsys, *mistake)
        assert status == 2 and message in err


def options_of_commands() -> dict[str, set[str]]:
    """Options of each command but the demo, which takes the whole way."""
    found = {}
    for name, each in typer.main.get_command(ofa.cli.commands.app).commands.items():  # type: ignore[attr-defined]
        named = {f"{name} {below}": command for below, command in getattr(each, "commands", {}).items()} or {name: each}
        for words, command in named.items():
            found[words] = {text for parameter in command.params for text in parameter.opts}
    del found["demo"]
    return found


COMMANDS = options_of_commands()


# Options that mean the same wherever they are, with the commands that they mean something in.
EVERYWHERE = {
    "--json": set(COMMANDS),
    "--search": {"export", "deploy", "elastic", "finetune", "report", "plot"},
    "--tables": {"search", "estimate", "report", "plot", "devices"},
    "--seed": {"profile", "search", "export", "deploy", "elastic", "verify", "measure", "fit", "data shard"},
    "--data-root": {"search", "export", "deploy", "elastic", "finetune", "judge", "import"},
    "--trust-code": {
        "inspect",
        "profile",
        "search",
        "export",
        "deploy",
        "elastic",
        "finetune",
        "judge",
        "fit",
        "train",
    },
    "--opset": {"export", "deploy", "elastic"},
    "--overwrite": {"export", "elastic", "fit"},
    "--workers": {"search", "deploy", "data check"},
    "--ray": {"search", "deploy"},
}


@pytest.mark.parametrize("option", EVERYWHERE)
def test_an_option_is_wherever_it_means_something(option: str) -> None:
    assert {name for name, options in COMMANDS.items() if option in options} == EVERYWHERE[option]


def test_the_demo_calls_commands_as_they_are() -> None:
    """It takes minutes; that its words are those of the commands can be told at once."""
    tree = ast.parse(Path(str(ofa.cli.commands.__file__)).read_text(encoding="utf-8"))
    (demo,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "demo")
    called = [node for node in ast.walk(demo) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    seen = set()
    for call in called:
        assert isinstance(call.func, ast.Name)
        if hasattr(workflow, call.func.id) and call.keywords:
            given = {str(keyword.arg): None for keyword in call.keywords}
            inspect.signature(getattr(workflow, call.func.id)).bind(**given)
            seen.add(call.func.id)
    assert {"train", "profile", "search", "export"} <= seen
