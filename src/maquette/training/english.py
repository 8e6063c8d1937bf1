"""English captions of scenes: lower case, many phrasings, no more said than is true."""

from functools import cache

import numpy as np

from maquette.training.emoji import Emoji, catalogue
from maquette.training.grammar import is_plural, plural, takes_a, with_article
from maquette.training.scenes import COLOURLESS_STYLES, HUGE, LARGE, SMALL, Background, Relation, Scene, Thing, pick
from maquette.training.wording import Wording, as_told
from maquette.training.words import COLOUR_PREFIXES_ZH

TERSE = 0.2  # of the captions: names and little else
UNSAID = 0.6  # of the white backgrounds

SIZES: dict[int, tuple[float, tuple[str, ...]]] = {  # side: (how often it is said, how)
    HUGE: (0.25, ("huge", "giant", "very big", "enormous")),
    LARGE: (0.6, ("big", "large")),
    SMALL: (1.0, ("small", "tiny", "little")),
}
PLACES: dict[str, tuple[str, ...]] = {
    "centre": ("in the middle", "in the center", "in the centre"),
    "left": ("on the left", "on the left side", "at the left", "on the left hand side"),
    "right": ("on the right", "on the right side", "at the right", "on the right hand side"),
    "top": ("at the top", "at the top of the picture", "in the upper part", "up at the top"),
    "bottom": ("at the bottom", "at the bottom of the picture", "in the lower part", "down at the bottom"),
    "top left": ("in the top left corner", "at the top left", "in the upper left corner", "in the upper left"),
    "top right": ("in the top right corner", "at the top right", "in the upper right corner", "in the upper right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left corner", "in the lower left"),
    "bottom right": (
        "in the bottom right corner",
        "at the bottom right",
        "in the lower right corner",
        "in the lower right",
    ),
}

# {a}: with article; {A}: bare. Phrases take a lead ("a picture of"), sentences do not.
CENTRED = ("{a}", "{a}", "{a}", "{A}", "one {A}", "a single {A}", "just {a}", "only {a}", "the {A}")
CENTRED_SENTENCES = ("there is {a}", "draw {a}", "show me {a}", "this is {a}", "i want {a}", "paint {a}")
PLACED = ("{a} {at}", "{a} {at}", "{a} {at}", "one {A} {at}", "{A} {at}", "{a}, {at}", "a single {A} {at}")
PLACED_SENTENCES = (
    "{at}, {a}",
    "{at} there is {a}",
    "there is {a} {at}",
    "{a} sits {at}",
    "draw {a} {at}",
    "{a} can be seen {at}",
    "put {a} {at}",
    "{a} is {at}",
)
TEMPLATES: dict[Relation, Wording] = {
    "left of": Wording(
        phrases=(
            "{a} to the left of {b}",
            "{a} to the left of {b}",
            "{a} left of {b}",
            "{a} on the left of {b}",
            "{a} on the left and {b} on the right",
            "{b} to the right of {a}",
            "{b} right of {a}",
            "{b} with {a} to its left",
            "{a} on the left side of {b}",
            "{b} on the right, {a} on the left",
        ),
        sentences=(
            "{a} is to the left of {b}",
            "there is {a} to the left of {b}",
            "on the left {a}, on the right {b}",
            "{b} is on the right of {a}",
            "left: {A}, right: {B}",
            "draw {a} left of {b}",
            "from left to right: {A}, {B}",
        ),
        terse=("{A} left of {B}", "{A} on the left, {B} on the right"),
    ),
    "above": Wording(
        phrases=(
            "{a} above {b}",
            "{a} above {b}",
            "{a} over {b}",
            "{a} on top of {b}",
            "{b} below {a}",
            "{b} under {a}",
            "{b} underneath {a}",
            "{b} beneath {a}",
            "{b} with {a} above it",
            "{a} with {b} below it",
            "{a} at the top and {b} at the bottom",
        ),
        sentences=(
            "{a} is above {b}",
            "there is {a} above {b}",
            "{b} is below {a}",
            "{b} is under {a}",
            "top: {A}, bottom: {B}",
            "draw {a} above {b}",
            "from top to bottom: {A}, {B}",
        ),
        terse=("{A} above {B}", "{B} below {A}", "{B} under {A}"),
    ),
    "and": Wording(
        phrases=(
            "{a} and {b}",
            "{a} and {b}",
            "{a} and {b}",
            "{a} next to {b}",
            "{a} beside {b}",
            "{a} with {b}",
            "{A} and {B}",
            "{a} and {b} side by side",
            "{a} together with {b}",
            "{a}, {b}",
        ),
        sentences=("there are {a} and {b}", "draw {a} and {b}", "show {a} and {b}", "{a} is next to {b}"),
        terse=("{A} and {B}", "{A}, {B}", "{A} + {B}"),
    ),
    "copies": Wording(
        phrases=(
            "{n} {S}",
            "{n} {S}",
            "{n} {S}",
            "{n} {S} in a row",
            "{n} {S} side by side",
            "{n} of the same {A}",
            "a row of {n} {S}",
            "{n} {S} next to each other",
            "a group of {n} {S}",
        ),
        sentences=("there are {n} {S}", "draw {n} {S}", "show me {n} {S}", "{n} {S} stand in a line"),
        terse=("{n} {S}",),
    ),
    "row": Wording(
        phrases=(
            "{a}, {b} and {c}",
            "{a}, {b} and {c} in a row",
            "{a}, {b}, and {c} side by side",
            "{a}, {b} and {c} from left to right",
            "{A}, {B}, {C} in a row",
            "a row of {a}, {b} and {c}",
            "{a} next to {b} next to {c}",
            "{b} between {a} and {c}",
            "{a}, then {b}, then {c}",
            "{a} left of {b} left of {c}",
        ),
        sentences=(
            "from left to right: {A}, {B}, {C}",
            "there are {a}, {b} and {c} in a row",
            "draw {a}, {b} and {c} in a row",
            "on the left {a}, in the middle {b}, on the right {c}",
        ),
        terse=("{A}, {B}, {C}", "{A}, {B} and {C}", "{A} and {B} and {C}"),
    ),
    "column": Wording(
        phrases=(
            "{a}, {b} and {c} in a column",
            "{a} above {b} above {c}",
            "{a}, {b} and {c} from top to bottom",
            "{a} on top of {b} on top of {c}",
            "a column of {a}, {b} and {c}",
            "{a}, {b} and {c} stacked",
            "a stack of {a}, {b} and {c}",
            "{A}, {B}, {C} in a column",
            "{a} at the top, {b} in the middle and {c} at the bottom",
            "{c} below {b} below {a}",
        ),
        sentences=(
            "from top to bottom: {A}, {B}, {C}",
            "at the top {a}, in the middle {b}, at the bottom {c}",
            "there are {a}, {b} and {c}, one above the other",
            "draw {a}, {b} and {c} in a column",
        ),
        terse=("{A} above {B} above {C}", "{A}, {B}, {C}, top to bottom", "column: {A}, {B}, {C}"),
    ),
}

LEADS = ("a picture of", "an image of", "a drawing of", "an illustration of", "an emoji of", "picture of", "image of")
STYLE_LEADS: dict[str, tuple[str, ...]] = {
    "pixel art": ("pixel art of", "a pixel art picture of", "a pixel drawing of"),
    "outline": ("a line drawing of", "an outline of", "a line art drawing of", "line art of"),
    "silhouette": ("a silhouette of", "the silhouette of", "silhouette of"),
    "black and white": ("a black and white picture of", "a black and white image of", "a greyscale picture of"),
    "neon": ("a neon sign of", "a neon picture of", "neon lights in the shape of"),
    "sticker": ("a sticker of", "sticker of", "a sticker with"),
}
STYLE_TAGS: dict[str, tuple[str, ...]] = {
    "pixel art": ("pixel art", "in pixel art style", "8-bit style", "pixelated"),
    "outline": ("line drawing", "outline only", "in outline", "line art"),
    "silhouette": ("silhouette", "as a silhouette", "in silhouette"),
    "black and white": ("black and white", "in black and white", "greyscale", "monochrome"),
    "neon": ("neon", "neon style", "glowing neon lines", "in neon lights"),
    "sticker": ("sticker", "as a sticker", "sticker style"),
}
PLAIN = (
    "on {a} {c} background",
    "on {a} {c} background",
    "on {a} {c} background",
    "on a plain {c} background",
    "on {c}",
    "against {a} {c} background",
    "in front of {a} {c} background",
    "with {a} {c} background",
    "over a solid {c} background",
    "on {a} {c} backdrop",
)
PLAIN_TAGS = ("{c} background", "{c} background", "background {c}", "{c} backdrop", "the background is {c}")
GRADIENTS = (
    "on a gradient from {c} to {d}",
    "on a background fading from {c} to {d}",
    "on {a} {c} to {d} gradient",
    "against a gradient from {c} to {d}",
    "with a background that goes from {c} to {d}",
)
GRADIENT_TAGS = ("{c} to {d} gradient background", "gradient from {c} to {d}", "gradient background, {c} to {d}")
DOWNWARD = ("", "", "", " from top to bottom")
SIDEWAYS = (" from left to right", " from left to right", ", left to right", " going from left to right")


def say(scene: Scene, rng: np.random.Generator) -> str:
    """One of very many English captions of the scene."""
    terse = rng.random() < TERSE
    core, is_phrase = _core(scene, rng, terse)
    unsaid = scene.background == Background("white") and rng.random() < UNSAID
    parts = [core]
    if scene.style is not None and is_phrase and rng.random() < 0.5:
        parts = [f"{pick(rng, STYLE_LEADS[scene.style])} {core}"]
    elif scene.style is not None:
        parts.append(f", {pick(rng, STYLE_TAGS[scene.style])}")
    elif is_phrase and not terse and rng.random() < 0.25:
        parts = [f"{pick(rng, LEADS)} {core}"]
    if not unsaid:
        _add_background(parts, scene.background, rng, terse)
    return "".join(parts)


def _add_background(parts: list[str], background: Background, rng: np.random.Generator, terse: bool) -> None:
    """The background as a phrase after the core, a tag at the end, or an opening."""
    where = rng.random()
    if terse or where < 0.2:
        parts.append(f", {_tag(background, rng)}")
    elif where < 0.27:
        parts.insert(0, f"{_phrase(background, rng)}, ")
    else:
        parts.insert(1, f" {_phrase(background, rng)}")


def _phrase(background: Background, rng: np.random.Generator) -> str:
    if background.to is None:
        return pick(rng, PLAIN).format(c=background.colour, a=_article(background))
    words = pick(rng, GRADIENTS).format(c=background.colour, d=background.to, a=_article(background))
    return words + pick(rng, _direction(background))


def _tag(background: Background, rng: np.random.Generator) -> str:
    words = pick(rng, PLAIN_TAGS if background.to is None else GRADIENT_TAGS)
    end = "" if background.to is None else pick(rng, _direction(background))
    return words.format(c=background.colour, d=background.to) + end


def _article(background: Background) -> str:
    return "an" if background.colour == "orange" else "a"


def _direction(background: Background) -> tuple[str, ...]:
    return SIDEWAYS if background.horizontal else DOWNWARD


def _core(scene: Scene, rng: np.random.Generator, terse: bool) -> tuple[str, bool]:
    """What is to be seen, and whether that is a noun phrase that can follow "a picture of"."""
    if scene.relation is None:
        return _single(scene, rng, terse)
    relation, things = as_told(scene)
    template, is_phrase = TEMPLATES[relation].choose(rng, terse, share=0.7)
    if relation == "copies":
        name = _name(scene, things[0], rng)
        number = {2: "two", 3: "three"}[len(things)]
        return template.format(n=number, A=_bare(things[0], name), S=_bare(things[0], plural(name))), is_phrase
    fields: dict[str, str] = {}
    for letter, thing in zip("abc", things, strict=False):
        name = _name(scene, thing, rng)
        template = _agree(template, letter, name)
        fields[letter.upper()] = _bare(thing, name)
        fields[letter] = with_article(fields[letter.upper()], name)
    return template.format(**fields), is_phrase


def _single(scene: Scene, rng: np.random.Generator, terse: bool) -> tuple[str, bool]:
    thing = scene.things[0]
    name = _name(scene, thing, rng)
    often, adjectives = SIZES.get(thing.size, (0.0, ("",)))
    size = pick(rng, adjectives) if rng.random() < often and not (terse and thing.place is None) else ""
    bare = _bare(thing, name, size)
    fields = {"A": bare, "a": with_article(bare, name), "at": pick(rng, PLACES[thing.place]) if thing.place else ""}
    if terse:
        template = "{A} {at}" if thing.place else "{A}" if rng.random() < 0.6 else "{a}"
        return template.format(**fields), True
    phrases, sentences = (PLACED, PLACED_SENTENCES) if thing.place else (CENTRED, CENTRED_SENTENCES)
    is_phrase = rng.random() < 0.75
    template = _agree(pick(rng, phrases if is_phrase else sentences), "a", name)
    return template.format(**fields), is_phrase and not template.startswith(("{A}", "the {A}"))


def _agree(template: str, letter: str, name: str) -> str:
    """The template in the plural where the name is, and without its own "one" or "the" where that cannot stand."""
    capital, small = f"{{{letter.upper()}}}", f"{{{letter}}}"
    if not takes_a(name):
        for article in ("one ", "a single ", "the "):
            template = template.replace(article + capital, capital)
    if is_plural(name):
        for one, many in (("{} is", "{} are"), ("{} sits", "{} sit"), ("there is {}", "there are {}")):
            template = template.replace(one.format(small), many.format(small))
        template = template.replace(f"this is {small}", f"these are {small}")
    return template


def _bare(thing: Thing, name: str, size: str = "") -> str:
    return " ".join(filter(None, (size, thing.recolour, name)))


def _name(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    emoji = catalogue()[thing.emoji]
    names = uncoloured(emoji) if thing.recolour or scene.style in COLOURLESS_STYLES else emoji.names_en
    return names[0] if len(names) == 1 or rng.random() < 0.5 else pick(rng, names[1:])


@cache
def uncoloured(emoji: Emoji) -> tuple[str, ...]:
    """The names without a colour: the base noun, and aliases that begin with no colour."""
    colours = tuple(f"{colour} " for colour in (*COLOUR_PREFIXES_ZH, "golden"))
    aliases = (name for name in emoji.names_en[1:] if name != emoji.base_en and not name.startswith(colours))
    return (emoji.base_en, *aliases)
