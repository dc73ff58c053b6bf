"""Texts and pictures as queries: the released towers and the released space, applied to one item.

The store finds `encode_query` by entry point and imports it with the first such query.
"""

import json
from functools import lru_cache

import numpy as np
from safetensors.numpy import load as load_arrays

from alignment.space import ItemSpace, Vectors
from alignment.whiten import Content
from encoders.encoder import Encoder, Item
from encoders.registry import Modality, tower
from store import ItemStore, MissingPart


def encode_query(
    store: ItemStore, *, text: str | None = None, image: bytes | None = None, view: str
) -> Vectors:
    """Return float32 [1, width]: where an item of this text and picture would be in the view.

    Where the view has roles it is the context, which targets are scored against. MissingPart if the
    release was made without a space or without the tower that the query needs.
    """
    release = store.release
    if "spaces" not in release.tables:
        raise MissingPart(
            f"{release.name} was published without a space: search it by id or vector"
        )
    version = release.tables["spaces"]
    found = store.tables.take("spaces", "space_id", [release.space_id], version=version)
    if not len(found):
        raise MissingPart(f"{release.name} has vectors of your own: search it by id or vector")
    row = found.to_pylist()[0]
    space = ItemSpace.restore(load_arrays(row["weights"]), json.loads(row["description"])["space"])
    content = Content(
        *_encoded(release.description["encoders"], "text", text),
        *_encoded(release.description["encoders"], "image", image),
    )
    return getattr(
        space.views(content, None), view if not release.views[view] else f"{view}_context"
    )


def _encoded(
    encoders: dict[str, dict[str, object]], modality: Modality, given: str | bytes | None
) -> tuple[Vectors, np.ndarray]:
    """One row of encoder output and its bit; zeros of the right width when nothing was given."""
    used = encoders.get(modality)
    if given is None or used is None:
        if given is not None:
            raise MissingPart(f"the release has no {modality} tower: search by id or vector")
        return np.zeros((1, int(str(used["dim"])) if used else 0), np.float32), np.zeros(1, bool)
    encoder = _loaded(str(used["name"]), modality)
    if encoder.digest != used["digest"]:
        raise MissingPart(
            f"the {modality} tower {used['name']} is not the one that made this release: "
            "install the version it was made with, or materialize again"
        )
    item = Item(text=given) if isinstance(given, str) else Item(image=given)
    return encoder.encode([item]), np.ones(1, bool)


@lru_cache(maxsize=2)
def _loaded(name: str, modality: Modality) -> Encoder:
    return tower(name, modality).load()
