"""Chinese captions of scenes, with measure words."""

from functools import cache

import numpy as np

from maquette.training.emoji import Emoji, catalogue
from maquette.training.scenes import COLOURLESS_STYLES, HUGE, LARGE, SMALL, Background, Relation, Scene, Thing, pick
from maquette.training.wording import Wording, as_told
from maquette.training.words import BACKGROUNDS, COLOUR_PREFIXES_ZH, RECOLOURS

TERSE = 0.2
UNSAID = 0.6
ANY_MEASURE = 0.15  # how often the measure word is simply 个

SIZES: dict[int, tuple[float, tuple[str, ...]]] = {
    HUGE: (0.25, ("巨大的", "特别大的", "很大的")),
    LARGE: (0.6, ("大的", "大", "大", "大大的")),
    SMALL: (1.0, ("小的", "小", "小", "小小的", "很小的")),
}
PLACES: dict[str, tuple[str, ...]] = {
    "centre": ("中间", "正中间", "中央"),
    "left": ("左边", "左侧", "画面左边"),
    "right": ("右边", "右侧", "画面右边"),
    "top": ("上面", "上方", "顶部", "画面上方"),
    "bottom": ("下面", "下方", "底部", "画面下方"),
    "top left": ("左上角", "左上方", "画面左上角"),
    "top right": ("右上角", "右上方", "画面右上角"),
    "bottom left": ("左下角", "左下方", "画面左下角"),
    "bottom right": ("右下角", "右下方", "画面右下角"),
}

# {a}: with number and measure word; {A}: bare. Phrases take a lead or "的图片", sentences do not.
CENTRED = ("{a}", "{a}", "{a}", "{A}", "{A}")
CENTRED_SENTENCES = ("画{a}", "这是{a}", "有{a}", "请画{a}", "我想要{a}", "画面里有{a}", "只有{a}", "给我画{a}")
PLACED = ("{at}的{a}", "{at}的{A}", "在{at}的{a}")
PLACED_SENTENCES = (
    "{at}有{a}",
    "{at}有{a}",
    "{a}在{at}",
    "{a}在{at}",
    "{A}在{at}",
    "在{at}画{a}",
    "{a}，在{at}",
    "{at}是{a}",
    "{a}，位于{at}",
    "{at}放着{a}",
)
TEMPLATES: dict[Relation, Wording] = {
    "left of": Wording(
        phrases=("{b}左边的{a}", "{a}右边的{b}", "左边{a}，右边{b}"),
        sentences=(
            "{a}在{b}的左边",
            "{a}在{b}左边",
            "{a}在{b}的左侧",
            "{b}在{a}的右边",
            "{b}在{a}右边",
            "{b}的左边有{a}",
            "{a}的右边有{b}",
            "左边是{a}，右边是{b}",
            "左边有{a}，右边有{b}",
            "{A}在左，{B}在右",
            "{a}位于{b}左边",
            "从左到右：{A}、{B}",
        ),
        terse=("{A}在{B}左边", "{B}在{A}右边", "左边{A}右边{B}"),
    ),
    "above": Wording(
        phrases=("{b}上面的{a}", "{a}下面的{b}", "上面{a}，下面{b}"),
        sentences=(
            "{a}在{b}的上面",
            "{a}在{b}上面",
            "{a}在{b}的上方",
            "{b}在{a}的下面",
            "{b}在{a}下面",
            "{b}在{a}的下方",
            "{b}的上面有{a}",
            "{a}的下面有{b}",
            "上面是{a}，下面是{b}",
            "{A}在上，{B}在下",
            "{b}上方有{a}",
            "从上到下：{A}、{B}",
        ),
        terse=("{A}在{B}上面", "{B}在{A}下面", "上面{A}下面{B}"),
    ),
    "and": Wording(
        phrases=("{a}和{b}", "{a}和{b}", "{a}和{b}", "{a}与{b}", "{a}跟{b}", "{A}和{B}", "{a}、{b}", "并排的{a}和{b}"),
        sentences=("有{a}和{b}", "画{a}和{b}", "{a}挨着{b}", "{a}和{b}在一起", "{a}旁边有{b}", "{a}和{b}并排"),
        terse=("{A}和{B}", "{A}、{B}", "{A}，{B}"),
    ),
    "copies": Wording(
        phrases=("{n}", "{n}", "{n}", "一排{n}", "并排的{n}", "一模一样的{n}", "排成一行的{n}", "同样的{n}"),
        sentences=("有{n}", "画{n}", "{n}排成一排", "{n}并排在一起", "画面里有{n}"),
        terse=("{n}",),
    ),
    "row": Wording(
        phrases=("{a}、{b}和{c}", "{a}、{b}和{c}", "并排的{a}、{b}和{c}", "一排：{A}、{B}、{C}", "{A}、{B}和{C}"),
        sentences=(
            "从左到右是{a}、{b}和{c}",
            "从左到右：{A}、{B}、{C}",
            "{a}、{b}和{c}排成一排",
            "左边是{a}，中间是{b}，右边是{c}",
            "{b}在{a}和{c}中间",
            "画{a}、{b}和{c}，排成一行",
        ),
        terse=("{A}、{B}、{C}", "{A}、{B}和{C}", "{A}，{B}，{C}"),
    ),
    "column": Wording(
        phrases=(
            "一列：{A}、{B}、{C}",
            "竖着排列的{a}、{b}和{c}",
            "自上而下的{a}、{b}和{c}",
            "排成一列的{a}、{b}和{c}",
        ),
        sentences=(
            "从上到下是{a}、{b}和{c}",
            "从上到下：{A}、{B}、{C}",
            "{a}、{b}和{c}排成一列",
            "上面是{a}，中间是{b}，下面是{c}",
            "{a}在{b}上面，{b}在{c}上面",
            "画{a}、{b}和{c}，竖着排成一列",
        ),
        terse=("从上到下{A}、{B}、{C}", "一列{A}、{B}、{C}", "竖排：{A}、{B}、{C}"),
    ),
}

LEADS = ("一张{}的图片", "{}的图片", "一幅{}的画", "{}的图", "{}的插图", "图片：{}", "一幅画：{}")
STYLE_LEADS: dict[str, tuple[str, ...]] = {
    "pixel art": ("像素风格的{}", "像素画：{}", "{}的像素画"),
    "outline": ("{}的线稿", "线描：{}", "{}的线条画", "{}的轮廓"),
    "silhouette": ("{}的剪影", "剪影：{}"),
    "black and white": ("黑白的{}", "{}的黑白图片", "黑白画：{}"),
    "neon": ("霓虹灯风格的{}", "{}的霓虹灯", "霓虹：{}"),
    "sticker": ("{}的贴纸", "贴纸：{}", "贴纸风格的{}"),
}
STYLE_TAGS: dict[str, tuple[str, ...]] = {
    "pixel art": ("像素风", "像素风格", "像素画"),
    "outline": ("线稿", "线条画", "简笔画"),
    "silhouette": ("剪影", "剪影效果"),
    "black and white": ("黑白", "黑白风格", "黑白图片"),
    "neon": ("霓虹灯", "霓虹风格", "霓虹效果"),
    "sticker": ("贴纸", "贴纸风格"),
}
PLAIN_OPENINGS = ("{c}背景上，", "{c}背景上的", "在{c}背景上，", "{c}背景，", "{c}的背景上，", "以{c}为背景，")
PLAIN_TAGS = ("，{c}背景", "，{c}背景", "，{c}的背景", "，背景是{c}", "，背景是{c}的", "，以{c}为背景", "，{s}底")
GRADIENT_OPENINGS = ("{g}渐变背景上，", "在{g}的渐变背景上，", "{g}渐变的背景，")
GRADIENT_TAGS = ("，{g}的渐变背景", "，{g}渐变背景", "，背景{g}渐变", "，背景是{g}的渐变")
DOWNWARD = ("从{c}到{d}", "从{c}到{d}", "{c}到{d}", "从上到下由{c}到{d}")
SIDEWAYS = ("从左到右由{c}到{d}", "从左到右从{c}到{d}", "左边{c}到右边{d}")
NUMBERS = {1: "一", 2: "两", 3: "三"}


def say(scene: Scene, rng: np.random.Generator) -> str:
    """One of very many Chinese captions of the scene."""
    terse = rng.random() < TERSE
    core, is_phrase = _core(scene, rng, terse)
    unsaid = scene.background == Background("white") and rng.random() < UNSAID
    tag = ""
    if scene.style is not None and is_phrase and rng.random() < 0.5:
        core = pick(rng, STYLE_LEADS[scene.style]).format(core)
    elif scene.style is not None:
        tag = f"，{pick(rng, STYLE_TAGS[scene.style])}"
    elif is_phrase and not terse and rng.random() < 0.25:
        core = pick(rng, LEADS).format(core)
    if unsaid:
        return core + tag
    if not terse and rng.random() < 0.45:
        opening = _background(scene.background, rng, PLAIN_OPENINGS, GRADIENT_OPENINGS)
        if opening.endswith("的") and not is_phrase:
            opening = opening[:-1] + "，"
        return opening + core + tag
    return core + _background(scene.background, rng, PLAIN_TAGS, GRADIENT_TAGS) + tag


def _background(
    background: Background, rng: np.random.Generator, plain: tuple[str, ...], gradient: tuple[str, ...]
) -> str:
    colour = BACKGROUNDS[background.colour][1]
    if background.to is None:
        return pick(rng, plain).format(c=colour, s=colour.removesuffix("色"))
    course = pick(rng, SIDEWAYS if background.horizontal else DOWNWARD)
    return pick(rng, gradient).format(g=course.format(c=colour, d=BACKGROUNDS[background.to][1]))


def _core(scene: Scene, rng: np.random.Generator, terse: bool) -> tuple[str, bool]:
    """What is to be seen, and whether that is a noun phrase."""
    if scene.relation is None:
        return _single(scene, rng, terse)
    relation, things = as_told(scene)
    template, is_phrase = TEMPLATES[relation].choose(rng, terse, share=0.45)
    is_phrase = is_phrase and (not terse or relation in ("and", "copies"))
    if relation == "copies":
        return template.format(n=_counted(things[0], len(things), _noun(scene, things[0], rng), rng)), is_phrase
    fields: dict[str, str] = {}
    for letter, thing in zip("abc", things, strict=False):
        noun = _noun(scene, thing, rng)
        fields |= {letter: _counted(thing, 1, noun, rng), letter.upper(): noun}
    return template.format(**fields), is_phrase and not ("，" in template or "：" in template)


def _single(scene: Scene, rng: np.random.Generator, terse: bool) -> tuple[str, bool]:
    thing = scene.things[0]
    often, adjectives = SIZES.get(thing.size, (0.0, ("",)))
    size = pick(rng, adjectives) if rng.random() < often and not (terse and thing.place is None) else ""
    noun = _noun(scene, thing, rng, size)
    counted = _counted(thing, 1, noun, rng)
    if thing.place is not None:
        templates = ("{A}在{at}", "{at}的{A}") if terse else PLACED if rng.random() < 0.3 else PLACED_SENTENCES
        return pick(rng, templates).format(A=noun, a=counted, at=pick(rng, PLACES[thing.place])), False
    if terse:
        return noun if rng.random() < 0.6 else counted, True
    is_phrase = rng.random() < 0.7
    return pick(rng, CENTRED if is_phrase else CENTRED_SENTENCES).format(A=noun, a=counted), is_phrase


def _counted(thing: Thing, count: int, noun: str, rng: np.random.Generator) -> str:
    measure = "个" if rng.random() < ANY_MEASURE else catalogue()[thing.emoji].measure
    return f"{NUMBERS[count]}{measure}{noun}"


def _noun(scene: Scene, thing: Thing, rng: np.random.Generator, size: str = "") -> str:
    emoji = catalogue()[thing.emoji]
    names = uncoloured(emoji) if thing.recolour or scene.style in COLOURLESS_STYLES else emoji.names_zh
    name = names[0] if len(names) == 1 or rng.random() < 0.5 else pick(rng, names[1:])
    if thing.recolour is None:
        return size + name
    colour = RECOLOURS[thing.recolour][1]
    if size in ("大", "小"):  # 蓝色的小苹果, but 很小的蓝色苹果
        return f"{colour}的{size}{name}"
    short = colour.removesuffix("色") if len(name) < 3 else colour  # 红苹果, but not 红法式长棍面包
    return size + pick(rng, (f"{colour}的", f"{colour}的", colour, short)) + name


@cache
def uncoloured(emoji: Emoji) -> tuple[str, ...]:
    """The names without a colour: the base noun, and aliases that begin with no colour."""
    colours = tuple(prefix for prefixes in COLOUR_PREFIXES_ZH.values() for prefix in prefixes)
    aliases = (name for name in emoji.names_zh[1:] if name != emoji.base_zh and not name.startswith(colours))
    return (emoji.base_zh, *aliases)
