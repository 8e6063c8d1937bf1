"""The little English grammar that captions need: articles and plurals of emoji names."""

import re

from maquette.training.words import IRREGULAR_PLURALS, NO_ARTICLE, SINGULAR_S, THE

# A name's head is what stands before these: "pile" in "pile of poo"
_HEAD = re.compile(
    r" (?:of|with|in|on|at|over|behind|and|or|without|facing|fluttering|holding|hugging|lifting"
    r"|pointed|pointing|pouring|showing|taking|tilted|wrestling) "
)
# Written with a vowel but spoken with a consonant, and the other way round
_SPOKEN_CONSONANT = re.compile(r"uni(?!n)|use|utensil|ufo|eu|ewe|one\b|once\b")
_SPOKEN_VOWEL = re.compile(r"hour|honest|heir|x-|suv\b|sos\b|ng\b|atm\b|m\b|nba\b|8|11|18")
_VOWEL = re.compile(r"[aeiou]")


def head(name: str) -> str:
    """The word that takes the plural: "face" in "grinning face with sweat"."""
    return _HEAD.split(f"{name} ", maxsplit=1)[0].split()[-1]


def is_plural(name: str) -> bool:
    """Whether a name means several things, or one that English treats as several: "cherries", "scissors"."""
    word = head(name)
    return word in ("people", "men", "women") or (
        word.endswith("s") and word not in SINGULAR_S and not word.endswith(("ss", "'s"))
    )


def countable(name: str) -> bool:
    """Whether one can say "two" of it and mean two of these pictures."""
    return takes_a(name) and " and " not in name


def with_article(words: str, name: str) -> str:
    """ "a", "an", "the" or nothing before the words, which end with the name and may begin with adjectives."""
    if name in THE:
        return f"the {words}"
    if name in NO_ARTICLE or is_plural(name):
        return words
    vowel = _VOWEL.match(words) and not _SPOKEN_CONSONANT.match(words)
    return f"{'an' if vowel or _SPOKEN_VOWEL.match(words) else 'a'} {words}"


def takes_a(name: str) -> bool:
    """Whether "a", "one" and "a single" can stand before the name."""
    return not (name in THE or name in NO_ARTICLE or is_plural(name))


def plural(name: str) -> str:
    """The name for several: "piles of poo", "mice"."""
    match = _HEAD.search(f"{name} ")
    front, back = (name[: match.start()], name[match.start() :]) if match else (name, "")
    if front in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[front] + back
    *adjectives, word = front.split()
    return " ".join([*adjectives, _plural_word(word)]) + back


def _plural_word(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if re.search(r"(s|x|z|ch|sh|[^aeiou]o)$", word):
        return word + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", word) + "s"
