"""What ComfyUI's and InvokeAI's prompts say in other words than ours, or what would mean something else in ours."""

import re

from maquette.workflows.foreign import ADD_EMBEDDING, Settings
from maquette.workflows.loras import TAG, name_of

STRONGER = re.compile(r"(?<!\\)\(")  # parentheses that are no letters

_PLAIN = {
    "[": (re.compile(r"\["), "square brackets are plain characters there; here they weaken, or change words"),
    "AND": (re.compile(r"\bAND\b"), "it is a plain word there; here two prompts are meant together"),
    "BREAK": (re.compile(r"\bBREAK\b"), "it is a plain word there; here what follows begins a new chunk"),
}
_EMBEDDING = re.compile(r"(?<!\w)embedding:(?P<file>[^\s,:()\[\]]+)")  # embedding:folder/name.pt
_TRIGGER = re.compile(r"<[^<>:\s][^<>:]{0,100}>")


def read_plain(settings: Settings, words: str, *, negative: bool) -> str:
    """The words without tags of LoRAs, which are letters there; marks that mean something only here are left."""
    for mark, (found, why) in _PLAIN.items():
        if found.search(words) and not (negative and mark == "AND"):  # which is a plain word in our negatives too
            settings.leave(mark, words, why)
    for tag in TAG.finditer(words):
        settings.leave(tag["kind"], tag["told"], "its tag is plain characters there, and is left out here")
    return TAG.sub("", words)


def read_embeddings(settings: Settings, words: str) -> str:
    """The words with ComfyUI's embedding:NAME as the name alone."""

    def name(match: re.Match[str]) -> str:
        word = name_of(match["file"].replace("\\", "/"))
        settings.leave("embedding", word, ADD_EMBEDDING)
        return word

    return _EMBEDDING.sub(name, words)


def leave_triggers(settings: Settings, words: str) -> None:
    """Leave InvokeAI's learned words, <NAME>; they may be called so here as well."""
    for trigger in _TRIGGER.findall(words):
        settings.leave("embedding", trigger, ADD_EMBEDDING)
