"""Cleaning of values and the item sentences."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from assets.item_text import Cleaner, plain, sentences, text_hash


def cleaned(text: str, limit: int = 100) -> str:
    return Cleaner(limit).text(text)


def test_title_comes_first_then_brand_and_category_then_the_rest_in_its_order():
    fields = {"price": 7.5, "category": "Tea", "zest": ["a", "b"], "title": "Pot", "brand": "Moss"}
    assert sentences(fields) == ("title: Pot. brand: Moss. category: Tea. price: 7.5. zest: a, b.")


def test_what_is_absent_or_a_web_address_has_no_sentence():
    fields = {"title": None, "link": "https://example.org/a", "made_in": "Graz."}
    assert sentences(fields) == "made in: Graz."


def test_numbers_are_printed_the_way_people_write_them():
    assert [plain(v) for v in (12.0, 0.1, 3, True, False)] == ["12", "0.1", "3", "yes", "no"]


def test_control_characters_go_and_blanks_collapse():
    assert cleaned("  a\x00b\t\n c\u202e\ufeffd ") == "ab cd"


def test_equal_looking_text_is_equal_text():
    assert cleaned("e\u0301") == cleaned("\u00e9") == "\u00e9"


def test_half_a_surrogate_pair_becomes_a_replacement_and_is_counted():
    cleaner = Cleaner(100)
    assert cleaner.text("a\ud83d") == "a\ufffd"
    assert cleaner.notes["undecodable_text"] == 1


def test_a_megabyte_of_text_is_cut_and_counted():
    cleaner = Cleaner(1000)
    assert cleaner.text("word " * 200_000) == ("word " * 200).strip()
    assert cleaner.notes["text_cut"] == 1


def test_nesting_without_end_is_left_out_and_counted():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    cleaner = Cleaner(100)
    assert cleaner.value([*deep, "kept"]) == ["kept"]
    assert cleaner.notes["nested_too_deep"] == 1


@given(st.text(st.characters(), max_size=300))
def test_cleaned_text_is_short_composed_visible_and_stays_as_it_is(text: str):
    once = cleaned(text, 50)
    assert len(once) <= 50
    assert once == unicodedata.normalize("NFC", once)
    assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in once)
    assert cleaned(once, 50) == once


def test_the_hash_of_a_text_is_absent_without_text():
    assert text_hash("") is None
    assert text_hash("a") == text_hash("a") != text_hash("b")
