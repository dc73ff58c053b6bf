"""Encoding: the whole step beside the bare model, beside rivals, after a small change, in memory.

    python -m benchmarks.encode [--part PART ...] [--rounds 3] [--pictures 100000]

Prints one JSON line per figure, after one that describes the machine; exit status 1 if a limit is
missed. Needs the catalogues `movielens_posters` and `amazon_beauty` (see benchmarks/catalogues.py).

asset    Items per second of `assets.encode.encode` (read, decode, tokenise, run, write) over those
         of the network alone on batches prepared beforehand: the same sizes, as many threads.
lancedb  Items per second of the same step over LanceDB's embedding functions on the same items,
         both from bytes or text to a table: sentence-transformers with the default text tower's
         model, open_clip with a ViT-B-32 of random weights.
st       Items per second of the text tower over SentenceTransformer.encode, as it comes.
change   Seconds of the content step (texts and pictures) with one item in a hundred changed, over
         those of the first time; each in a process of its own, after the ingest that precedes it
         in every run, loading of models and of what they need included.
memory   Peak memory of encoding pictures of one megapixel: a tenth of them, and all.
runtime  The default towers in every runtime and precision: items per second, cosine with torch in
         float32, and the recall of what the text tower gives over that in float32.

What is compared takes turns; figures are medians of the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alignment.consumer import by_cosine, figures, rank, trial
from alignment.interactions import leave_last_out
from alignment.whiten import whitening
from assets.catalogue import ingest_interactions
from assets.encode import encode
from assets.lake import Lake, digest, open_lake
from assets.sequences import load_sequences
from benchmarks.catalogues import (
    DATASETS,
    changed_copy,
    forget,
    ingested,
    megapixels,
    pictures_of,
    settings_of,
    texts_of,
)
from benchmarks.figures import Report, print_machine, significant
from encoders.encoder import Item
from encoders.engine import LocalEngine
from encoders.feed import available_cores, groups
from encoders.feed import encode as encode_items
from encoders.registry import tower
from encoders.room import process_peak
from encoders.spec import Choice, Modality
from encoders.vision_ops import ensure_torchvision

POSTERS, BEAUTY = DATASETS / "movielens_posters", DATASETS / "amazon_beauty"
GIB = 2**30
RIVALS = 2000  # items that rivals encode per round: they are slow
CLIPPED = 300  # pictures for the ViT
CHANGED = 100  # one item in so many
PRECISIONS = ("int8", "float32")  # of the text tower beside rivals in float32; int8 is the default
DIMS = (32, 64, 128, 256)
POWERS = (0.0, 0.5, 1.0)  # of whitening: what a space chooses from


def main() -> int:
    """Measure the parts named on the command line, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=100_000, help="of the part memory")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(ALONE[asked.one[0]](Path(asked.one[1]))))
        return 0
    ensure_torchvision()  # before a rival imports it
    report = Report(limited=True)
    print_machine("torch", "openvino", "lancedb", "sentence-transformers", "open_clip_torch")
    for part in asked.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](report, Path(folder), asked)
    return report.status()


def asset(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print how near the whole step comes to the bare model."""
    sources: list[tuple[Modality, Path]] = [("text", BEAUTY), ("image", POSTERS)]
    for modality, catalogue in sources:
        (folder / modality).mkdir()
        with ingested(settings_of(folder / modality, catalogue)) as lake:
            items = items_of(lake, modality)
            bare = bare_model(lake, modality, items)
            ratios, whole = [], []
            for _ in range(asked.rounds):
                forget(lake, modality)
                step = seconds(lambda lake=lake, m=modality: encode(lake, LocalEngine(), m))
                alone = seconds(bare)
                ratios.append(alone / step)
                whole.append(len(items) / step)
        of = {"items": len(items), "of": lake.settings.catalogue.name}
        report.line(f"{modality}: items/s of the whole step", significant(median(whole)), of=of)
        report.line(
            f"{modality}: whole step over the bare model",
            significant(median(ratios)),
            0.9,
            least=True,
            of=of | {"rounds": [significant(each) for each in ratios]},
        )


def items_of(lake: Lake, modality: Modality) -> list[Item]:
    """Return what the items have of a modality."""
    if modality == "text":
        return [Item(text=text) for text in dict.fromkeys(texts_of(lake))]
    return [Item(image=data) for data in dict.fromkeys(pictures_of(lake))]


def bare_model(lake: Lake, modality: Modality, items: Sequence[Item]) -> Callable[[], None]:
    """Return what runs the tower's network over all items, prepared, in as many threads."""
    known = lake.tower(modality)
    assert known is not None
    encoder: Any = known.load()
    batches: list[Any] = []
    for start in range(0, len(items), known.batch):
        prepared = dict(enumerate(map(encoder.prepare, items[start : start + known.batch])))
        for rows in groups(prepared, encoder.room, exact=True):
            batches.append(encoder.collate([prepared[row].content for row in rows]))
    network = encoder._network
    inputs = [batch[:2] if isinstance(batch, tuple) else (batch,) for batch in batches]

    def run() -> None:
        with ThreadPoolExecutor(available_cores()) as pool:
            for _ in pool.map(lambda arrays: network(*arrays), inputs):
                pass

    return run


def lancedb_registry(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print how much faster the step is than LanceDB's embedding functions."""
    from lancedb.embeddings import get_registry

    registry = get_registry()
    known: Any = tower("minilm-l6", "text").source
    texts = registry.get("sentence-transformers").create(
        name=str(known.folder),
        trust_remote_code=False,  # pyright: ignore[reportAttributeAccessIssue]
    )
    for precision in PRECISIONS:
        choice = Choice("minilm-l6", precision=precision)
        compare(report, folder / precision, asked, "text", BEAUTY, RIVALS, texts, choice)
    weights = random_clip(folder)
    pictures = registry.get("open-clip").create(name="ViT-B-32", pretrained=str(weights))
    choice = Choice(f"open_clip:ViT-B-32@{weights}")
    compare(report, folder / "pictures", asked, "image", POSTERS, CLIPPED, pictures, choice)


def random_clip(folder: Path) -> Path:
    """Write a checkpoint of open_clip's ViT-B-32 with random weights."""
    import open_clip
    from safetensors.torch import save_file

    file = folder / "open_clip_model.safetensors"
    save_file(open_clip.create_model("ViT-B-32").state_dict(), file)
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": preprocess}))
    return file


def compare(
    report: Report,
    folder: Path,
    asked: argparse.Namespace,
    modality: Modality,
    catalogue: Path,
    count: int,
    rival: Any,
    choice: Choice,
) -> None:
    """Print our step over LanceDB's `add` with one of its embedding functions."""
    folder.mkdir()
    settings = settings_of(folder, catalogue)
    encoders = replace(settings.encoders, **{modality: choice})
    with ingested(replace(settings, encoders=encoders)) as lake:
        keep_first(lake, modality, count)
        column = lake.read("items", columns=[modality])[modality]
        batch = column.to_pylist()
        add = lancedb_add(folder, rival, modality, batch)
        encode(lake, LocalEngine(), modality)  # warm: weights read, networks converted
        rival.compute_source_embeddings(batch[:8])
        ratios = []
        for _ in range(asked.rounds):
            forget(lake, modality)
            ours = seconds(lambda: encode(lake, LocalEngine(), modality))
            ratios.append(seconds(add) / ours)
    name = type(rival).__name__
    of = {"items": count, "of": catalogue.name, "rounds": [significant(r) for r in ratios]}
    value = significant(median(ratios))
    ours = f"{modality}{f', {choice.precision}' if choice.precision else ''}"
    limit = None if choice.precision == "float32" else 1.5
    report.line(f"{ours}: speed over LanceDB's {name}", value, limit, least=True, of=of)


def keep_first(lake: Lake, modality: Modality, count: int) -> None:
    """Leave the first items that have the modality, with different contents."""
    items = lake.tables.read("items")
    has = items.filter(pc.is_valid(items[f"{modality}_hash"]))
    first = np.unique(has[f"{modality}_hash"].to_numpy(zero_copy_only=False), return_index=True)[1]
    kept = has.take(pa.array(np.sort(first)[:count]))
    lake.tables.replace("items", kept)
    lake.record("items", f"first {count}", lake.versions("items"), {"rows": count})


def lancedb_add(
    folder: Path, rival: Any, modality: Modality, batch: list[Any]
) -> Callable[[], None]:
    """Return what makes a table of the batch with vectors by LanceDB's function."""
    import lancedb
    from lancedb.pydantic import LanceModel, Vector

    source = rival.SourceField()
    fields: dict[str, Any] = {"__annotations__": {}}
    kind = str if modality == "text" else bytes
    fields["__annotations__"] = {"content": kind, "vector": Vector(rival.ndims())}
    fields |= {"content": source, "vector": rival.VectorField()}
    schema: Any = type("Row", (LanceModel,), fields)
    database = lancedb.connect(folder / "rival")

    def add() -> None:
        table = database.create_table("rows", schema=schema, mode="overwrite")
        table.add(pa.table({"content": batch}))

    return add


def sentence_transformers(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print how much faster the text tower is than the library that its model comes from."""
    from sentence_transformers import SentenceTransformer

    from encoders.quiet import quiet

    known: Any = tower("minilm-l6", "text").source
    model = SentenceTransformer(str(known.folder), device="cpu")
    with ingested(settings_of(folder, BEAUTY)) as lake:
        texts = texts_of(lake)
    items = [Item(text=text) for text in texts]
    model.encode(texts[:64])
    for precision in PRECISIONS:
        encoder = tower(Choice("minilm-l6", precision=precision), "text").load()
        encode_items(encoder, items[:64])
        ratios = []
        for _ in range(asked.rounds):
            with quiet():
                theirs = seconds(lambda: model.encode(texts))
            ratios.append(theirs / seconds(lambda e=encoder: encode_items(e, items)))
        value = significant(median(ratios))
        limit = 1.2 if precision == "int8" else None
        of = {"items": len(items), "rounds": [significant(r) for r in ratios]}
        report.line(
            f"text: speed over SentenceTransformer.encode, {precision}",
            value,
            limit,
            least=True,
            of=of,
        )


def change(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print what one changed item in a hundred costs."""
    first = alone("content", folder)
    changed = changed_copy(POSTERS, folder / "changed", every=CHANGED)
    (folder / "catalogue.txt").write_text(str(changed))
    again = alone("content", folder)
    of = {"items": first["items"], "first": first, "again": again}
    report.line(
        "change: content step, share of the first time",
        significant(again["seconds"] / first["seconds"]),
        0.03,
        of=of,
    )


def content_alone(folder: Path) -> dict[str, Any]:
    """Ingest a catalogue, then encode its texts and pictures; return what the second took."""
    chosen = folder / "catalogue.txt"
    catalogue = Path(chosen.read_text()) if chosen.exists() else POSTERS
    with ingested(settings_of(folder, catalogue)) as lake:
        started = perf_counter()
        builds = [encode(lake, LocalEngine(), modality) for modality in ("text", "image")]
        took = perf_counter() - started
    counts = [build.metadata["encoded"] for build in builds]
    return {"seconds": round(took, 2), "encoded": counts, "items": builds[0].metadata["rows"]}


def memory(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print the peak memory of encoding pictures of one megapixel, which must not grow."""
    peaks = []
    for count in (asked.pictures // 10, asked.pictures):
        (folder / str(count)).mkdir()
        with open_lake(settings_of(folder / str(count), POSTERS)) as lake:
            megapixels(lake, count)
        done = alone("pictures", folder / str(count))
        peaks.append(done["peak_bytes"])
        of = {"pictures": count, "items/s": done["items/s"]}
        report.line("memory: peak, GiB", significant(peaks[-1] / GIB), 3.0, of=of)
    growth = significant(peaks[1] / peaks[0])
    report.line("memory: peak over that of a tenth of the pictures", growth, 1.1)


def pictures_alone(folder: Path) -> dict[str, Any]:
    """Encode the pictures of a store in this process; return its peak memory."""
    with open_lake(settings_of(folder, POSTERS)) as lake:
        started = perf_counter()
        build = encode(lake, LocalEngine(), "image")
        took = perf_counter() - started
    return {"peak_bytes": process_peak(), "items/s": significant(build.metadata["encoded"] / took)}


def runtime(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """Print the default towers in every runtime, and what their defaults cost in recall."""
    (folder / "texts").mkdir()
    with ingested(settings_of(folder / "texts", BEAUTY)) as lake:
        done = ingest_interactions(lake.tables, lake.settings)
        assert done.kept
        versions = lake.versions("interactions", "rejected_items")
        lake.record("interactions", digest("log"), versions, {})
        texts = [Item(text=text) for text in texts_of(lake)]
        ids = lake.read("items", columns=["item_id"])["item_id"].to_pylist()
        split = leave_last_out(load_sequences(lake))
    vectors = towers_apart(report, asked, "minilm-l6", "text", texts)
    by_id = np.argsort(ids)  # the order of rows in the log's sequences
    table = {name: recalls(found[by_id], split) for name, found in vectors.items()}
    for name, found in table.items():
        ratio = significant(float(np.mean(found) / np.mean(table["float32 torch"])))
        limit = 0.995 if name == DEFAULT_TEXT else None
        of = {"recall@10": [significant(float(each)) for each in found]}
        report.line(f"text: recall@10 over float32, {name}", ratio, limit, least=True, of=of)
    (folder / "pictures").mkdir()
    with ingested(settings_of(folder / "pictures", POSTERS)) as lake:
        pictures = [Item(image=data) for data in pictures_of(lake)[:RIVALS]]
    towers_apart(report, asked, "efficientnet-lite0", "image", pictures)


DEFAULT_TEXT = "int8 openvino"
VARIANTS = (
    ("float32", "torch"),
    ("bfloat16", "torch"),
    ("float32", "openvino"),
    ("bfloat16", "openvino"),
    ("int8", "openvino"),
)


def towers_apart(
    report: Report, asked: argparse.Namespace, name: str, modality: Modality, items: list[Item]
) -> dict[str, Any]:
    """Print speed and likeness of a tower's variants; return the vectors of each."""
    found: dict[str, Any] = {}
    speeds: dict[str, float] = {}
    for precision, runs in VARIANTS:
        if modality == "image" and precision == "int8":
            continue  # convolutions have no matrix products to round
        label = f"{precision} {runs}"
        encoder = tower(Choice(name, precision=precision, runtime=runs), modality).load()
        encode_items(encoder, items[:64])
        took = []
        for _ in range(asked.rounds):
            started = perf_counter()
            found[label] = encode_items(encoder, items)
            took.append(perf_counter() - started)
        speeds[label] = len(items) / median(took)
        cosines = np.sum(found[label] * found["float32 torch"], axis=1)
        of = {"cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())}}
        report.line(f"{modality}: items/s, {label}", significant(speeds[label]), of=of)
        if precision == "bfloat16":
            half = f"{modality}: bfloat16, {runs}"
            least = 0.999 if modality == "text" else None
            mean = float(cosines.mean())
            report.line(f"{half}: mean cosine with float32", mean, least, least=True)
            gain = significant(speeds[label] / speeds[f"float32 {runs}"])
            limit = 1.0 if any(has_bfloat16().values()) else None
            report.line(f"{half}: speed over float32", gain, limit, least=True, of=has_bfloat16())
    return found


def has_bfloat16() -> dict[str, object]:
    """Say what the processor has for bfloat16: matrix units (AMX), or dot products alone."""
    return {name: name in flags() for name in ("amx_bf16", "avx512_bf16")}


def flags() -> set[str]:
    """Return the processor's features, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    found = [line.split() for line in lines if line.startswith("flags")]
    return set(found[0]) if found else set()


def recalls(vectors: Any, split: Any) -> list[float]:
    """Return recall@10 of consumer A on the test targets, at every whitening power and dim."""
    cases = trial(split, on="test")
    stored = vectors.astype(np.float16).astype(np.float32)
    white = whitening(stored)
    found = []
    for power in POWERS:
        rows = replace(white, power=power)(stored)
        ranks = (rank(by_cosine(rows, rows, dim=dim), cases) for dim in DIMS)
        found += [figures(each.masked)["R@10"] for each in ranks]
    return found


def seconds(run: Callable[[], object]) -> float:
    """Return how long it takes."""
    started = perf_counter()
    run()
    return perf_counter() - started


def alone(what: str, folder: Path) -> dict[str, Any]:
    """Run one of ALONE in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.encode", "--one", what, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


PARTS = {
    "asset": asset,
    "lancedb": lancedb_registry,
    "st": sentence_transformers,
    "change": change,
    "memory": memory,
    "runtime": runtime,
}
ALONE = {"content": content_alone, "pictures": pictures_alone}


if __name__ == "__main__":
    sys.exit(main())
