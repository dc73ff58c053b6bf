"""The feed and the engine: order, bounded reading ahead, errors with their row."""

from collections.abc import Iterator, Sequence
from threading import Barrier, get_ident

import numpy as np
import pytest
import torch

from encoders.encoder import Item, Vectors, prepare_rows, text_of
from encoders.engine import LocalEngine
from encoders.feed import CHUNK, encode_batches


class Lengths:
    """A real encoder of one number: the length of the text."""

    dim = 2
    digest = "lengths"

    def encode(self, items: Sequence[Item], /) -> Vectors:
        texts = prepare_rows(text_of, items)
        angles = np.array([len(text) for text in texts], np.float32).reshape(-1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def items(*lengths: int) -> list[Item]:
    return [Item(text="x" * length) for length in lengths]


def test_batches_of_every_size_keep_their_order() -> None:
    sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 0, 5]
    batches = [items(*np.random.default_rng(size).integers(0, 9, size)) for size in sizes]
    fed = list(encode_batches(Lengths(), batches, threads=3))
    assert [len(vectors) for vectors in fed] == sizes
    for batch, vectors in zip(batches, fed, strict=True):
        np.testing.assert_array_equal(vectors, Lengths().encode(batch))


def test_batches_are_read_in_the_callers_thread_and_only_a_few_ahead() -> None:
    read: list[int] = []

    def endless() -> Iterator[list[Item]]:
        while True:
            read.append(get_ident())
            yield items(1)

    stream = encode_batches(Lengths(), endless(), threads=2)
    next(stream)
    stream.close()
    assert set(read) == {get_ident()}
    assert len(read) <= 6


def test_chunks_of_a_batch_are_encoded_side_by_side() -> None:
    meeting = Barrier(2, timeout=60)

    class Meeting(Lengths):
        def encode(self, items: Sequence[Item], /) -> Vectors:
            meeting.wait()
            return super().encode(items)

    assert (
        next(encode_batches(Meeting(), [items(*[1] * 2 * CHUNK)], threads=2)).shape[0] == 2 * CHUNK
    )


def test_a_refused_item_is_named_by_its_row_in_the_batch() -> None:
    batch = items(*[1] * (CHUNK + 9))
    batch[CHUNK + 4] = Item(image=b"")
    with pytest.raises(ValueError, match=f"row {CHUNK + 4}: the item has no text"):
        list(encode_batches(Lengths(), [batch]))


def test_the_callers_torch_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    list(encode_batches(Lengths(), [items(1, 2)], threads=1))
    assert torch.get_num_threads() == before


def test_the_local_engine_encodes_in_order() -> None:
    batches = [items(1, 2), items(3), items()]
    vectors = list(LocalEngine().map(Lengths, batches))
    np.testing.assert_array_equal(np.concatenate(vectors), Lengths().encode(items(1, 2, 3)))
    assert [len(batch) for batch in vectors] == [2, 1, 0]


def test_the_local_engine_loads_nothing_when_there_is_nothing_to_encode() -> None:
    def load() -> Lengths:
        raise AssertionError("nobody should need the encoder")

    assert list(LocalEngine().map(load, [])) == []
