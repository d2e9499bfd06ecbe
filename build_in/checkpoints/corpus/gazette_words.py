"""The words of the gazette text, by what they can stand for. Order matters: earlier words are drawn more often."""

from __future__ import annotations

from corpus.village_facts import Country


def _words(text: str) -> tuple[str, ...]:
    """Words of a text, in order."""
    return tuple(text.split())


MORE_COUNTRIES: tuple[Country, ...] = (
    Country("Austria", "Vienna", "German", "Danube", "Europe", "the Imperial Library"),
    Country("Belgium", "Brussels", "Dutch and French", "Senne", "Europe", "the Grand Place"),
    Country("Canada", "Ottawa", "English and French", "Ottawa", "North America", "the Niagara Falls"),
    Country("Chile", "Santiago", "Spanish", "Mapocho", "South America", "the Atacama Desert"),
    Country("Colombia", "Bogota", "Spanish", "Bogota", "South America", "the salt cathedral"),
    Country("Bulgaria", "Sofia", "Bulgarian", "Iskar", "Europe", "the Rila Monastery"),
    Country("Ethiopia", "Addis Ababa", "Amharic", "Akaki", "Africa", "the churches of Lalibela"),
    Country("Finland", "Helsinki", "Finnish", "Vantaa", "Europe", "the sea fortress"),
    Country("Greece", "Athens", "Greek", "Kifisos", "Europe", "the Acropolis"),
    Country("India", "New Delhi", "Hindi", "Yamuna", "Asia", "the Taj Mahal"),
    Country("Iraq", "Baghdad", "Arabic", "Tigris", "Asia", "the ruins of Babylon"),
    Country("Kenya", "Nairobi", "Swahili", "Nairobi", "Africa", "the Masai Mara"),
    Country("Latvia", "Riga", "Latvian", "Daugava", "Europe", "the House of the Blackheads"),
    Country("Mexico", "Mexico City", "Spanish", "Churubusco", "North America", "the Pyramid of the Sun"),
    Country("Morocco", "Rabat", "Arabic", "Bou Regreg", "Africa", "the blue city"),
    Country("Norway", "Oslo", "Norwegian", "Akerselva", "Europe", "the northern fjords"),
    Country("Peru", "Lima", "Spanish", "Rimac", "South America", "Machu Picchu"),
    Country("Romania", "Bucharest", "Romanian", "Dambovita", "Europe", "Bran Castle"),
    Country("Russia", "Moscow", "Russian", "Moskva", "Europe", "Lake Baikal"),
    Country("Serbia", "Belgrade", "Serbian", "Sava", "Europe", "the old fortress"),
    Country("South Korea", "Seoul", "Korean", "Han", "Asia", "the Changdeok Palace"),
    Country("Slovenia", "Ljubljana", "Slovene", "Ljubljanica", "Europe", "the Postojna Cave"),
    Country("Turkey", "Ankara", "Turkish", "Ankara", "Asia", "the rocks of Cappadocia"),
    Country("Vietnam", "Hanoi", "Vietnamese", "Hong", "Asia", "Halong Bay"),
)

TOWN_BEGINNINGS = _words(
    """Mill Green Stone High Ash Birch Clear Dun East Fair Gold Harrow Iron King Lake Mar North Oak Pine Queen Red
    Silver Thorn Under Vale West Black White Cedar Elm Fox Holl Net Raven Salt Wolf Copper Ember Frost Glen"""
)
TOWN_ENDINGS = _words(
    """brook hill bay field ford wood water more gate haven crest ley bridge port side low wick ridge hurst ton"""
)
TOWNS = tuple(
    f"{beginning}{ending}"
    for index, ending in enumerate(TOWN_ENDINGS)
    for beginning in TOWN_BEGINNINGS[index % 4 :: 2]  # not every pair exists
)
MEN = _words(
    """Thomas Peter Jack Daniel Martin Oscar Henry Victor Samuel Anton Felix Hugo Bruno Arthur Edwin Walter Louis Ivan
    Marco Pablo Stefan Nils Jonas Karim Omar Ravi Kenji Diego Andrei Lukas Matthew Simon Gregory Philip Leonard
    Theodore Albert Frederick Patrick Vincent Adrian Basil Cedric Dominic Eugene Felipe Gabriel Harold Isaac Julian
    Konrad Lorenzo Mikhail Nathan Orlando Quentin Rafael Sebastian Tobias Ulrich Valentin William Xavier Yusuf Zoltan"""
)
WOMEN = _words(
    """Anna Mary Sofia Rosa Clara Elena Julia Nora Helen Irene Laura Martha Alice Emma Olga Ingrid Lucia Paula Vera
    Agnes Beatrice Charlotte Dorothy Esther Frances Greta Hannah Isabel Katarina Leila Mei Nadia Priya Ruth Tamara
    Ursula Wanda Yasmin Zoe Margaret Adele Bianca Cecilia Diana Eleanor Florence Giulia Harriet Imogen Josephine
    Kerstin Lydia Matilda Natalia Octavia Penelope Rebecca Susanna Theresa Veronica Winifred Yvonne Zelda Antonia
    Camille"""
)
SURNAMES = _words(
    """Carter Novak Bennett Fischer Rossi Moreau Silva Larsen Kowalski Tanaka Murphy Hughes Keller Petrov Lindgren
    Castillo Osman Varga Dimitrov Schmidt Jansen Barlow Whitfield Granger Holloway Pemberton Sinclair Thatcher
    Vaughan Winslow Abbott Brennan Crawford Donovan Ellington Fairfax Gallagher Hawthorne Ingram Jefferson Kendall
    Lockwood Mercer Norwood Oakley Prescott Quincy Radcliffe Sheridan Trevelyan Ackerman Blackwood Chandler Delacroix
    Everett Farrington Goldberg Huntington Iverson Joubert Kirkpatrick Lombardi Montgomery Nakamura Ostrowski
    Papadopoulos Quigley Rosenthal Steinmetz Takahashi Underhill Villanueva Wainwright Yamamoto Zimmermann Almeida
    Bergstrom Cavendish Dubois Erikson Fontaine Gupta Hassan Ibrahim Jovanovic Khan Lopez Mancini Nguyen Okafor
    Popescu Rahman Sokolov Tremblay Ustinov Vasquez Weiss Yilmaz Zhang Anders"""
)
JOBS: tuple[tuple[str, str], ...] = (
    ("doctor", "medicine"),
    ("painter", "art"),
    ("engineer", "mathematics"),
    ("writer", "literature"),
    ("lawyer", "law"),
    ("teacher", "history"),
    ("architect", "drawing"),
    ("chemist", "chemistry"),
    ("composer", "music"),
    ("botanist", "the life of plants"),
    ("astronomer", "physics"),
    ("journalist", "languages"),
    ("banker", "economics"),
    ("geographer", "maps and oceans"),
    ("sculptor", "stone and bronze"),
    ("translator", "Greek and Latin"),
    ("explorer", "geology"),
    ("philosopher", "logic"),
    ("surgeon", "anatomy"),
    ("librarian", "old manuscripts"),
)
WORKS = (
    "a history of the {place}",
    "a map of the {place}",
    "a book about the {animal}",
    "seven songs for the {season}",
    "the first bridge over the {river}",
    "a dictionary of {language}",
    "a large painting of the {place}",
    "a new cure for fever",
    "a report on the price of {food}",
    "the plans of the railway station",
    "a telescope made of {material}",
    "a famous speech about freedom",
)
FOODS: tuple[tuple[str, str, int], ...] = (  # what, its measure, the usual price in coins
    ("apples", "kilo", 3),
    ("bread", "loaf", 2),
    ("potatoes", "sack", 9),
    ("cheese", "pound", 7),
    ("honey", "jar", 6),
    ("onions", "kilo", 1),
    ("milk", "bottle", 2),
    ("butter", "pound", 5),
    ("carrots", "bunch", 1),
    ("rice", "kilo", 4),
    ("olives", "jar", 5),
    ("salmon", "kilo", 18),
    ("mushrooms", "basket", 8),
    ("tomatoes", "kilo", 4),
    ("garlic", "string", 3),
    ("lentils", "kilo", 3),
    ("almonds", "bag", 11),
    ("pepper", "ounce", 12),
    ("lemons", "dozen", 6),
    ("spinach", "bunch", 2),
    ("barley", "sack", 14),
    ("cherries", "basket", 7),
    ("walnuts", "bag", 9),
    ("chicken", "kilo", 10),
    ("sugar", "kilo", 3),
    ("flour", "sack", 8),
    ("pumpkin", "piece", 4),
    ("cabbage", "head", 2),
    ("trout", "kilo", 15),
    ("saffron", "gram", 20),
)
DISHES = (
    "soup",
    "stew",
    "pie",
    "salad",
    "cake",
    "sauce",
    "curry",
    "bread",
    "pudding",
    "omelette",
    "dumplings",
    "roast",
)
VERBS_OF_COOKING: tuple[tuple[str, str], ...] = (
    ("chop", "finely"),
    ("wash", "carefully"),
    ("boil", "for {minutes} minutes"),
    ("fry", "in a hot pan"),
    ("grate", "into a bowl"),
    ("peel", "with a sharp knife"),
    ("mix", "with a wooden spoon"),
    ("bake", "at {degrees} degrees"),
    ("simmer", "over a low flame"),
    ("soak", "overnight in cold water"),
)
ANIMALS = _words(
    """fox owl horse wolf bear deer rabbit eagle otter beaver heron swan goose badger squirrel hedgehog falcon raven
    salmon turtle lizard camel donkey goat sheep tiger elephant monkey crocodile penguin whale dolphin seal crane
    sparrow beetle butterfly spider leopard mole newt ostrich panther quail reindeer stork toad vulture walrus yak
    zebra antelope bison cricket ferret gazelle hyena iguana jackal kingfisher lynx moth nightingale octopus pelican
    rat scorpion"""
)
PLACES = _words(
    """harbour valley forest mountains market castle river library cathedral desert coast island museum garden railway
    meadow lighthouse bridge theatre village hospital university monastery palace orchard marsh canal quarry station
    square abbey bakery cellar factory fountain glacier hotel inn jail kitchen laboratory mine nursery prison quay
    reservoir school stadium tavern tower vineyard waterfall workshop barn cemetery dockyard foundry gallery"""
)
ADJECTIVES = _words(
    """old small dark quiet young strange heavy bright wooden golden narrow cold broken clever tired gentle enormous
    empty silver distant brave rusty fragile ancient hungry lonely polite crooked stubborn painted muddy curious
    velvet hollow frozen careless generous slender nervous splendid abandoned blue cheap delicate eastern faded
    greasy handsome innocent jealous knitted leaky magnificent noisy ordinary pale quaint ridiculous sleepy
    transparent useless valuable wicked yellow amber blunt cautious dusty expensive foreign graceful hideous
    invisible jolly lazy mysterious obedient patient remarkable sour tidy unusual vast weary"""
)
THINGS = _words(
    """letter key lamp clock basket coat mirror violin ladder bell map candle hammer blanket suitcase umbrella kettle
    lantern notebook compass chair window necklace bicycle bottle telescope carpet hat rope anchor barrel curtain
    drum feather glove helmet ribbon saddle whistle shovel almanac brooch cabinet diary envelope fiddle goblet
    hourglass inkwell jacket kite ledger magnet needle oar parcel quilt razor scarf table urn vase wagon xylophone
    axe bucket cradle desk easel flute guitar harp iron jug knife locket napkin overcoat pencil quiver ring spoon
    trumpet"""
)
PAST_VERBS = _words(
    """found carried sold opened lost painted borrowed repaired dropped hid bought noticed returned remembered polished
    buried counted followed exchanged measured stole admired destroyed described moved promised refused cleaned
    guarded examined abandoned begged chose delivered emptied fastened gathered hammered inspected justified kicked
    lifted mended named offered packed questioned rescued shook traded unlocked varnished weighed wrapped blamed
    cheated demanded entered forgot grabbed imagined judged knew loved missed needed owned praised recognised"""
)
ADVERBS = _words(
    """slowly quietly suddenly carefully gladly secretly often quickly proudly finally angrily patiently calmly rarely
    nearly eagerly softly bravely awkwardly politely abruptly bitterly cheerfully desperately eventually fiercely
    gracefully happily immediately joyfully kindly lazily merrily nervously openly playfully recently silently
    thoughtfully wisely"""
)
REASONS = (
    "because the {noun} was {adjective}",
    "before the rain began",
    "while the children were asleep",
    "after a long journey from {town}",
    "when the bells rang at {hour}",
    "although nobody had asked for it",
    "so that {name} could rest",
    "until the {animal} came back",
    "as the ship from {town} arrived",
    "because there was no {food} left",
    "without a word to {name}",
    "for {number} coins",
)
MATERIALS = ("wood", "glass", "brass", "iron", "paper", "leather", "copper", "marble", "clay", "silk", "wool", "steel")
SEASONS = ("spring", "summer", "autumn", "winter")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words("January February March April May June July August September October November December")
SKIES: tuple[tuple[str, int, int], ...] = (  # what, the lowest and highest temperature it comes with
    ("clear sky", -4, 33),
    ("light rain", 4, 19),
    ("thick fog", 1, 12),
    ("heavy snow", -15, 1),
    ("scattered clouds", 2, 27),
    ("a thunderstorm", 15, 30),
    ("drizzle", 3, 15),
    ("bright sunshine", 9, 36),
    ("hail", 2, 11),
    ("a cold drizzle", 1, 9),
)
WINDS = _words("north south west east north-east south-west north-west south-east")
WIND_STRENGTHS = ("a light", "a moderate", "a strong", "a gentle", "a gusty", "a stormy", "an icy", "a warm")
PROJECTS = _words(
    """bridge school hospital library tunnel theatre museum harbour railway market stadium dam windmill park observatory
    lighthouse"""
)
SPEAKERS = (
    "the mayor",
    "a spokesman",
    "the minister",
    "the head of the school",
    "an old fisherman",
    "the police",
    "the council",
    "the owner of the mill",
    "a witness",
    "the station master",
)
EVENTS = (
    "a fire broke out near the {place}",
    "a {animal} was seen in the {place}",
    "thieves stole a {adjective} {thing} from the {place}",
    "the price of {food} rose by {percent} percent",
    "workers found a {adjective} {thing} under the {place}",
    "{number} people lost their homes in a flood",
    "the new {project} was opened by {name}",
    "a storm damaged the roof of the {place}",
    "the council voted against the {project}",
    "a ship with {number} sacks of {food} ran aground",
    "{name} won the first prize for a {adjective} {thing}",
    "the bus to {town} was late by {minutes} minutes",
)
SPORTS: tuple[tuple[str, int], ...] = (("football", 5), ("hockey", 7), ("handball", 30), ("rugby", 40), ("chess", 8))
