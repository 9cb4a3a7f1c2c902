"""A profile that is killed at any moment goes on, and measures nothing twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from ofa.cost import LatencyTable

NUM_KILLS = 5


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(tmp_path):
    csv_path = tmp_path / "cpu-1t" / "ofa_mobilenetv3_tiny.csv"
    journal = csv_path.with_name(f"{csv_path.name}.partial") / "blocks.jsonl"
    command = [sys.executable, "-m", "ofa", "profile", "--run", "ofa_mobilenetv3_tiny", "--device", "cpu-1t"]
    command += ["--out", str(tmp_path), "--resolution", "20", "--num-fit", "8", "--num-held-out", "8", "--force"]
    rng, num_killed = random.Random(0), 0
    before: list[tuple[str, int]] = []
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target, deadline = len(before) + rng.randrange(5, 40), time.monotonic() + 300
        while len(blocks(journal)) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            num_killed += 1
        process.wait()
        now = blocks(journal)
        assert now[: len(before)] == before, "what was measured is kept"
        assert len(set(now)) == len(now), "nothing is measured twice"
        before = now
    assert num_killed == NUM_KILLS
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    table = LatencyTable.load(csv_path)
    assert (table.entries["num_runs"] > 0).all()
    assert table.held_out["num"] == 8
    assert not journal.parent.exists()


def blocks(journal):
    """Model and number of each block on disk; a half-written last line does not count."""
    if not journal.exists():
        return []
    lines = journal.read_text().split("\n")[1:-1]
    return [tuple(json.loads(line)[:2]) for line in lines]
