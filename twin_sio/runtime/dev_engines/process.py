"""A process that ends when this one does."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

_STOP_S = 10.0  # after SIGTERM, then SIGKILL


class EngineError(Exception):
    """An embedded engine cannot serve; the text says what to do and is safe to print."""


class EngineMissing(EngineError):
    """The engine is found nowhere, or cannot run here; the text names the variable that points to another one."""


class EngineFailed(EngineError):
    """The engine was started and did not become ready; the text holds the end of its log."""


HAS_DEATH_SIGNAL = sys.platform == "linux"
"""Whether the kernel can be asked to kill a child when its parent dies (PR_SET_PDEATHSIG)."""

# Runs in the child before its program. It is a program of its own, and not a preexec_fn, because that one can deadlock
# in a process with threads.
# On Linux: PR_SET_PDEATHSIG (1), then a look whether the parent has died meanwhile. Elsewhere a second process waits
# for the end of a pipe that only the parent holds open: it comes when the parent has died, however it died. That
# process leaves when the program, whose child it is, has ended.
_LAUNCH = """
import json, os, select, signal, sys
parent, pipe, variables, argv = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:]
if pipe < 0:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
else:
    program = os.getpid()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        while os.getppid() == program:
            if select.select([pipe], [], [], 1)[0]:
                if os.getppid() == program:
                    os.kill(program, signal.SIGKILL)
                break
        os._exit(0)
    os.close(pipe)
os.environ.update(variables)
os.execvp(argv[0], argv)
"""
_CRASHES = {signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE}


@functools.cache
def _fork_executor() -> ThreadPoolExecutor:
    """The one thread that forks: the death signal is bound to the thread, which must live as long as the process."""
    return ThreadPoolExecutor(1, thread_name_prefix="children")


class Child:
    """A process that ends when this one does. May be started, stopped and started again, from any thread.

    `log` takes what it prints (the log before it is kept as `.old`); without one it prints where this process does.
    `env` is added to this process's own environment.
    """

    def __init__(
        self, name: str, argv: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        # The end of the pipe that closes with this process, where there is no death signal; one for each start.
        self._lifeline: int | None = None
        self._stopped = False

    @property
    def pid(self) -> int:
        """The process id; raises `EngineError` where it was never started."""
        return self._started.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def was_stopped(self) -> bool:
        """Whether it ended, or ends, because `stop` said so."""
        return self._stopped

    def start(self) -> None:
        """Start the process; returns at once."""
        self._stopped = False
        self._launch()

    def stop(self, grace_s: float = _STOP_S) -> int | None:
        """End it with SIGTERM, after `grace_s` with SIGKILL; returns the exit code, None where it never ran. Blocks."""
        self._stopped = True
        if self._process is None:
            return None
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)  # a paused process does not handle SIGTERM
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(grace_s)
        self.send_signal(signal.SIGKILL)
        return self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, as the kernel would; returns once it is gone. Counts as death from outside."""
        self.send_signal(signal.SIGKILL)
        self._started.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self.send_signal(signal.SIGCONT)

    async def wait(self) -> int:
        """The exit code, once it has ended; -N where signal N ended it. Cancelling leaves the process alone."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        process = self._started

        def set_exit_code(code: int) -> None:
            if not ended.done():
                ended.set_result(code)

        def watch() -> None:
            code = process.wait()
            with suppress(RuntimeError):  # the loop has been closed since
                loop.call_soon_threadsafe(set_exit_code, code)

        # Not in the loop's executor: that one's threads are joined at the end, and this one may wait for long.
        threading.Thread(target=watch, name=f"wait-{self.name}", daemon=True).start()
        return await ended

    def exit_summary(self) -> str:
        """One line on how it ended: `mongod was killed from outside (signal 9); its log: .twin/mongodb/mongod.log`."""
        code = self._started.poll()
        if code is None:
            how = "is alive"
        elif self._stopped:
            how = "was stopped"
        elif -code in _CRASHES:
            how = f"crashed (signal {-code})"
        elif code < 0:
            how = f"was killed from outside (signal {-code})"
        else:
            how = f"ended by itself (exit code {code})"
        return f"{self.name} {how}" + (f"; its log: {self.log}" if self.log else "")

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EngineError(f"{self.name} was not started.")
        return self._process

    def _command(self) -> list[str]:
        return self._argv

    def _launch(self) -> None:
        if self.alive:
            raise EngineError(f"{self.name} runs already.")
        self._process = _fork_executor().submit(self._fork).result()

    def _fork(self) -> subprocess.Popen[bytes]:
        with ExitStack() as stack:
            pipe = -1
            if not HAS_DEATH_SIGNAL:
                if self._lifeline is not None:
                    os.close(self._lifeline)
                pipe, self._lifeline = os.pipe()
                stack.callback(os.close, pipe)
            out = None if self.log is None else stack.enter_context(self._open_log(self.log))
            start = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(pipe), json.dumps(self._env)]
            return subprocess.Popen(  # noqa: S603
                [*start, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if out is not None else None,
                start_new_session=True,
                pass_fds=() if pipe < 0 else (pipe,),
            )

    def _open_log(self, log: Path) -> IO[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.old"))
        return log.open("wb")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where it has ended."""
        with suppress(ProcessLookupError):
            self._started.send_signal(number)
