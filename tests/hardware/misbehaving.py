"""A runtime whose model is a word that says how it goes wrong; it is imported where it does."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from ofa.hardware.runtimes.session import ModelError
from ofa.optional import NotInstalledError


class Misbehaving:
    format, precisions, on_cpu = "txt", ("fp32",), True

    def prepare(self, model, setting):
        self.word = Path(model).read_text()
        if self.word == "is not there":
            raise NotInstalledError("it is not there; install it")
        if self.word == "no model":
            raise ModelError(f"no model for {setting.threads} threads")
        return self

    def versions(self):
        return {"misbehaving": "1"}

    def run(self, inputs):
        (array,) = inputs.values()
        if self.word == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.word == "leaves":
            os._exit(3)
        if self.word == "hangs":
            time.sleep(1000)
        if self.word == "gives too much":
            return [np.zeros((1 << 28) + 1, np.float32)]
        if self.word == "takes too much":
            return [np.ones(1 << 45, np.uint8)]
        if self.word == "raises":
            raise KeyError("\x1b[31m")
        print("runtimes print, and so do their libraries")
        os.write(1, b"ofa: {}\n")
        return [array * 2, np.array(sys.path[0].endswith("runner.pyz")), np.zeros((0, 3)), array.astype(np.uint8)]
