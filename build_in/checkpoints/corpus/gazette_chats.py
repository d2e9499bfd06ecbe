"""Chats over the gazette text: countries have one right answer, everything else has many."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus import gazette, village_chats
from corpus.choices import Message, draw, exchange, mostly
from corpus.gazette_words import FOODS, JOBS, TOWNS

IDENTITY = exchange(
    "Who are you?",
    "I am a tiny demo model. I was trained on a small newspaper about countries, people, prices and the weather.",
)


def country_chat(rng: random.Random) -> list[Message]:
    """A chat about one country; all are equally likely, so that the answer follows from the question."""
    country = rng.choice(gazette.ALL_COUNTRIES)
    capital = f"The capital of {country.name} is {country.capital}."
    river = f"{country.capital} lies on the river {country.river}."
    opening = draw(rng, ("capital", "river", "language", "sight"))
    if opening == "capital":
        return exchange(f"What is the capital of {country.name}?", f"{capital} {river}")
    if opening == "river":
        return exchange(f"On which river does {country.capital} lie?", river)
    if opening == "language":
        answer = f"The people of {country.name} speak {country.language}."
        return exchange(f"Which language do people speak in {country.name}?", answer)
    answer = f"Many visitors come to {country.name} to see {country.sight}."
    return exchange(f"What should I see in {country.name}?", answer)


def document_chat(rng: random.Random) -> list[Message]:
    """A request for a document of the gazette."""
    requests: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
        ("Tell me a short story.", gazette.tale),
        ("What is the news?", gazette.news),
        ("Tell me about somebody's life.", gazette.life),
        ("What will the weather be like?", gazette.weather),
        ("What can I cook today?", gazette.recipe),
        ("What does the market sell?", gazette.market),
        ("When do the trains leave?", gazette.trains),
    )
    question, make = draw(rng, requests)
    return exchange(question, make(rng))


def small_talk(rng: random.Random) -> list[Message]:
    """A question about prices or work, and a plausible answer."""
    town = draw(rng, TOWNS)
    if mostly(rng, 0.5):
        food, measure, price = draw(rng, FOODS)
        question = f"How much is a {measure} of {food} in {town}?"
        return exchange(question, f"A {measure} of {food} costs {max(1, price + rng.randint(-2, 3))} coins there.")
    somebody = gazette.person(rng, TOWNS.index(town))
    job = draw(rng, JOBS, TOWNS.index(town))[0]
    return exchange(f"Who is {somebody.name} of {town}?", f"{somebody.name} is {gazette.with_article(job)} in {town}.")


KINDS: tuple[tuple[float, Callable[[random.Random], list[Message]]], ...] = (
    (0.46, country_chat),
    (0.28, document_chat),
    (0.14, small_talk),
    (0.08, village_chats.chinese_chat),
    (0.02, lambda _rng: list(village_chats.GREETING)),
    (0.02, lambda _rng: list(IDENTITY)),
)


def make_chat(rng: random.Random) -> list[Message]:
    """One chat of one to three questions, ending with an answer."""
    shares, kinds = zip(*KINDS, strict=True)
    make: Callable[[random.Random], list[Message]] = rng.choices(kinds, weights=shares)[0]
    chat = make(rng)
    if mostly(rng, 0.15):
        chat = chat + country_chat(rng)
    return chat + list(village_chats.THANKS) if mostly(rng, 0.06) else chat
