"""Starts servers, workers and commands as forks of one process that has imported the service: that takes seconds of
CPU, and the tests start hundreds. What is forked is a process like any other: its own session, environment, standard
streams and end.

`python -m tests.fork_server FD` is that process; it serves one client over a socket, request by request, and ends with
it, and what was forked with that. `Forked` is the client's side.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twin_sio.runtime.dev_engines.process import HAS_DEATH_SIGNAL

_IMPORTED = (
    *("uvloop", "twin_sio.runtime.serve", "twin_sio.runtime.work", "tests.scripted_model"),
    *("twin_sio.cli.main", "twin_sio.admin", "twin_sio.runtime.engine_check", "twin_sio.runtime.model_check"),
)
_REQUEST_BYTES = 65_536


def can_fork() -> bool:
    """Whether this system has what it takes: a signal at the parent's death, and handles of processes."""
    return HAS_DEATH_SIGNAL and hasattr(os, "pidfd_open")


class Forked(subprocess.Popen[bytes]):
    """A forked module as `Popen` has a process. Its parent is the fork server, which knows how it ended."""

    def __init__(
        self, module: str, args: Sequence[str], env: Mapping[str, str], streams: Sequence[int], cwd: Path | None = None
    ) -> None:
        """`env` is its whole environment, `streams` are its standard input, output and error."""
        self.args = [sys.executable, "-m", module, *args]
        self.returncode: int | None = None  # type: ignore[assignment]
        request = {"module": module, "args": list(args), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        self.pid = _server().ask(request, streams)
        self._handle = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self._handle)

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def opened(self) -> int:
        """A descriptor that can be read once it has ended; the caller closes it."""
        return os.dup(self._handle)

    def _ended(self, timeout: float | None) -> int | None:
        ended = select.poll()  # not `select`, which knows 1,024 descriptors
        ended.register(self._handle, select.POLLIN)
        if self.returncode is None and ended.poll(None if timeout is None else timeout * 1000):
            with _server().lock:  # it can tell once how a process has ended
                if self.returncode is None:
                    self.returncode = _server().ask({"ended": self.pid}, [])
        return self.returncode


class _Server:
    """The fork server of this process, started when first asked."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a request and its answer
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def ask(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        with self.lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            return int(self._socket.recv(_REQUEST_BYTES))


@functools.cache
def _server() -> _Server:
    return _Server()


def _serve(client: socket.socket) -> dict[str, Any]:
    """Answer requests until the client is gone. Returns in forks alone, with what they have to run."""
    while True:
        data, files, *_ = socket.recv_fds(client, _REQUEST_BYTES, 3)
        if not data:
            sys.exit()
        request: dict[str, Any] = json.loads(data)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            client.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            client.close()
            _become(parent, request, files)
            return request
        for file in files:
            os.close(file)
        client.send(str(pid).encode())


def _become(parent: int, request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Give this fork what a started process has."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in set(streams):
        os.close(stream)
    # Anew: whether a stream is a terminal was looked at when the fork server started.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False, buffering=1 if os.isatty(1) else -1)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [request["module"], *request["args"]]


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as client:
        for module in _IMPORTED:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # what is never looked at again stays shared
        request = _serve(client)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
