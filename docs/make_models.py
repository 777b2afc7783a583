"""Write docs/models.md: every model with its parameters and multiply-adds. Run `python docs/make_models.py`.

Networks are built on the meta device, where nothing is computed, and counted as summary.json counts them.
"""

from pathlib import Path

import torch

from segrefine.core.config import CONFIG_FOLDER, list_models
from segrefine.core.errors import UserError
from segrefine.models.build import create_model
from segrefine.models.cost import measure_cost

PAGE = Path(__file__).with_name("models.md")

BACKBONES = ("vgg16", "resnet50")
SIZE, CLASSES = (360, 480), 11  # those of CamVid

HEAD = f"""# Models

Parameters in millions (M) and multiply-adds in billions (G) over two encoders, for an image of {SIZE[0]} x {SIZE[1]}
pixels and {CLASSES} classes. A dash stands where a model does not take an encoder. This page is written by
`python docs/make_models.py`.

The `smp_` models are decoders of segmentation_models_pytorch over the same encoders as all others
(`pip install -e ".[smp]"`). `model.arguments.NAME=VALUE` sets an argument of its class. [Fidelity](fidelity.md)
says where they depart from its networks.

| model | what it is | {" | ".join(f"over `{name}`: M | G" for name in BACKBONES)} |
| --- | --- |{" --- |" * 2 * len(BACKBONES)}
"""


def describe(name: str) -> str:
    """Return the first line of a model's config file."""
    return (CONFIG_FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def cost(name: str, backbone: str) -> list[str]:
    """Return parameters and multiply-adds as the table has them; dashes for a pair that is refused."""
    try:
        with torch.device("meta"):
            net = create_model(name, backbone, CLASSES)
    except UserError:
        return ["-", "-"]
    found = measure_cost(net, SIZE)
    return [f"{found['params'] / 1e6:.1f}", f"{found['flops'] / 1e9:.1f}"]


def row(name: str) -> str:
    """Return a model's row of the table."""
    cells = [f"`{name}`", describe(name), *(cell for backbone in BACKBONES for cell in cost(name, backbone))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """Return the whole page."""
    return HEAD + "\n".join(map(row, list_models())) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
