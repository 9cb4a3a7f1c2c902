"""A stand-in for a cluster of one node: programs of Slurm's names, whose jobs are processes of this machine.

What they were asked is written down; what the cluster is to do wrong is a file of that name in its folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

BAD = """\
if test -s {home}/busy; then
    sed -i 1d {home}/busy
    echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
"""

SBATCH = """\
for word in "$@"; do
    case "$word" in
    --wrap=*) wrap="${{word#--wrap=}}" ;;
    --job-name=*) name="${{word#--job-name=}}" ;;
    --output=*) output="${{word#--output=}}" ;;
    --chdir=*) chdir="${{word#--chdir=}}" ;;
    --partition=nowhere)
        echo "sbatch: error: invalid partition specified: nowhere" >&2
        echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
        exit 1 ;;
    esac
done
number=$(($(ls {home}/queue | wc -l) + 101))
mkdir {home}/queue/$number
cd {home}/queue/$number
printf '%s\\n' "$@" > words
echo "$name" > name
echo PENDING > state
setsid bash {home}/node "$number" "$chdir" "${{output//%%/%}}" "$wrap" < /dev/null > /dev/null 2>&1 &
echo "$number;cluster"
"""

NODE = """\
here={home}/queue/$1
while test -e {home}/held && test "$(cat $here/state)" = PENDING; do sleep 0.02; done
test "$(cat $here/state)" = PENDING || exit
cd "$2"
setsid sh -c "$4" > "$3" 2>&1 &
echo $! > $here/pid
echo RUNNING > $here/state
wait $!
status=$?
test "$(cat $here/state)" = RUNNING || exit
if test $status = 0; then echo COMPLETED > $here/state; else echo FAILED > $here/state; fi
"""

SQUEUE = (
    BAD
    + """\
for word in "$@"; do
    case "$word" in
    --jobs=*)
        if test -e {home}/forgets && ! grep -qE "PENDING|RUNNING" {home}/queue/"${{word#--jobs=}}"/state; then
            echo "slurm_load_jobs error: Invalid job id specified" >&2
            exit 1
        fi
        exec cut -d ' ' -f 1 {home}/queue/"${{word#--jobs=}}"/state ;;
    --name=*) name="${{word#--name=}}" ;;
    esac
done
cd {home}/queue
for number in *; do
    test "$number" = '*' && continue
    if test "$(cat $number/name)" = "$name" && grep -qE "PENDING|RUNNING" $number/state; then echo "$number"; fi
done
"""
)

SACCT = """\
if test -e {home}/keeps_no_accounts; then echo "Slurm accounting storage is disabled" >&2; exit 1; fi
for word in "$@"; do
    case "$word" in --jobs=*) exec cat {home}/queue/"${{word#--jobs=}}"/state ;; esac
done
"""

SCANCEL = """\
echo "$1" >> {home}/cancelled
"""


class Cluster:
    """Put ``path`` first on ``PATH``."""

    def __init__(self, home):
        self.home, self.path = home, home / "programs"
        (home / "queue").mkdir()
        self.path.mkdir()
        programs = {"sbatch": SBATCH, "squeue": SQUEUE, "sacct": SACCT, "scancel": SCANCEL}
        for name, source in programs.items():
            program = self.path / name
            program.write_text(f"#!/bin/bash\n{source.format(home=home)}")
            program.chmod(0o755)
        (home / "node").write_text(NODE.format(home=home))

    def do_wrong(self, what, text=""):
        (self.home / what).write_text(text)

    def mend(self, what):
        (self.home / what).unlink()

    @property
    def numbers(self):
        return sorted(int(path.name) for path in (self.home / "queue").iterdir())

    def read(self, number, what):
        return (self.home / "queue" / str(number) / what).read_text().strip()

    def words(self, number):
        return self.read(number, "words").splitlines()

    def wait_for(self, number, state):
        patience = time.monotonic() + 60
        while self.read(number, "state") != state:
            assert time.monotonic() < patience, self.read(number, "state")
            time.sleep(0.02)

    def end(self, state):
        """End the latest job as Slurm would."""
        number = self.numbers[-1]
        (self.home / "queue" / str(number) / "state").write_text(f"{state}\n")
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(int(self.read(number, "pid")), signal.SIGKILL)
        return number

    def close(self):
        for number in self.numbers:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.killpg(int(self.read(number, "pid")), signal.SIGKILL)
            (self.home / "queue" / str(number) / "state").write_text("CANCELLED\n")
