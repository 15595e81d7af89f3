"""What the drawn dishes are made of: only data, which `training.samples.painting` draws.

Dishes differ as real ones do: by the mixture of their ingredients, by how these lie, and by the
vessel, hardly ever by one of these alone. Many share their vessel, their broth or their garnish.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A kind of piece, of which a dish has many."""

    shape: str
    """chunk, disc, ring, leaf, strip, stick, grain, bean, egg, roll, dumpling, shrimp or fish."""
    colours: tuple[Colour, ...]
    """Each piece has one of them."""
    size: float
    """Length of a piece; the radius of the vessel is 1."""
    gloss: float = 0.3
    """From 0, dull, to 1, wet."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Pieces of one ingredient, and where they lie."""

    ingredient: str
    amount: int
    """How many pieces, give or take a third."""
    where: str = "scatter"
    """scatter, centre, pile, rim, sector or row."""


@dataclass(frozen=True, slots=True)
class Dish:
    """What a class looks like."""

    vessels: tuple[str, ...]
    base: str
    """What fills the vessel: broth, rice, noodles, sauce, pancake, pile or none."""
    colour: Colour
    """Of the base."""
    layers: tuple[Layer, ...]


_RED, _DARK_RED, _ORANGE = (200, 45, 25), (140, 30, 20), (225, 120, 40)
_GREEN, _DARK_GREEN, _PALE_GREEN = (90, 150, 50), (40, 85, 40), (170, 195, 110)
_WHITE, _CREAM, _YELLOW = (242, 238, 228), (232, 215, 175), (240, 200, 70)
_BROWN, _DARK_BROWN, _TAN = (125, 75, 40), (70, 42, 28), (190, 140, 85)
_BLACK, _GREY, _PINK = (35, 32, 32), (160, 155, 145), (225, 150, 130)

INGREDIENTS: dict[str, Ingredient] = {
    "beef": Ingredient("chunk", (_BROWN, _DARK_BROWN, (105, 60, 40)), 0.26, 0.5),
    "minced": Ingredient("chunk", (_BROWN, _DARK_BROWN), 0.1, 0.4),
    "pork": Ingredient("chunk", (_PINK, (215, 175, 140), _TAN), 0.3, 0.5),
    "red meat": Ingredient("chunk", (_DARK_RED, (170, 60, 30), (155, 75, 40)), 0.27, 0.6),
    "ribs": Ingredient("chunk", (_DARK_BROWN, (95, 52, 30)), 0.42, 0.8),
    "chicken": Ingredient("chunk", ((215, 150, 70), (195, 120, 50), (225, 170, 95)), 0.4, 0.3),
    "glazed": Ingredient("chunk", ((185, 50, 20), (205, 75, 25), (160, 40, 20)), 0.38, 1.0),
    "whole hen": Ingredient("chunk", ((235, 215, 170), (225, 200, 150)), 0.95, 0.5),
    "tofu": Ingredient("chunk", (_WHITE, (236, 226, 200)), 0.24, 0.2),
    "soft tofu": Ingredient("chunk", ((246, 236, 222), (240, 220, 196)), 0.36, 0.7),
    "kimchi": Ingredient("leaf", (_RED, _ORANGE, (225, 160, 90)), 0.3, 0.7),
    "radish": Ingredient("chunk", ((225, 90, 50), (210, 65, 35), (235, 130, 80)), 0.25, 0.7),
    "white radish": Ingredient("strip", (_WHITE, (235, 235, 220)), 0.4, 0.4),
    "scallion": Ingredient("ring", (_GREEN, _PALE_GREEN, (110, 170, 70)), 0.08, 0.3),
    "chives": Ingredient("strip", (_GREEN, _DARK_GREEN), 0.4, 0.4),
    "spinach": Ingredient("leaf", (_DARK_GREEN, (60, 110, 45)), 0.26, 0.5),
    "lettuce": Ingredient("leaf", (_PALE_GREEN, _GREEN, (140, 180, 80)), 0.42, 0.3),
    "perilla": Ingredient("leaf", (_DARK_GREEN, (70, 105, 60)), 0.36, 0.2),
    "cabbage": Ingredient("leaf", ((225, 225, 170), _PALE_GREEN), 0.32, 0.3),
    "seaweed": Ingredient("strip", ((30, 45, 35), (40, 60, 42)), 0.42, 0.7),
    "seaweed leaf": Ingredient("leaf", ((35, 60, 38), (45, 72, 45)), 0.3, 0.9),
    "carrot": Ingredient("strip", (_ORANGE, (235, 140, 60)), 0.32, 0.3),
    "sprouts": Ingredient("strip", (_CREAM, (240, 230, 190)), 0.38, 0.4),
    "bracken": Ingredient("strip", (_DARK_BROWN, _BROWN), 0.36, 0.4),
    "cucumber": Ingredient("strip", (_PALE_GREEN, (150, 195, 110)), 0.3, 0.4),
    "cucumber disc": Ingredient("disc", ((185, 210, 130), (160, 195, 105)), 0.17, 0.5),
    "courgette": Ingredient("disc", ((205, 215, 120), (180, 195, 90)), 0.2, 0.4),
    "onion": Ingredient("strip", (_CREAM, (236, 226, 205)), 0.28, 0.5),
    "pepper": Ingredient("ring", (_RED, _DARK_RED, _GREEN), 0.12, 0.6),
    "mushroom": Ingredient("disc", (_TAN, (150, 110, 75), _DARK_BROWN), 0.2, 0.3),
    "potato": Ingredient("chunk", (_YELLOW, (225, 185, 95)), 0.28, 0.3),
    "garlic": Ingredient("bean", (_CREAM, (240, 225, 180)), 0.12, 0.4),
    "jujube": Ingredient("bean", (_DARK_RED, (110, 35, 25)), 0.17, 0.7),
    "chestnut": Ingredient("bean", ((225, 180, 90), (205, 155, 70)), 0.2, 0.5),
    "black beans": Ingredient("bean", (_BLACK, (50, 35, 40)), 0.12, 1.0),
    "sesame": Ingredient("grain", (_CREAM, (235, 220, 170)), 0.05, 0.2),
    "chilli flakes": Ingredient("grain", (_RED, _DARK_RED), 0.045, 0.4),
    "egg": Ingredient("egg", (_WHITE,), 0.56, 0.6),
    "half egg": Ingredient("egg", ((248, 244, 232),), 0.36, 0.3),
    "egg strip": Ingredient("strip", (_YELLOW, (245, 215, 100)), 0.3, 0.2),
    "egg slice": Ingredient("chunk", (_YELLOW, (238, 190, 75)), 0.34, 0.3),
    "rice cake": Ingredient("stick", (_RED, (215, 70, 35), (205, 55, 30)), 0.5, 1.0),
    "white cake": Ingredient("disc", (_WHITE, (240, 234, 218)), 0.22, 0.5),
    "fish cake": Ingredient("chunk", ((215, 165, 95), (225, 180, 115)), 0.34, 0.5),
    "squid": Ingredient("ring", ((235, 215, 205), (225, 190, 180)), 0.22, 0.7),
    "shrimp": Ingredient("shrimp", ((235, 130, 85), (240, 160, 120)), 0.26, 0.6),
    "clam": Ingredient("bean", ((205, 180, 150), _GREY, (120, 105, 90)), 0.24, 0.5),
    "crab": Ingredient("chunk", ((205, 90, 40), (225, 120, 60)), 0.5, 0.6),
    "anchovy": Ingredient("strip", (_GREY, (175, 150, 110), (135, 110, 80)), 0.22, 0.8),
    "mackerel": Ingredient("fish", ((150, 130, 105), (120, 115, 110), _TAN), 1.3, 0.7),
    "sausage": Ingredient("disc", ((215, 120, 100), (205, 100, 80)), 0.2, 0.6),
    "blood sausage": Ingredient("disc", ((70, 45, 45), (85, 58, 55)), 0.3, 0.7),
    "gimbap": Ingredient("roll", ((30, 45, 35),), 0.44, 0.3),
    "dumpling": Ingredient("dumpling", ((240, 228, 200), (232, 215, 180)), 0.44, 0.5),
    "fried dumpling": Ingredient("dumpling", ((220, 165, 85), (205, 145, 65)), 0.44, 0.5),
    "patty": Ingredient("disc", ((225, 175, 80), (205, 150, 65), (235, 195, 110)), 0.38, 0.3),
    "cutlet": Ingredient("chunk", ((185, 120, 50), (170, 105, 45)), 0.6, 0.2),
    "noodle": Ingredient("strip", ((120, 100, 80), (145, 120, 95)), 0.55, 0.9),
    "ice": Ingredient("chunk", ((225, 235, 240), (210, 225, 235)), 0.22, 1.0),
    "pear": Ingredient("strip", ((245, 240, 205), _CREAM), 0.3, 0.5),
}


def _dish(vessels: str, base: str, colour: Colour, *layers: str) -> Dish:
    """Read layers as `amount ingredient[@where]`."""
    read = []
    for layer in layers:
        amount, _, rest = layer.partition(" ")
        ingredient, _, where = rest.partition("@")
        read.append(Layer(ingredient, int(amount), where or "scatter"))
    return Dish(tuple(vessels.split()), base, colour, tuple(read))


_BOWLS, _PLATES, _HOT = "white celadon steel", "white oval celadon dark", "earthen earthen stone"

DISHES: dict[str, Dish] = {
    "비빔밥": _dish(
        "steel stone white", "rice", _WHITE, "16 spinach@sector", "18 carrot@sector",
        "20 sprouts@sector", "16 bracken@sector", "14 minced@sector", "1 egg@centre", "14 sesame",
    ),
    "김치찌개": _dish(
        _HOT, "broth", (190, 70, 30), "16 kimchi", "7 pork", "7 tofu", "14 scallion",
    ),
    "된장찌개": _dish(
        _HOT, "broth", (165, 115, 60), "9 tofu", "8 courgette", "6 mushroom", "10 scallion",
        "4 pepper",
    ),
    "순두부찌개": _dish(
        _HOT, "broth", (205, 75, 35), "9 soft tofu", "4 clam", "1 egg@centre", "12 scallion",
    ),
    "부대찌개": _dish(
        "pan pan steel", "broth", (200, 85, 35), "12 sausage", "8 kimchi", "7 tofu@rim",
        "16 noodle@centre", "10 scallion",
    ),
    "육개장": _dish(
        _HOT + " white", "broth", (170, 55, 25), "16 beef", "18 bracken", "14 sprouts",
        "12 scallion",
    ),
    "설렁탕": _dish(_HOT + " white", "broth", (232, 226, 212), "9 beef@centre", "24 scallion@centre"),
    "삼계탕": _dish(
        _HOT, "broth", (222, 206, 165), "1 whole hen@centre", "3 jujube", "3 garlic", "12 scallion",
    ),
    "미역국": _dish(
        _BOWLS, "broth", (150, 145, 100), "26 seaweed leaf", "6 beef", "4 garlic",
    ),
    "떡국": _dish(
        _BOWLS, "broth", (226, 216, 190), "20 white cake", "10 egg strip@centre",
        "10 seaweed@centre", "6 minced@centre", "10 scallion",
    ),
    "갈비탕": _dish(
        _HOT + " white", "broth", (190, 165, 120), "5 ribs@centre", "14 scallion", "2 jujube",
        "8 egg strip@centre",
    ),
    "해물탕": _dish(
        "pan pan earthen", "broth", (200, 80, 35), "7 shrimp", "8 clam", "8 squid", "2 crab",
        "10 sprouts", "8 chives@centre",
    ),
    "불고기": _dish(
        _PLATES + " iron", "none", _BROWN, "44 beef@pile", "14 onion@pile", "8 carrot@pile",
        "10 scallion@pile", "14 sesame@pile",
    ),
    "갈비구이": _dish(
        _PLATES + " iron", "none", _BROWN, "13 ribs@pile", "6 garlic@pile", "18 sesame@pile",
    ),
    "갈비찜": _dish(
        "white celadon earthen", "sauce", (105, 60, 30), "10 ribs@pile", "5 chestnut@pile",
        "4 jujube@pile", "6 carrot@pile", "10 sesame@pile",
    ),
    "제육볶음": _dish(
        _PLATES + " iron", "none", _RED, "44 red meat@pile", "12 onion@pile", "8 cabbage@pile",
        "10 scallion@pile", "12 sesame@pile",
    ),
    "닭갈비": _dish(
        "iron iron pan", "sauce", (190, 70, 30), "18 red meat", "14 cabbage", "8 rice cake",
        "8 perilla", "6 potato",
    ),
    "보쌈": _dish(
        _PLATES, "none", _WHITE, "14 pork@row", "9 kimchi@rim", "6 cabbage@rim", "5 garlic@rim",
    ),
    "족발": _dish(
        _PLATES + " wood", "none", _WHITE, "20 ribs@row", "6 lettuce@rim", "6 garlic@rim",
    ),
    "후라이드치킨": _dish(
        "basket white wood", "none", _TAN, "14 chicken@pile", "3 lettuce@rim",
    ),
    "양념치킨": _dish(
        "basket white wood", "none", _RED, "14 glazed@pile", "26 sesame@pile", "2 lettuce@rim",
    ),
    "닭볶음탕": _dish(
        "pan earthen white", "sauce", (185, 60, 25), "9 glazed", "6 potato", "6 carrot", "10 scallion",
        "6 onion",
    ),
    "떡볶이": _dish(
        "white pan celadon", "sauce", (205, 55, 25), "17 rice cake", "7 fish cake", "10 scallion",
        "1 half egg",
    ),
    "김밥": _dish(_PLATES + " wood", "none", _WHITE, "10 gimbap@row", "16 sesame@row"),
    "잡채": _dish(
        _PLATES, "noodles", (150, 115, 75), "9 spinach@pile", "12 carrot@pile", "8 mushroom@pile",
        "8 beef@pile", "14 sesame@pile",
    ),
    "만두": _dish("basket basket white", "none", _CREAM, "8 dumpling@rim", "2 dumpling@centre"),
    "군만두": _dish(_PLATES, "none", _TAN, "9 fried dumpling@row", "2 lettuce@rim"),
    "순대": _dish(_PLATES, "none", _BROWN, "16 blood sausage@row", "4 minced@rim", "6 chilli flakes"),
    "파전": _dish(
        "white wood basket", "pancake", (220, 175, 85), "26 chives", "5 squid", "3 shrimp",
    ),
    "김치전": _dish("white wood basket", "pancake", (205, 110, 50), "18 kimchi", "4 squid"),
    "동그랑땡": _dish(_PLATES + " basket", "none", _YELLOW, "15 patty@row", "5 pepper@row"),
    "돈가스": _dish(
        "white white oval", "none", _WHITE, "4 cutlet@row", "16 cabbage@rim", "4 cucumber disc@rim",
    ),
    "고등어구이": _dish(_PLATES, "none", _GREY, "2 mackerel@centre", "3 white radish@rim", "2 lettuce@rim"),
    "오징어볶음": _dish(
        _PLATES + " iron", "none", _RED, "26 squid@pile", "12 red meat@pile", "10 onion@pile",
        "8 chives@pile", "12 sesame@pile",
    ),
    "배추김치": _dish("small white celadon", "none", _RED, "40 kimchi@pile", "10 sesame@pile"),
    "깍두기": _dish("small white celadon", "none", _RED, "40 radish@pile", "8 scallion@pile"),
    "오이무침": _dish(
        "small white celadon", "none", _GREEN, "44 cucumber disc@pile", "30 chilli flakes@pile",
        "8 onion@pile",
    ),
    "시금치나물": _dish("small white celadon", "none", _DARK_GREEN, "60 spinach@pile", "14 sesame@pile"),
    "콩나물무침": _dish(
        "small white celadon", "none", _CREAM, "80 sprouts@pile", "8 scallion@pile",
        "16 chilli flakes@pile",
    ),
    "멸치볶음": _dish("small white celadon", "none", _GREY, "80 anchovy@pile", "5 pepper@pile", "12 sesame@pile"),
    "콩자반": _dish("small white celadon", "none", _BLACK, "110 black beans@pile", "14 sesame@pile"),
    "계란말이": _dish(_PLATES + " wood", "none", _YELLOW, "11 egg slice@row", "9 scallion@row", "6 carrot@row"),
}  # fmt: skip
"""Forty-two dishes, by name."""

SIMILAR: dict[str, Dish] = {
    "물냉면": _dish(
        "steel steel celadon", "noodles", (135, 110, 85), "6 cucumber", "7 pear@centre", "1 half egg@centre",
        "4 ice", "4 white radish@centre",
    ),
    "비빔냉면": _dish(
        "steel steel celadon", "noodles", (165, 80, 50), "8 cucumber", "5 pear@centre", "1 half egg@centre",
        "10 sesame", "5 red meat@centre",
    ),
    "막국수": _dish(
        "steel white celadon", "noodles", (140, 100, 75), "10 seaweed@centre", "8 lettuce", "12 sesame",
        "6 cucumber", "1 half egg@centre",
    ),
    "비빔국수": _dish(
        _BOWLS, "noodles", (225, 130, 80), "7 kimchi@centre", "8 cucumber@centre", "1 half egg@centre", "12 sesame",
    ),
    "잔치국수": _dish(
        _BOWLS, "noodles", (238, 226, 196), "8 courgette@centre", "10 egg strip@centre", "8 carrot@centre",
        "10 seaweed@centre",
    ),
    "칼국수": _dish(
        _BOWLS, "noodles", (230, 214, 178), "6 clam", "8 courgette@centre", "12 scallion", "4 potato",
    ),
    "콩국수": _dish(_BOWLS, "noodles", (242, 234, 208), "8 cucumber@centre", "12 sesame@centre", "2 ice"),
    "짬뽕": _dish(
        _BOWLS, "noodles", (220, 105, 50), "6 squid", "5 clam", "3 shrimp", "8 cabbage", "6 onion",
    ),
    "짜장면": _dish(
        _BOWLS, "noodles", (95, 62, 42), "10 minced@centre", "10 cucumber@centre", "8 onion", "5 potato",
    ),
    "라면": _dish(
        "pan pan white", "noodles", (232, 170, 85), "1 egg@centre", "12 scallion", "5 kimchi",
    ),
    "라볶이": _dish(
        "pan white celadon", "noodles", (220, 110, 55), "8 rice cake", "5 fish cake", "1 half egg", "8 scallion",
    ),
    "쫄면": _dish(
        _BOWLS, "noodles", (220, 120, 70), "12 sprouts@centre", "8 cabbage@centre", "6 carrot@centre",
        "1 half egg@centre",
    ),
    "우동": _dish(
        _BOWLS, "noodles", (236, 216, 170), "4 fish cake", "10 scallion@centre", "5 seaweed@centre", "2 shrimp",
    ),
}  # fmt: skip
"""Thirteen bowls of noodles: the similar set."""
