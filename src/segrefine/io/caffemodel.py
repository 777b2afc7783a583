"""Read .caffemodel files with the protobuf library and the few fields of Caffe's messages that hold weights.

Field numbers are those of BVLC Caffe, src/caffe/proto/caffe.proto. Caffe itself is not needed, and no code from the
file is run.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from torch import Tensor

from segrefine.core.errors import UserError

# Message -> field -> number and kind. `data` is a packed list of floats, which on the wire is a string of bytes: read
# as such, 134 million weights need no Python object each.
_MESSAGES: dict[str, dict[str, tuple[int, int | str]]] = {
    "BlobShape": {"dim": (1, Field.TYPE_INT64)},
    "BlobProto": {
        "num": (1, Field.TYPE_INT32),
        "channels": (2, Field.TYPE_INT32),
        "height": (3, Field.TYPE_INT32),
        "width": (4, Field.TYPE_INT32),
        "data": (5, Field.TYPE_BYTES),
        "shape": (7, "BlobShape"),
    },
    "LayerParameter": {"name": (1, Field.TYPE_BYTES), "blobs": (7, "BlobProto")},
    "V1LayerParameter": {"name": (4, Field.TYPE_BYTES), "blobs": (6, "BlobProto")},
    "NetParameter": {"layers": (2, "V1LayerParameter"), "layer": (100, "LayerParameter")},
}
_REPEATED = {"dim", "data", "blobs", "layers", "layer"}
_LEGACY_SHAPE = ("num", "channels", "height", "width")


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the weights of a .caffemodel, in the new or the V1 layer format.

    Returns:
        Tensors `LAYER.weight` and `LAYER.bias`, float32. Convolution weights are (out, in, h, w), those of
        deconvolutions (in, out, h, w), biases (out,).

    Raises:
        UserError: the file is not a complete .caffemodel.
    """
    net = _net_class()()
    try:
        net.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as a .caffemodel: {error}. Is it whole?") from error
    tensors: dict[str, Tensor] = {}
    for layer in (*net.layers, *net.layer):  # a file has one of the two
        name = layer.name.decode(errors="replace")
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            tensors[f"{name}.{kind}"] = _tensor(blob, f"{path}: {kind} of layer {name!r}", flat=kind == "bias")
    if not tensors:
        raise UserError(f"{path} holds no layer with weights. Is it a .caffemodel?")
    return tensors


def _tensor(blob: Any, what: str, flat: bool) -> Tensor:
    shape = list(blob.shape.dim) if blob.HasField("shape") else [getattr(blob, side) for side in _LEGACY_SHAPE]
    data = b"".join(blob.data)
    if any(side < 1 for side in shape) or len(data) != 4 * math.prod(shape):
        raise UserError(f"{what} has {len(data) // 4} numbers, which do not fill its shape {shape}. Is the file whole?")
    values = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
    return values if flat else values.view(shape)


@cache
def _net_class() -> type[Message]:
    file = FileDescriptorProto(name="caffe_weights.proto", package="caffe", syntax="proto2")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind) in fields.items():
            label = Field.LABEL_REPEATED if name in _REPEATED else Field.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = Field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind  # type: ignore[assignment]
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
