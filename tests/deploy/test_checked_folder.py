"""Writing a folder as a whole: where it goes, what is replaced, and what a kill leaves."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ofa import system
from ofa.deploy import checked_folder
from ofa.deploy.checked_folder import CheckedFolder
from ofa.errors import OfaError
from ofa.locks import LockedError, only_writer


class BoxError(OfaError, ValueError):
    pass


BOX = CheckedFolder(
    info="box.json",
    kind="a box",
    formats=(1,),
    remedy="make it again",
    error=BoxError,
    belongs={"text", "inside"}.__contains__,
)


def write(out: Path, text: str, *, overwrite: bool = False) -> None:
    with BOX.new(out, overwrite=overwrite) as folder:
        (folder / "inside").mkdir()
        (folder / "text").write_text(text)
        (folder / "inside" / "text").write_text(text)
        BOX.seal(folder, {})


def text_of(out: Path) -> str:
    """What is in a box that is whole."""
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {"box.json", "text", "inside/text"}
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert (out / "text").read_text() == (out / "inside" / "text").read_text()
    return (out / "text").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- where it goes -----------------------------------------------------------------------------------------------------


def test_a_way_through_a_folder_that_is_not_there_yet_leads_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supernet.json").write_text("weeks of work")
    with pytest.raises(BoxError, match=r"run exists and is not a box \(it holds 'supernet.json'\); it is left alone"):
        write(tmp_path / "new" / ".." / "run", "box", overwrite=True)
    assert names(tmp_path) == ["run"] and (tmp_path / "run" / "supernet.json").read_text() == "weeks of work"
    write(tmp_path / "new" / ".." / "box", "box")
    assert text_of(tmp_path / "box") == "box" and names(tmp_path) == ["box", "run"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "box").symlink_to(tmp_path / "disk" / "box")
    write(tmp_path / "box", "first")
    write(tmp_path / "box", "second", overwrite=True)
    assert (tmp_path / "box").is_symlink() and text_of(tmp_path / "disk" / "box") == "second"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ValueError, match=r"circle leads nowhere .*; give another place"):
        write(tmp_path / "circle", "third")


@pytest.mark.parametrize("name", ["notes", "inside/notes", ".notes", "inside/deep/notes"])
def test_a_file_that_is_not_of_the_folder_is_never_deleted_with_it(name: str, tmp_path: Path) -> None:
    write(tmp_path / "box", "first")
    mine = tmp_path / "box" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(BoxError, match=rf"is not a box \(it holds '{name}'\); it is left alone"):
        write(tmp_path / "box", "second", overwrite=True)
    assert mine.read_text() == "mine" and text_of(tmp_path / "box") == "first"


@pytest.mark.parametrize("damage", ["{", '{"format": 2}', '{"format": 1, "files": 3}', '{"format": 1}'])
def test_a_damaged_one_can_be_replaced(damage: str, tmp_path: Path) -> None:
    write(tmp_path / "box", "first")
    (tmp_path / "box" / "box.json").write_text(damage)
    write(tmp_path / "box", "second", overwrite=True)
    assert text_of(tmp_path / "box") == "second" and names(tmp_path) == ["box"]


# -- what appears meanwhile --------------------------------------------------------------------------------------------


def appear_as_file(out: Path) -> None:
    out.write_text("mine")


def appear_as_empty_folder(out: Path) -> None:
    out.mkdir()


def appear_as_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")


def appear_as_dangling_link(out: Path) -> None:
    out.symlink_to("nowhere")


@pytest.mark.parametrize("appear", [appear_as_file, appear_as_empty_folder, appear_as_folder, appear_as_dangling_link])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("system_can", [False, True])
def test_what_appeared_meanwhile_is_kept_beside_the_new_one(
    appear: object, overwrite: bool, system_can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not system_can:
        monkeypatch.setattr(system, "RENAME", {})
    out = tmp_path / "box"
    with (
        pytest.raises(BoxError, match=r"it is left alone.*; the new one is ") as caught,
        BOX.new(out, overwrite=overwrite) as folder,
    ):
        shutil.copytree(make(tmp_path / "elsewhere" / "box", "new"), folder, dirs_exist_ok=True)
        appear(out)  # type: ignore[operator]
    kept = Path(re.findall(r"the new one is (\S+)", str(caught.value))[0])
    assert text_of(kept) == "new" and kept.parent == tmp_path
    assert names(tmp_path) == sorted(["box", kept.name, "elsewhere"])
    if appear is appear_as_folder:
        assert (out / "thesis.tex").read_text() == "mine"


def make(out: Path, text: str) -> Path:
    write(out, text)
    return out


def test_another_of_the_kind_that_appeared_meanwhile_is_kept_too(tmp_path: Path) -> None:
    out = make(tmp_path / "box", "first")
    with pytest.raises(BoxError, match="appeared while this was made"), BOX.new(out, overwrite=True) as folder:
        (folder / "text").write_text("second")
        shutil.move(out, tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", out)
    assert text_of(out) == text_of(tmp_path / "moved") == "first"


def test_one_that_was_taken_away_meanwhile_is_not_missed(tmp_path: Path) -> None:
    out = make(tmp_path / "box", "first")
    with BOX.new(out, overwrite=True) as folder:
        shutil.copytree(out, folder, dirs_exist_ok=True)
        shutil.rmtree(out)
    assert text_of(out) == "first" and names(tmp_path) == ["box"]


def test_two_writers_at_a_time_are_refused(tmp_path: Path) -> None:
    script = "import sys\nfrom ofa.locks import only_writer\n"
    script += "with only_writer(sys.argv[1], command='ofa export', beside=True):\n"
    script += "    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path / "box")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline()
        with pytest.raises(LockedError, match=rf"box is being written by process {first.pid} on host"):
            write(tmp_path / "box", "second")
        first.communicate()
    write(tmp_path / "box", "second")
    with only_writer(tmp_path / "box", command="ofa export", beside=True):
        write(tmp_path / "box", "third", overwrite=True)  # whoever holds it may


# -- kills -------------------------------------------------------------------------------------------------------------

KILLS = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from ofa import system
from deploy.test_checked_folder import names, text_of, write
from killed import killed_at_every_line

root, can_exchange, step = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[4])
if not can_exchange:
    system.RENAME.clear()
num_killed, found = 0, set()
out = root / "box"
write(out, "old")
files = ("ofa/files.py", "ofa/locks.py", "ofa/system.py", "ofa/deploy/checked_folder.py")
for killed in killed_at_every_line(lambda: write(out, "new", overwrite=True), of=files, step=step):
    num_killed += killed
    if can_exchange:
        found.add(text_of(out))  # at each instant
    found.add(text_of(out) if out.exists() else "away")
    write(out, "old", overwrite=True)  # the next command recovers
    assert text_of(out) == "old" and names(root) == ["box"], names(root)
print(num_killed, sorted(found))
"""


@pytest.mark.parametrize("step", [47, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_at_any_line_the_old_or_the_new_one_is_there(can_exchange: bool, step: int, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(can_exchange), str(root), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    num_killed, found = done.stdout.split(maxsplit=1)
    assert int(num_killed) > 200 / step
    expected = ["new", "old"] if can_exchange else ["away", "new", "old"]
    assert found.strip() == str(expected) or (step > 1 and "away" not in found)


def test_what_a_killed_process_took_away_is_put_back(tmp_path: Path) -> None:
    """By the next command that writes there, whether it then replaces it or not; of earlier versions' folders too."""
    for name in (".box.a1b2c3d4", ".box.a1b2c3d4.part"):
        make(tmp_path / name / "old", "old")
        with pytest.raises(BoxError, match="holds a box; give another folder, or replace it"):
            write(tmp_path / "box", "new")
        assert text_of(tmp_path / "box") == "old" and names(tmp_path) == ["box"]
        shutil.rmtree(tmp_path / "box")


def test_only_what_killed_processes_left_of_this_folder_is_removed(tmp_path: Path) -> None:
    mine = [".box.a1b2c3d4", ".box.e5f6a7b8.part", ".box.txt", ".boxes.a1b2c3d4.part"]
    make(tmp_path / ".boxes.e5f6a7b8.part" / "new", "of another folder, half done")
    for name in (".box.99999999.part", ".box.88888888.part"):
        make(tmp_path / name / "new", "half done")
    (tmp_path / ".box.88888888.part" / "lock").touch()
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    with BOX.new(tmp_path / "box", overwrite=False) as folder:
        only_writers_own = folder.parent.name
        write(tmp_path / "other", "meanwhile")
        assert folder.exists()
    assert names(tmp_path) == sorted([*mine, ".boxes.e5f6a7b8.part", "box", "other"])
    assert only_writers_own.startswith(".box.")


def test_a_failed_exchange_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path / "box", "old")

    def fail(source: Path, target: Path) -> None:
        raise OSError("rename failed")

    monkeypatch.setattr(checked_folder, "exchange", lambda one, other: False)
    monkeypatch.setattr(checked_folder, "rename_new", fail)
    with pytest.raises(OSError, match="rename failed"):
        write(out, "new", overwrite=True)
    assert text_of(out) == "old" and names(tmp_path) == ["box"]
