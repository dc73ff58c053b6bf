"""Whether Lance may be used: its threads do not survive a fork, and a child that uses it may crash.

It knows this process. What a forked child does instead, `store.aside` knows.
"""

import os

from store.errors import ForkedProcess

_used_by = 0  # the process that was the first to use Lance


def forked() -> bool:
    """Say whether this process was forked from one that had used Lance."""
    return _used_by not in (0, os.getpid())


def use_lance() -> None:
    """Say that this process is about to; ForkedProcess if it may not."""
    global _used_by
    if forked():
        raise ForkedProcess(
            "this process was forked from one that had used Lance, which does not survive that: "
            "it can look up vectors in stores opened before the fork; for anything else start it "
            "by spawn or forkserver"
        )
    _used_by = os.getpid()
