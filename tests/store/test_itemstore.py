import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import store as package
from matryoshka.prefix import prefix
from store import BadIds, BadVectors, ItemStore, NoRelease, StoreExists, UnknownDim, UnknownIds
from tests.store.conftest import IDS
from tests.store.shelf import DIMS, publish, read_into, vectors

TARGET = dict(zip(IDS, vectors(len(IDS), 1), strict=True))
CONTEXT = dict(zip(IDS, vectors(len(IDS), 0), strict=True))
asked = st.lists(st.sampled_from(IDS) | st.text(max_size=3) | st.integers(-3, 70), max_size=40)


def expected(ids: list[str | int], dim: int, among: dict[str, np.ndarray]) -> np.ndarray:
    full = np.zeros((len(ids), 16), np.float32)
    for row, item in enumerate(ids):
        full[row] = among.get(str(item), 0)
    return prefix(full, dim)


@given(asked, st.sampled_from(DIMS))
def test_a_read_is_the_prefix_of_every_id_in_order_with_repeats(
    store: ItemStore, ids: list[str | int], dim: int
):
    answer = store.lookup(ids, dim)
    np.testing.assert_array_equal(answer.vectors, expected(ids, dim, TARGET))
    assert answer.found.tolist() == [str(item) in TARGET for item in ids]
    assert answer.vectors.dtype == np.float32


@given(asked)
def test_unknown_ids_raise_or_read_as_the_policy_says(store: ItemStore, ids: list[str | int]):
    unknown = np.array([str(item) not in TARGET for item in ids], bool)
    blank = store.get_item_vectors(ids, 8, missing="nan")
    np.testing.assert_array_equal(np.isnan(blank).all(axis=1), unknown)
    np.testing.assert_array_equal(blank[~unknown], expected(ids, 8, TARGET)[~unknown])
    if unknown.any():
        with pytest.raises(UnknownIds, match=rf"{unknown.sum()} of {len(ids)} ids are not in r1"):
            store.get_item_vectors(ids, 8)
    else:
        np.testing.assert_array_equal(store.get_item_vectors(ids, 8), blank)


def test_an_unknown_id_is_named_with_its_release_and_the_way_out(store: ItemStore):
    with pytest.raises(UnknownIds) as caught:
        store.get_item_vectors(["id 1", "x", "y", "z", "x", "v", "w"])
    assert str(caught.value) == (
        "6 of 7 ids are not in r1: 'x', 'y', 'z', 'x', 'v', …; "
        "missing='zero' or 'nan' reads them as such"
    )


@pytest.mark.parametrize(
    "ids",
    [
        [7, 8],
        (7, "8"),
        np.array([7, 8]),
        np.array(["7", "8"]),
        np.array(["7", 8], object),
        [np.int32(7), np.str_("8")],
        pa.array(["7", "8"]),
        pa.array([7, 8], pa.int16()),
        pa.chunked_array([["7"], ["8"]]),
        iter(["7", "8"]),
    ],
)
def test_ids_may_come_in_any_sequence(store: ItemStore, ids):
    np.testing.assert_array_equal(store.get_item_vectors(ids, 8), expected(["7", "8"], 8, TARGET))


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ("id 1", r"ids is the single value 'id 1': pass a list, \['id 1'\]"),
        (["id 1", True], r"ids\[1\] is True \(bool\): an id is a string or an integer"),
        ([1.0], r"ids\[0\] is 1.0 \(float\)"),
        (["id 1", None], r"ids\[1\] is None \(NoneType\)"),
        ([["id 1"]], r"ids\[0\] is \['id 1'\] \(list\)"),
        ([b"id 1"], r"ids\[0\] is b'id 1' \(bytes\)"),
        (np.array([1.5]), r"ids\[0\] is 1.5 \(float\)"),
        (np.array([[1]]), r"ids is an array of shape \(1, 1\): pass one dimension"),
        (pa.array([1, None]), r"ids\[1\] is None"),
    ],
)
def test_what_cannot_be_an_id_is_named(store: ItemStore, ids, complaint: str):
    with pytest.raises(BadIds, match=complaint):
        store.lookup(ids)


def test_no_ids_give_no_rows(store: ItemStore):
    assert store.get_item_vectors([]).shape == (0, 16)
    assert store.get_item_vectors(np.array([], int), dim=4).shape == (0, 4)


def test_roles_and_views_are_columns_of_their_own(store: ItemStore):
    history = store.get_item_vectors(["id 3"], 8, role="context")
    np.testing.assert_array_equal(history, expected(["id 3"], 8, CONTEXT))
    either = [
        store.get_item_vectors(["id 3"], view="content", role=r) for r in ("context", "target")
    ]
    np.testing.assert_array_equal(*either)
    assert not np.array_equal(either[0], store.get_item_vectors(["id 3"]))


def test_a_read_fills_the_array_given(store: ItemStore):
    out = np.full((3, 8), np.nan, np.float32)
    answer = store.get_item_vectors(["id 3", "?", "id 1"], 8, out=out, missing="zero")
    assert answer is out
    np.testing.assert_array_equal(out, expected(["id 3", "?", "id 1"], 8, TARGET))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 8), np.float32),
        np.zeros((2, 8)),
        np.zeros((8, 2), np.float32).T,
        np.broadcast_to(np.zeros(8, np.float32), (2, 8)),
        [[0.0] * 8] * 2,
    ],
)
def test_an_array_that_cannot_be_filled_is_refused(store: ItemStore, out):
    with pytest.raises(ValueError, match=r"C-contiguous float32 array of shape \(2, 8\)"):
        store.get_item_vectors(["id 1", "id 2"], 8, out=out)


def test_a_policy_or_a_dim_that_is_not_there_is_named(store: ItemStore):
    with pytest.raises(ValueError, match="missing='drop': choose one of 'raise', 'zero', 'nan'"):
        store.get_item_vectors(["id 1"], missing="drop")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownDim, match="r1 has no dim 12: choose one of 4, 8, 16"):
        store.get_item_vectors(["id 1"], dim=12)


@given(
    st.lists(st.lists(st.sampled_from(IDS) | st.just("?"), max_size=9), max_size=6),
    st.none() | st.integers(0, 5),
)
def test_sequences_are_left_padded_and_keep_their_latest_events(
    store: ItemStore, sequences: list[list[str]], max_len: int | None
):
    read = store.get_sequence_vectors(sequences, 4, max_len=max_len, missing="zero")
    length = max(map(len, sequences), default=0) if max_len is None else max_len
    assert read.vectors.shape == (len(sequences), length, 4)
    for ids, row, mask in zip(sequences, *read, strict=True):
        kept = ids[-length:] if length else []
        assert mask.tolist() == [False] * (length - len(kept)) + [True] * len(kept)
        np.testing.assert_array_equal(row[mask], expected(kept, 4, CONTEXT))
        assert not row[~mask].any()


def test_sequences_treat_unknown_ids_as_told(store: ItemStore):
    histories = [["id 1", "?", "id 2"], ["?"]]
    left_out = store.get_sequence_vectors(histories, 4, max_len=2, missing="skip")
    assert left_out.mask.tolist() == [[True, True], [False, False]]
    np.testing.assert_array_equal(left_out.vectors[0], expected(["id 1", "id 2"], 4, CONTEXT))
    blank = store.get_sequence_vectors(histories, 4, missing="nan")
    assert np.isnan(blank.vectors).any(axis=2).tolist() == [
        [False, True, False],
        [False, False, True],
    ]
    with pytest.raises(UnknownIds, match=r"2 of 4 ids are not in r1: '[?]', '[?]'"):
        store.get_sequence_vectors(histories, 4)
    assert store.get_sequence_vectors([]).vectors.shape == (0, 0, 16)


@pytest.mark.parametrize("dim", DIMS)
def test_the_item_matrix_holds_every_item_once(store: ItemStore, dim: int):
    whole = store.item_matrix(dim)
    assert sorted(whole.ids) == sorted(IDS)
    np.testing.assert_array_equal(whole.vectors, store.get_item_vectors(whole.ids, dim))
    assert whole.release == "r1"


def test_padding_comes_first_and_the_mean_item_last(store: ItemStore):
    plain, padded = store.item_matrix(8), store.item_matrix(8, pad_row=True, oov_row=True)
    assert padded.ids == [None, *plain.ids, None]
    assert not padded.vectors[0].any()
    np.testing.assert_array_equal(padded.vectors[1:-1], plain.vectors)
    mean = prefix(plain.vectors.mean(axis=0, dtype=np.float64)[None].astype(np.float32), 8)
    np.testing.assert_allclose(padded.vectors[-1:], mean, atol=1e-6)


def test_a_matrix_may_be_changed_without_touching_the_store(store: ItemStore):
    matrix = store.item_matrix(8)
    matrix.vectors[:] = 7
    assert not (store.get_item_vectors(matrix.ids, 8) == 7).any()
    assert not (store.item_matrix(8).vectors == 7).any()


def test_what_a_read_returns_is_the_callers_own(store: ItemStore):
    store.get_item_vectors(["id 1"])[:] = 7
    np.testing.assert_array_equal(store.get_item_vectors(["id 1"]), expected(["id 1"], 16, TARGET))


def test_your_own_vectors_become_a_release(tmp_path: Path):
    matrix = np.random.default_rng(3).standard_normal((4, 6))
    store = ItemStore.create(tmp_path / "mine")
    with pytest.raises(NoRelease, match=r"holds no release: publish_vectors\(…\) makes one"):
        store.get_item_vectors([1])
    release = store.publish_vectors([1, 2, 3, 4], matrix, view="mine", dims=[2, 6])
    assert (release.name, store.dims, store.views) == ("r1", (2, 6), {"mine": ()})
    again = ItemStore.open(tmp_path / "mine")
    np.testing.assert_allclose(
        again.get_item_vectors([4, 1], 2), prefix(matrix[[3, 0]].astype(np.float32), 2), atol=1e-6
    )
    with pytest.raises(StoreExists, match=r"already holds r1: use ItemStore.open"):
        ItemStore.create(tmp_path / "mine")


def test_your_own_vectors_may_have_roles_and_keep_the_items_beside_them(tmp_path: Path):
    publish(tmp_path, ["a", "b"])
    store = ItemStore.open(tmp_path)
    store.publish_vectors(["a", "b"], np.eye(2), context=np.eye(2)[::-1])
    assert store.views == {"fused": ("context", "target")}
    assert store.search("a", k=1).to_pylist() == [{"item_id": "b", "score": 1.0, "title": "Item b"}]
    assert store.dims == (2,)


@pytest.mark.parametrize(
    ("ids", "matrix", "complaint"),
    [
        (["a", "a"], np.eye(2), "2 ids, 1 different ones"),
        ([], np.eye(2), "0 ids"),
        (["a"], np.eye(2), r"vectors are float64 \(2, 2\): pass numbers \(1, width\)"),
        (["a", "b"], np.ones(2), r"vectors are float64 \(2,\)"),
        (["a", "b"], np.array([["x"], ["y"]]), r"vectors are <U1 \(2, 1\)"),
        (["a", "b"], np.array([[1.0, 0.0], [0.0, 0.0]]), r"1 rows are not finite or .*: 'b'"),
        (["a", "b"], np.array([[1.0, np.nan], [np.inf, 1.0]]), r"2 rows are not finite"),
    ],
)
def test_vectors_without_a_direction_or_an_id_are_refused(
    tmp_path: Path, ids: list[str], matrix: np.ndarray, complaint: str
):
    store = ItemStore.create(tmp_path)
    with pytest.raises((BadIds, BadVectors), match=complaint):
        store.publish_vectors(ids, matrix)
    assert store.releases() == []


def test_vectors_that_overflow_float32_are_refused(tmp_path: Path):
    with pytest.raises(BadVectors, match="'b'"):
        ItemStore.create(tmp_path).publish_vectors(["a", "b"], np.array([[1.0], [1e200]]))


def test_threads_read_one_new_store_together(shelf: Path):
    fresh, wrong = ItemStore.open(shelf), []

    def read(seed: int) -> None:
        ids = np.random.default_rng(seed).permutation(IDS)[:20].tolist()
        for dim in DIMS:
            if not np.array_equal(fresh.get_item_vectors(ids, dim), expected(ids, dim, TARGET)):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore")  # Lance, LanceDB and Python each warn of any fork
def test_a_forked_worker_reads_what_its_parent_reads(store: ItemStore, tmp_path: Path):
    store.get_item_vectors(["id 1"], 8)
    child = os.fork()
    if child == 0:
        try:
            read_into(str(tmp_path / "forked"), store, ["id 5", "id 1"], 8)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answer = np.array(json.loads((tmp_path / "forked").read_text()), np.float32)
    np.testing.assert_array_equal(answer, expected(["id 5", "id 1"], 8, TARGET))


def test_a_spawned_worker_reads_what_its_parent_reads(store: ItemStore, tmp_path: Path):
    worker = multiprocessing.get_context("spawn").Process(
        target=read_into, args=(str(tmp_path / "spawned"), store, ["id 5", "id 1"], 8)
    )
    worker.start()
    worker.join()
    answer = np.array(json.loads((tmp_path / "spawned").read_text()), np.float32)
    np.testing.assert_array_equal(answer, expected(["id 5", "id 1"], 8, TARGET))


def test_a_store_travels_at_its_release_even_after_it_wrote(tmp_path: Path):
    store = ItemStore.create(tmp_path)
    store.publish_vectors(["a"], np.ones((1, 2)))
    copy = pickle.loads(pickle.dumps(store))
    store.publish_vectors(["b"], np.ones((1, 2)))
    assert (copy.release.name, store.release.name) == ("r1", "r2")
    assert copy.lookup(["a", "b"]).found.tolist() == [True, False]


def test_importing_the_store_is_light():
    code = "import sys, store; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "dagster", "PIL", "transformers", "lancedb", "lance", "duckdb", "scipy"}
    assert heavy.isdisjoint(done.stdout.split())


def test_the_public_names_are_these():
    assert package.__all__ == sorted(package.__all__)
    assert set(package.__all__) == {
        "BadIds",
        "BadIndex",
        "BadPack",
        "BadTable",
        "BadVectors",
        "Changes",
        "ForkedProcess",
        "ItemMatrix",
        "ItemStore",
        "ItemnestError",
        "Lookup",
        "MissingPart",
        "NoRelease",
        "QueryRefused",
        "Release",
        "SequenceVectors",
        "SpaceMismatch",
        "StoreExists",
        "StoreLocked",
        "UnfitStore",
        "UnknownDim",
        "UnknownIds",
        "UnknownPin",
        "UnknownRelease",
        "UnknownTable",
        "UnknownView",
    }
