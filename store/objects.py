"""Object stores: opening one as Lance does, and proving that it can be written to safely.

It knows addresses, options and conditional puts, not what is kept there.
"""

import os
import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PreconditionError,
    UnknownConfigurationKeyError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from store.errors import UnfitStore

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult, UpdateVersion
    from obstore.store import RetryConfig

Objects: TypeAlias = S3Store | GCSStore | AzureStore
STORES = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
RENAMED = {"google_storage_token": "google_bearer_token"}  # what Lance calls it: what obstore does
PATIENCE = {"timeout": "10s"}  # per request: a lease is lost while one hangs for 30 s
RETRIES: "RetryConfig" = {"retry_timeout": timedelta(seconds=10)}


def open_objects(uri: str, options: Mapping[str, str] | None = None) -> Objects:
    """Open the objects below `uri`, with Lance's `storage_options` and the provider's variables."""
    scheme = uri.partition("://")[0]
    if scheme not in STORES:
        raise ValueError(f"{uri}: a store is a folder or an s3://, gs:// or az:// address")
    if _process() != os.getpid():  # a request would wait for ever
        raise UnfitStore(
            f"{uri}: this process was forked from one that had opened an object store, and its "
            "client does not survive that: start processes with spawn, or fork before opening"
        )
    return _opened(uri, frozenset((options or {}).items()))


def configuration(scheme: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the `storage_options` of Lance as the configuration of obstore.

    Both name them as the crate object_store does. What only Lance knows, its own retries for
    example, is left out, as Lance leaves out what it does not know.
    """
    lower = {name.lower(): value for name, value in options.items()}
    named = {RENAMED.get(name, name): value for name, value in lower.items()}
    if not _takes(scheme, named):
        named = {name: value for name, value in named.items() if _takes(scheme, {name: value})}
    return named | PATIENCE


def folders(objects: Objects, prefix: str | None = None) -> list[str]:
    """Return the names of the folders right below `prefix`."""
    found = objects.list_with_delimiter(prefix)["common_prefixes"]
    return [path.rpartition("/")[2] for path in found]


def version(of: "PutResult | ObjectMeta") -> "UpdateVersion":
    """Return what names an object's version, for a put on condition that it has not changed."""
    named: UpdateVersion = {}
    if (e_tag := of["e_tag"]) is not None:
        named["e_tag"] = e_tag
    if (number := of["version"]) is not None:
        named["version"] = number
    return named


def open_for_writing(uri: str, options: Mapping[str, str] | None = None) -> Objects:
    """Open the objects below `uri`; UnfitStore if the store ignores conditions on a put.

    Lance's commits and the writer lock rest on them. It is asked once in a process.
    """
    objects = open_objects(uri, options)
    _prove(uri, frozenset((options or {}).items()))
    return objects


@cache
def _prove(uri: str, options: frozenset[tuple[str, str]]) -> None:
    objects = _opened(uri, options)
    path = f".probe-{uuid.uuid4().hex}"
    try:
        found = _probe(objects, path)
        objects.delete(path)
    except (BaseError, OSError) as error:
        raise UnfitStore(
            f"{uri} cannot be written to: {first_line(error)}; "
            "check the bucket, the credentials, the region and the endpoint"
        ) from error
    if found:
        raise UnfitStore(
            f"{uri}: this object store ignores {found}: it overwrote an object that it had to "
            "refuse to overwrite (status 412), so two writers would lose rows in silence; use an "
            "object store with conditional puts, as AWS S3, Google and Azure have, or a folder"
        )


def _probe(objects: Objects, path: str) -> str | None:
    """Return the condition that is ignored, None if both are honoured."""
    first = objects.put(path, b"first", mode="create")
    try:
        objects.put(path, b"second", mode="create")
    except AlreadyExistsError:
        pass
    else:
        return "If-None-Match"
    objects.put(path, b"third", mode=version(first))
    try:
        objects.put(path, b"fourth", mode=version(first))
    except PreconditionError:
        return None
    return "If-Match"


def _takes(scheme: str, config: dict[str, str]) -> bool:
    """Say whether obstore knows every name; whether it can use the values is seen later."""
    try:
        STORES[scheme]("bucket", config=config)
    except UnknownConfigurationKeyError:
        return False
    except BaseError:
        return True
    return True


@cache  # 60 ms, most of it for the certificates of this machine
def _opened(uri: str, options: frozenset[tuple[str, str]]) -> Objects:
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    return STORES[scheme](
        bucket,
        prefix=prefix or None,
        config=configuration(scheme, dict(options)),
        retry_config=RETRIES,
    )


@cache
def _process() -> int:
    """Return the process that opened an object store first; its forked children inherit that."""
    return os.getpid()


def first_line(error: Exception) -> str:
    """Return what an error of obstore says, without the dump that follows."""
    return str(error).partition("\n")[0]
