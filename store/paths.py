"""Where a store lives and where its caches go. It knows addresses, not what is kept there."""

import hashlib
import os
from pathlib import Path


def local_folder(uri: str | Path) -> Path | None:
    """Return the absolute folder of a local store, None for an object store address."""
    text = str(uri)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).resolve()
    if text.startswith(("http://", "https://")):
        raise ValueError(f"{text}: a store is a folder or an s3://, gs:// or az:// address")
    return None if "://" in text else Path(text).expanduser().resolve()


def cache_folder(uri: str) -> Path:
    """Return this user's cache folder for the store at `uri`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "itemnest" / hashlib.sha256(uri.encode()).hexdigest()[:16]
