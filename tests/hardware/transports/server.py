"""A real OpenSSH server on this machine, of our own and for our own user."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).exists()), None)
MISSING = [
    name
    for name, path in {"sshd": SSHD, **{name: shutil.which(name) for name in ("ssh", "ssh-keygen", "ps")}}.items()
    if path is None
]
SEPARATION = Path("/run/sshd")  # a server of root wants this empty folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


class SshServer:
    """Listens on a free port of the loopback; ``config`` is what a client needs to get in."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.user = getpass.getuser()
        self.key, self.host_key = make_key(folder / "id"), make_key(folder / "host")
        (folder / "authorized_keys").write_text((folder / "id.pub").read_text())
        (folder / "known_hosts").write_text(
            f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}", encoding="utf-8"
        )
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        )
        self.config = self.write_config("config", self.folder / "known_hosts")
        self.made_separation = os.geteuid() == 0 and not SEPARATION.exists()
        if self.made_separation:
            SEPARATION.mkdir(mode=0o755)

    def write_config(self, name, known_hosts):
        path = self.folder / name
        path.write_text(f"UserKnownHostsFile {known_hosts}\nGlobalKnownHostsFile none\nHashKnownHosts no\n")
        return path

    @property
    def settings(self):
        return {
            "address": f"{self.user}@127.0.0.1",
            "port": self.port,
            "identity": str(self.key),
            "config": str(self.config),
        }

    def start(self):
        log = self.folder / "sshd.log"
        command = [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)]
        self.process = subprocess.Popen(command, start_new_session=True)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        raise AssertionError(log.read_text())

    def cut(self):
        """End all sessions, as when the network goes; those who were started in them and left them live on."""
        if self.process is not None:
            for pid in children(self.process.pid):
                with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                    os.kill(pid, signal.SIGKILL)

    def stop(self):
        self.cut()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self):
        self.stop()
        if self.made_separation:
            SEPARATION.rmdir()


def children(pid):
    """Processes under a process, the deepest first, those of a session of its own not."""
    rows = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    table = [row.split(None, 2) for row in rows if row.strip()]
    direct = [int(row[0]) for row in table if int(row[1]) == pid]
    return [each for child in direct for each in (*children(child), child)]
