"""Whether Lance may be used: its threads do not survive a fork, and a child that uses it may crash.

It knows this process. What a forked child does instead, `store.aside` knows.
"""

import os
from functools import cache

from store.errors import ForkedProcess

_forked = False


def forked() -> bool:
    """Say whether this process was forked from one that had used Lance."""
    return _forked


def use_lance() -> None:
    """Say that this process is about to; ForkedProcess if it may not."""
    if _forked:
        raise ForkedProcess(
            "this process was forked from one that had used Lance, which does not survive that: "
            "it can look up vectors in stores opened before the fork; for anything else start it "
            "by spawn or forkserver"
        )
    _watch_forks()


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_remember)


def _remember() -> None:
    global _forked
    _forked = True
