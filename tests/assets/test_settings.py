"""itemnest.toml: defaults, refusals that name the way out, and the file that explains itself."""

from pathlib import Path

import pytest

from alignment.collaborative import METHODS
from assets.settings import Settings, SettingsError, load, load_current, parse, write_default
from encoders.spec import Choice


def test_an_empty_file_means_the_defaults(tmp_path: Path):
    (tmp_path / "itemnest.toml").write_text("")
    settings = load(tmp_path / "itemnest.toml")
    assert settings.catalogue == tmp_path / "catalogue"
    assert settings.store == str(tmp_path / "data/store")
    assert settings.dims == Settings().dims


def test_the_file_that_explains_every_key_says_the_defaults(tmp_path: Path):
    settings = load(write_default(tmp_path / "itemnest.toml"))
    assert settings == parse({}, folder=tmp_path)


def test_the_file_that_explains_every_key_is_never_written_over_another(tmp_path: Path):
    path = write_default(tmp_path / "itemnest.toml", catalogue='a "quoted" \\ folder')
    assert load(path).catalogue == tmp_path / 'a "quoted" \\ folder'
    with pytest.raises(FileExistsError):
        write_default(path)


def test_sections_and_absolute_places_are_taken_as_they_are():
    settings = parse(
        {
            "catalogue": "/data/shop",
            "store": "s3://bucket/vectors",
            "dims": [16, 48],
            "ingest": {"fetch_urls": True},
        },
        folder=Path("/etc"),
    )
    assert settings.catalogue == Path("/data/shop")
    assert settings.store == "s3://bucket/vectors"
    assert settings.dims == (16, 48)
    assert settings.ingest.fetch_urls
    assert not settings.ingest.allow_private_addresses


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"dimz": [32]}, "did you mean 'dims'"),
        ({"encoders": {"txt": "none"}}, "did you mean 'encoders.text'"),
        ({"fetch_urls": True}, "did you mean 'ingest.fetch_urls'"),
        ({"qqqq": 1}, "known are catalogue"),
        ({"dims": [64, 32]}, "growing list"),
        ({"dims": [0]}, "growing list"),
        ({"dims": []}, "growing list"),
        ({"dims": [True]}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"seed": -1}, "from 0"),
        ({"store": ""}, "a folder or a URI"),
        ({"ingest": 3}, "a table"),
        ({"ingest": {"max_image_bytes": 0}}, "at least 1"),
        ({"schedule": {"cron": "daily"}}, "five cron fields"),
        ({"schedule": {"timezone": "Mars/Olympus"}}, "time zone"),
        ({"release": {"keep": 0}}, "at least 1"),
        ({"engine": "spark"}, "local or ray"),
        ({"encoders": {"text": ""}}, "a tower"),
        ({"encoders": {"text": {"prefix": "passage: "}}}, "encoders.text.tower"),
        ({"encoders": {"text": {"tower": "minilm-l6", "pool": "cls"}}}, "encoders.text.pooling"),
        ({"encoders": {"memory_mb": -1}}, "at least 0"),
        ({"descriptions": {"max_new_tokens": 0}}, "at least 1"),
        ({"ray": {"workers": 0}}, "at least 1"),
        ({"collaborative": {"method": "svd"}}, "covisits, als, bpr, sasrec"),
        ({"collaborative": {"methods": "als"}}, "did you mean 'collaborative.method'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(content, says: str):
    with pytest.raises(SettingsError, match=says):
        parse(content)


def test_broken_toml_is_an_error_that_names_the_file(tmp_path: Path):
    (tmp_path / "itemnest.toml").write_text("dims = [")
    with pytest.raises(SettingsError, match=r"itemnest\.toml is not valid TOML"):
        load(tmp_path / "itemnest.toml")


def test_the_current_settings_are_those_of_the_variable_then_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ITEMNEST_SETTINGS", raising=False)
    assert load_current().seed == 0
    (tmp_path / "itemnest.toml").write_text("seed = 1")
    assert load_current().seed == 1
    (tmp_path / "other.toml").write_text("seed = 2")
    monkeypatch.setenv("ITEMNEST_SETTINGS", str(tmp_path / "other.toml"))
    assert load_current().seed == 2


def test_a_tower_is_a_name_or_a_table_with_options(tmp_path: Path):
    options = {"tower": "multilingual-e5-small", "query_prefix": "query: ", "windows": 4}
    settings = parse({"encoders": {"text": options, "image": "none"}}, folder=tmp_path)
    assert settings.encoders.text == Choice(**options)
    assert settings.encoders.image == Choice("none")
    assert settings.encoders.multimodal == Choice("none")


def test_a_tower_is_looked_for_beside_the_settings(tmp_path: Path):
    (tmp_path / "models" / "e5").mkdir(parents=True)
    (tmp_path / "b32.pt").touch()
    towers = {"text": "transformers:models/e5", "image": "open_clip:ViT-B-32@b32.pt"}
    described = {"tower": {"tower": "transformers:models/e5", "prompt": "{image} {text}"}}
    settings = parse({"encoders": towers, "descriptions": described}, folder=tmp_path)
    assert settings.encoders.text.tower == f"transformers:{tmp_path}/models/e5"
    assert settings.encoders.image.tower == f"open_clip:ViT-B-32@{tmp_path}/b32.pt"
    assert settings.descriptions.tower.tower == f"transformers:{tmp_path}/models/e5"
    assert settings.descriptions.tower.prompt == "{image} {text}"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_for_collaborative_vectors_can_be_set(method: str):
    assert parse({"collaborative": {"method": method}}).collaborative.method == method
