"""Text towers: their numbers, their windows and prefixes, and what folders of models say."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders import feed
from encoders.encoder import Encoder, Item, ItemError, Vectors
from encoders.registry import Tower, tower
from encoders.spec import Choice
from encoders.text import OVERLAP
from encoders.vision_ops import ensure_torchvision
from encoders.weights import WeightsError
from tests.encoders import tiny_text
from tests.encoders.conftest import folder_of
from tests.encoders.scripts import SAMPLES

TEXTS = ["a bottle of red wine", "", "Ein Glas Weißwein 🍷"]
# Checked against the mean pooling of sentence-transformers 6.2 on the same weights.
GOLDEN = [
    [-0.016494, 0.015130, -0.101479, 0.067544, -0.039950],
    [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951],
    [-0.096388, 0.102575, 0.028702, 0.070880, -0.044654],
]
# Whole numbers of 8 bits are multiplied by other instructions, and rounded elsewhere.
GOLDEN_INT8 = {
    "AVX512": [
        [-0.017161, 0.017724, -0.099751, 0.069206, -0.040678],
        [-0.121933, 0.041807, -0.005139, -0.019541, 0.054863],
        [-0.096941, 0.102728, 0.028638, 0.068598, -0.043600],
    ],
    "AVX2": [
        [-0.017582, 0.015176, -0.099608, 0.067942, -0.040317],
        [-0.126382, 0.041998, -0.001247, -0.015306, 0.052468],
        [-0.097209, 0.102479, 0.028731, 0.068286, -0.044776],
    ],
}
WINE = "a dry red wine from the hills, with cherries, leather and a long finish; "
FILM = "two detectives hunt a murderer through the rain of a city without a name; "


def encode(encoder: Encoder, *texts: str) -> Vectors:
    return feed.encode(encoder, [Item(text=text) for text in texts])


def of_folder(folder: Path, **options: Any) -> Tower:
    return tower(Choice(f"transformers:{folder}", **options), "text")


@pytest.fixture
def copied(named: Callable[[str], Tower], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a kind's folder, to be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder_of(named(name)), tmp_path / name))

    return copy


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_fixed_texts_have_the_published_vectors(loaded: Callable[[str], Encoder]) -> None:
    vectors = encode(loaded("minilm_torch"), *TEXTS)
    np.testing.assert_allclose(vectors[:, :5], GOLDEN, atol=1e-5)


def test_fixed_texts_have_known_vectors_in_int8(minilm: Encoder) -> None:
    known = GOLDEN_INT8[torch.backends.cpu.get_cpu_capability()]
    np.testing.assert_allclose(encode(minilm, *TEXTS)[:, :5], known, atol=2e-3)


def test_texts_of_one_meaning_are_nearer_than_others(minilm: Encoder) -> None:
    red, white, spanner = encode(minilm, "red wine", "white wine", "a spanner")
    assert red @ white > red @ spanner + 0.2


# Pooling


def by_hand(known: Tower, texts: list[str], *, prefix: str, longest: int) -> np.ndarray:
    """The pooled vectors, from transformers' own tokenizer and model."""
    ensure_torchvision()
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of(known)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()
    pooling = known.source.identity()["pooling"]
    found = []
    for text in texts:
        inputs = tokenizer(prefix + text, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0]
        row = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        found.append((row / row.norm()).numpy())
    return np.stack(found)


@pytest.mark.parametrize(
    ("name", "pooling", "prefix", "longest"),
    [
        ("bert", "mean", "passage: ", 96),
        ("xlm_roberta", "cls", "", 128),
        ("qwen3", "last", "", 256),
    ],
)
def test_a_vector_is_what_transformers_gives_when_pooled_by_hand(
    named: Callable[[str], Tower], name: str, pooling: str, prefix: str, longest: int
) -> None:
    texts = [*[*SAMPLES.values()][::3], ""]
    expected = by_hand(named(name), texts, prefix=prefix, longest=longest)
    assert named(name).source.identity()["pooling"] == pooling
    np.testing.assert_allclose(encode(named(name).load(), *texts), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "prefix", "longest"),
    [("bert", "passage: ", 96), ("xlm_roberta", "", 128), ("qwen3", "", 256)],
)
def test_of_a_text_that_is_too_long_it_reads_what_transformers_reads(
    named: Callable[[str], Tower], name: str, prefix: str, longest: int
) -> None:
    texts = [f"{text} " * 99 for text in [*SAMPLES.values()][2::6]]
    expected = by_hand(named(name), texts, prefix=prefix, longest=longest)
    np.testing.assert_allclose(encode(named(name).load(), *texts), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_setting_may_choose_another_pooling(copied: Callable[[str], Path], pooling: str) -> None:
    folder = copied("bert")
    kinds = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
    chosen = encode(of_folder(folder, pooling=pooling).load(), *TEXTS)
    file = folder / "1_Pooling" / "config.json"
    edit(file, **{f"pooling_mode_{kind}": name == pooling for name, kind in kinds.items()})
    np.testing.assert_array_equal(chosen, encode(of_folder(folder).load(), *TEXTS))


def test_a_folder_that_says_nothing_of_pooling_is_pooled_by_the_mean(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("bert")
    expected = encode(of_folder(folder).load(), *TEXTS)
    shutil.rmtree(folder / "1_Pooling")
    (folder / "modules.json").unlink()
    np.testing.assert_array_equal(encode(of_folder(folder).load(), *TEXTS), expected)


def test_a_pooling_that_is_not_known_asks_for_one_that_is(copied: Callable[[str], Path]) -> None:
    folder = copied("bert")
    edit(folder / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    with pytest.raises(WeightsError, match="choose pooling = mean, cls or last"):
        assert of_folder(folder).digest


# sentence-transformers


@pytest.mark.parametrize("name", list(tiny_text.KINDS))
def test_the_vectors_are_sentence_transformers_own(
    named: Callable[[str], Tower], name: str
) -> None:
    library = pytest.importorskip("sentence_transformers")
    texts = [*SAMPLES.values(), "", "wine and cheese " * 200]
    model = library.SentenceTransformer(str(folder_of(named(name))), device="cpu")
    for query in (False, True):
        theirs = (model.encode_query if query else model.encode_document)(texts)
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        ours = encode(named(name).load(query=query), *texts)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_folder_that_sentence_transformers_writes_today_is_read(
    copied: Callable[[str], Path], tmp_path: Path, pooling: str
) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    inner = modules.Transformer(str(copied("bert")), max_seq_length=64)
    parts = [inner, modules.Pooling(tiny_text.DIM, pooling), modules.Dense(tiny_text.DIM, 24)]
    model = SentenceTransformer(modules=parts, device="cpu")
    model.save(str(tmp_path / "saved"), create_model_card=False)
    texts = [*TEXTS, "wine and cheese " * 200]
    theirs = model.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(
        encode(of_folder(tmp_path / "saved").load(), *texts), theirs, atol=1e-5
    )


def test_a_module_that_is_not_known_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("dense")
    file = folder / "modules.json"
    file.write_text(file.read_text().replace("models.Dense", "models.WordWeights"))
    with pytest.raises(WeightsError, match="has a module WordWeights, which is not read here"):
        assert of_folder(folder).dim


def test_an_activation_that_is_not_known_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("dense")
    edit(folder / "2_Dense" / "config.json", activation_function="torch.nn.Mish")
    with pytest.raises(WeightsError, match="2_Dense: the activation Mish is not known here"):
        of_folder(folder).load()


@pytest.mark.parametrize("damage", ["absent", "another shape"])
def test_a_layer_without_its_weights_is_refused(copied: Callable[[str], Path], damage: str) -> None:
    folder = copied("dense")
    if damage == "absent":
        (folder / "2_Dense" / "model.safetensors").unlink()
    else:
        shutil.copy(folder / "3_Dense" / "model.safetensors", folder / "2_Dense")
    with pytest.raises(WeightsError, match="2_Dense"):
        of_folder(folder).load()


# Windows


@pytest.fixture(scope="module")
def windowed() -> Encoder:
    """MiniLM in windows of 64 tokens, of which it reads four."""
    options = {"runtime": "torch", "precision": "float32", "max_tokens": 64, "windows": 4}
    return tower(Choice("minilm-l6", **options), "text").load()


def test_a_long_text_is_the_mean_of_its_windows_weighted_by_their_tokens(
    windowed: Encoder,
) -> None:
    text = WINE * 4 + FILM * 4
    windows = windowed.prepare(Item(text=text)).content
    alone: Any = [windowed.forward(windowed.collate([[window]]))[0] for window in windows]
    mean = np.average(alone, axis=0, weights=[len(window) for window in windows])
    assert len(windows) > 2
    np.testing.assert_allclose(encode(windowed, text)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_windows_let_the_second_half_of_a_text_be_heard(windowed: Encoder) -> None:
    options = {"runtime": "torch", "precision": "float32", "max_tokens": 64, "windows": 1}
    deaf = tower(Choice("minilm-l6", **options), "text").load()
    topics = encode(windowed, WINE, FILM)
    heard, half_heard = (encode(each, WINE * 4 + FILM * 4)[0] for each in (windowed, deaf))
    assert (topics @ heard).min() > 0.5
    assert topics[1] @ half_heard < 0.2


def test_windows_overlap_and_hold_the_whole_text(windowed: Encoder) -> None:
    words = " ".join(f"{number}" for number in range(100, 250))
    windows = windowed.prepare(Item(text=words)).content
    inner = [window[1:-1] for window in windows]
    whole = inner[0] + [token for window in inner[1:] for token in window[OVERLAP:]]
    assert all(one[-OVERLAP:] == other[:OVERLAP] for one, other in pairwise(inner))
    assert len(whole) == 150
    assert len(set(whole)) > 100


@given(words=st.integers(0, 900))
def test_tokens_beyond_the_last_window_are_counted(windowed: Encoder, words: int) -> None:
    length = 64 - 2
    read = length + 3 * (length - OVERLAP)
    prepared = windowed.prepare(Item(text="wine " * words))
    assert prepared.cut == max(0, words - read)
    assert len(prepared.content) <= 4


@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "qwen3"])
def test_every_window_begins_and_ends_as_a_text_does(
    named: Callable[[str], Tower], name: str
) -> None:
    folder = folder_of(named(name))
    encoder = of_folder(folder, max_tokens=64, windows=99).load()
    for script, text in SAMPLES.items():
        (short,) = encoder.prepare(Item(text=text)).content
        windows = encoder.prepare(Item(text=f"{text} " * 60)).content
        assert {window[-1] for window in windows} == {short[-1]}, script
        assert {len(window) <= 64 for window in windows} == {True}, script


def test_too_few_tokens_to_read_anything_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_tokens = 20 leaves 18 .* give at least 35"):
        tower(Choice("minilm-l6", max_tokens=20), "text").load()


def test_a_text_without_a_single_token_is_refused_and_others_are_not(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("qwen3")
    edit(folder / "tokenizer.json", post_processor=None)  # nothing ends a text
    encoder = of_folder(folder).load()
    (outcomes,) = feed.run(encoder, [[Item(text=""), Item(text="wine")]])
    assert isinstance(outcomes[0].refusal, ItemError)
    assert outcomes[1].value is not None


# Prefixes


def test_a_prefix_is_read_before_a_text(copied: Callable[[str], Path]) -> None:
    folder = copied("xlm_roberta")
    plain = encode(of_folder(folder).load(), *(f"item: {text}" for text in TEXTS))
    prefixed = encode(of_folder(folder, prefix="item: ").load(), *TEXTS)
    np.testing.assert_array_equal(prefixed, plain)


def test_queries_have_a_prefix_of_their_own(copied: Callable[[str], Path]) -> None:
    folder = copied("xlm_roberta")
    plain = encode(of_folder(folder).load(), *(f"find: {text}" for text in TEXTS))
    options = {"prefix": "item: ", "query_prefix": "find: "}
    asked = encode(of_folder(folder, **options).load(query=True), *TEXTS)
    np.testing.assert_array_equal(asked, plain)


def test_queries_without_a_prefix_of_their_own_are_read_as_items_are(
    copied: Callable[[str], Path],
) -> None:
    found = of_folder(copied("xlm_roberta"), prefix="item: ")
    np.testing.assert_array_equal(
        encode(found.load(query=True), *TEXTS), encode(found.load(), *TEXTS)
    )


def test_prompts_that_a_folder_prescribes_are_its_prefixes(named: Callable[[str], Tower]) -> None:
    source: Any = named("bert").source
    assert source.reading(query=False).prefix == "passage: "
    assert source.reading(query=True).prefix == "query: "


def test_every_window_has_the_prefix(copied: Callable[[str], Path]) -> None:
    encoder = of_folder(copied("bert"), max_tokens=64, windows=3, prefix="passage: ").load()
    (short,) = encoder.prepare(Item(text="")).content
    windows = encoder.prepare(Item(text="wine and cheese " * 99)).content
    assert len(windows) == 3
    assert {tuple(window[: len(short) - 1]) for window in windows} == {tuple(short[:-1])}


# What a folder says


@pytest.mark.parametrize(
    ("file", "changes", "longest"),
    [
        ("config.json", {}, 96),
        ("sentence_bert_config.json", {"max_seq_length": 50}, 50),
        ("sentence_bert_config.json", {"max_seq_length": None}, 128),
        ("tokenizer_config.json", {"model_max_length": 40}, 40),
        ("tokenizer_config.json", {"model_max_length": 10**30}, 96),
        ("config.json", {"max_position_embeddings": 60}, 60),
    ],
)
def test_a_text_is_as_long_as_all_files_of_a_folder_allow(
    copied: Callable[[str], Path], file: str, changes: dict[str, Any], longest: int
) -> None:
    folder = copied("bert")
    edit(folder / file, **changes)
    source: Any = of_folder(folder).source
    assert source.reading(query=False).max_tokens == longest


def test_positions_that_start_behind_padding_are_not_read_as_text(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("xlm_roberta")
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    source: Any = of_folder(folder).source
    assert source.reading(query=False).max_tokens == 128  # of 130 positions
    assert np.isfinite(encode(of_folder(folder).load(), "wine " * 500)).all()


def test_a_tokenizer_of_other_files_is_read_too(copied: Callable[[str], Path]) -> None:
    folder = copied("bert")
    expected = encode(of_folder(folder).load(), *TEXTS)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    np.testing.assert_array_equal(encode(of_folder(folder).load(), *TEXTS), expected)


def test_a_folder_without_a_configuration_is_no_transformer(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no config\.json, so no transformer"):
        assert of_folder(tmp_path).dim


def test_windows_longer_than_the_models_positions_are_refused(
    named: Callable[[str], Tower],
) -> None:
    with pytest.raises(ValueError, match=r"129 .* has 128 positions"):
        of_folder(folder_of(named("bert")), max_tokens=129).load()
