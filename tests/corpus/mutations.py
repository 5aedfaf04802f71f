"""Models, sample files and recipes with something wrong in them, each from a seed."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx.parser

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[N, 4] x, bool flag) => (float[N, 3] y) {
    hidden = MatMul (x, w1)
    scale = Constant <value = float[8] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}> ()
    scaled = Mul (hidden, scale)
    positive = own.Twice (scaled)
    chosen = If (flag) <
        then_branch = yes () => (float[N, 8] a) { a = Relu (positive) },
        else_branch = no () => (float[N, 8] b) { b = Identity (positive) }
    >
    y = Gemm <transB = 1> (chosen, w2, bias)
}
<domain: "own", opset_import: ["" : 17]>
Twice (p) => (q) { q = Add (p, p) }
"""

NUMBERS = [-1, 0, 1, 2, 3, 7, 99, 255, 2**31 - 1, 2**40, 2**62, 2**63 - 1, -(2**63)]
TEXTS = ["", "x", "w1", "\0", "a\0b", "../x", "/dev/zero", ".", "w.bin", "é" * 300, "x" * 5000, "-1", "1e3", "9" * 30]
RECIPE = '[[pass]]\nname = "prune-channels"\nsparsity = 0.5\n\n[[pass]]\nname = "shrink"\n'
WORDS = [
    *("[[pass]]", "[pass]", "name", '"shrink"', '"quantize"', "=", "{", "}", "[", "]", "\n", "'", '"', "0.5", "-1"),
    *("inf", "nan", "1979-05-27", "9" * 5000, "[" * 5000, "{a=" * 2000, "a." * 3000 + "b=1\n", "\0", "\ufeff", "é"),
    *("true", "#", "surgeon"),
]


def base_model() -> onnx.ModelProto:
    """A model with an initializer of each kind, a constant, inner graphs and a local function."""
    proto = onnx.parser.parse_model(TEXT)
    values = np.random.default_rng(0)
    for name, shape in (("w1", (4, 8)), ("w2", (3, 8)), ("bias", (3,))):
        array = values.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto.graph.initializer[2].CopyFrom(onnx.helper.make_tensor("bias", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    return proto


def external_tensor(tensor: onnx.TensorProto, offset: int = 0, location: str = "w.bin") -> None:
    """Let a tensor of raw bytes lie in a file."""
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def mutated_model(seed: int) -> bytes:
    """Return a model in which bytes, fields or entries of external data are changed."""
    draw = random.Random(seed)
    proto = base_model()
    if draw.random() < 0.4:
        external_tensor(proto.graph.initializer[0])
        _mutate_entries(draw, proto.graph.initializer[0])
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        _mutate_field(draw, proto)
    content = bytearray(proto.SerializeToString())
    if draw.random() < 0.3:
        mutate_bytes(draw, content)
    return bytes(content)


def _mutate_entries(draw: random.Random, tensor: onnx.TensorProto) -> None:
    for entry in list(tensor.external_data):
        kind = draw.randrange(8)
        if kind == 0:
            entry.value = draw.choice(TEXTS)
        elif kind == 1:
            entry.value = str(draw.choice(NUMBERS))
        elif kind == 2:
            entry.key = draw.choice(["location", "offset", "length", "checksum", ""])
        elif kind == 3:
            tensor.external_data.remove(entry)
        elif kind == 4:
            tensor.external_data.add(key=entry.key, value=draw.choice(TEXTS))


def _mutate_field(draw: random.Random, proto: onnx.ModelProto) -> None:
    message = draw.choice(_messages(proto))
    field = draw.choice(list(message.DESCRIPTOR.fields))
    if field.message_type is not None:
        _mutate_message(draw, message, field)
        return
    value = _value(draw, field)
    if not field.is_repeated:
        setattr(message, field.name, value)
        return
    items = getattr(message, field.name)
    if items and draw.random() < 0.5:
        items[draw.randrange(len(items))] = value
    else:
        items.append(value)


def _mutate_message(draw: random.Random, message: google.protobuf.message.Message, field: Any) -> None:
    if not field.is_repeated:
        if draw.random() < 0.5:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).SetInParent()
        return
    items = getattr(message, field.name)
    kind = draw.randrange(3)
    if kind == 0 and items:
        del items[draw.randrange(len(items))]
    elif kind == 1 and items:
        items.add().CopyFrom(items[draw.randrange(len(items))])
    else:
        items.add()


def _value(draw: random.Random, field: Any) -> Any:
    if field.enum_type is not None:
        return draw.choice(field.enum_type.values).number
    if field.cpp_type == field.CPPTYPE_STRING:
        text = draw.choice(TEXTS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice([0.0, -1.0, float("nan"), float("inf"), 1e30])
    bits = 31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
    unsigned = field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return draw.choice([n for n in NUMBERS if -(2**bits) * (not unsigned) <= n < 2**bits])


def _messages(message: google.protobuf.message.Message) -> list[google.protobuf.message.Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                found += _messages(item)
    return found


def mutate_bytes(draw: random.Random, content: bytearray) -> None:
    """Change, remove or repeat a few bytes in place."""
    for _ in range(draw.randint(1, 8)):
        at, kind = draw.randrange(max(len(content), 1)), draw.randrange(4)
        if kind == 0:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del content[at : at + draw.randint(1, 20)]
        elif kind == 2:
            content[at:at] = content[at : at + draw.randint(1, 20)]
        else:
            content[at : at + 1] = bytes([content[at] ^ (1 << draw.randrange(8))]) if content else b""


def mutated_npz(seed: int) -> bytes:
    """Return samples for `base_model` whose archive or headers are changed."""
    draw = random.Random(seed)
    arrays: dict[str, Any] = {"x": np.ones((6, 4), np.float32), "flag": np.array(True)}
    if draw.random() < 0.3:
        kinds = ["S3", "U4", "datetime64[s]", "complex64", [("a", "i4"), ("b", "f4")], "V0", object, "float16", ">f4"]
        arrays[draw.choice(["x", "flag", "labels", "other"])] = np.zeros((draw.randrange(8), 4), draw.choice(kinds))
    file = io.BytesIO()
    kinds_of_archive = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(file, "w", draw.choice(kinds_of_archive)) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", _member(draw, array))
    content = bytearray(file.getvalue())
    if draw.random() < 0.5:
        mutate_bytes(draw, content)
    return bytes(content)


def _member(draw: random.Random, array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    content = stream.getvalue()
    kind = draw.randrange(6)
    if kind == 0:
        lie = draw.choice(["(1099511627776, 4)", "(-6, 4)", "(2, 3, 4)", "()", "(0, 4)", "(6.5, 4)", "x" * 40])
        content = content.replace(b"(6, 4)", lie.encode())
    elif kind == 1:
        changed = bytearray(content)
        mutate_bytes(draw, changed)
        content = bytes(changed)
    return content


def mutated_recipe(seed: int) -> bytes:
    """Return a recipe in which bytes are changed or words put in."""
    draw = random.Random(seed)
    text = RECIPE
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(WORDS) + text[at + draw.randrange(6) :]
    content = bytearray(text.encode())
    if draw.random() < 0.5:
        mutate_bytes(draw, content)
    return bytes(content)
