"""The data sets, one module each, known by the name under which each registers."""

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
