"""Items as prompts of a multimodal language model: what it is asked, and the tensors of that.

A prompt is a text with {image} and {text} where an item's picture and text go. It knows tokens and
pictures, not what the model answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from encoders.encoder import Item, MissingModality, Prepared, text_of
from encoders.images import LARGEST, open_picture
from encoders.text import plain

IMAGE, TEXT = "{image}", "{text}"
MAX_TOKENS = 256  # of an item's own text, as HLLM reads it (arXiv:2409.12740)
MAX_PIXELS = 512 * 512


@dataclass(frozen=True, slots=True)
class Asked:
    """One item as a question: the rendered prompt and the picture in it."""

    text: str
    picture: Image.Image | None


class Prompter:
    """Asks one thing about each item."""

    def __init__(
        self,
        processor: Any,
        template: str,
        *,
        suffix: str = "",
        max_tokens: int = MAX_TOKENS,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if template.count(TEXT) > 1 or template.count(IMAGE) > 1:
            raise ValueError(f"prompt {template!r}: give {IMAGE} and {TEXT} at most once each")
        if IMAGE not in template:
            raise ValueError(
                f"prompt {template!r} lacks {IMAGE}: texts alone are what `text` reads"
            )
        self.processor = processor
        self._template = template
        self._suffix = suffix
        self._max_pixels = max_pixels
        self._lock = Lock()  # the tokenizer's settings change with every call of a processor
        self._tokenizer = _counting(processor.tokenizer, max_tokens)
        self._special = _special_tokens(processor)
        self._image_tokens = self._count_image_tokens()

    def ask(self, item: Item) -> Prepared:
        """Render an item's prompt and decode its picture; ItemError if it has none of its parts."""
        shown = item.text if TEXT in self._template else None
        if not shown and item.image is None:
            raise MissingModality("the item has neither text nor image that the prompt shows")
        text, cut = self._shortened(text_of(item)) if shown else ("", 0)
        picture = None if item.image is None else self._picture(item.image)
        rendered = self._rendered(text, picture is not None) + self._suffix
        read = self._tokenizer.encode(rendered)
        size = sum(len(part.ids) for part in (read, *read.overflowing))
        size += self._image_tokens if picture else 0  # of a large one: some padding is not counted
        return Prepared(Asked(rendered, picture), size=size, cut=cut)

    def tensors(self, asked: Sequence[Asked], *, padding_side: str) -> Any:
        """Return the model's inputs for several prompts, padded to one length."""
        pictures = [[each.picture] if each.picture else [] for each in asked]
        with self._lock:
            return self.processor(
                text=[each.text for each in asked],
                images=pictures if any(pictures) else None,
                padding=True,
                padding_side=padding_side,
                return_tensors="pt",
            )

    def decode(self, tokens: Any) -> list[str]:
        """Return generated tokens as texts, without special ones."""
        with self._lock:
            return self.processor.batch_decode(tokens, skip_special_tokens=True)

    def _rendered(self, text: str, has_picture: bool) -> str:
        """Put an item's parts where the template has them; what is missing leaves no trace."""
        before, image, after = self._template.partition(IMAGE)
        parts: list[dict[str, str]] = []
        for part in (before, image, after):
            if part == IMAGE:
                parts += [{"type": "image"}] if has_picture else []
            elif filled := part.replace(TEXT, text):
                parts.append({"type": "text", "text": filled})
        if not self.processor.chat_template:  # a model that was never taught to chat
            token: str = self.processor.image_token
            return "".join(part.get("text", token) for part in parts)
        turn = [{"role": "user", "content": parts}]
        with self._lock:
            return self.processor.apply_chat_template(
                turn, add_generation_prompt=True, tokenize=False
            )

    def _shortened(self, text: str) -> tuple[str, int]:
        """Cut a text to so many tokens; let no words of it be taken for special tokens."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if not encoded.overflowing:
            return text, 0
        return text[: encoded.offsets[-1][1]], sum(len(part.ids) for part in encoded.overflowing)

    def _picture(self, data: bytes) -> Image.Image:
        side = round(self._max_pixels**0.5)
        picture = open_picture(data, min_side=side, max_pixels=LARGEST)
        width, height = picture.size
        long, short = max(picture.size), min(picture.size)
        if long > 100 * short:  # some processors refuse what is longer than 200 to 1
            spare = (long - 100 * short) // 2
            turned = width < height
            box = (0, spare, width, height - spare) if turned else (spare, 0, width - spare, height)
            picture = picture.crop(box)
            width, height = picture.size
        shrink = (self._max_pixels / (width * height)) ** 0.5
        if shrink < 1:
            size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        return picture

    def _count_image_tokens(self) -> int:
        """Return how many tokens a picture of the largest size takes."""
        side = int(self._max_pixels**0.5)
        asked = Asked(self._rendered("", True), Image.new("RGB", (side, side)))
        ids = self.tensors([asked], padding_side="right")["input_ids"]
        return int((ids == self.processor.image_token_id).sum())


def _special_tokens(processor: Any) -> list[str]:
    """Return every text that the model takes for something else than itself, longest first."""
    added = processor.tokenizer.added_tokens_decoder.values()
    found = {str(token) for token in added if token.special}
    found |= {getattr(processor, name, None) for name in ("image_token", "video_token")}
    return sorted((token for token in found if token), key=len, reverse=True)


def _counting(tokenizer: Any, max_tokens: int) -> Tokenizer:
    """Return a tokenizer of our own that cuts: the processor's is changed by every call."""
    own = plain(tokenizer.backend_tokenizer)
    own.enable_truncation(max_tokens)
    return own
