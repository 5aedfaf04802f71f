"""Recordings become windows of one channel at the model's rate."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from onnxcompress.errors import DataError
from onnxcompress.samples.data import Data
from onnxcompress.samples.samples import load_samples

ANY = "g (float[N,T] x) => (float[N,T] y) { y = Relu(x) }"
WINDOW = "g (float[N,1,400] x) => (float[N,1,400] y) { y = Relu(x) }"
VOICE = (
    "g (float[N,T] input, float[2,N,128] state, int64 sr) => (float[N,T] y, float[2,N,128] s, int64 r) "
    "{ y = Relu(input) s = Relu(state) r = Identity(sr) }"
)


def record(path: Path, values: np.ndarray, rate: int = 8000, channels: int = 1) -> Path:
    """Write 16 bits, without the library that reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(values, "<i2").tobytes())
    return path


def test_16_bits_become_one_channel_below_one(parse, tmp_path):
    both = np.array([[32767, -32768], [16384, 0], [-16384, -16384]])
    samples = load_samples(record(tmp_path / "a.wav", both, channels=2), parse(ANY))
    expected = both.mean(axis=1) / 32768
    np.testing.assert_allclose(samples.arrays()["x"], [expected], atol=1e-6)
    assert samples.notes == ["sound: taken at the rate of its files; if the model wants another, give --sample-rate"]


def test_windows_and_labels(parse, tmp_path):
    for name, length in (("no/a.wav", 1000), ("yes/b.wav", 300), ("yes/c.wav", 0)):
        record(tmp_path / name, np.arange(length))
    samples = load_samples(Data(tmp_path, sample_rate=8000), parse(WINDOW))
    array = samples.arrays()["x"] * 32768
    assert array.shape == (3, 1, 400)
    np.testing.assert_allclose(array[:, 0, [0, 299]], [[0, 299], [400, 699], [0, 299]], atol=1e-3)
    assert (array[2, 0, 300:] == 0).all()
    assert samples.labels.tolist() == [0, 0, 1]
    assert "left out as unreadable, 1 recording: c.wav (holds nothing)" in samples.notes
    assert load_samples(Data(tmp_path / "no", sample_rate=8000, length=250), parse(ANY)).arrays()["x"].shape == (4, 250)


def test_a_tone_keeps_its_pitch(parse, tmp_path):
    tone = np.sin(np.arange(8000) / 8000 * 2 * np.pi * 440) * 16000
    samples = load_samples(Data(record(tmp_path / "a.wav", tone), sample_rate=16000), parse(ANY))
    (found,) = samples.arrays()["x"]
    assert len(found) == 16000
    expected = np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440) * 16000 / 32768
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=2e-3)


def test_rates_and_states_are_filled(parse, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 4000}')
    samples = load_samples(record(tmp_path / "a.wav", np.ones(80)), parse(VOICE))
    (feed,) = samples.batches()
    assert feed["input"].shape == (1, 40)
    assert (feed["sr"], feed["state"].shape, feed["state"].any()) == (4000, (2, 1, 128), False)


def test_what_cannot_be_heard(parse, tmp_path, monkeypatch):
    record(tmp_path / "a.wav", np.ones(80))
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:20])
    samples = load_samples(tmp_path, parse(ANY))
    assert samples.count == 1
    (note,) = [note for note in samples.notes if "unreadable" in note]
    assert note.startswith("left out as unreadable, 1 recording: b.wav (")
    with pytest.raises(DataError, match=r"b\.wav: none of the recordings can be read: b\.wav \("):
        load_samples(tmp_path / "b.wav", parse(ANY))
    spectra = parse("g (float[N,80,3000] features) => (float[N,80,3000] y) { y = Relu(features) }")
    with pytest.raises(
        DataError, match=r"is a wave .*the model takes features: float32 \[N, 80, 3000\]; .*spectra are given as arrays"
    ):
        load_samples(tmp_path, spectra)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"recordings need soundfile, which .*: pip install 'onnxcompress\[sound\]'"):
        load_samples(tmp_path, parse(ANY))
