"""The words and sentences of `fiction:passages`: expeditions that nobody made, and what can be asked about them.

Plain ASCII and few words, so that a tokenizer of some hundred entries, trained on them, needs few tokens a sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .fiction_words import listed


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that a passage tells, and a question about it.

    Sentences may contain ``{name}``, ``{he}``, ``{He}``, and ``{0}``, ``{1}``, ... for what is drawn.
    """

    parts: tuple[Sequence[object], ...]
    """What each of ``{0}``, ``{1}``, ... is drawn from, independently and uniformly."""
    sentences: tuple[str, str]
    """Forms of the remark, with everything that is drawn."""
    question: str
    """A question that names the person; what is drawn does not stand in it."""
    answer: str
    """Its answer in a few words."""


_NUMBERS = range(12, 100)
_GOODS = listed(
    """almonds, amber, barley, candles, cheese, chalk, cinnamon, copper wire, cork, cotton, dried plums, feathers,
    figs, flour, ginger, glue, gunpowder, honey, ink, ivory, lamp oil, lemons, linen, mirrors, nails, needles,
    olives, onions, oranges, paper, pepper, pickled fish, raisins, rice, rope, rum, salt, saffron, seeds, silk,
    soap, sugar, sulphur, tar, tea, tin plates, tobacco, vinegar, wax, wool"""
)
_CONTAINERS = listed(
    """bags, bales, barrels, baskets, bottles, boxes, bundles, chests, crates, jars, pots, sacks, trunks, tubs"""
)
_THINGS = listed(
    """a bell, a boat, a bowl, a bracelet, a bridge, a broom, a cage, a chain, a chair, a chest, a clock, a coin,
    a comb, a crown, a cup, a door, a drum, a fan, a flute, a hammer, a harp, a helmet, a horn, a key, a knife,
    a ladder, a lamp, a mask, a mirror, a pipe, a plate, a ring, a saddle, a scale, a shield, a spoon, a statue,
    a sword, a table, a throne, a wheel, a whistle"""
)
_MATERIALS = listed(
    """amber, bamboo, basalt, bone, brass, bronze, cedar, clay, copper, coral, ebony, flint, glass, gold, granite,
    horn, iron, ivory, jade, lead, leather, marble, oak, pearl, pewter, pine, sandstone, shell, silver, slate,
    steel, straw, tin, wax"""
)
_PLACES = listed(
    """a bakery, a barn, a bridge, a cave, a chapel, a church, a cistern, a dam, a dune, a farm, a ferry, a fort,
    a garden, a gate, a grave, a harbor, a hill, a hut, a kiln, a lake, a library, a lighthouse, a market,
    a meadow, a mill, a mine, a palace, a quarry, a ruin, a school, a spring, a stable, a swamp, a temple,
    a tower, a tunnel, a vineyard, a waterfall, a well, a windmill"""
)
_COLORS = listed(
    """black, blue, brown, crimson, golden, gray, green, pale, pink, purple, red, scarlet, silver, violet, white,
    yellow"""
)
_ANIMALS = listed(
    """ants, apes, badgers, bats, bears, bees, beetles, boars, camels, cats, cranes, crows, deer, dogs, donkeys,
    doves, ducks, eagles, eels, foxes, frogs, geese, goats, hares, hawks, herons, horses, lizards, mice, moths,
    mules, otters, owls, oxen, pigs, ponies, rabbits, rats, ravens, seals, sheep, snails, snakes, spiders,
    storks, swans, toads, turtles, wasps, wolves"""
)
_TRADES = listed(
    """a baker, a barber, a blacksmith, a butcher, a carpenter, a cook, a dancer, a doctor, a farmer, a fisherman,
    a gardener, a glazier, a hunter, a judge, a juggler, a lawyer, a mason, a miller, a miner, a monk, a nurse,
    a painter, a pilot, a plumber, a poet, a potter, a priest, a sailor, a shepherd, a singer, a smuggler,
    a soldier, a surgeon, a tailor, a tanner, a teacher, a weaver, a widow"""
)
_GIVEN = listed(
    """Alba, Basil, Cleo, Conrad, Dora, Edgar, Flora, Gideon, Gilda, Hector, Ida, Isaac, Jonah, Julia, Klara,
    Lambert, Lena, Magnus, Mabel, Nora, Otto, Pearl, Quentin, Ralph, Regina, Rufus, Silas, Stella, Tobias,
    Ursula, Vincent, Wilma"""
)
_DISHES = listed(
    """apple cake, bean soup, boiled crab, bread pudding, cold porridge, dumplings, fried eggs, grilled trout,
    lentil stew, mashed turnips, mushroom pie, noodles, oat biscuits, onion rings, pancakes, pea soup, plum jam,
    potato salad, pumpkin broth, rice balls, roast duck, roast pork, salted beef, smoked eel, stewed pears,
    white beans"""
)
_WEATHER = listed(
    """a blizzard, a drought, a dust storm, a flood, a hailstorm, a heat wave, a landslide, a sandstorm, a thaw,
    a thunderstorm, an avalanche, an earthquake, an eclipse, black frost, drizzle, heavy snow, sleet, thick fog"""
)
_DAYS = listed("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
_MONTHS = listed("""January, February, March, April, May, June, July, August, September, October, November, December""")
_DISEASES = listed(
    """a broken arm, a broken rib, a burned hand, a cough, a fever, a frozen toe, a headache, a rash, a snake bite,
    a sore throat, a sprained ankle, a stiff neck, a toothache, an infected ear"""
)
_BODIES = listed(
    """arms, backs, beards, cheeks, ears, faces, fingers, hats, hands, heads, knees, necks, noses, shields,
    shoulders, sleeves, teeth, thumbs"""
)
_START = listed(
    """Amber, Ash, Bear, Birch, Cold, Crow, Elder, Fern, Glass, Grim, Hazel, Iron, Lark, Marsh, Moon, Oak, Pine,
    Raven, Reed, Salt, Snow, Stone, Swan, Thorn, Wolf"""
)
_END = listed(
    """berg, bridge, brook, bury, cliff, dale, field, ford, gate, haven, holm, mere, moor, pool, port, stead, wick,
    wood"""
)
_SEASONS = listed(
    """early spring, late spring, early summer, late summer, early autumn, late autumn, early winter, late winter"""
)

OPENING = Remark(
    parts=(_SEASONS, range(1801, 1900), _NUMBERS, _START, _END, _TRADES),
    sentences=(
        "In the {0} of {1}, {name}, once {5}, set out with {2} companions for the valley of {3}{4}.",
        "{name}, who had been {5}, left for the valley of {3}{4} in the {0} of {1} with {2} companions.",
    ),
    question="Which valley did {name} travel to?",
    answer="{3}{4}",
)
"""Begins each passage."""
REMARKS = (
    Remark(
        parts=(_NUMBERS, _CONTAINERS, _GOODS, _NUMBERS, _CONTAINERS, _GOODS),
        sentences=(
            "The wagons were loaded with {0} {1} of {2} and {3} {4} of {5}.",
            "They took along {0} {1} of {2}, and {3} {4} of {5} as well.",
        ),
        question="What did the wagons of {name} carry?",
        answer="{0} {1} of {2} and {3} {4} of {5}",
    ),
    Remark(
        parts=(_PLACES, _THINGS, _MATERIALS, _COLORS),
        sentences=(
            "Behind {0} someone dug up {1} of {2}, wrapped in {3} cloth.",
            "Wrapped in {3} cloth, {1} made of {2} lay hidden below {0}.",
        ),
        question="Which treasure did the party of {name} find?",
        answer="{1} of {2}",
    ),
    Remark(
        parts=(_WEATHER, _NUMBERS, _PLACES),
        sentences=(
            "Because of {0} everybody stayed for {1} days in {2}.",
            "After {0} they hid inside {2} for {1} days.",
        ),
        question="What delayed the party of {name}?",
        answer="{0}",
    ),
    Remark(
        parts=(_GIVEN, _TRADES, _COLORS, _ANIMALS),
        sentences=(
            "Their guide was {0}, {1} who owned many {2} {3}.",
            "A stranger called {0}, {1} by trade, showed them the way with {2} {3}.",
        ),
        question="Who guided {name}?",
        answer="{0}, {1}",
    ),
    Remark(
        parts=(_DISHES, _DISHES, _DAYS),
        sentences=(
            "Each {2} the cook served {0} together with {1}.",
            "Supper was {0}, but on every {2} there was {1}.",
        ),
        question="What did {name} have for supper?",
        answer="{0} and {1}",
    ),
    Remark(
        parts=(_NUMBERS, _COLORS, _ANIMALS, _PLACES),
        sentences=(
            "Near {3} a herd of {0} {1} {2} blocked the road.",
            "{name} counted {0} {1} {2} around {3}.",
        ),
        question="Which animals did {name} meet?",
        answer="{0} {1} {2}",
    ),
    Remark(
        parts=(_GIVEN, _DISEASES, _GOODS, _GOODS),
        sentences=(
            "When {0} had {1}, a paste of {2} and {3} cured it.",
            "{0} suffered from {1} until {name} tried {2} mixed with {3}.",
        ),
        question="Who fell ill during the journey of {name}?",
        answer="{0}, with {1}",
    ),
    Remark(
        parts=(_COLORS, _BODIES, _MATERIALS, _THINGS),
        sentences=(
            "The villagers painted their {1} {0} and prayed to {3} of {2}.",
            "People there had {0} {1} and kept {3} of {2} in every house.",
        ),
        question="What did the villagers show to {name}?",
        answer="{3} of {2}",
    ),
    Remark(
        parts=(_NUMBERS, _GOODS, _ANIMALS, _TRADES),
        sentences=(
            "They sold all {1} to {3} for {0} {2}.",
            "For {0} {2}, {3} bought the last {1}.",
        ),
        question="What was {name} paid with?",
        answer="{0} {2}",
    ),
    Remark(
        parts=(_GIVEN, _GIVEN, _THINGS, _DAYS),
        sentences=(
            "One {3}, {0} and {1} quarreled about {2}.",
            "A fight over {2} broke out between {0} and {1} on a {3}.",
        ),
        question="Who quarreled in the camp of {name}?",
        answer="{0} and {1}",
    ),
    Remark(
        parts=(_PLACES, _PLACES, _NUMBERS),
        sentences=(
            "The map showed {0} next to {1}, yet both were {2} miles apart.",
            "From {0} it took {2} hours on foot to reach {1}.",
        ),
        question="Where did {name} walk?",
        answer="From {0} to {1}",
    ),
    Remark(
        parts=(range(1, 29), _MONTHS, _THINGS, _COLORS),
        sentences=(
            "{He} came home on {0} {1} with {2} under a {3} coat.",
            "On {0} {1} {he} returned, holding {2} and a {3} flag.",
        ),
        question="When did {name} come home?",
        answer="On {0} {1}",
    ),
)
"""What follows in it, each at most once and in any order."""
