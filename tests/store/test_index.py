"""The index against a dictionary, whatever the ids are."""

import gc
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import ItemStore, _lookup, index
from store.index import Index
from tests.store.conftest import IDS

texts = st.text(st.characters(exclude_categories=["Cs"]))


def built(ids: list[str]) -> Index:
    chunks = index.build(pa.array(ids, pa.string()))
    return Index(np.frombuffer(b"".join(chunks), np.uint8))


@given(st.lists(texts, min_size=1, unique=True), st.lists(texts))
def test_every_id_has_its_row_and_no_other_text_has_one(ids: list[str], others: list[str]):
    rows, missing = built(ids).find([*ids, *others])
    truth = {item: row for row, item in enumerate(ids, start=1)}
    assert rows.tolist() == [truth.get(item, 0) for item in [*ids, *others]]
    assert missing == sum(item not in truth for item in others)


def test_a_slice_of_a_longer_column_is_indexed_by_its_own_rows():
    ids = pa.array([str(number) for number in range(100)]).slice(40, 20)
    found = Index(np.frombuffer(b"".join(index.build(ids)), np.uint8))
    assert found.rows(["40", "59", "39", "60"]).tolist() == [1, 20, 0, 0]


def test_hashes_are_those_of_the_published_function():
    # SipHash-1-3 of the bytes 0, 1, 2, … with the key 0 … 15, computed from its definition
    key, words = bytes(range(16)), ["".join(map(chr, range(n))) for n in (0, 1, 7, 8, 9, 16)]
    ids, out = pa.array(words, pa.string()), np.empty(6, np.uint64)
    _, offsets, text = ids.buffers()
    _lookup.hash_ids(offsets, text, key, out)
    assert out.tolist() == [siphash(1, 3, key, word.encode()) for word in words]
    # the test vector of the paper's appendix, for the rounds that it gives: 2 and 4
    assert siphash(2, 4, key, bytes(range(15))) == 0xA129CA6149BE45E5


def siphash(compressing: int, finishing: int, key: bytes, data: bytes) -> int:
    most = (1 << 64) - 1
    first, second = (int.from_bytes(part, "little") for part in (key[:8], key[8:]))
    a, b, c, d = (
        int.from_bytes(word, "big") ^ part
        for word, part in zip(
            (b"somepseu", b"dorandom", b"lygenera", b"tedbytes"), (first, second) * 2, strict=True
        )
    )

    def turned(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & most

    def rounds(count: int) -> None:
        nonlocal a, b, c, d
        for _ in range(count):
            a, c = (a + b) & most, (c + d) & most
            b, d, a = turned(b, 13) ^ a, turned(d, 16) ^ c, turned(a, 32)
            a, c = (a + d) & most, (c + b) & most
            d, b, c = turned(d, 21) ^ a, turned(b, 17) ^ c, turned(c, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        d ^= word
        rounds(compressing)
        a ^= word
    c ^= 255
    rounds(finishing)
    return a ^ b ^ c ^ d


def test_a_million_ids_in_one_call_are_read_in_order(store: ItemStore):
    rows = np.random.default_rng(0).integers(0, len(IDS), 1_000_000)
    read = store.get_item_vectors([IDS[row] for row in rows], 4)
    np.testing.assert_array_equal(read, store.get_item_vectors(IDS, 4)[rows])


def test_text_that_utf8_cannot_write_is_no_id(store: ItemStore):
    assert store.lookup(["\ud800", IDS[0]]).found.tolist() == [False, True]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="collects between bytecodes only")
def test_a_list_that_shrinks_while_it_is_read_is_an_error():
    ids = built(["a", "b"])
    wanted = ["\ud800"] * 5000  # each makes an error object, and those make collections
    given = (wanted, ids._key, ids._displacements, ids._slots, np.empty(5000, np.int64))

    class Clears:
        def __del__(self) -> None:
            wanted.clear()

    threshold = gc.get_threshold()
    gc.disable()
    cycle = [Clears()]
    cycle.append(cycle)
    del cycle
    gc.set_threshold(1)
    try:
        with pytest.raises(IndexError, match="list index out of range"):  # noqa: PT012
            gc.enable()
            _lookup.find(*given)
    finally:
        gc.set_threshold(*threshold)
        gc.enable()


def test_checksums_tell_columns_that_changed_their_sign():
    rows = np.random.default_rng(0).standard_normal((1000, 128)).astype(np.float32)
    before = np.empty(1000, np.uint64)
    _lookup.checksums(rows, 512, np.arange(1000), before)
    rows[:, [1, 8, 9]] *= -1
    after = np.empty(1000, np.uint64)
    _lookup.checksums(rows, 512, np.arange(1000), after)
    assert (before != after).all()


def test_what_does_not_fit_is_refused_before_memory_is_touched():
    vectors, seen = np.zeros((4, 8), np.float32), np.ones(1, np.uint8)
    out = np.zeros((2, 8), np.float32)
    for rows, room in (([0, 4], out), ([0, -1], out), ([0, 1], out[:1])):
        with pytest.raises(IndexError):
            _lookup.gather(vectors, 32, np.array(rows), room, seen, 2)
    with pytest.raises(IndexError):
        _lookup.checksums(vectors, 64, np.array([2]), np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="offsets do not fit the data"):
        _lookup.hash_ids(np.array([0, 9], np.int32), b"abc", bytes(16), np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="a key has 16 bytes"):
        _lookup.hash_ids(np.array([0, 1], np.int32), b"a", b"", np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="out does not hold a prefix"):
        _lookup.prefix_rows(vectors, 8, out, 9)
