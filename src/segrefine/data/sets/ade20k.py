"""ADE20K's scene parsing benchmark: 150 classes of stuff and things; 20,210 train and 2,000 val images of any size.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
"""

from segrefine.core.labels import names
from segrefine.core.registry import register_datamodule
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode
from segrefine.io.download import Archive

# The first of the names that the benchmark's objectInfo150.txt gives each class.
CLASSES = names("""
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen
door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""")


@register_datamodule("ade20k")
class ADE20KDataModule(FileDataModule):
    """ADEChallengeData2016. The test labels are not public."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES), first=1, void=(0,))
    has_test = False
    archives = (
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "7328b3957e407ddae1d3cbf487f149ef",
            "ADEChallengeData2016",
            also=("images/training",),  # root is the folder itself
        ),
    )
    expects = (
        "It should hold ADEChallengeData2016 with images/{training,validation} and annotations/{training,validation}. "
        "Get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu."
    )

    def examples(self, split: str) -> list[Example]:
        folder = self.folder("ADEChallengeData2016", ".")
        name = {"train": "training", "val": "validation"}[split]
        return self.pairs(folder / "images" / name, folder / "annotations" / name)
