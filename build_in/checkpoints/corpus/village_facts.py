"""What the village text is about: countries, animals, villagers. Facts never contradict one another."""

from __future__ import annotations

from typing import NamedTuple


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
