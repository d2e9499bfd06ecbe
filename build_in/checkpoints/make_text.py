"""Make the text that the demo checkpoints are trained on and measured with.

A small seeded grammar writes readable English (and a little Chinese): facts about countries and animals,
profiles of a few villagers, short stories and dialogues about them, and chats that ask for the same facts.
Two properties matter more than literary merit:

* Facts never contradict each other, so that a model of two million parameters can learn them.
* Every free choice is drawn from a skewed (Zipf-like) distribution whose order depends on the context. The
  most likely next token then leads clearly almost everywhere, and "same top token" between two precisions
  measures the arithmetic instead of coin flips.

Text is a pure function of the seed: document ``i`` of a seed is the same whatever the number of documents.

``held_out.txt`` was made by ``python build_in/checkpoints/make_text.py --held-out --output held_out.txt``.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}

HELD_OUT_SEED = 7_000_001  # training refuses this seed
ZIPF_EXPONENT = 2.0  # the first choice is four times as likely as the second
LEADER_WEIGHT = 2.5  # of the first subject, against 1 for every other
DOCUMENT_SEPARATOR = "\n\n"  # between documents in a text file; never inside a document


class Country(NamedTuple):
    """One country; every field is a fact that documents and chats repeat."""

    name: str
    capital: str
    language: str
    river: str
    continent: str
    sight: str


class Animal(NamedTuple):
    """One animal; ``diet`` and ``home`` complete "it eats ..." and "it lives ..."."""

    name: str
    article: str
    size: str
    colour: str
    home: str
    diet: str
    skill: str


class Villager(NamedTuple):
    """One person of the stories."""

    name: str
    pronoun: str
    possessive: str
    job: str
    work: str
    village: str
    pet: str
    pet_name: str


COUNTRIES: tuple[Country, ...] = (
    Country("France", "Paris", "French", "Seine", "Europe", "the Eiffel Tower"),
    Country("China", "Beijing", "Chinese", "Yongding", "Asia", "the Great Wall"),
    Country("Italy", "Rome", "Italian", "Tiber", "Europe", "the Colosseum"),
    Country("Japan", "Tokyo", "Japanese", "Sumida", "Asia", "Mount Fuji"),
    Country("Germany", "Berlin", "German", "Spree", "Europe", "the Black Forest"),
    Country("Egypt", "Cairo", "Arabic", "Nile", "Africa", "the pyramids"),
    Country("Spain", "Madrid", "Spanish", "Manzanares", "Europe", "the Alhambra"),
    Country("Portugal", "Lisbon", "Portuguese", "Tagus", "Europe", "the Belem Tower"),
    Country("Poland", "Warsaw", "Polish", "Vistula", "Europe", "the old salt mine"),
    Country("Hungary", "Budapest", "Hungarian", "Danube", "Europe", "the Chain Bridge"),
    Country("Ireland", "Dublin", "English", "Liffey", "Europe", "the Cliffs of Moher"),
    Country("Thailand", "Bangkok", "Thai", "Chao Phraya", "Asia", "the Grand Palace"),
)

ANIMALS: tuple[Animal, ...] = (
    Animal("fox", "a", "small", "red", "in the forest", "mice and berries", "run very fast"),
    Animal("bee", "a", "tiny", "yellow", "in a hive", "nectar and pollen", "make honey"),
    Animal("owl", "an", "quiet", "brown", "in an old tree", "mice and insects", "see in the dark"),
    Animal("duck", "a", "small", "white", "on the pond", "water plants and snails", "swim all day"),
    Animal("horse", "a", "large", "black", "on the farm", "grass and hay", "pull a heavy cart"),
    Animal("rabbit", "a", "small", "grey", "under the hedge", "grass and carrots", "jump over a fence"),
    Animal("bear", "a", "large", "brown", "in the mountains", "fish and honey", "sleep all winter"),
    Animal("cat", "a", "quiet", "grey", "in the house", "fish and mice", "climb a tall tree"),
    Animal("goat", "a", "strong", "white", "on the hill", "grass and leaves", "climb steep rocks"),
    Animal("frog", "a", "tiny", "green", "by the river", "flies and worms", "jump into the water"),
)

# Country, its capital, the river.
CHINESE_COUNTRIES: dict[str, tuple[str, str, str]] = {
    "France": ("法国", "巴黎", "塞纳河"),
    "China": ("中国", "北京", "永定河"),
    "Italy": ("意大利", "罗马", "台伯河"),
    "Japan": ("日本", "东京", "隅田川"),
    "Germany": ("德国", "柏林", "施普雷河"),
    "Egypt": ("埃及", "开罗", "尼罗河"),
    "Spain": ("西班牙", "马德里", "曼萨纳雷斯河"),
    "Portugal": ("葡萄牙", "里斯本", "特茹河"),
    "Poland": ("波兰", "华沙", "维斯瓦河"),
    "Hungary": ("匈牙利", "布达佩斯", "多瑙河"),
    "Ireland": ("爱尔兰", "都柏林", "利菲河"),
    "Thailand": ("泰国", "曼谷", "湄南河"),
}
# Animal, what it eats.
CHINESE_ANIMALS: dict[str, tuple[str, str]] = {
    "fox": ("狐狸", "老鼠"),
    "bee": ("蜜蜂", "花蜜"),
    "owl": ("猫头鹰", "老鼠"),
    "duck": ("鸭子", "水草"),
    "horse": ("马", "草"),
    "rabbit": ("兔子", "胡萝卜"),
    "bear": ("熊", "鱼"),
    "cat": ("猫", "鱼"),
    "goat": ("山羊", "树叶"),
    "frog": ("青蛙", "虫子"),
}

VILLAGERS: tuple[Villager, ...] = (
    Villager("Tom", "he", "his", "baker", "bakes fresh bread", "Millbrook", "dog", "Biscuit"),
    Villager("Anna", "she", "her", "gardener", "waters the roses", "Greenhill", "cat", "Clover"),
    Villager("Peter", "he", "his", "fisherman", "mends the long nets", "Stonebay", "parrot", "Captain"),
    Villager("Mary", "she", "her", "teacher", "reads to the children", "Millbrook", "cat", "Comma"),
    Villager("Li Wei", "he", "his", "carpenter", "builds wooden chairs", "Greenhill", "dog", "Hammer"),
    Villager("Sofia", "she", "her", "doctor", "visits the sick", "Stonebay", "horse", "Star"),
    Villager("Jack", "he", "his", "shepherd", "counts the sheep", "Highfield", "dog", "Whistle"),
    Villager("Rosa", "she", "her", "painter", "paints the sea", "Stonebay", "parrot", "Mango"),
)

VILLAGE_PLACES: dict[str, tuple[str, ...]] = {
    "Millbrook": ("the old mill", "the market", "the stone bridge", "the library"),
    "Greenhill": ("the apple garden", "the market", "the green hill", "the glass house"),
    "Stonebay": ("the harbour", "the lighthouse", "the fish market", "the sandy beach"),
    "Highfield": ("the wide meadow", "the wooden barn", "the market", "the windy hill"),
}
LOST_THINGS: tuple[tuple[str, str], ...] = (
    ("golden key", "under a flat stone"),
    ("blue hat", "behind the big oak tree"),
    ("silver bell", "in the tall grass"),
    ("little map", "inside an empty barrel"),
    ("red ball", "beside the fence"),
)
WEATHERS: tuple[tuple[str, str], ...] = (
    ("The sun was shining", "a warm and sunny"),
    ("A soft rain was falling", "a grey and rainy"),
    ("A cold wind was blowing", "a cold and windy"),
    ("Snow lay on the roofs", "a white and snowy"),
)
GIFTS = ("a basket of apples", "a jar of honey", "a loaf of bread", "a bunch of flowers")
MOODS = ("happy", "grateful", "glad", "proud")
TIMES = ("morning", "afternoon", "evening", "summer day")


def pick(rng: random.Random, choices: Sequence[T], rotate_by: int = 0) -> T:
    """Draw one of ``choices``, the k-th with weight ``k ** -ZIPF_EXPONENT``.

    ``rotate_by`` says which choice comes first, so that the favourite depends on the context.
    """
    weights = [(rank + 1) ** -ZIPF_EXPONENT for rank in range(len(choices))]
    rank = rng.choices(range(len(choices)), weights=weights)[0]
    return choices[(rank + rotate_by) % len(choices)]


def pick_even(rng: random.Random, choices: Sequence[T]) -> T:
    """Draw a subject: evenly, so that every fact is seen often, but for the first, which leads by far."""
    weights = [LEADER_WEIGHT, *[1.0] * (len(choices) - 1)]
    return rng.choices(choices, weights=weights)[0]


def mostly(rng: random.Random, probability: float = 0.8) -> bool:
    """Whether an optional sentence is written."""
    return rng.random() < probability


def title(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[0].upper() + text[1:]


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


def generate_text(seed: int, num_documents: int) -> list[str]:
    """``num_documents`` documents; equal arguments give equal text on every machine."""
    return [make_document(random.Random(f"text:{seed}:{index}")) for index in range(num_documents)]


def held_out_text(num_documents: int = 115) -> list[str]:
    """Documents of a seed that training never uses; short fact paragraphs may still equal trained ones."""
    return generate_text(HELD_OUT_SEED, num_documents)


def exchange(user: str, assistant: str) -> list[Message]:
    """One question and its answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


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


def generate_chats(seed: int, n: int) -> list[list[Message]]:
    """``n`` chats, each a list of ``{"role", "content"}`` that alternates user and assistant."""
    return [make_chat(random.Random(f"chat:{seed}:{index}")) for index in range(n)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write documents, separated by blank lines, to a file or to standard output."""
    parser = argparse.ArgumentParser(description="Write the seeded demo text.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the documents (default 0)")
    parser.add_argument("--num-documents", type=int, default=115, help="how many documents (default 115)")
    parser.add_argument("--held-out", action="store_true", help="use the held-out seed instead of --seed")
    parser.add_argument("--output", type=Path, help="write here instead of standard output")
    options = parser.parse_args(arguments)
    seed = HELD_OUT_SEED if options.held_out else options.seed
    text = DOCUMENT_SEPARATOR.join(generate_text(seed, options.num_documents)) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
