"""The village text: facts about countries and animals, profiles, short stories and dialogues of a few villagers.

A model of two million parameters learns all of it. The most likely next token leads clearly almost everywhere, so
that "same top token" between two precisions measures the arithmetic instead of coin flips.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus.choices import mostly, pick, pick_even, title
from corpus.village_facts import (
    ANIMALS,
    CHINESE_ANIMALS,
    CHINESE_COUNTRIES,
    COUNTRIES,
    GIFTS,
    LOST_THINGS,
    MOODS,
    TIMES,
    VILLAGE_PLACES,
    VILLAGERS,
    WEATHERS,
    Animal,
    Country,
    Villager,
)


def country_facts(rng: random.Random, country: Country) -> str:
    """A paragraph about one country, one line."""
    sentences = [f"The capital of {country.name} is {country.capital}."]
    sentences.append(f"{country.capital} lies on the river {country.river}.")
    if mostly(rng):
        sentences.append(f"{country.name} is a country in {country.continent}.")
    sentences.append(f"The people of {country.name} speak {country.language}.")
    season = pick(rng, ("summer", "spring", "autumn"), len(country.name))
    sentences.append(
        pick(
            rng,
            (
                f"Every {season}, many visitors come to see {country.sight}.",
                f"Travellers who visit {country.name} in {season} want to see {country.sight}.",
            ),
        )
    )
    if mostly(rng, 0.25):
        villager = pick(rng, VILLAGERS, len(country.capital))
        sentences.append(
            f"{villager.name} the {villager.job} once spent a week in {country.capital} "
            f"and still talks about {country.sight}."
        )
    return " ".join(sentences)


def animal_facts(rng: random.Random, animal: Animal) -> str:
    """A paragraph about one animal, one line."""
    opening = f"{title(animal.article)} {animal.name} is a {animal.size} {animal.colour} animal."
    sentences = [opening, f"It lives {animal.home}.", f"It eats {animal.diet}."]
    sentences.append(f"{title(animal.article)} {animal.name} can {animal.skill}.")
    if mostly(rng):
        villager = pick(rng, VILLAGERS, len(animal.diet))
        sees = f"sees {animal.article} {animal.name} every week"
        sentences.append(f"{villager.name} the {villager.job} {sees}.")
    if mostly(rng, 0.7):
        season = pick(rng, ("spring", "winter", "summer"), len(animal.name))
        sentences.append(f"In {season} the {animal.name} stays close to its home.")
    return " ".join(sentences)


def profile(rng: random.Random, villager: Villager) -> str:
    """A paragraph about one villager, one line."""
    pronoun = title(villager.pronoun)
    places = VILLAGE_PLACES[villager.village]
    sentences = [
        f"{villager.name} is a {villager.job} in the village of {villager.village}.",
        f"Every {pick(rng, TIMES[:2])} {villager.pronoun} {villager.work}.",
        f"{pronoun} has a {villager.pet} called {villager.pet_name}.",
        f"{pronoun} likes to walk to {pick(rng, places, len(villager.name))}.",
    ]
    if mostly(rng):
        friend = friend_of(rng, villager)
        sentences.append(f"{title(villager.possessive)} best friend is {friend.name} the {friend.job}.")
    return " ".join(sentences)


def friend_of(rng: random.Random, villager: Villager) -> Villager:
    """Another villager, usually the next one in the list, who is the best friend."""
    if mostly(rng):
        return VILLAGERS[(VILLAGERS.index(villager) + 1) % len(VILLAGERS)]
    others = [other for other in VILLAGERS if other.name != villager.name]
    return pick(rng, others, VILLAGERS.index(villager))


def story(rng: random.Random, hero: Villager) -> str:
    """A short story about one villager who helps an animal, one line."""
    pronoun, possessive = hero.pronoun, hero.possessive
    index = VILLAGERS.index(hero)
    place = pick(rng, VILLAGE_PLACES[hero.village], index)
    animal = pick(rng, ANIMALS, index)
    thing, spot = pick(rng, LOST_THINGS, ANIMALS.index(animal))
    weather, _ = pick(rng, WEATHERS, index)
    mood = pick(rng, MOODS, len(thing))
    gift = pick(rng, GIFTS, len(animal.diet))
    sentences = [
        f"One {pick(rng, TIMES)}, {hero.name} the {hero.job} walked to {place}.",
        f"{weather}, and {possessive} {hero.pet} {hero.pet_name} came along.",
        f"Near {place} {pronoun} met {animal.article} {animal.name}.",
        f'"I have lost my {thing}," said the {animal.name}. "Can you help me?"',
        f'"Of course," said {hero.name}.',
    ]
    if mostly(rng, 0.25):
        friend = friend_of(rng, hero)
        sentences.append(f"{friend.name} the {friend.job} came by and helped them.")
    sentences.append(f"They looked everywhere, and at last {hero.pet_name} found the {thing} {spot}.")
    sentences.append(f"The {animal.name} was so {mood} that it gave {hero.name} {gift}.")
    sentences.append(
        pick(
            rng,
            (
                f"In the evening {hero.name} went home to {hero.village} and told everyone about the {animal.name}.",
                f"Then {hero.name} and {hero.pet_name} walked home to {hero.village}.",
            ),
            index,
        )
    )
    return " ".join(sentences)


def dialogue(rng: random.Random, speaker: Villager) -> str:
    """A talk between two villagers, one utterance per line."""
    friend = friend_of(rng, speaker)
    index = VILLAGERS.index(speaker)
    _, day = pick(rng, WEATHERS, index)
    place = pick(rng, VILLAGE_PLACES[speaker.village], index + 1)
    gift = pick(rng, GIFTS, index)
    lines = [
        f"{speaker.name}: Good morning, {friend.name}. It is {day} day.",
        f"{friend.name}: Good morning, {speaker.name}. Where are you going?",
        f"{speaker.name}: I am going to {place} with {speaker.pet_name}. I want to buy {gift}.",
        f"{friend.name}: May I come with you?",
        f"{speaker.name}: {pick(rng, ('Yes, please do.', 'Of course, let us go together.'))}",
    ]
    if mostly(rng, 0.3):
        lines.append(f"{friend.name}: Wait, I will call my {friend.pet} {friend.pet_name}.")
    return "\n".join(lines)


def chinese_facts(rng: random.Random) -> str:
    """One country and one animal in Chinese, one line."""
    subject = pick_even(rng, COUNTRIES)
    country, capital, river = CHINESE_COUNTRIES[subject.name]
    animal, diet = CHINESE_ANIMALS[pick(rng, ANIMALS, COUNTRIES.index(subject)).name]
    sentences = [f"{country}的首都是{capital}。", f"{capital}位于{river}边。"]
    if mostly(rng):
        sentences.append(f"{animal}喜欢吃{diet}。")
    return "".join(sentences)


DOCUMENT_KINDS: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.38, lambda rng: story(rng, pick_even(rng, VILLAGERS))),
    (0.20, lambda rng: country_facts(rng, pick_even(rng, COUNTRIES))),
    (0.14, lambda rng: animal_facts(rng, pick_even(rng, ANIMALS))),
    (0.16, lambda rng: profile(rng, pick_even(rng, VILLAGERS))),
    (0.06, lambda rng: dialogue(rng, pick_even(rng, VILLAGERS))),
    (0.06, chinese_facts),
)


def make_document(rng: random.Random) -> str:
    """One document without a blank line inside."""
    shares, kinds = zip(*DOCUMENT_KINDS, strict=True)
    make: Callable[[random.Random], str] = rng.choices(kinds, weights=shares)[0]
    return make(rng)
