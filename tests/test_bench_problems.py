"""The benchmark of search methods on tabulated problems: what it keeps, what it does again, and its arithmetic."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import bench_problems
import noisy_problem
import numpy as np
import pandas as pd
import pytest

WORDS = "--problems nasbench201_pixel3 supernet --methods auto random --evaluations 8 --seeds 2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tables in which every architecture stands once, in any order."""
    rng = np.random.default_rng(0)
    cells = pd.DataFrame(list(product(("conv", "none", "pool"), repeat=3)), columns=["edge0", "edge1", "edge2"])
    cells = cells.assign(cifar10_val_percent=rng.uniform(10, 90, 27), pixel3_ms=rng.uniform(1, 9, 27))
    (tmp_path / "nas").mkdir()
    cells.sample(frac=1, random_state=0).to_csv(tmp_path / "nas" / "nasbench201.csv.gz", index=False)
    genes = pd.DataFrame(
        list(product((0, 1, 2), (1,), (0, 1), (0, 2, 3))), columns=["depth", "kernel", "expand", "width"]
    )
    genes.assign(top1_error_percent=rng.uniform(5, 20, 18), million_macs=rng.uniform(1, 9, 18)).to_csv(
        tmp_path / "table.csv", index=False
    )
    return tmp_path


def run(folder: Path) -> pd.DataFrame:
    places = ["--data", str(folder), "--table", str(folder / "table.csv"), "--out", str(folder / "out")]
    bench_problems.main([*WORDS.split(), *places])
    return pd.read_csv(folder / "out" / "search" / "problems.csv")


def test_rows_are_kept_and_only_what_is_missing_is_done(folder: Path) -> None:
    rows = run(folder)
    assert len(rows) == 2 * 2 * 2 and rows["hypervolume_share_percent"].between(0, 100).all()
    page = (folder / "out" / "problems.md").read_text(encoding="utf-8")
    assert "## nasbench201_pixel3" in page and "| auto |" in page
    path = folder / "out" / "search" / "problems.csv"
    pd.concat([rows[:3].assign(cpu_seconds=77.0), rows[4:]]).to_csv(path, index=False)
    again = run(folder)
    assert (again["cpu_seconds"] == 77.0).sum() == 3 and len(again) == 8
    key = ["problem", "method", "num_evaluations", "seed"]
    shares = [each.set_index(key)["hypervolume_share_percent"].sort_index() for each in (rows, again)]
    pd.testing.assert_series_equal(*shares)


def test_a_missing_table_leaves_its_problem_out(folder: Path) -> None:
    (folder / "table.csv").unlink()
    assert set(run(folder)["problem"]) == {"nasbench201_pixel3"}


def test_what_a_share_is(folder: Path) -> None:
    options = bench_problems.argparse.Namespace(data=folder, table=folder / "table.csv")
    problem = bench_problems.problem_of("supernet", options)
    assert problem.space.names == ("depth", "expand", "width") and problem.free == (1,)
    assert problem.share(problem(problem.space.every())) == pytest.approx(100)
    table = pd.read_csv(folder / "table.csv").set_index(["depth", "expand", "width"])
    arch = problem.space.arch({"depth": 1, "expand": 0, "width": 3})
    expected = table.loc[(1, 0, 3), ["top1_error_percent", "million_macs"]].to_numpy(dtype=float)
    assert problem(problem.space.to_population(arch))[0] == pytest.approx(expected)
    categories = bench_problems.problem_of("nasbench201_pixel3", options)
    assert not categories.space.is_ordered.any() and categories.free == ()


def test_who_is_ahead_by_more_than_two_standard_errors() -> None:
    shares = {"auto": [90, 91, 92, 93], "clearly": [91, 92, 93, 94.1], "luckily": [95, 89, 94, 91], "less": [80] * 4}
    rows = pd.DataFrame(
        {
            "problem": "p",
            "num_evaluations": 50,
            "method": method,
            "seed": range(4),
            "hypervolume_share_percent": values,
        }
        for method, values in shares.items()
    ).explode(["seed", "hypervolume_share_percent"])
    rows["hypervolume_share_percent"] = rows["hypervolume_share_percent"].astype(float)
    assert bench_problems.behind(rows) == ["p, 50 evaluations: clearly is ahead by 1.02 points"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> noisy_problem.Supernet:
    """81 subnets, 4,000 pictures."""
    monkeypatch.setattr(noisy_problem, "NUM_DIMS", 4)
    monkeypatch.setattr(noisy_problem, "NUM_PICTURES", 4000)
    return noisy_problem.make_supernet()


def test_a_supernet_that_is_known_picture_by_picture(small: noisy_problem.Supernet) -> None:
    assert small.right.shape == (81, 4000) and small.top1_percent == pytest.approx(100 * small.right.mean(axis=1))
    largest, smallest = (small.space.to_population(end) for end in (small.space.largest(), small.space.smallest()))
    rows = [np.flatnonzero((small.population == end).all(axis=1))[0] for end in (largest, smallest)]
    assert small.top1_percent[rows[0]] > 5 + small.top1_percent[rows[1]]
    assert np.corrcoef(small.latency_ms, small.top1_percent)[0, 1] > 0.6
    disagreeing = np.mean(small.right[:-1] != small.right[1:], axis=1)
    assert disagreeing.mean() < 0.5 * np.mean(2 * small.right.mean() * (1 - small.right.mean()))  # they share pictures


def test_picks_of_a_noisy_search_are_judged_in_truth(small: noisy_problem.Supernet) -> None:
    noisy, whole = (noisy_problem.Noisy(small, num) for num in (100, 4000))
    row = noisy.run("random", 20, seed=1)
    assert 0 < row["hypervolume_share_percent"] < 100
    assert row["hypervolume_share_percent"] == noisy.run("random", 20, seed=1)["hypervolume_share_percent"]
    known = whole.run("auto", 81, seed=0)
    assert known["luckiest_share_percent"] == pytest.approx(100) and known["luckiest_too_much_points"] == 0
    assert known["hypervolume_share_percent"] > 90 and known["intervals_hold_percent"] == 100


def test_promises_are_told_of_noisy_problems_only(small: noisy_problem.Supernet) -> None:
    noisy = noisy_problem.Noisy(small, 100)
    rows = [{"problem": "noisy_100", "method": "random", "num_evaluations": 20, "seed": seed} for seed in range(2)]
    text = bench_problems.promises_of(pd.DataFrame([row | noisy.run("random", 20, row["seed"]) for row in rows]))
    assert text.count("\n") == 2 and "| noisy_100 | 20 | random |" in text
    assert bench_problems.promises_of(pd.DataFrame(rows)) == ""


@pytest.mark.data
@pytest.mark.parametrize("device", bench_problems.DEVICES)
def test_the_default_is_ahead_of_chance_on_nasbench201(real_data: Path, device: str) -> None:
    if not (real_data / "nas" / "nasbench201.csv.gz").exists():
        pytest.skip(f"no nas/nasbench201.csv.gz in {real_data}")
    options = bench_problems.argparse.Namespace(data=real_data)
    problem = bench_problems.problem_of(f"nasbench201_{device}", options)
    shares = {
        method: [problem.run(method, 100, seed)["hypervolume_share_percent"] for seed in range(3)]
        for method in ("auto", "random")
    }
    assert np.mean(shares["auto"]) > max(93, np.mean(shares["random"]) + 1)
