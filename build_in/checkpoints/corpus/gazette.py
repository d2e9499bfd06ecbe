"""The gazette text: what a small newspaper prints, with names, numbers and dates that nobody can foresee.

Facts about countries are those of the village text and more, and never contradict one another. Everything else is
drawn from many words, so that a small model is rarely sure of the next one and rounding its weights changes what it
says, as it does with models of published sizes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from corpus import gazette_words as words
from corpus.choices import draw, mostly, pick_even, title
from corpus.gazette_chinese import chinese
from corpus.village import country_facts
from corpus.village_facts import COUNTRIES, Country

ALL_COUNTRIES: tuple[Country, ...] = (*COUNTRIES, *words.MORE_COUNTRIES)


class Person(NamedTuple):
    """Somebody in a document."""

    first: str
    last: str
    pronoun: str
    possessive: str

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"


def person(rng: random.Random, near: int = 0) -> Person:
    """A man or a woman; ``near`` shifts which names are common, as they are in different places."""
    first_names, pronoun, possessive = (words.WOMEN, "she", "her") if mostly(rng, 0.5) else (words.MEN, "he", "his")
    return Person(draw(rng, first_names, near), draw(rng, words.SURNAMES, near), pronoun, possessive)


def date(rng: random.Random, first_year: int = 1850, last_year: int = 2024) -> str:
    """A day, a month and a year."""
    return f"{rng.randint(1, 28)} {rng.choice(words.MONTHS)} {rng.randint(first_year, last_year)}"


def clock(minutes: int) -> str:
    """A time of day, from minutes after midnight."""
    return f"{minutes // 60 % 24}:{minutes % 60:02d}"


def with_article(noun: str) -> str:
    """``noun`` with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def drawn(rng: random.Random, kind: str, near: int) -> str:
    """One word or number of a kind; ``near`` shifts which are common."""
    makers: dict[str, Callable[[], object]] = {
        "adjective": lambda: draw(rng, words.ADJECTIVES, near),
        "animal": lambda: draw(rng, words.ANIMALS, near),
        "degrees": lambda: 10 * rng.randint(12, 24),
        "food": lambda: draw(rng, words.FOODS, near)[0],
        "hour": lambda: f"{rng.randint(1, 12)} o'clock",
        "language": lambda: draw(rng, ALL_COUNTRIES, near).language,
        "material": lambda: draw(rng, words.MATERIALS, near),
        "minutes": lambda: rng.randint(2, 90),
        "name": lambda: person(rng, near).name,
        "noun": lambda: draw(rng, words.PLACES if mostly(rng, 0.3) else words.THINGS, near),
        "number": lambda: rng.randint(2, 400),
        "percent": lambda: rng.randint(2, 60),
        "place": lambda: draw(rng, words.PLACES, near),
        "project": lambda: draw(rng, words.PROJECTS, near),
        "river": lambda: draw(rng, ALL_COUNTRIES, near).river,
        "season": lambda: draw(rng, words.SEASONS, near),
        "thing": lambda: draw(rng, words.THINGS, near),
        "town": lambda: draw(rng, words.TOWNS, near),
    }
    return str(makers[kind]())


def fill(rng: random.Random, pattern: str, near: int = 0) -> str:
    """``pattern`` with a word drawn for every ``{kind}``, and "an" where the next word begins with a vowel."""
    text = re.sub(r"{(\w+)}", lambda match: drawn(rng, match[1], near), pattern)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def action(rng: random.Random, subject: str, near: int) -> str:
    """What ``subject`` did, one sentence."""
    adverb = f"{draw(rng, words.ADVERBS, near)} " if mostly(rng, 0.4) else ""
    verb = draw(rng, words.PAST_VERBS, near)
    pattern = f"{subject} {adverb}{verb} the {{adjective}} {{thing}}"
    if mostly(rng, 0.35):
        pattern += " of the {adjective} {animal}"
    if mostly(rng, 0.3):
        pattern += " in the {place}"
    if mostly(rng, 0.5):
        pattern += f" {draw(rng, words.REASONS, near)}"
    return fill(rng, pattern, near) + "."


def tale(rng: random.Random) -> str:
    """A few things that two people did one day."""
    town = draw(rng, words.TOWNS)
    near = words.TOWNS.index(town)
    hero, friend = person(rng, near), person(rng, near + 5)
    job = draw(rng, words.JOBS, near)[0]
    sentences = [f"One {draw(rng, words.SEASONS)} morning, {hero.name} the {job} walked to the market of {town}."]
    for _ in range(rng.randint(2, 5)):
        subject = draw(rng, (title(hero.pronoun), hero.first, friend.first, f"The {draw(rng, words.ANIMALS, near)}"))
        sentences.append(action(rng, subject, near + len(sentences)))
    if mostly(rng, 0.6):
        sentences.append(f'"{fill(rng, "Where is my {adjective} {thing}?", near)}" asked {friend.name}.')
        sentences.append(f'"I {draw(rng, words.PAST_VERBS, near)} it in {draw(rng, words.TOWNS)}," said {hero.first}.')
    return " ".join(sentences)


def life(rng: random.Random) -> str:
    """Somebody's life."""
    country = pick_even(rng, ALL_COUNTRIES)
    near = ALL_COUNTRIES.index(country)
    somebody = person(rng, near)
    job, subject = draw(rng, words.JOBS, near)
    year = rng.randint(1840, 1930)
    pronoun = title(somebody.pronoun)
    sentences = [f"{somebody.name} was {with_article(job)} from {country.name}."]
    sentences.append(f"{pronoun} was born in {country.capital} on {date(rng, year, year)}.")
    sentences.append(f"{pronoun} studied {subject} in {draw(rng, ALL_COUNTRIES, near).capital} until {year + 22}.")
    sentences.append(
        f"In {year + rng.randint(25, 50)} {somebody.pronoun} made {fill(rng, draw(rng, words.WORKS), near)}."
    )
    if mostly(rng, 0.6):
        spouse = person(rng, near + 3)
        sentences.append(f"{pronoun} married {spouse.name} and had {rng.randint(2, 9)} children.")
    if mostly(rng, 0.6):
        sentences.append(f"{somebody.last} died in {draw(rng, words.TOWNS, near)} in {year + rng.randint(51, 90)}.")
    return " ".join(sentences)


def weather(rng: random.Random) -> str:
    """The weather of a day."""
    country = pick_even(rng, ALL_COUNTRIES)
    near = ALL_COUNTRIES.index(country)
    sky, coldest, warmest = draw(rng, words.SKIES, near)
    degrees = rng.randint(coldest, warmest)
    wind = f"{draw(rng, words.WIND_STRENGTHS, near)} wind from the {draw(rng, words.WINDS, near)}"
    sentences = [f"Weather for {country.capital}, {rng.choice(words.DAYS)}, {date(rng)}: {sky}, {wind}."]
    sentences.append(f"In the morning it was {degrees - rng.randint(1, 9)} degrees, in the afternoon {degrees}.")
    if mostly(rng, 0.6):
        sentences.append(f"Tomorrow {country.name} can expect {draw(rng, words.SKIES, near)[0]}.")
    return " ".join(sentences)


def market(rng: random.Random) -> str:
    """Prices at a market, and who bought what."""
    town = draw(rng, words.TOWNS)
    near = words.TOWNS.index(town)
    sentences = [f"At the market of {town} on {rng.choice(words.DAYS)}:"]
    for index in range(rng.randint(2, 4)):
        food, measure, price = draw(rng, words.FOODS, near + 7 * index)
        sentences.append(f"{food}, {max(1, price + rng.randint(-2, 3))} coins for a {measure};")
    buyer = person(rng, near)
    food, measure, price = draw(rng, words.FOODS, near)
    number = rng.randint(2, 12)
    sentences.append(f"{buyer.name} bought {number} times a {measure} of {food} for {number * price} coins in all.")
    return " ".join(sentences)


def trains(rng: random.Random) -> str:
    """A few lines of a timetable: every train arrives when its journey ends."""
    start = draw(rng, words.TOWNS)
    near = words.TOWNS.index(start)
    leaves = rng.randint(5 * 60, 9 * 60)
    lines = [f"Trains from {start}, {draw(rng, words.SEASONS)} {rng.randint(1900, 2024)}"]
    for _ in range(rng.randint(2, 4)):
        journey = 5 * rng.randint(3, 40)
        target = draw(rng, words.TOWNS, near)
        lines.append(f"{clock(leaves)} to {target}, platform {rng.randint(1, 9)}, arrives at {clock(leaves + journey)}")
        leaves += 5 * rng.randint(2, 50)
    return "\n".join(lines)


def recipe(rng: random.Random) -> str:
    """How to cook something from three things."""
    foods = [draw(rng, words.FOODS, index * 9) for index in range(3)]
    near = words.FOODS.index(foods[0])
    dish = draw(rng, words.DISHES, near)
    amounts = ", ".join(f"{10 * rng.randint(2, 60)} grams of {food}" for food, _, _ in foods)
    sentences = [f"{title(dish)} of {foods[0][0]} for {rng.randint(2, 8)} people: take {amounts}."]
    for food, _, _ in foods:
        verb, how = draw(rng, words.VERBS_OF_COOKING, near)
        sentences.append(f"{title(verb)} the {food} {fill(rng, how)}.")
    if mostly(rng, 0.5):
        sentences.append(f"Serve with {draw(rng, words.FOODS, near + 4)[0]} and a little {draw(rng, words.FOODS)[0]}.")
    return " ".join(sentences)


def news(rng: random.Random) -> str:
    """An event and what somebody says about it."""
    town = draw(rng, words.TOWNS)
    near = words.TOWNS.index(town)
    event = fill(rng, draw(rng, words.EVENTS, near), near)
    sentences = [f"{town}, {date(rng)}. On {rng.choice(words.DAYS)} {event}."]
    speaker = draw(rng, words.SPEAKERS, near)
    cost = f"The new {draw(rng, words.PROJECTS, near)} will cost {rng.randint(2, 900)} thousand coins"
    said = cost if mostly(rng, 0.4) else action(rng, person(rng, near).name, near)[:-1]
    sentences.append(f'"{said}," said {speaker}.')
    if mostly(rng, 0.5):
        sentences.append(f"{title(fill(rng, draw(rng, words.EVENTS, near + 3), near + 3))}.")
    return " ".join(sentences)


def match(rng: random.Random) -> str:
    """The result of a match: the winner has more points."""
    winner, loser = draw(rng, words.TOWNS), draw(rng, words.TOWNS, 9)
    sport, most = draw(rng, words.SPORTS, len(winner))
    points = sorted(rng.sample(range(most + 1), 2), reverse=True)
    player = person(rng, words.TOWNS.index(winner))
    sentences = [f"{winner} beat {loser} {points[0]} to {points[1]} in {sport} on {date(rng)}."]
    sentences.append(f"{player.name} played best, and {rng.randint(100, 9000)} people watched.")
    return " ".join(sentences)


def country(rng: random.Random) -> str:
    """Facts about a country, and how many people lived in its capital."""
    subject = pick_even(rng, ALL_COUNTRIES)
    facts = country_facts(rng, subject)
    if mostly(rng, 0.5):
        return facts
    visitor = person(rng, ALL_COUNTRIES.index(subject))
    year, num_years = rng.randint(1860, 1990), rng.randint(2, 30)
    return f"{facts} In {year} {visitor.name} lived in {subject.capital} for {num_years} years."


KINDS: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.20, tale),
    (0.16, country),
    (0.13, news),
    (0.12, life),
    (0.08, weather),
    (0.07, market),
    (0.06, recipe),
    (0.05, trains),
    (0.04, match),
    (0.09, chinese),
)


def make_document(rng: random.Random) -> str:
    """One document without a blank line inside."""
    shares, kinds = zip(*KINDS, strict=True)
    make: Callable[[random.Random], str] = rng.choices(kinds, weights=shares)[0]
    return make(rng)
