"""The processes that run SQL: started when first needed, kept for the next query, ended with us.

A worker (`store/query_worker.py`) answers one request at a time, so as many run as queries are
asked at once. What a request says and what an answer holds, this module does not know.
"""

import atexit
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

WORKER = Path(__file__).with_name("query_worker.py")
LENGTH, STATUS = struct.Struct("!Q"), struct.Struct("!i")  # as the worker has them
COMPLETE = b"complete"  # the answer's end, before a byte of status
KEPT = 4  # idle workers; each is two processes with 20 MB of their own
PATIENCE_S = 60.0  # for the worker to start, beyond the query's own time
_idle: list["Worker"] = []  # append and pop are atomic: no lock that a fork could leave held


class WorkerGone(Exception):
    """The worker ended without an answer; the message is its last word."""


class Worker:
    """A process that answers requests, and our end of its socket."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE_S)
        self._owes_status = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-S", str(WORKER)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us, and its children can be ended with it
            )

    def ask(self, request: bytes, timeout_s: float) -> tuple[int, bytearray]:
        """Return how the request's process ended (see `os.waitstatus_to_exitcode`), and its answer.

        Raises WorkerGone, or TimeoutError if the worker does not end the request in time.
        """
        reader, writer = os.pipe()
        with open(reader, "rb", 0):
            try:
                self.settle()
                socket.send_fds(self._control, [LENGTH.pack(len(request))], [writer])
                self._control.sendall(request)
            except ConnectionError:
                raise WorkerGone(self._last_word()) from None
            finally:
                os.close(writer)
            return self._collect(reader, time.monotonic() + timeout_s + PATIENCE_S)

    def _collect(self, reader: int, deadline: float) -> tuple[int, bytearray]:
        answer = bytearray()
        with selectors.DefaultSelector() as waiting:
            waiting.register(reader, selectors.EVENT_READ)
            waiting.register(self._control, selectors.EVENT_READ)
            while events := waiting.select(max(0, deadline - time.monotonic())):
                if reader in {key.fd for key, _ in events}:
                    if chunk := os.read(reader, 1 << 20):
                        answer += chunk
                        continue
                    waiting.unregister(reader)
                    if not _is_complete(answer):
                        continue
                    self._owes_status = True  # to take the process down lasts 10 ms more
                    status = answer[-1]
                else:  # it is told last: the pipe holds no more
                    status = self._status()
                if _is_complete(answer):
                    del answer[-len(COMPLETE) - 1 :]
                return status, answer
        raise TimeoutError

    def settle(self) -> None:
        """Wait until the process that answered last is gone."""
        if self._owes_status:
            self._status()

    def _status(self) -> int:
        self._owes_status = False
        with suppress(ConnectionError):
            if told := self._control.recv(STATUS.size):
                return STATUS.unpack(told)[0]
        raise WorkerGone(self._last_word())

    def _last_word(self) -> str:
        assert self._process.stderr
        os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]

    def end(self) -> None:
        """End the process and its children, whatever they are doing."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a zombie
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close our ends: in a forked process the worker is that of the other one."""
        assert self._process.stderr
        self._process.returncode = self._process.returncode or 0  # no child of ours to wait for
        self._process.stderr.close()
        self._control.close()


def ask(request: bytes, timeout_s: float) -> tuple[int, bytearray]:
    """Have an idle worker, or a new one, answer; see `Worker.ask`."""
    _look_after_workers()
    while True:
        try:
            worker, new = _idle.pop(), False
        except IndexError:
            worker, new = Worker(), True
        try:
            outcome = worker.ask(request, timeout_s)
        except WorkerGone:
            worker.end()
            if new:  # an idle one may have ended by itself
                raise
        except BaseException:
            worker.end()
            raise
        else:
            _keep(worker)
            return outcome


def _is_complete(answer: bytearray) -> bool:
    return answer.endswith(COMPLETE, 0, -1)


def _keep(worker: Worker) -> None:
    if len(_idle) < KEPT:
        _idle.append(worker)
    else:
        worker.end()


@cache
def _look_after_workers() -> None:
    atexit.register(_end_idle)
    os.register_at_fork(after_in_child=_forget_idle)


def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


def _forget_idle() -> None:
    while _idle:
        _idle.pop().forget()


def _environment() -> dict[str, str]:
    """Say where our modules are and nothing else: no variable of the caller is there to be read."""
    return {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
        "TZ": "UTC",
        "OPENBLAS_NUM_THREADS": "1",  # and no thread of pyarrow's: a process with one cannot fork
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "MALLOC_ARENA_MAX": "2",  # each arena reserves addresses, which is what RLIMIT_AS counts
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages: a quarter of the faults
        "LANCE_LOG": "error",
    }
