"""A data set of your own: `SEGREFINE_PLUGINS=own_dataset segrefine train datamodule=rivers datamodule.root=DIR`.

DIR holds NAME.jpg beside NAME_mask.png, in which 1 is water and 0 is land. Every fifth image is for validation. For
images and masks in two folders no code is needed: see `datamodule=folder`.
"""

import segrefine
from segrefine.data.files import Example, FileDataModule
from segrefine.data.label_code import LabelCode

CLASSES = ["land", "water"]


@segrefine.register_datamodule("rivers")
class Rivers(FileDataModule):
    """Photographs of rivers."""

    classes = CLASSES
    code = LabelCode.counted(len(CLASSES))
    has_test = False
    expects = "It should hold NAME.jpg and NAME_mask.png for every image."

    def examples(self, split: str) -> list[Example]:
        photos = sorted(self.root.glob("*.jpg"))
        chosen = [path for index, path in enumerate(photos) if (index % 5 == 4) == (split == "val")]
        return [Example(path.stem, path, path.with_name(f"{path.stem}_mask.png")) for path in chosen]
