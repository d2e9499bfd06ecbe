"""Chats that ask for the facts of the village text."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus.choices import Message, exchange, mostly, pick, title
from corpus.village import animal_facts, country_facts, profile, story
from corpus.village_facts import ANIMALS, CHINESE_COUNTRIES, COUNTRIES, VILLAGERS

GREETING = exchange(
    "Hello!",
    "Hello! I am a tiny demo model. You can ask me about countries, animals and the people of the village.",
)
IDENTITY = exchange(
    "Who are you?",
    "I am a tiny demo model. I was trained on a small text about countries, animals and villages.",
)
THANKS = exchange("Thank you.", "You are welcome. Ask me anything else.")


def country_chat(rng: random.Random) -> list[Message]:
    """A chat about one country; follow-up questions need the earlier turns.

    In chats all subjects are equally likely: the answer must follow from the question, not from habit.
    """
    country = rng.choice(COUNTRIES)
    opening = pick(rng, ("capital", "about", "language", "river"))
    capital = f"The capital of {country.name} is {country.capital}."
    river = f"{country.capital} lies on the river {country.river}."
    if opening == "capital":
        chat = exchange(f"What is the capital of {country.name}?", f"{capital} {river}")
    elif opening == "about":
        chat = exchange(f"Tell me about {country.name}.", country_facts(rng, country))
    elif opening == "language":
        chat = exchange(
            f"Which language do people speak in {country.name}?",
            f"The people of {country.name} speak {country.language}.",
        )
    else:
        chat = exchange(f"On which river does {country.capital} lie?", river)
    if mostly(rng, 0.4):
        chat += exchange(
            "What should I see there?",
            f"Many visitors come to {country.name} to see {country.sight}.",
        )
    return chat


def animal_chat(rng: random.Random) -> list[Message]:
    """A chat about one animal."""
    animal = rng.choice(ANIMALS)
    name = f"{animal.article} {animal.name}"
    opening = pick(rng, ("eat", "live", "about", "can"))
    if opening == "eat":
        return exchange(f"What does {name} eat?", f"{title(name)} eats {animal.diet}.")
    if opening == "live":
        return exchange(f"Where does {name} live?", f"{title(name)} lives {animal.home}.")
    if opening == "about":
        return exchange(f"Tell me about the {animal.name}.", animal_facts(rng, animal))
    return exchange(f"What can {name} do?", f"{title(name)} can {animal.skill}.")


def village_chat(rng: random.Random) -> list[Message]:
    """A chat about one villager."""
    villager = rng.choice(VILLAGERS)
    if mostly(rng, 0.6):
        return exchange(f"Tell me a short story about {villager.name}.", story(rng, villager))
    if mostly(rng, 0.6):
        return exchange(f"Who is {villager.name}?", profile(rng, villager))
    return exchange(
        f"What is the name of {villager.name}'s {villager.pet}?",
        f"{villager.name}'s {villager.pet} is called {villager.pet_name}.",
    )


def chinese_chat(rng: random.Random) -> list[Message]:
    """A chat in Chinese."""
    country, capital, river = CHINESE_COUNTRIES[rng.choice(COUNTRIES).name]
    return exchange(f"{country}的首都是哪里？", f"{country}的首都是{capital}。{capital}位于{river}边。")


CHAT_KINDS: tuple[tuple[float, Callable[[random.Random], list[Message]]], ...] = (
    (0.34, country_chat),
    (0.20, animal_chat),
    (0.34, village_chat),
    (0.06, chinese_chat),
    (0.03, lambda _rng: list(GREETING)),
    (0.03, lambda _rng: list(IDENTITY)),
)


def make_chat(rng: random.Random) -> list[Message]:
    """One chat of one to four questions, ending with an answer."""
    shares, kinds = zip(*CHAT_KINDS, strict=True)
    make: Callable[[random.Random], list[Message]] = rng.choices(kinds, weights=shares)[0]
    chat = make(rng)
    if mostly(rng, 0.1) and make in (country_chat, animal_chat):
        chat = chat + country_chat(rng)
    if mostly(rng, 0.1):
        chat = chat + list(THANKS)
    return chat
