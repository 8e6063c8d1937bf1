"""Word tables of the emoji scenes: colours, code-point groups, everyday names and Chinese measure words.

Data only. Names come from the Unicode CLDR; these tables say what CLDR does not: which code points are people or
signs, what an everyday speaker calls a thing, and how it is counted in Chinese.
"""

# Colours ---------------------------------------------------------------------------------------------------------

# name: (RGB, Chinese); the plain backgrounds. Any two lie at least 60 apart in RGB.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], str]] = {
    "white": ((255, 255, 255), "白色"),
    "black": ((10, 10, 10), "黑色"),
    "grey": ((136, 136, 136), "灰色"),
    "red": ((214, 32, 40), "红色"),
    "orange": ((255, 140, 0), "橙色"),
    "yellow": ((255, 224, 40), "黄色"),
    "green": ((64, 180, 72), "绿色"),
    "dark green": ((0, 88, 44), "深绿色"),
    "blue": ((30, 92, 224), "蓝色"),
    "light blue": ((152, 208, 255), "浅蓝色"),
    "navy": ((12, 22, 96), "藏青色"),
    "purple": ((126, 46, 176), "紫色"),
    "pink": ((255, 150, 190), "粉色"),
    "brown": ((124, 74, 34), "棕色"),
    "beige": ((236, 216, 178), "米色"),
    "turquoise": ((40, 200, 190), "青绿色"),
}

# name: (dark, middle, light) ends of the ramp that luminance is mapped through, Chinese
RECOLOURS: dict[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]], str]] = {
    "red": (((70, 0, 6), (222, 26, 36), (255, 176, 170)), "红色"),
    "orange": (((96, 38, 0), (250, 128, 8), (255, 214, 150)), "橙色"),
    "yellow": (((112, 84, 0), (250, 208, 16), (255, 246, 176)), "黄色"),
    "green": (((0, 56, 12), (44, 166, 58), (184, 240, 176)), "绿色"),
    "blue": (((0, 14, 86), (28, 88, 226), (170, 208, 255)), "蓝色"),
    "purple": (((44, 0, 76), (132, 48, 188), (222, 184, 250)), "紫色"),
    "pink": (((124, 16, 70), (250, 116, 172), (255, 216, 232)), "粉色"),
    "brown": (((44, 20, 4), (130, 78, 36), (220, 180, 136)), "棕色"),
    "black": (((4, 4, 4), (38, 38, 40), (118, 118, 122)), "黑色"),
    "white": (((104, 104, 110), (222, 222, 226), (255, 255, 255)), "白色"),
}

# Colour words that names begin with: the English word, and the Chinese prefixes, longest first
COLOUR_PREFIXES_ZH: dict[str, tuple[str, ...]] = {
    "red": ("红色的", "红色", "红"),
    "orange": ("橙色的", "橙色", "橙"),
    "yellow": ("黄色的", "黄色", "黄"),
    "green": ("绿色的", "绿色", "绿", "青"),
    "blue": ("蓝色的", "蓝色", "蓝"),
    "purple": ("紫色的", "紫色", "紫"),
    "pink": ("粉色的", "粉色", "粉"),
    "brown": ("棕色的", "棕色", "棕"),
    "black": ("黑色的", "黑色", "黑线", "黑"),
    "white": ("白色的", "白色", "白线", "白"),
}
# The colour belongs to the idea: no base noun remains without it
KEEP_COLOUR = frozenset("🧧🦯✒")
# Coloured in Chinese only
BASE_ZH: dict[str, str] = {"🌶": "辣椒", "🍅": "番茄"}

# Groups, by code point -------------------------------------------------------------------------------------------

# Left out: ASCII, joiners, regional indicators, skin tones, hair components, flags;
# and the squares and diamonds that differ from others in size only
EXCLUDED = """0-A8 200D 20E3 25AA-25AB 25FB-25FE FE0F 1F1E6-1F1FF 1F38C 1F3C1 1F3F3-1F3F4 1F3FB-1F3FF 1F538-1F539 1F6A9
1F9B0-1F9B3"""
# Named in Chinese after a mood alone: "laughing"
FACES = """2639-263A 1F600-1F637 1F641-1F644 1F910-1F915 1F917 1F920 1F922-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A
1FAE0-1FAE5"""
CLOCKS = "1F550-1F567"
ZODIAC = "2648-2653 26CE"

# People, faces, hands and parts of the body
PEOPLE = """261D 2639-263A 26F7 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F440-1F450 1F463-1F483 1F485-1F487
1F48F 1F491 1F4A9-1F4AA 1F574-1F575 1F57A 1F590-1F596 1F5E3 1F600-1F64F 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC
1F90C 1F90F-1F939 1F93A-1F93E 1F970-1F97A 1F9B5-1F9B9 1F9BB 1F9BE-1F9BF 1F9CC-1F9E0 1FAC0-1FAC5 1FAE0-1FAE6
1FAF0-1FAF6"""

# Signs: arrows, buttons, letters, clock faces, the zodiac, hearts and bubbles, warnings, geometric shapes
SIGNS = """A9-21AA 23CF-23EF 23F8-25FE 2611 2620-262F 2638 2640-2653 2660-2668 267B-267F 2695 269B-26A0 26A7-26AB
26CE 26D4 2705 2714-2721 2733-2734 2747-2B1C 2B55-3299 1F170-1F251 1F3A6 1F3E7 1F48B-1F48C 1F493-1F4A0 1F4A2
1F4A4-1F4A6 1F4A8 1F4AB-1F4AD 1F4AF 1F4B1-1F4B2 1F4DB 1F4F3-1F4F6 1F500-1F506 1F508-1F509 1F518-1F524 1F52F-1F549
1F54E 1F550-1F567 1F573 1F5A4 1F5E8-1F5EF 1F6AB 1F6AD-1F6B1 1F6B3 1F6B7-1F6BC 1F6BE 1F6C2-1F6C5 1F6D0
1F7E0-1F7F0 1F90D-1F90E 1F9E1 1FAAF"""

# Animals, counted with 只 in Chinese
ANIMALS = "1F400-1F43F 1F54A 1F577 1F638-1F640 1F648-1F64A 1F980-1F9AE 1FAB0-1FAB3"

# People and signs that are asked for as often as things are
COMMON = frozenset("🎅👶👸👻👽🤖🤡💀💩👁👣💣❤💙💚💛💜🧡🖤🤍💔💋🔴🟠🟡🟢🔵🟣🟥🟧🟨🟩🟦🟪🙂😀😎😢😡👍🤴🧙🧚🧛🧜👮🥷🧠")

# English ---------------------------------------------------------------------------------------------------------

# Everyday names beside the CLDR name. No alias may be the name or the alias of another emoji (tested).
ALIASES_EN: dict[str, tuple[str, ...]] = {
    "🍎": ("apple",), "🚗": ("car",), "🍔": ("burger",), "🚲": ("bike",), "✈": ("plane", "aeroplane"),
    "📱": ("phone", "smartphone"), "📺": ("tv",), "🏍": ("motorbike",), "🍩": ("donut",), "🐞": ("ladybug", "ladybird"),
    "🐝": ("bee",), "🦖": ("tyrannosaurus",), "🦕": ("dinosaur",), "🌲": ("pine tree", "fir tree"), "🌳": ("tree",),
    "🛸": ("ufo",), "🎃": ("pumpkin",), "⚽": ("football",), "🌽": ("corn", "corn on the cob"), "🥬": ("lettuce",),
    "💎": ("diamond",), "❤": ("heart",), "🧸": ("teddy",), "🐑": ("sheep",), "🦏": ("rhino",), "🦛": ("hippo",),
    "🐛": ("caterpillar",), "🐚": ("seashell", "shell"), "🦐": ("prawn",), "🍆": ("aubergine",), "🍄": ("toadstool",),
    "🍞": ("loaf of bread",), "🧀": ("cheese", "piece of cheese"), "🍕": ("slice of pizza", "pizza slice"),
    "🍦": ("ice cream cone",), "🍰": ("piece of cake", "slice of cake"), "🍫": ("chocolate",),
    "🍯": ("honey", "jar of honey"), "🥛": ("milk",), "☕": ("coffee", "cup of coffee"), "🍵": ("cup of tea", "tea"),
    "🍷": ("glass of wine", "wine"), "🍸": ("cocktail", "martini"), "🍺": ("beer", "mug of beer"),
    "🥤": ("soft drink",), "🔪": ("knife",), "🏔": ("snowy mountain",), "🏝": ("tropical island",),
    "🚂": ("steam train", "steam engine"), "🚒": ("fire truck",), "🚕": ("cab",), "🚙": ("suv", "jeep"),
    "🚚": ("truck", "lorry"), "🏎": ("race car",), "🛵": ("scooter",), "🚦": ("traffic light",),
    "⛵": ("sailing boat", "boat"), "🌙": ("moon",), "⚡": ("lightning",),
    "🔥": ("flame",), "💧": ("drop of water", "water drop"), "🌊": ("wave",), "🎁": ("gift", "present"),
    "🎯": ("target", "dartboard"), "🎲": ("dice",), "🎨": ("palette",),
    "👖": ("pair of jeans",), "👞": ("shoe",), "👠": ("high heel",), "👟": ("sneaker",), "👢": ("boot",),
    "🎧": ("headphones",), "🎹": ("piano",), "🔍": ("magnifying glass",), "🔦": ("torch",), "📕": ("red book",),
    "📚": ("stack of books",), "💰": ("bag of money",), "📦": ("box", "parcel"), "🔒": ("padlock",),
    "🔫": ("squirt gun",), "🔧": ("spanner",), "🛋": ("sofa", "couch"), "🗑": ("trash can", "bin"),
    "💐": ("bunch of flowers", "bouquet of flowers"), "🌼": ("flower", "daisy"), "🍇": ("bunch of grapes",),
    "🌶": ("chili", "chili pepper"), "🥗": ("salad",), "🎅": ("santa",), "🤡": ("clown",),
    "😀": ("happy face",), "🙂": ("smiley",), "💩": ("poop",), "⛄": ("snow man",), "🐓": ("cockerel",),
    "🦍": ("ape",), "🐭": ("mouse head",), "🐱": ("cat head",), "🐶": ("dog head",), "🐰": ("bunny face",),
    "🐇": ("bunny",), "🐤": ("chick",), "🐥": ("duckling",), "🚓": ("police cruiser",), "🥕": ("orange carrot",),
    "☂": ("open umbrella",), "💻": ("computer",), "⏰": ("clock",), "✂": ("pair of scissors",), "💏": ("kiss",),
    "🎂": ("cake",), "🧁": ("muffin",), "🛶": ("rowing boat",), "🏠": ("home",),
    "🪐": ("saturn", "planet"), "🌞": ("smiling sun",), "🐲": ("dragon head",), "🤖": ("robot face",),
    "👑": ("golden crown",), "🏆": ("cup",), "🍌": ("yellow banana",), "🍋": ("yellow lemon",), "🐸": ("frog face",),
    "🎈": ("red balloon",), "🍓": ("red strawberry",), "🍅": ("red tomato",), "🍀": ("clover",), "🌷": ("pink tulip",),
    "🕯": ("burning candle",), "🪴": ("houseplant",), "🍉": ("slice of watermelon",), "🎻": ("fiddle",),
    "✏": ("yellow pencil",), "☃": ("snowman in the snow",), "🐟": ("blue fish",), "🛏": ("double bed",),
}  # fmt: skip

# CLDR says a size, or something that no speaker would
NAMES_EN: dict[str, str] = {
    "⬛": "black square", "⬜": "white square", "🔶": "orange rhombus", "🔷": "blue rhombus",
    "🔒": "lock", "🔓": "open lock", "🔏": "lock and pen", "🔐": "lock and key", "🏕": "campsite", "🏗": "building site",
    "🚧": "construction barrier", "🛫": "airplane taking off", "🛬": "landing airplane", "🌁": "bridge in the fog",
    "🍳": "fried egg", "🎾": "tennis ball and racket", "🏓": "ping pong paddle", "🏸": "badminton racket",
    "🏑": "field hockey stick", "🏒": "ice hockey stick", "🥍": "lacrosse stick", "🎳": "bowling pins",
    "📈": "rising chart", "📉": "falling chart", "⚡": "lightning bolt", "🌧": "rain cloud", "🌨": "snow cloud",
    "🌩": "lightning cloud", "⛈": "storm cloud", "💒": "wedding chapel", "💏": "kissing couple", "💅": "painted nails",
    "🫗": "glass pouring water", "➕": "plus sign", "➖": "minus sign", "➗": "division sign",
    "✖": "multiplication sign",
    "💋": "lipstick kiss", "💤": "zzz", "💫": "dizzy star", "💨": "puff of wind", "🚰": "tap water sign",
    "⌛": "hourglass", "⏳": "hourglass with flowing sand", "💹": "rising yen chart", "🔈": "speaker at low volume",
    "🔉": "speaker at medium volume", "🔊": "speaker at high volume",
    "🏇": "race horse with jockey", "🌬": "blowing wind face", "🤳": "hand taking a selfie",
}  # fmt: skip

# Taken without an article though not plural in form
NO_ARTICLE = frozenset({
    "bread", "bacon", "popcorn", "butter", "salt", "broccoli", "garlic", "sushi", "spaghetti", "ice", "wood", "fog",
    "oden", "falafel", "mate", "sake", "fondue", "dango", "corn", "cheese", "chocolate", "honey", "milk", "coffee",
    "tea", "wine", "beer", "lightning", "santa", "lettuce", "saturn", "soap", "yarn", "dna", "canned food",
    "cooked rice", "curry rice", "shaved ice", "soft ice cream", "ice cream", "mount fuji", "santa claus", "mrs. claus",
    "horse racing", "money with wings", "flatbread", "stuffed flatbread", "potable water", "non-potable water",
    "baggage claim", "left luggage", "luggage", "corn on the cob", "baguette bread", "fire", "confetti", "thread",
    "customs", "information", "litter in bin sign", "breast-feeding",
})  # fmt: skip
THE = frozenset({"milky way", "sun", "statue of liberty", "tokyo tower", "kaaba"})

# Written like a plural, meant as one
SINGULAR_S = frozenset({
    "bus", "trolleybus", "minibus", "hibiscus", "cactus", "octopus", "compass", "tennis", "hippopotamus",
    "tyrannosaurus", "lotus", "aquarius", "rhombus", "abacus", "rhinoceros",
    "fleur-de-lis",
})  # fmt: skip
IRREGULAR_PLURALS: dict[str, str] = {
    "mouse": "mice", "fish": "fish", "blowfish": "blowfish", "sheep": "sheep", "deer": "deer", "bison": "bison",
    "squid": "squid", "shrimp": "shrimp", "ox": "oxen", "wolf": "wolves", "leaf": "leaves", "knife": "knives",
    "tooth": "teeth", "foot": "feet", "man": "men", "woman": "women", "child": "children", "person": "people",
    "snowman": "snowmen", "scarf": "scarves", "die": "dice", "dice": "dice", "cactus": "cacti", "octopus": "octopuses",
    "water buffalo": "water buffalo", "loaf": "loaves", "piano": "pianos", "yo-yo": "yo-yos", "dodo": "dodos",
    "radio": "radios", "taco": "tacos", "burrito": "burritos", "banjo": "banjos", "ufo": "ufos",
    "avocado": "avocados", "kangaroo": "kangaroos", "flamingo": "flamingos", "rhino": "rhinos", "hippo": "hippos",
    "kimono": "kimonos", "memo": "memos", "metro": "metros",
}  # fmt: skip

# Chinese ---------------------------------------------------------------------------------------------------------

# CLDR gives an action or an exclamation: the noun instead
NOUNS_ZH: dict[str, str] = {
    "🎄": "圣诞树", "☃": "雪中的雪人", "💥": "爆炸", "🌧": "雨云", "🌨": "雪云", "🌩": "闪电云", "⛈": "雷雨云",
    "⛅": "云后的太阳", "🌤": "小云后的太阳", "🌥": "大云后的太阳", "🌦": "太阳雨云", "🌬": "风脸", "⚡": "闪电",
    "🏗": "建筑工地", "🏕": "露营地", "🍳": "煎蛋", "🥀": "枯萎的花", "🌼": "花", "🍾": "香槟酒", "🍻": "碰杯的啤酒",
    "🥂": "碰杯的香槟", "🎳": "保龄球", "🎿": "滑雪板", "🏂": "单板滑雪的人", "⛸": "冰鞋", "🎣": "钓鱼竿",
    "🔇": "静音喇叭", "🔕": "禁响的铃铛", "🏄": "冲浪的人", "🏊": "游泳的人", "🏋": "举重的人", "🚴": "骑自行车的人",
    "🚵": "骑山地车的人", "🚣": "划船的人", "🤽": "打水球的人", "🤾": "打手球的人", "🤹": "玩杂耍的人",
    "🤸": "侧手翻的人", "🙅": "摆禁止手势的人", "🙆": "摆OK手势的人", "🙇": "鞠躬的人", "🤦": "捂脸的人",
    "🤷": "耸肩的人", "🙋": "举手的人", "🙍": "皱眉的人", "🙎": "撅嘴的人", "💁": "前台人员", "💆": "按摩的人",
    "💇": "理发的人", "⛹": "拍球的人", "🏇": "赛马的人", "🤳": "自拍的手", "💅": "涂指甲油的手", "💪": "手臂肌肉",
    "✍": "写字的手", "👏": "鼓掌的手", "🙏": "合十的双手", "👋": "挥动的手", "🛫": "起飞的飞机", "🛬": "降落的飞机",
    "🚧": "路障", "💒": "婚礼教堂", "🌁": "雾中的桥", "🌃": "城市夜空", "🔒": "锁", "🔓": "打开的锁",
    "🎭": "戏剧面具", "🎑": "赏月图", "🦙": "羊驼", "🥙": "口袋饼", "🦪": "牡蛎", "🍤": "炸虾", "💨": "气团",
    "💫": "眩晕星星", "💤": "睡觉符号", "💢": "怒气符号", "🏰": "城堡", "🔐": "锁和钥匙", "⛳": "高尔夫球洞",
    "🌊": "海浪", "🐏": "公绵羊", "🐑": "绵羊", "🥣": "碗和勺", "🍽": "餐盘和刀叉", "🥄": "勺子", "🕊": "鸽子",
    "🦅": "老鹰", "🐢": "乌龟", "🦀": "螃蟹", "🥚": "鸡蛋", "🍐": "梨子", "🍑": "桃子", "🧄": "大蒜", "☁": "云朵",
    "🥛": "牛奶", "🍲": "炖菜", "🦴": "骨头", "🧠": "大脑", "🧼": "肥皂", "🍬": "糖果", "🥧": "馅饼",
    "🐃": "水牛", "🦕": "恐龙", "🚙": "越野车", "🛻": "皮卡车", "🐗": "野猪", "🪣": "水桶", "🛢": "油桶", "💀": "骷髅头",
    "🍜": "面条", "🧵": "线轴", "🍢": "关东煮", "🐁": "小老鼠", "👻": "幽灵", "🌅": "海上日出", "🔥": "火焰",
    "🌋": "火山", "🐛": "毛毛虫", "🎍": "门松", "🛸": "飞碟", "🏝": "小岛", "☀": "太阳", "💕": "双心", "🎶": "音符串",
    "⬛": "黑色方块", "⬜": "白色方块",
    "🔶": "橙色菱形", "🔷": "蓝色菱形", "➕": "加号", "➖": "减号", "➗": "除号", "✖": "乘号",
    "💏": "亲吻的情侣", "🙈": "捂眼的猴子", "🙉": "捂耳的猴子", "🙊": "捂嘴的猴子", "👌": "OK手势",
    "🤘": "摇滚手势", "🤙": "打电话手势", "🗣": "说话的头像", "🤱": "哺乳的母亲", "🖕": "竖起的中指", "🫂": "拥抱的人",
    "👶": "婴儿", "🚼": "婴儿标志", "🙌": "高举的双手", "🤌": "捏在一起的手指", "🪙": "硬币",
    "🐣": "破壳的小鸡", "🫗": "倒水的杯子", "📈": "上升的图表", "📉": "下降的图表",
    "🪵": "木头",
}  # fmt: skip
ALIASES_ZH: dict[str, tuple[str, ...]] = {
    "😀": ("笑脸",), "😡": ("愤怒的脸",), "😢": ("哭脸",), "👶": ("宝宝",), "💩": ("便便",), "⏰": ("时钟",),
    "🚂": ("蒸汽机车",),
    "🍎": ("苹果",), "❤": ("爱心",), "🚗": ("小汽车", "轿车"), "🐈": ("猫咪", "小猫"), "🐕": ("小狗", "狗狗"),
    "🐟": ("小鱼",), "🐦": ("小鸟",), "🐇": ("小兔子",), "🐘": ("小象",), "🚲": ("单车",), "📺": ("电视",),
    "🍕": ("比萨",), "🍔": ("汉堡包",), "🥔": ("马铃薯",), "🍅": ("番茄",), "🌽": ("玉米棒",), "🍍": ("凤梨",),
    "🚕": ("计程车",), "🌹": ("玫瑰花",), "🌼": ("花朵",), "🌳": ("大树", "树"),
    "🎂": ("蛋糕",), "☕": ("咖啡",), "🍵": ("茶",), "🍷": ("红酒",), "🍦": ("甜筒",),
    "✈": ("客机",), "🚢": ("轮船",), "🏠": ("小房子",), "⭐": ("五角星",), "🌙": ("月亮",),
    "📱": ("智能手机",), "💻": ("电脑",), "📷": ("照相机",), "🎁": ("礼物盒",), "🎩": ("高帽子",),
    "🐻": ("狗熊",), "🐒": ("小猴子",), "🦖": ("暴龙",), "🎃": ("南瓜",), "🐥": ("小鸭子",), "🪐": ("土星", "行星"),
    "🔒": ("挂锁",), "🛋": ("沙发",), "📖": ("打开的书",), "📕": ("红色书本",), "🐓": ("大公鸡",), "🧁": ("小蛋糕",),
    "🦁": ("雄狮",), "🐅": ("大老虎",), "🐖": ("小猪",), "🐄": ("母牛",), "👟": ("运动鞋",), "🤖": ("小机器人",),
    "🚀": ("小火箭",), "🍌": ("黄香蕉",), "🍄": ("红蘑菇",), "🎈": ("红气球",), "🐸": ("小青蛙",), "🦋": ("花蝴蝶",),
}  # fmt: skip

# Measure words; 个 for all others. Animals (by code point, see emoji.py) default to 只 and people to 个.
MEASURES_ZH: dict[str, str] = {
    "只": "🧸👂👁🦶✋👋🤚🖐👌✌👍👎✊👊🤛🤜🧤🧦🕊🦆🦢🦉🦤🦩🦚🦜🐔🐓🦃🐧🐦🐤🐥🐣👟👞👠👡👢🥾🥿🩴🦀🦞🦐🦑🐙",
    "条": "🐟🐠🐡🦈🐍🐉🐛🪱🐬🐋🐳👖👗🧣🩳🩲👅🦵⛓🛤🛣🥒🥖🛶🌶🐊📿🎗🐲",
    "匹": "🐎🦓🐪🐫🎠",
    "头": "🐄🐂🐃🦬🐖🐗🐘🦏🦛🦣🦁🐻🐼🦌",
    "朵": "🌸🌹🌺🌻🌼🌷💮☁🌧🌨🌩⛈🥀🍄🪷🏵🥦",
    "束": "💐",
    "棵": "🌲🌳🌴🌵🎄🌱🎋🥬🍀☘🎍🪴",
    "片": "🍁🍂🍃🌿🪶🥓🥩🍕",
    "辆": "🚗🚕🚙🚌🚎🏎🚓🚑🚒🚐🛻🚚🚛🚜🛵🏍🛺🚲🛴🚔🚍🚘🚖🚃🚋🚊🛒🦽🦼",
    "列": "🚂🚄🚅🚆🚇🚈🚝🚞🚟",
    "架": "✈🛩🚁🛫🛬🎹🪂🛸",
    "艘": "🚢⛴🛥🚤🛳⛵",
    "座": "🏔⛰🌋🗻🏰🏯🏠🏡🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏭🏛⛪🕌🛕🕍⛩🕋🗼🗽🏝🛖🏚🏟🌉🕰🗿",
    "把": "🔪🗡🔨🪓🔧🪛🪚🗝🔑🪑☂🌂⛱☔🎸🎻🪕🥄🧹✂🔫🪒🪥🏹🖌",
    "本": "📕📖📗📘📙📚📓📔📒",
    "支": "🖊🖋✏✒🖍🕯💉🚬🎺🎷",
    "张": "🎫🎟💳💴💵💶💷🛏🗺🖼🃏💿📀🎴🪪",
    "双": "👀🥢👣🙌👐",
    "副": "👓🕶🥽",
    "件": "👕👔👚👘🥼🦺🧥🎽🥻🎁🥋👙",
    "顶": "👒🎩🎓🧢🪖⛑👑⛺🎪",
    "杯": "☕🍵🍷🍸🍹🥛🥤🧋🍺🥃",
    "瓶": "🍾🍶🧴",
    "碗": "🍚🍜🥣",
    "锅": "🍲🥘🫕",
    "块": "🍰🍫🧀🪨🧱🧽🧼🍖🥮🧊🪵⌚🧩",
    "根": "🍌🥕🌽🌭🦴🎣🍡🍢",
    "颗": "⭐🌟🍒🍓💎🥜🌰🦷💊🍬💣🪐❤🧡💛💚💙💜🤎🖤🤍💔🛰🫐🫒🍅💧",
    "串": "🍇🎶",
    "粒": "🫘",
    "扇": "🚪🪟",
    "枚": "💍🥇🥈🥉🏅🎖🪙🚀",
    "台": "💻🖥🖨📺📷📹🎥📻🔬🔭📠📽⚖",
    "部": "📱📞☎",
    "盏": "💡🏮🪔🚥🚦",
    "面": "🥁🪞🛡",
    "封": "✉📨📩💌",
    "位": "👮🕵💂👷🤴👸🧙🧚👰🤵🎅🤶🦸🦹",
    "轮": "🌙🌕☀🌞🌝",
    "道": "🌈",
    "团": "🔥🧶",
    "份": "🍟🥗🍱📰🍿",
}  # fmt: skip
