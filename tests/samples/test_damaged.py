"""Whatever a damaged file holds, it is read or refused in one line."""

from __future__ import annotations

import io
import wave
import zlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxcompress.errors import OnnxCompressError
from onnxcompress.samples.data import Data
from onnxcompress.samples.samples import load_samples

MODELS = {
    "pictures": "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }",
    "waves": "g (float[N,T] x) => (float[N,T] y) { y = Relu(x) }",
    "texts": "g (string[N,1] x) => (string[N,1] y) { y = Identity(x) }",
    "rows": "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }",
}


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def record(stream: io.BytesIO) -> None:
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(100)))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
WHOLE = {
    **{
        f"f.{kind.lower()}": written(lambda s, kind=kind: PICTURE.save(s, kind))
        for kind in ("PNG", "JPEG", "WEBP", "BMP")
    },
    "f.wav": written(record),
    "f.npy": written(lambda stream: np.save(stream, np.ones((3, 3), np.float32))),
    "f.npz": written(lambda stream: np.savez(stream, x=np.ones((3, 3), np.float32))),
    "f.csv": b'text,"la\nbel"\na b,1\nc d,0\n',
    "f.tsv": b"1\t2\t3\n4\t5\t6\n",
    "f.jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n',
    "f.txt": b"a b c\nd e\n",
    "input_0.pb": onnx.numpy_helper.from_array(np.ones((1, 3), np.float32), "x").SerializeToString(),
}


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(parse, tmp_path, name, data):
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 5))):
        at, new = data.draw(st.integers(0, len(content))), data.draw(st.binary(max_size=4))
        content[at : at + data.draw(st.integers(0, 6))] = new
    path = tmp_path / name
    path.write_bytes(content)
    model = parse(MODELS[data.draw(st.sampled_from(sorted(MODELS)))])
    said = ""
    try:
        load_samples(Data(path, preprocess=data.draw(st.sampled_from([None, "unit"]))), model).arrays()
    except OnnxCompressError as error:
        said = str(error)
    assert "\n" not in said


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_a_bomb_of_a_picture(parse, tmp_path):
    """A few bytes that say they are 30,000 × 30,000 pixels."""
    head = chunk(b"IHDR", (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
    rest = chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + rest)
    message = r"none of the images can be read: bomb\.png \(Image size \(900000000 pixels\) exceeds limit"
    with pytest.raises(OnnxCompressError, match=message):
        load_samples(tmp_path / "bomb.png", parse(MODELS["pictures"]))
