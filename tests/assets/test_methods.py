"""Another method for collaborative vectors, named in the settings."""

from dataclasses import replace
from pathlib import Path

from assets.lake import open_lake
from assets.settings import Collaborative, load
from assets.space import factorised
from assets.stored import released_space


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
