"""The label spaces of the published data sets: names in the order of their indices, colours, void 255.

The order is that in which the released nets give their scores. What the files of each set hold, and how that becomes
these indices, is said in ``fullconv.datasets.published.catalog``.
"""

from __future__ import annotations

from fullconv.labels import LabelSpace


def _names(text: str) -> list[str]:
    """Names written one after the other, with commas between them."""
    return [" ".join(name.split()) for name in text.split(",")]


VOC = LabelSpace.of(
    _names(
        """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
        motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""
    )
)
"""PASCAL VOC 2007 to 2012 and SBD: 20 classes and background (Everingham et al. 2010)."""

PASCAL_CONTEXT = LabelSpace.of(
    [
        *VOC.names,
        *_names(
            """bag, bed, bench, book, building, cabinet, ceiling, clothes, computer, cup, door, fence, floor, flower,
            food, grass, ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock, shelves,
            sidewalk, sky, snow, bedcloth, track, tree, truck, wall, water, window, wood"""
        ),
    ]
)
"""PASCAL-Context: the 59 most frequent of its 459 classes; whatever else there is counts as background, class 0
(Mottaghi et al. 2014)."""

NYUDV2 = LabelSpace.of(
    _names(
        """wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk,
        shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper,
        towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure,
        otherfurniture, otherprop"""
    )
)
"""NYUDv2 in the 40 classes of Gupta, Arbelaez and Malik (2013), spelt as they spell them."""

SIFTFLOW = LabelSpace.of(
    _names(
        """awning, balcony, bird, boat, bridge, building, bus, car, cow, crosswalk, desert, door, fence, field, grass,
        moon, mountain, person, plant, pole, river, road, rock, sand, sea, sidewalk, sign, sky, staircase, streetlight,
        sun, tree, window"""
    )
)
"""SIFT Flow's 33 semantic classes (Liu, Yuen, Torralba 2011)."""

SIFTFLOW_GEOMETRIC = LabelSpace.of(["sky", "horizontal", "vertical"])
"""SIFT Flow's 3 geometric classes (Tighe and Lazebnik 2010)."""

CAMVID = LabelSpace.of(
    ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"],
    # The colours of SegNet's test script, the customary ones for these eleven classes.
    [
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ],
)  # fmt: skip
"""CamVid in SegNet's eleven classes (Brostow et al. 2009; Badrinarayanan et al. 2017), void written as 255."""

CITYSCAPES = LabelSpace.of(
    _names(
        """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person,
        rider, car, truck, bus, train, motorcycle, bicycle"""
    ),
    [
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
        (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
        (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ],
)  # fmt: skip
"""Cityscapes' 19 classes of evaluation, in the order of their train IDs (Cordts et al. 2016)."""

ADE20K = LabelSpace.of(
    _names(
        """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
        door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
        armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
        chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
        case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
        book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
        hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
        dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
        fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
        minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
        screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
        monitor, bulletin board, shower, radiator, glass, clock, flag"""
    )
)
"""The 150 classes of ADE20K's scene parsing benchmark (Zhou et al. 2017), in VOC's colours."""

DIGITS = LabelSpace.of(
    ["background", *"0123456789"],
    [
        (0, 0, 0), (230, 60, 60), (245, 130, 48), (255, 215, 0), (130, 200, 60), (30, 150, 80),
        (70, 200, 220), (50, 100, 230), (145, 60, 200), (240, 90, 200), (170, 110, 60),
    ],
)  # fmt: skip
"""The built-in scenes: ten handwritten digits on a textured ground; class k + 1 is the digit k."""
