"""The default towers' vectors mean something, on catalogues that neither was trained on."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from encoders import feed
from encoders.encoder import Encoder, Item, Vectors
from encoders.image import square
from encoders.image_source import EfficientNetLite0
from encoders.pixels import renamed_by_position
from encoders.registry import tower
from encoders.vision_ops import ensure_torchvision

POSTERS = 300
WINE_BOTTLE, RED_WINE = 907, 966  # of ImageNet's classes


@dataclass(frozen=True)
class Films:
    """Films with posters, four or more of each series; films of one series have one label."""

    rows: list[dict[str, Any]]
    series: np.ndarray
    folder: Path

    def of(self, indices: np.ndarray) -> "Films":
        return Films([self.rows[i] for i in indices], self.series[indices], self.folder)


@pytest.fixture(scope="module")
def films(datasets: Path) -> Films:
    folder = datasets / "movielens_posters"
    series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pq.read_table(folder / "items.parquet").to_pylist():
        if row["image_path"]:
            series[series_of(row["title"])].append(row)
    large = sorted((rows for rows in series.values() if len(rows) >= 4), key=len, reverse=True)
    labelled = [(label, row) for label, rows in enumerate(large) for row in rows][:POSTERS]
    return Films([row for _, row in labelled], np.array([label for label, _ in labelled]), folder)


def series_of(title: str) -> str:
    """What the titles of a series share: "Saw" of "Saw IV (2007)" and "Batman: Year One (2011)"."""
    name = re.sub(r"\s*\(.*", "", title).partition(":")[0]
    return re.sub(r"\s+(\d+|[IVX]+)$", "", name)


def nearest_is_of_the_series(vectors: Vectors, films: Films) -> tuple[float, float]:
    """How often a film's nearest neighbour is of its series, and how often a random one is."""
    nearest = (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(axis=1)
    same = films.series[:, None] == films.series
    chance = (same.sum() - len(vectors)) / (len(vectors) * (len(vectors) - 1))
    return float((films.series[nearest] == films.series).mean()), float(chance)


def test_the_nearest_poster_is_often_of_the_same_series(
    efficientnet: Encoder, films: Films
) -> None:
    """28 % when this was written, where chance gives 1.7 %: posters of a series share a look."""
    files = [(films.folder / row["image_path"]).read_bytes() for row in films.rows]
    vectors = feed.encode(efficientnet, [Item(image=data) for data in files])
    hits, chance = nearest_is_of_the_series(vectors, films)
    assert hits > 0.2
    assert chance < 0.02


def test_the_nearest_title_is_of_the_same_series(minilm: Encoder, films: Films) -> None:
    """All of them when this was written; the words that they share are told from the others."""
    titles = [Item(text=row["title"]) for row in films.rows]
    hits, _ = nearest_is_of_the_series(feed.encode(minilm, titles), films)
    assert hits > 0.95


def test_the_nearest_plot_is_mostly_of_the_same_series(minilm: Encoder, films: Films) -> None:
    """85 % when this was written, where chance gives 3.4 %; and titles find their series' plots."""
    plots = [json.loads(row["attributes"]).get("overview", "") for row in films.rows]
    told = films.of(np.flatnonzero([len(plot) > 40 for plot in plots]))
    vectors = feed.encode(minilm, [Item(text=plot) for plot in plots if len(plot) > 40])
    hits, chance = nearest_is_of_the_series(vectors, told)
    assert hits > 0.75
    assert chance < 0.05
    titles = feed.encode(minilm, [Item(text=row["title"]) for row in told.rows])
    found = (titles @ vectors.T).argmax(axis=1)
    assert (told.series[found] == told.series).mean() > 0.65


def test_photos_of_bottles_are_classified_as_wine(datasets: Path) -> None:
    """77 % of these labels, close up, when this was written, of 1,000 classes."""
    ensure_torchvision()
    from timm.models.efficientnet import tf_efficientnet_lite0

    source = tower("efficientnet-lite0", "image").source
    assert isinstance(source, EfficientNetLite0)
    weights = source.package.folder() / source.package.files[0][0]
    network: Any = tf_efficientnet_lite0()
    stored = torch.load(weights, weights_only=True)
    network.load_state_dict(renamed_by_position(stored, network.state_dict()))
    paths = pq.read_table(datasets / "xwines" / "items.parquet")["image_path"].drop_null()
    files = [datasets / "xwines" / path for path in paths.to_pylist()[::2][:40]]
    squares = np.stack([square(file.read_bytes(), source.framing) for file in files])
    pixels = ((squares / 255 - source.framing.mean) / source.framing.std).astype(np.float32)
    with torch.inference_mode():
        top = network.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).topk(5).indices
    assert torch.isin(top, torch.tensor([WINE_BOTTLE, RED_WINE])).any(dim=1).float().mean() > 0.65
