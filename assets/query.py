"""Texts and pictures as queries: the released towers and the released space, applied to one item.

The store finds `encode_query` by entry point and imports it with the first such query.
"""

import json
from functools import lru_cache
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays

from alignment.space import ItemSpace, Vectors
from alignment.whiten import Content, Encoded
from encoders.encoder import Encoder, Item
from encoders.feed import encode
from encoders.registry import tower
from encoders.spec import MODALITIES, Choice, Modality
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
    item = Item(text=text, image=image)
    content = Content(*(_encoded(release.description["encoders"], m, item) for m in MODALITIES))
    used = release.description["encoders"]
    for given, modality, what in ((text, "text", "texts"), (image, "image", "pictures")):
        if given is not None and not {modality, "multimodal"} & set(used):
            raise MissingPart(f"no tower of {release.name} reads {what}: search by id or vector")
    return getattr(
        space.views(content, None), view if not release.views[view] else f"{view}_context"
    )


def _encoded(encoders: dict[str, dict[str, Any]], modality: Modality, item: Item) -> Encoded:
    """One row of encoder output; none where the release has no such tower, or it reads nothing."""
    used = encoders.get(modality)
    if used is None:
        return Encoded.none(1)
    if modality != "multimodal" and getattr(item, modality) is None:
        return Encoded(np.zeros((1, int(used["dim"])), np.float32), np.zeros(1, bool))
    encoder = _loaded(json.dumps(used["choice"]), modality)
    if encoder.digest != used["digest"]:
        raise MissingPart(
            f"the {modality} tower {used['choice']['tower']} is not the one that made this "
            "release: install the version it was made with, or materialize again"
        )
    return Encoded(encode(encoder, [item]), np.ones(1, bool))


@lru_cache(maxsize=3)
def _loaded(choice: str, modality: Modality) -> Encoder:
    return tower(Choice(**json.loads(choice)), modality).load(query=True)
