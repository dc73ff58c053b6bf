"""Small real text models with random weights, saved as folders that transformers loads.

Only sizes, weights and vocabularies are made up: the classes of models and tokenizers, and what the
folders hold beside them, are those of the published models.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from encoders.vision_ops import ensure_torchvision
from tests.encoders.scripts import SAMPLES

DIM, WIDE = 32, 24  # of the transformer; of the layer behind it
_SHAPE = {
    "hidden_size": DIM,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
_SENTENCES = [
    "a bottle of dry red wine from the hills",
    "two boxes of white tea",
    *SAMPLES.values(),
]
_KINDS = "sentence_transformers.models"


def save_bert(folder: Path) -> Path:
    """MiniLM's and E5's kind: BERT and mean pooling, as sentence-transformers wrote it in 2021."""
    _save("Bert", _wordpiece(), folder)
    _write(folder / "modules.json", _modules("Transformer", "Pooling", "Normalize"))
    _write(folder / "1_Pooling/config.json", _pooling("mean_tokens"))
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 96, "do_lower_case": False})
    prompts = {"query": "query: ", "document": "passage: "}
    _write(folder / "config_sentence_transformers.json", {"prompts": prompts})
    return folder


def save_xlm_roberta(folder: Path) -> Path:
    """BGE-M3's kind: XLM-RoBERTa, whose first token is read."""
    lengths = {"max_position_embeddings": 130, "type_vocab_size": 1}
    _save("XLMRoberta", _unigram(), folder, **lengths)
    _write(folder / "modules.json", _modules("Transformer", "Pooling", "Normalize"))
    _write(folder / "1_Pooling/config.json", _pooling("cls_token"))
    return folder


def save_qwen3(folder: Path) -> Path:
    """Qwen3-Embedding's kind: a causal model, read at the last token, which its tokenizer adds."""
    lengths: dict[str, Any] = {
        "max_position_embeddings": 256,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    lengths["pad_token_id"] = None  # torch would make that token's embedding zero
    _save("Qwen3", _byte_level(), folder, **lengths)
    _write(folder / "modules.json", _modules("Transformer", "Pooling", "Normalize"))
    _write(folder / "1_Pooling/config.json", _pooling("lasttoken"))
    return folder


def save_dense(folder: Path) -> Path:
    """LaBSE's and EmbeddingGemma's kind: layers of their own behind the pooled vector."""
    _save("Bert", _wordpiece(), folder, seed=1)
    kinds = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    _write(folder / "modules.json", _modules(*kinds))
    _write(folder / "1_Pooling/config.json", _pooling("cls_token"))
    for name, inside, out, activation in (
        ("2_Dense", DIM, 48, "torch.nn.modules.activation.Tanh"),
        ("3_Dense", 48, WIDE, "torch.nn.modules.linear.Identity"),
    ):
        (folder / name).mkdir()
        bias = activation.endswith("Tanh")
        layer = torch.nn.Linear(inside, out, bias=bias)
        weights = {f"linear.{key}": tensor for key, tensor in layer.state_dict().items()}
        save_file(weights, folder / name / "model.safetensors")
        said = {"in_features": inside, "out_features": out, "bias": bias}
        _write(folder / name / "config.json", said | {"activation_function": activation})
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "bert": save_bert,
    "xlm_roberta": save_xlm_roberta,
    "qwen3": save_qwen3,
    "dense": save_dense,
}


def _save(kind: str, tokenizer: Any, folder: Path, *, seed: int = 0, **more: Any) -> None:
    ensure_torchvision()
    config, model = (getattr(transformers, kind + part) for part in ("Config", "Model"))
    ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    shape = {"max_position_embeddings": 128, **_SHAPE, **ids, **more}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model(config(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _modules(*kinds: str) -> list[dict[str, Any]]:
    paths = ["", *(f"{row}_{kind}" for row, kind in enumerate(kinds) if row)]
    return [
        {"idx": row, "name": str(row), "path": path, "type": f"{_KINDS}.{kind}"}
        for row, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]


def _pooling(mode: str) -> dict[str, Any]:
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    said = {f"pooling_mode_{name}": name == mode for name in modes}
    return {"word_embedding_dimension": DIM, **said}


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


@cache
def _wordpiece() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer()
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocab = _learn(learner, trainers.WordPieceTrainer, special, 900)
    return transformers.BertTokenizer(vocab=vocab, model_max_length=128)


@cache
def _unigram() -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    learner = tokenizers.Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator(_SENTENCES, trainer)
    pieces = json.loads(learner.to_str())["model"]["vocab"]
    vocab = [(piece, score) for piece, score in [*pieces, ["<mask>", 0.0]]]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=128)


@cache
def _byte_level() -> Any:
    end = "<|endoftext|>"
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_SENTENCES, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = transformers.Qwen2Tokenizer(learned["vocab"], merges, model_max_length=256)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B {end}",
        special_tokens=[(end, tokenizer.eos_token_id)],
    )
    return tokenizer


def _learn(learner: Any, trainer: Any, special: list[str], size: int) -> dict[str, int]:
    learner.train_from_iterator(
        _SENTENCES, trainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    return learner.get_vocab()


def save_tokenizer(folder: Path, **changes: Any) -> None:
    """Write BERT's tokenizer alone."""
    _wordpiece().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@dataclass(frozen=True)
class Published:
    """A repository of the hub, and where its files are in the cache."""

    name: str
    folder: Path


def publish(name: str, save: Callable[[Path], Path]) -> Published:
    """Save into the hub's cache as if it had been downloaded."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    return Published(name, save(root / "snapshots" / "abc"))
