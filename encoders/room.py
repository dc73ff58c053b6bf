"""How much one forward may take: found by a rehearsal under a memory limit, halved when it fails.

It knows sizes and bytes, and how each device tells what a forward took. It knows no model.
"""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

FREE_SHARE = 2  # forwards may take one half of what is free
_earlier = [0]  # peak memory before the count last began anew
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "bad alloc")


class Room:
    """The largest padded size of a forward: at first `most`, beyond which none is faster.

    memory: bytes that all forwards may take together; half of what is free, unless given.
    """

    def __init__(self, most: int, device: str, *, memory: int | None = None) -> None:
        self.size = most
        self._device = device
        self._memory = memory
        self._rehearsed = False
        self._lock = Lock()

    def rehearse(self, size: int, forward: Callable[[int], None], *, at_once: int) -> None:
        """Shrink to what the limit has room for, judged by forward(copies) of one item of a size.

        Only the first call does anything: a forward of one, to warm up, and a measured one of two.
        at_once: how many forwards will run side by side.
        """
        if self._rehearsed:
            return
        self._rehearsed = True
        forward(1)
        taken = peak_bytes(self._device, lambda: forward(2))
        limit = self._memory or free_bytes(self._device) // FREE_SHARE
        if taken and limit:
            fitting = 2 * limit // at_once // taken
            self.size = min(self.size, size * max(1, fitting))

    def failed(self, size: int) -> None:
        """Shrink to half of a forward that ran out of memory, unless it is smaller by now."""
        with self._lock:
            self.size = max(1, min(self.size, size // 2))
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, of whatever library, says that memory ran out."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(sign in str(error).lower() for sign in _SIGNS)


def peak_bytes(device: str, run: Callable[[], object]) -> int:
    """Run something; return the memory it took at its height, 0 where nobody can tell."""
    if device.startswith("cuda"):
        import torch

        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if device != "cpu" or not _reset_high_water():
        run()
        return 0
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def process_peak() -> int:
    """Return the most memory, in bytes, that this process has had; measuring a forward hides it."""
    now = _status("VmHWM")
    if not now:  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now = peak if sys.platform == "darwin" else peak * 1024
    return max(_earlier[0], now)


def free_bytes(device: str) -> int:
    """Return how much memory can still be had on a device, 0 where nobody can tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device != "cpu":
        return 0
    free = [_kilobytes(Path("/proc/meminfo"), "MemAvailable"), *_cgroup_free()]
    return min((found for found in free if found), default=0)


def _cgroup_free() -> list[int]:
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        return [int(limit) - int(used)]
    except (OSError, ValueError):  # no such limit
        return []


def _reset_high_water() -> bool:
    """Let Linux count the process's peak memory from now on: proc(5), clear_refs."""
    _earlier[0] = max(_earlier[0], _status("VmHWM"))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or not allowed here
        return False
    return True


def _status(name: str) -> int:
    return _kilobytes(Path("/proc/self/status"), name)


def _kilobytes(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    found: list[Any] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0
