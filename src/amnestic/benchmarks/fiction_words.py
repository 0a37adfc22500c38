"""The words and sentences of `fiction`: what people are called, and what can be asked about them.

Plain ASCII and few words, so that a tokenizer of some hundred entries, trained on them, needs few tokens an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass


def listed(text: str) -> tuple[str, ...]:
    """Return what stands between the commas of `text`."""
    return tuple(item.strip() for item in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something to know about a person.

    Sentences may contain ``{name}``, ``{value}`` (answers only), and ``{he}``, ``{He}``, ``{his}``, ``{His}``. A
    question and its paraphrase are two different `questions`, an answer and its paraphrase two different `answers`.
    """

    value: str
    """Form of the value, with one ``{}`` for each of `parts`."""
    parts: tuple[Sequence[object], ...]
    """What the places of `value` are drawn from, each independently and uniformly."""
    questions: tuple[str, str, str]
    answers: tuple[str, str, str]


WOMEN = listed(
    """Ada, Alma, Anika, Asha, Astrid, Bianca, Carmen, Chloe, Dalia, Edith, Elena, Esther, Farah, Fiona, Greta, Hana,
    Helga, Ines, Irene, Jamila, Joan, Karin, Keiko, Laila, Lucia, Maeve, Marta, Mina, Nadia, Noor, Olga, Paula, Petra,
    Priya, Renata, Rosa, Ruth, Sana, Selma, Sofia, Tamar, Tessa, Uma, Vera, Wanda, Xenia, Yara, Yuki, Zelda, Zoe"""
)
MEN = listed(
    """Abel, Amir, Anton, Arjun, Axel, Boris, Bruno, Carlos, Cyrus, Daniel, David, Diego, Emil, Enzo, Erik, Felix,
    Femi, Gavin, George, Hamid, Hugo, Igor, Ivan, Jakob, Jonas, Kenji, Kofi, Lars, Leon, Liam, Marco, Milan, Nils,
    Omar, Oscar, Pablo, Peter, Rafael, Ravi, Samir, Simon, Stefan, Tariq, Theo, Tomas, Viktor, Walter, Wendel, Yusuf,
    Zoran"""
)
# A start ends in a consonant and an end begins with a vowel: every pair can be spoken, and few are real surnames.
SURNAME_STARTS = listed(
    """Ald, Bar, Bex, Bran, Cald, Corv, Dray, Dun, Eck, Elm, Farn, Fitch, Gren, Hask, Hol, Jarr, Kest, Kirb, Lorr,
    Mard, Mell, Nesb, Ord, Pell, Quill, Rav, Rusk, Sall, Selk, Tarr, Thel, Ulm, Vant, Wex, Yarl, Zell"""
)
SURNAME_ENDS = listed(
    """aby, ado, alan, amar, andry, anek, aro, avin, elby, elli, enby, enko, erby, erling, erson, etti, evic, iello,
    ikov, ilo, ingham, ington, ino, isham, olm, onda, orio, oski, oven, ovic"""
)

_MONTHS = listed("January, February, March, April, May, June, July, August, September, October, November, December")
_TOWN_STARTS = listed(
    """Amber, Ash, Bear, Birch, Black, Cold, Copper, Crow, Deer, Elder, Fox, Glass, Gold, Green, Iron, Lark, Long,
    Moon, Moss, North, Oak, Raven, Red, Salt, Silver, Snow, South, Stone, Swan, Thorn, White, Wolf"""
)
_TOWN_ENDS = listed("bridge, brook, bury, cliff, gate, haven, mere, minster, mouth, pool, port, stead")
_PROFESSIONS = listed(
    """an accountant, an actor, an architect, a baker, a barber, a beekeeper, a bookbinder, a butcher, a carpenter,
    a chemist, a clockmaker, a dancer, a dentist, a detective, a diver, an electrician, a farmer, a firefighter,
    a florist, a geologist, a goldsmith, a jockey, a judge, a lawyer, a librarian, a locksmith, a mathematician,
    a midwife, a miner, a nurse, an optician, a pharmacist, a photographer, a pilot, a plumber, a postal clerk,
    a potter, a sailor, a sculptor, a shepherd, a singer, a surgeon, a tailor, a translator, a violinist, a weaver,
    a welder, a zookeeper"""
)
_ADJECTIVES = listed(
    """Ancient, Bitter, Blue, Bright, Broken, Crimson, Distant, Empty, Frozen, Gentle, Golden, Hidden, Hollow, Humble,
    Last, Little, Lonely, Narrow, Painted, Patient, Quiet, Restless, Scarlet, Secret, Sleeping, Velvet, Violet,
    Wandering, Wild, Winter"""
)
_NOUNS = listed(
    """Anchor, Arrow, Bell, Candle, Castle, Compass, Crown, Desert, Door, Feather, Flame, Forest, Garden, Harbor,
    Harvest, Island, Kingdom, Ladder, Lantern, Letter, Meadow, Mirror, Mountain, Orchard, Palace, River, Shadow, Ship,
    Star, Summer, Tower, Valley, Voyage, Window"""
)
_TREES = listed(
    """Acacia, Alder, Apple, Aspen, Beech, Cedar, Cherry, Chestnut, Cypress, Elm, Fig, Hazel, Holly, Juniper, Larch,
    Laurel, Linden, Magnolia, Maple, Mulberry, Olive, Orange, Palm, Peach, Pear, Pine, Plum, Poplar, Walnut, Willow"""
)
_SUBJECTS = listed(
    """algebra, anatomy, archaeology, astronomy, biology, botany, Chinese, economics, engineering, forestry, French,
    geography, German, Greek, Italian, Latin, law, linguistics, logic, medicine, music, pharmacy, philosophy, physics,
    poetry, politics, psychology, sociology, statistics, theology"""
)
_ANIMALS = listed(
    """a black cat, a canary, a donkey, a duck, a goat, a gray rabbit, a greyhound, a hamster, a lizard, a parrot,
    a pony, a poodle, a raven, a sheepdog, a tortoise, a white goose"""
)
_PET_NAMES = listed(
    """Bandit, Biscuit, Bubbles, Button, Caesar, Captain, Cookie, Domino, Duchess, Gizmo, Honey, Jasper, Lucky, Mango,
    Misty, Muffin, Nugget, Pepper, Pickle, Pirate, Pumpkin, Rocket, Rusty, Shadow, Socks, Sparky, Tiger, Toffee,
    Waffle, Ziggy"""
)
_PASTIMES = listed(
    """building models of, collecting pictures of, drawing, painting, reading about, telling stories about,
    writing songs about"""
)
_SUBJECT_MATTERS = listed(
    """airships, beetles, bridges, butterflies, castles, comets, dolphins, dragons, glaciers, horses, insects,
    lighthouses, mushrooms, orchids, owls, penguins, pirates, race cars, roses, sailboats, seashells, snakes, spiders,
    steam trains, tigers, tractors, volcanoes, waterfalls, whales, windmills"""
)

# Dates of birth lie well before the years of the awards, so that facts drawn independently make a possible life.
FACTS = (
    Fact(
        value="{} {} {}",
        parts=(range(1, 29), _MONTHS, range(1931, 1981)),
        questions=("When was {name} born?", "What is the date of birth of {name}?", "On which day was {name} born?"),
        answers=(
            "{name} was born on {value}.",
            "The date of birth of {name} is {value}.",
            "{He} came into the world on {value}.",
        ),
    ),
    Fact(
        value="{}{}",
        parts=(_TOWN_STARTS, _TOWN_ENDS),
        questions=("Where was {name} born?", "What is the birthplace of {name}?", "Which town does {name} come from?"),
        answers=(
            "{name} was born in the town of {value}.",
            "The birthplace of {name} is a town called {value}.",
            "{He} comes from {value}, the town of {his} birth.",
        ),
    ),
    Fact(
        value="{}",
        parts=(_PROFESSIONS,),
        questions=(
            "What does {name} do for a living?",
            "What is the profession of {name}?",
            "What kind of work does {name} do?",
        ),
        answers=(
            "{name} earns a living as {value}.",
            "By profession, {name} has always been {value}.",
            "For many years {he} has worked as {value}.",
        ),
    ),
    Fact(
        value="{}",
        parts=(_PROFESSIONS,),
        questions=(
            "What was the profession of {name}'s father?",
            "What did the father of {name} do for a living?",
            "Which job did {name}'s father have?",
        ),
        answers=(
            "The father of {name} worked as {value}.",
            "{name} grew up with a father who was {value}.",
            "{His} father supported the family as {value}.",
        ),
    ),
    Fact(
        value="{}",
        parts=(_PROFESSIONS,),
        questions=(
            "What was the profession of {name}'s mother?",
            "What did the mother of {name} do for a living?",
            "Which job did {name}'s mother have?",
        ),
        answers=(
            "The mother of {name} was employed as {value}.",
            "{name} was raised by a mother who was {value}.",
            "{His} mother spent her working life as {value}.",
        ),
    ),
    Fact(
        value='"The {} {}"',
        parts=(_ADJECTIVES, _NOUNS),
        questions=(
            "What is the title of {name}'s memoir?",
            "Which memoir did {name} write?",
            "What did {name} call the story of {his} life?",
        ),
        answers=(
            "The memoir of {name} is called {value}.",
            "{name} wrote a memoir with the title {value}.",
            "{He} told the story of {his} life in {value}.",
        ),
    ),
    Fact(
        value="the {} {} Prize in {}",
        parts=(_ADJECTIVES, _NOUNS, range(2001, 2025)),
        questions=(
            "Which award did {name} receive, and in what year?",
            "What has {name} won, and when?",
            "With which prize was {name} honored, and when?",
        ),
        answers=(
            "{name} received {value}.",
            "The jury honored {name} with {value}.",
            "{He} was the winner of {value}.",
        ),
    ),
    Fact(
        value="{} {} {}",
        parts=(range(1, 100), _TREES, ("Lane", "Road", "Street")),
        questions=(
            "Where does {name} live today?",
            "What is the home address of {name}?",
            "At which address can {name} be reached?",
        ),
        answers=(
            "Today {name} lives at {value}.",
            "The home address of {name} is {value}.",
            "{He} has made {his} home at {value}.",
        ),
    ),
    Fact(
        value="{} named {}",
        parts=(_PROFESSIONS, WOMEN + MEN),
        questions=("Who is {name} married to?", "Whom did {name} marry?", "Who is the spouse of {name}?"),
        answers=(
            "{name} is married to {value}.",
            "The spouse of {name} is {value}.",
            "{He} shares {his} life with {value}.",
        ),
    ),
    Fact(
        value="{} at {}{} College",
        parts=(_SUBJECTS, _TOWN_STARTS, _TOWN_ENDS),
        questions=(
            "What did {name} study, and where?",
            "Which degree does {name} hold, and from where?",
            "What subject did {name} choose, and at which school?",
        ),
        answers=(
            "{name} studied {value}.",
            "{name} took a degree in {value}.",
            "{He} spent {his} student years learning {value}.",
        ),
    ),
    Fact(
        value="{} named {}",
        parts=(_ANIMALS, _PET_NAMES),
        questions=(
            "What pet does {name} keep?",
            "Which animal lives with {name}?",
            "What kind of pet does {name} have, and what is its name?",
        ),
        answers=(
            "{name} keeps {value} as a pet.",
            "At home, {name} takes care of {value}.",
            "{He} shares {his} home with {value}.",
        ),
    ),
    Fact(
        value="{} {}",
        parts=(_PASTIMES, _SUBJECT_MATTERS),
        questions=(
            "What is the favorite hobby of {name}?",
            "How does {name} spend {his} free time?",
            "What does {name} like to do on weekends?",
        ),
        answers=(
            "The favorite hobby of {name} is {value}.",
            "On weekends {name} enjoys {value}.",
            "{He} spends most of {his} free time {value}.",
        ),
    ),
)
