"""The data sets, a module each, known by the name that each registers under."""

from segrefine.data.sets import (  # noqa: F401  importing one registers it
    ade20k,
    camvid,
    cityscapes,
    folder,
    nyudv2,
    pascal_context,
    person_part,
    shapes,
    siftflow,
    sunrgbd,
    voc,
)
