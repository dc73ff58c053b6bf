"""Small real multimodal language models with random weights, saved as folders transformers loads.

Only sizes, weights and vocabularies are made up: the model, tokenizer and processor classes, the
special tokens and the shape of the prompts are those of the published checkpoints.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers  # lazy: its classes import torchvision, which ensure_torchvision may mend
from tokenizers import models, pre_tokenizers, trainers

from encoders.vision_ops import ensure_torchvision

ITEM_TOKEN = "<|item|>"
_MERGES = 360
_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.2}
_LAYERS = {**_SHAPE, "num_hidden_layers": 2, "num_attention_heads": 2}
_QWEN_VISION = {**_SHAPE, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
_QWEN2_VISION = {"depth": 2, "num_heads": 2, "embed_dim": 32, "hidden_size": 32}
_CLIP = {**_LAYERS, "model_type": "clip_vision_model", "patch_size": 14, "projection_dim": 32}
_SIGLIP = {**_LAYERS, "model_type": "siglip_vision_model", "patch_size": 14}
_CLIP_TOKENS: dict[str, Any] = {
    "patch_size": 14,
    "num_additional_image_tokens": 1,
    "vision_feature_select_strategy": "default",
}
_GRIDS = [[28, 56], [56, 28], [56, 56]]
_TURN = ("<|im_start|>{{ message['role'] }}\n", "<|im_end|>\n", "<|im_start|>assistant\n")
_NOUNS = (
    ("red shoes", "a wool jacket", "running socks", "a leather bag", "the silver watch"),
    ("rote Schuhe", "eine Wolljacke", "Laufsocken", "une veste en laine", "un sac à main"),
    ("красные туфли", "шерстяная куртка", "кожаная сумка", "κόκκινα παπούτσια", "δερμάτινη τσάντα"),
    ("红色的鞋子", "羊毛外套", "真皮手袋", "赤い靴", "革のかばん"),
    ("حذاء أحمر", "سترة صوفية", "लाल जूते", "빨간 구두", "가죽 가방"),
)
_FRAMES = (
    "Buy {} for 12.50 today.",
    "{} in sizes 36, 38 and 40",
    "The new collection: {}, made to last.",
    "{} — jetzt im Angebot, solange der Vorrat reicht!",
    "Лучшая цена: {}, доставка на дом.",
    "{},新品上市,价格优惠。",
    "{} متوفر الآن في المتجر",
)

Built = tuple[Any, Any]  # a model and its processor
Vocabulary = tuple[dict[str, int], Any]  # and the merges


def save_tiny(family: str, folder: Path, *, item_token: bool = False, seed: int = 0) -> Path:
    """Build one of FAMILIES and save it into the folder, which is returned.

    With item_token, the vocabulary has ITEM_TOKEN, as after training with one vector per item.
    """
    ensure_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = FAMILIES[family]()
        if item_token:
            processor.tokenizer.add_special_tokens({"extra_special_tokens": [ITEM_TOKEN]})
            model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _qwen(name: str, *, patch: int, vision: dict[str, Any]) -> Built:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: an image takes 4 to 16 tokens."""
    names = ("vision_start", "vision_end", "image", "video")
    tokens = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    sizes: dict[str, Any] = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"shortest_edge": (4 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    videos = "Qwen3VL" if name == "Qwen3VL" else "Qwen2VL"
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(size=pixels, **sizes),
        tokenizer=_qwen_tokenizer(tokens),
        video_processor=getattr(transformers, f"{videos}VideoProcessor")(**sizes),
        chat_template=_template(_TURN, image="<|vision_start|><|image_pad|><|vision_end|>"),
    )
    ids = processor.tokenizer.convert_tokens_to_ids(tokens)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        text_config=_text(processor, head_dim=16, rope_parameters=rope),
        **{f"{key}_token_id": token for key, token in zip(names, ids, strict=True)},
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def _idefics3(name: str) -> Built:
    """SmolVLM as Idefics3, and SmolVLM2 as SmolVLM: an image takes 4 tokens and 3 around them."""
    edge = {"longest_edge": 64}
    sizes: dict[str, Any] = {"size": edge, "max_image_size": edge}
    videos: dict[str, Any] = {}
    if name == "SmolVLM":
        videos["video_processor"] = transformers.SmolVLMVideoProcessor(**sizes, num_frames=2, fps=1)
    opening = "{% if loop.first %}<|im_start|>{% endif %}{{ message['role'] | capitalize }}:"
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{name}ImageProcessor")(
            **sizes, do_image_splitting=False, resample=1
        ),
        tokenizer=_smol_tokenizer(),
        image_seq_len=4,
        chat_template=_template((opening, "<end_of_utterance>\n", "Assistant:"), image="<image>"),
        **videos,
    )
    config = getattr(transformers, f"{name}Config")(
        vision_config={**_LAYERS, "image_size": 64, "patch_size": 16},
        text_config=_text(processor, model_type="llama"),
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def _llava() -> Built:
    """LLaVA-1.5: an image takes 16 tokens."""
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        _llama_tokenizer(),
        chat_template=_template(
            ("{{ message['role'] | upper }}: ", " ", "ASSISTANT:"), image="<image>\n"
        ),
        **_CLIP_TOKENS,
    )
    config = transformers.LlavaConfig(
        vision_config={**_CLIP, "image_size": 56},
        text_config=_text(processor, model_type="llama"),
        image_token_index=processor.image_token_id,
        image_seq_length=16,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def _llava_next() -> Built:
    """LLaVA-1.6 with Mistral: an image takes 4 to 24 tokens."""
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=_GRIDS,
        ),
        _llama_tokenizer(),
        chat_template=_template(("[INST] ", " [/INST]", ""), image="<image>\n"),
        **_CLIP_TOKENS,
    )
    config = transformers.LlavaNextConfig(
        vision_config={**_CLIP, "image_size": 28},
        text_config=_text(processor, model_type="mistral"),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=_GRIDS,
        image_seq_length=4,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision() -> Built:
    """An image takes 4 to 24 tokens."""
    size = {"height": 28, "width": 28}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[28, 28], *_GRIDS]
        ),
        _qwen_tokenizer(["<image>", "<video>"]),
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_template(_TURN, image="<image>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config={**_SIGLIP, "image_size": 28, "vision_use_head": False},
        text_config=_text(processor, model_type="qwen2"),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=[[28, 28], *_GRIDS],
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], Built]] = {
    "qwen2_vl": partial(_qwen, "Qwen2VL", patch=14, vision=_QWEN2_VISION),
    "qwen2_5_vl": partial(
        _qwen, "Qwen2_5_VL", patch=14, vision={**_QWEN_VISION, "fullatt_block_indexes": [1]}
    ),
    "qwen3_vl": partial(
        _qwen,
        "Qwen3VL",
        patch=16,
        vision={**_QWEN_VISION, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
    ),
    "idefics3": partial(_idefics3, "Idefics3"),
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
}
if find_spec("num2words"):
    FAMILIES["smolvlm"] = partial(_idefics3, "SmolVLM")


def _text(processor: Any, **more: Any) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lengths = {"num_key_value_heads": 2, "max_position_embeddings": 1024}
    return {**_LAYERS, **lengths, **ids, "vocab_size": len(tokenizer), **more}


def _template(turn: tuple[str, str, str], *, image: str) -> str:
    """A chat template for messages whose content is a list of images and texts."""
    opening, closing, prompt = turn
    part = "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
    parts = "{% for part in message['content'] %}" + part + "{% endfor %}"
    messages = "{% for message in messages %}" + opening + parts + closing + "{% endfor %}"
    return messages + "{% if add_generation_prompt %}" + prompt + "{% endif %}"


def _qwen_tokenizer(extra: list[str]) -> Any:
    tokenizer = transformers.Qwen2Tokenizer(*_byte_level(), eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", *extra]})
    return tokenizer


def _smol_tokenizer() -> Any:
    tokenizer = transformers.GPT2Tokenizer(
        *_byte_level(),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
    )
    tiles = [f"<row_{row}_col_{col}>" for row, col in product(range(1, 7), repeat=2)]
    extra = ["<fake_token_around_image>", "<image>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"extra_special_tokens": extra})
    return tokenizer


def _llama_tokenizer() -> Any:
    tokenizer = transformers.LlamaTokenizer(
        *_byte_fallback(), pad_token="<pad>", add_bos_token=True
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    return tokenizer


@cache
def _byte_level() -> Vocabulary:
    """The kind that Qwen and GPT-2 have: merges of bytes."""
    return _train(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        ["<|endoftext|>"],
        pre_tokenizers.ByteLevel.alphabet(),
    )


@cache
def _byte_fallback() -> Vocabulary:
    """The kind that Llama has: merges of characters, and a token for each byte of all others."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    return _train(pre_tokenizers.Metaspace(), ["<unk>", "<s>", "</s>", *bytes_], [])


def _train(pre_tokenizer: Any, specials: list[str], alphabet: list[str]) -> Vocabulary:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(alphabet) + _MERGES,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _sentences() -> Iterator[str]:
    for frame, language in product(_FRAMES, _NOUNS):
        for noun, other in product(language, language):
            yield frame.format(f"{noun}, {other}" if noun != other else noun)
