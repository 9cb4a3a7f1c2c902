"""A stand-in for a phone: an ``adb`` on this machine whose shell is this machine's, with Android's programs in it.

What it is asked is written down; what it is to do wrong is a file of that name in its folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"

# Most are written for the shell, which starts faster than Python.
ADB = """\
bad() {{
    test -e {home}/"$1" && rm {home}/"$1"
}}
if test "$*" = devices; then exec cat {home}/devices.txt; fi
test "$1" = -s && test $# -ge 4 || exit 9
echo "$3" >> {home}/calls
if test -e {home}/gone || bad disconnected; then echo "adb: device '$2' not found" >&2; exit 1; fi
case "$3" in
push)
    if bad damaged; then head -c -1 "$4" > "$5"; else cat "$4" > "$5"; fi
    echo "$4: 1 file pushed, 0 skipped.";;
shell)
    cd {home}
    PATH={home}/bin:/usr/bin:/bin /bin/sh -c "$4"
    exit 0;;  # as for old phones
*)
    echo "unknown command $3" >&2
    exit 1;;
esac
"""

GETPROP = """\
case "$1" in
{properties}
esac
"""

LOG = """\
test "$1 $2 $3 $4" = "-p i -t ExecuTorch" || exit 1
test -e {home}/"log is lost" || echo "$5" >> {home}/logcat
"""

LOGCAT = """\
test "$*" = "-d -v raw -s ExecuTorch:I" || exit 1
echo "--------- beginning of main"
cat {home}/logcat
"""

DUMPSYS = """\
test "$*" = battery && cat {home}/battery.txt
"""

TASKSET = """\
echo "$1 $2" >> {home}/taskset
"""

EXECUTOR_RUNNER = """\
import os, sys
home = "{home}"
options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
assert set(options) == {{"model_path", "num_executions", "cpu_threads", "print_output"}}, options
size, num = os.path.getsize(options["model_path"]), int(options["num_executions"])
def log(line):
    if os.path.exists(home + "/logs to standard error"):
        sys.stderr.write("I 00:00:00.075611 executorch:executor_runner.cpp:705] " + line + "\\n")
    else:
        open(home + "/logcat", "a").write(line + "\\n")
if open(options["model_path"], "rb").read().startswith(b"broken"):
    log("Failed to parse model file " + options["model_path"])
    sys.exit(1)
log("Model loaded in 4463.268273 ms.")
each = [size / 100 + number % 2 / 1000 for number in range(num)]
for number, ms in enumerate(each):
    if not os.path.exists(home + "/reports the sum only"):
        log("Iteration %d of %d: %f ms" % (number + 1, num, ms))
    if number == 2 and os.path.exists(home + "/loses a line"):
        os.remove(home + "/loses a line")
        lines = open(home + "/logcat").read().splitlines()[:-1]
        open(home + "/logcat", "w").write("\\n".join(lines) + "\\n")
log("Model executed successfully %d time(s) in %f ms." % (num, sum(each)))
"""

PERF_TEST = """\
import os, sys
home = "{home}"
words = sys.argv[1:]
num, threads, (model, result) = int(words[3]), int(words[5]), words[-2:]
options = ["-m", "times", "-r", str(num), "-x", str(threads), "-y", "1", "-o", "99", "-I"]
assert words == options + ["-D"] * (threads > 1) + [model, result], words
if os.path.exists(home + "/lacks a library"):
    lacks = 'library "libonnxruntime.so" not found: needed by main executable'
    sys.exit('CANNOT LINK EXECUTABLE "' + sys.argv[0] + '": ' + lacks)
if open(model, "rb").read().startswith(b"broken"):
    print("Load model from %s failed:Protobuf parsing failed." % model)
    sys.exit(255)
print(open("{recorded}/perf_test.txt").read())
with open(result, "a") as file:
    for number in range(num):
        seconds = os.path.getsize(model) / 1e5 + number % 2 / 1e6
        file.write("models,%.6g,%d,%d,%d\\n" % (seconds, 158171136, 68, number))
"""

PROPERTIES = {
    "ro.product.model": "Pixel 8",
    "ro.board.platform": "zuma",
    "ro.soc.model": "Tensor G3",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "15",
    "ro.build.id": "AP4A",
}


class Phone:
    """One phone; put ``path`` first on ``PATH``."""

    def __init__(self, home):
        self.home, self.path = home, home / "here"
        properties = "\n".join(f"{key}) echo {value!r};;" for key, value in PROPERTIES.items())
        values = {"home": str(home), "properties": properties, "recorded": str(RECORDED)}
        shell = {"getprop": GETPROP, "log": LOG, "logcat": LOGCAT, "dumpsys": DUMPSYS, "taskset": TASKSET, "sleep": ""}
        for name, source in shell.items():
            self.write(home / "bin" / name, "/bin/sh", source, values)
        python = f"{sys.executable} -S"
        self.write(self.path / "adb", "/bin/sh", ADB, values)
        self.executor_runner = self.write(home / "build" / "executor runner", python, EXECUTOR_RUNNER, values)
        self.perf_test = self.write(home / "build" / "onnxruntime_perf_test", python, PERF_TEST, values)
        self.devices("emulator-5554\tdevice")
        shutil.copy(RECORDED / "battery.txt", home / "battery.txt")
        (home / "logcat").write_text("Iteration 1 of 7: 99.0 ms\n")  # of an earlier program

    def write(self, path, interpreter, source, values):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{interpreter}\n{source.format(**values)}")
        path.chmod(0o755)
        return path

    def devices(self, *rows):
        (self.home / "devices.txt").write_text("\n".join(["List of devices attached", *rows, "", ""]))

    def do_wrong(self, what):
        (self.home / what).touch()

    def num_calls(self, verb):
        return (self.home / "calls").read_text().split().count(verb)
