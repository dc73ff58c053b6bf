from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka.prefix import prefix
from store import (
    BadVectors,
    ItemStore,
    MissingPart,
    QueryRefused,
    UnknownIds,
    UnknownTable,
    search,
)
from tests.store.conftest import IDS
from tests.store.shelf import DIMS, vectors


@given(
    st.lists(st.integers(-3, 3).map(float) | st.just(-np.inf), min_size=1, max_size=30),
    st.integers(1, 40),
)
def test_the_nearest_are_those_of_a_full_sort(scores, k):
    finite = [place for place, score in enumerate(scores) if score > -np.inf]
    order = sorted(finite, key=lambda place: (-scores[place], place))
    assert search.nearest(np.array(scores, np.float32), k).tolist() == order[:k]


@pytest.mark.parametrize("dim", DIMS)
def test_an_item_as_history_finds_targets_but_not_itself(store: ItemStore, dim: int):
    found = store.search("id 3", k=5, dim=dim)
    targets = prefix(vectors(len(IDS), 1), dim)
    scores = targets @ prefix(vectors(len(IDS), 0), dim)[3]
    scores[3] = -np.inf
    best = np.argsort(-scores)[:5]
    assert found.column_names == ["item_id", "score", "title"]
    assert found["item_id"].to_pylist() == [IDS[row] for row in best]
    assert found["title"].to_pylist() == [f"Item {IDS[row]}" for row in best]
    np.testing.assert_allclose(found["score"].to_numpy(), scores[best], atol=1e-6)


def test_a_vector_of_the_full_width_or_of_the_dim_finds_the_same(store: ItemStore):
    query = 5 * vectors(1, 77)[0]
    wide = store.search(query, dim=8)
    assert wide.equals(store.search(query[:8].tolist(), dim=8))
    assert wide.num_rows == 10


def test_an_integer_is_an_id(store: ItemStore):
    assert store.search(7).equals(store.search("7"))
    assert store.search(np.int64(7)).equals(store.search("7"))


def test_excluded_ids_are_no_answers_whether_known_or_not(store: ItemStore):
    first = store.search("id 3", k=3)["item_id"].to_pylist()
    rest = store.search("id 3", k=2, exclude=[first[0], "never heard of"])
    assert rest["item_id"].to_pylist() == first[1:]


def test_a_filter_limits_the_answers_to_items_that_pass_it(store: ItemStore):
    found = store.search("id 3", k=200, where="price < 10 AND title <> 'Item id 4'")
    assert sorted(found["item_id"].to_pylist()) == sorted({*IDS[:10]} - {"id 3", "id 4"})
    assert store.search("id 3", where="false").num_rows == 0
    assert store.search("id 3", where="price < 10 -- a note").num_rows == 9


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("colour = 'red'", "No field named colour. Valid fields are item_id, title, price"),
        ("price = 'dear'", "could not convert to literal of type 'Float64'"),
        ("title", "does not return a boolean"),
        ("price < 1; DROP TABLE items", "found: ;"),
        ("price < 1 LIMIT 1", "found: LIMIT"),
        ("true) -- ", "closes a bracket that it has not opened"),
        ("true) LIMIT 1", "closes a bracket that it has not opened"),
        ("price < 1) OR (true", "closes a bracket that it has not opened"),
        ("true) /* ", "Unexpected EOF"),
        ("item_id IN (SELECT item_id FROM items)", "is not supported"),
        ("read_csv('/etc/passwd') IS NULL", "Invalid function 'read_csv'"),
        ("", "Expected: an expression"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_reason(store: ItemStore, where: str, reason: str):
    with pytest.raises(QueryRefused) as caught:
        store.search("id 3", where=where)
    message = str(caught.value)
    assert message.startswith(f"where={where!r} is not a filter over items: ")
    assert reason in message
    assert "\n" not in message


def test_a_release_without_items_cannot_be_filtered(tmp_path: Path):
    store = ItemStore.create(tmp_path)
    store.publish_vectors(["a", "b"], np.eye(2))
    assert store.search("a").column_names == ["item_id", "score"]
    with pytest.raises(UnknownTable, match="r1 has no items table: where='price > 1'"):
        store.search("a", where="price > 1")


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ([1.0, 2.0], r"the query has shape \(2,\): pass \(16,\) or \(8,\)"),
        ({"a": 1}, "the query {'a': 1} is neither an id nor a vector"),
        (np.full(16, 1e200), "the query holds NaN or infinity"),
        (np.full(16, np.nan), "the query holds NaN or infinity"),
        (np.zeros(16), "the query is zero in its first 8 coordinates"),
    ],
)
def test_a_vector_without_a_direction_is_refused(store: ItemStore, query, complaint: str):
    with pytest.raises(BadVectors, match=complaint):
        store.search(query, dim=8)


def test_a_query_is_exactly_one_known_thing(store: ItemStore):
    with pytest.raises(UnknownIds, match="'nope' is not in r1: search by text"):
        store.search("nope")
    for nothing in ({}, {"text": "red", "image": b""}):
        with pytest.raises(ValueError, match="takes one of: an id or a vector, text=, image="):
            store.search(**nothing)
    with pytest.raises(ValueError, match="k=0: ask for at least one item"):
        store.search("id 3", k=0)


def test_an_absent_query_encoder_names_what_to_install(
    store: ItemStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "ENCODERS", "itemnest.nobody")
    with pytest.raises(MissingPart, match=r"pip install 'itemnest\[assets\]'"):
        store.search(text="red wine")
