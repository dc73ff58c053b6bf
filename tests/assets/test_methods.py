"""Another method for collaborative vectors, named in the settings."""

import shutil
from dataclasses import replace
from pathlib import Path

from assets.lake import open_lake
from assets.run import materialize
from assets.settings import Collaborative, load
from assets.space import factorised
from assets.stored import released_space
from store import ItemStore


def test_the_method_of_the_settings_is_the_one_of_the_vectors(shop: Path) -> None:
    settings = replace(load(shop / "itemnest.toml"), collaborative=Collaborative("als"))
    with open_lake(settings) as lake:
        recipe, periods = factorised(lake)
    assert recipe.method == "als"
    assert (periods["all"].context == periods["all"].target).all()


def test_a_space_of_another_method_is_not_kept(shop: Path) -> None:
    settings = load(shop / "itemnest.toml")
    with open_lake(settings) as lake:
        assert released_space(lake) is not None
    with open_lake(replace(settings, collaborative=Collaborative("bpr"))) as lake:
        assert released_space(lake) is None


def test_a_new_space_is_turned_towards_the_released_one(shop: Path, tmp_path: Path) -> None:
    """Another method makes other vectors, which lie as near to the old ones as they can."""
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    file = copy / "itemnest.toml"
    text = file.read_text()
    assert 'method = "covisits"' in text
    file.write_text(text.replace('method = "covisits"', 'method = "als"'))
    outcome = materialize(file, accept=["holds_against_the_last_release"])
    assert outcome.succeeded, outcome.failures
    old, new = (ItemStore.open(copy / "store").at(release=name) for name in ("r1", "r2"))
    assert old.release.space_id != new.release.space_id
    before, after = (store.item_matrix(dim=256, role="context") for store in (old, new))
    assert before.ids == after.ids
    cosine = (before.vectors * after.vectors).sum(axis=1)
    assert cosine.mean() > 0.7
