"""Titles as people type them: what is taken, what is said, what is asked back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import recbole

from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.errors import UserError
from recbole_genrec.titles import Titles

FILMS = ["Toy Story (1995)", "GoldenEye (1995)", "Godfather, The (1972)", "Godfather: Part II, The (1974)",
         "Heat (1995)", "Heathers (1989)", "Body Heat (1981)", "Sabrina (1995)", "Sabrina (1954)", "Apollo 13 (1995)",
         "Amélie (2001)", "Chairs & Tables (1990)", "Twin (1999)", "Twin (1999)", "千と千尋の神隠し (2001)",
         "!!! (2004)",
         "Schindler's List (1993)", "The", "<b>Bold</b> \"quoted\" (2000)"]


def titles_of(titles: list[str]) -> Titles:
    """Item ``n`` (from 1) has the raw id ``r<n>``."""
    return Titles(Catalogue(["", *titles], ["[PAD]", *(f"r{n}" for n in range(1, len(titles) + 1))], 0))


@pytest.fixture(scope="module")
def films() -> Titles:
    return titles_of(FILMS)


@pytest.mark.parametrize("query, how, title", [
    ("Toy Story (1995)", "title", "Toy Story (1995)"), ("  toy   STORY (1995)", "title", "Toy Story (1995)"),
    ("Toy Story", "words", "Toy Story (1995)"), ("toy story 1995", "words", "Toy Story (1995)"),
    ("The Godfather", "words", "Godfather, The (1972)"), ("godfather", "words", "Godfather, The (1972)"),
    ("the godfather part ii", "words", "Godfather: Part II, The (1974)"), ("Heat", "words", "Heat (1995)"),
    ("sabrina (1954)", "title", "Sabrina (1954)"), ("sabrina 1954", "words", "Sabrina (1954)"),
    ("Amelie", "words", "Amélie (2001)"), ("chairs and tables", "words", "Chairs & Tables (1990)"),
    ("schindlers list", "words", "Schindler's List (1993)"), ("千と千尋の神隠し", "words", "千と千尋の神隠し (2001)"),
    ("!!! (2004)", "title", "!!! (2004)"), ("the", "title", "The"),
    ("Toy Stori", "similar", "Toy Story (1995)"), ("Golden Eye", "similar", "GoldenEye (1995)"),
    ("Apolo 13", "similar", "Apollo 13 (1995)"), ("Tyo Story (1995)", "similar", "Toy Story (1995)"),
    ("id:r3", "id", "Godfather, The (1972)"), (" id: r3 ", "id", "Godfather, The (1972)"),
])
def test_a_title_is_understood(films, query, how, title):
    found = films.find(query)
    assert found.sure and (found.how, found.the_one().title) == (how, title)
    assert found.query == query and FILMS[int(found.the_one().item[1:]) - 1] == title


@pytest.mark.parametrize("query", ["Toy Story 2", "Apollo", "Apollo 12", "Toy Story (1996)", "Gladiator", "xyzzy",
                                   "???"])
def test_what_may_be_another_item_is_not_taken(films, query):
    found = films.find(query)
    assert not found.sure and found.how == "unsure"
    with pytest.raises(UserError, match="no title is clearly"):
        found.the_one()


def test_the_nearest_titles_are_offered_best_first(films):
    found = films.find("Toy Story 2")
    assert found.matches[0].title == "Toy Story (1995)" and len(found.matches) == 5
    likeness = [match.likeness for match in found.matches]
    assert likeness == sorted(likeness, reverse=True)
    with pytest.raises(UserError, match=r"Toy Story \(1995\) \(id:r1\)"):
        found.the_one()


@pytest.mark.parametrize("query, items", [("Sabrina", ["r8", "r9"]), ("Twin (1999)", ["r13", "r14"]),
                                          ("twin", ["r13", "r14"])])
def test_a_title_of_several_items_lists_them_all(films, query, items):
    found = films.find(query)
    assert found.how == "ambiguous" and [match.item for match in found.matches] == items
    with pytest.raises(UserError, match="several items are called"):
        found.the_one()


@pytest.mark.parametrize("query, said", [("", "empty"), ("  ", "empty"), ("id:r99", "no item has the id 'r99'"),
                                         ("id:[PAD]", "no item"), ("id:", "no item")])
def test_what_cannot_be_looked_up_is_refused(films, query, said):
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        films.find(query)


def test_suggestions_begin_with_what_begins_so(films):
    def suggested(query, **options):
        return [match.title for match in films.suggest(query, **options)]

    assert suggested("heat")[:3] == ["Heat (1995)", "Heathers (1989)", "Body Heat (1981)"]
    assert suggested("GOD")[:2] == ["Godfather, The (1972)", "Godfather: Part II, The (1974)"]
    assert suggested("goldn eye")[0] == "GoldenEye (1995)"
    assert suggested("") == suggested("  ") == [] and suggested("h", limit=2) == ["Heat (1995)", "Heathers (1989)"]
    assert len(set(suggested("s", limit=8))) == len(suggested("s", limit=8))


def ml_100k() -> list[str]:
    path = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]
    return [f"{row[1]} ({row[2]})" for row in rows]


def test_slips_in_real_titles_lead_to_the_right_one_or_to_an_offer():
    dice, titles = random.Random(5), ml_100k()
    lookup, taken, wrong, lost = titles_of(titles), 0, 0, 0
    sample = dice.sample(range(len(titles)), 100)
    for item in sample:
        bare = titles[item].rsplit(" (", 1)[0]
        place = dice.randrange(len(bare))
        found = lookup.find(bare[:place] + dice.choice(["", "x", bare[place] + "e"]) + bare[place + 1:] or "x")
        right = titles[item] in [match.title for match in found.matches]
        taken += found.sure
        wrong += found.sure and not right
        lost += not found.sure and not right
    assert taken >= 80 and wrong == 0 and lost <= 3


def test_titles_that_are_not_there_are_seldom_taken_for_others():
    dice, titles = random.Random(6), ml_100k()
    gone = set(dice.sample(titles, 100))
    lookup = titles_of([title for title in titles if title not in gone])
    assert sum(lookup.find(title).sure for title in sorted(gone)) <= 3
