"""Folders of onnxruntime-genai: the configuration follows the graph, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest
from command_line import call
from corpus.decoders import genai_folder, grouped

from onnxcompress import apply
from onnxcompress.errors import ModelError, OutputError
from onnxcompress.package import genai
from onnxcompress.package.folder import save_folder
from onnxcompress.passes import QuantizeWeights

KIT = Path("/work/shared/kit/llm/llama_tiny_genai")


def decoder_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]


def test_a_folder_comes_out_with_all_that_lay_in_it(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped())
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "chat.jinja").write_text("{{ text }}")
    _, report = apply(folder, [QuantizeWeights()], output=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "genai_config.json", "tokenizer.json", "chat.jinja"}
    assert decoder_of(tmp_path / "out") == decoder_of(folder)
    assert any("model.safetensors is not copied" in line for line in report.stays)
    assert (tmp_path / "out/model.onnx").stat().st_size < (folder / "model.onnx").stat().st_size


def test_the_command_takes_the_folder_or_its_model(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped())
    for number, given in enumerate((folder, folder / "model.onnx")):
        result = call("apply", given, "-p", "fold-constants", "-o", tmp_path / f"out{number}")
        assert result.exit_code == 0, result.output
        assert (tmp_path / f"out{number}/genai_config.json").is_file()


def test_the_configuration_follows_the_graph_and_caches_are_numbered_anew(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped(layers=3))
    model = ir.load(folder / "model.onnx")
    first = {f"{name}.0.{kind}" for name in ("past_key_values", "present") for kind in ("key", "value")}
    node = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    tail = next(node for node in model.graph if node.op_type == "Add")
    tail.outputs[0].replace_all_uses_with(tail.inputs[0])
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name not in first]
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.name not in first]
    model.graph.remove([tail, next(n for n in model.graph if n is tail.inputs[1].producer()), node], safe=False)
    save_folder({folder / "model.onnx": model}, folder, tmp_path / "out")
    assert decoder_of(tmp_path / "out")["num_hidden_layers"] == 2
    written = ir.load(tmp_path / "out/model.onnx")
    assert {v.name for v in written.graph.inputs} >= {"past_key_values.0.key", "past_key_values.1.value"}
    assert {v.name for v in model.graph.inputs} >= {"past_key_values.1.key", "past_key_values.2.value"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4, and model.onnx has 2"),
        ({"head_size": 8}, "head_size is 8, and model.onnx has 16"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, and model.onnx has 2"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2, and model.onnx has 4"),
        ({"hidden_size": 16}, "hidden_size is 16, and model.onnx has 32"),
        ({"filename": "other.onnx"}, "model.decoder.filename names 'other.onnx', which is not in"),
        ({"filename": None}, "model.decoder.filename: expected the name of the decoder's file"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, changed, told):
    folder = genai_folder(tmp_path / "in", grouped(), **changed)
    with pytest.raises(ModelError, match=told):
        apply(folder, [], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_configuration_or_with_a_broken_one_is_refused(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped())
    (folder / "genai_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"genai_config.json: is no JSON"):
        apply(folder, [], output=tmp_path / "out")
    (folder / "genai_config.json").unlink()
    with pytest.raises(ModelError, match=r"there is no genai_config.json that names it"):
        apply(folder, [], output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped())
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 24}}}))
    with pytest.raises(ModelError, match=r"has 25 tokens, and the embedding 'embed' of model.onnx has 24 rows"):
        apply(folder, [], output=tmp_path / "out")


def test_no_folder_is_written_over_the_model_or_over_what_is_foreign(tmp_path):
    folder = genai_folder(tmp_path / "in", grouped())
    for output in (folder, folder / "deeper", tmp_path):
        with pytest.raises(OutputError, match="is the folder of the model, or lies in it"):
            apply(folder, [], output=output, overwrite=True)
    (tmp_path / "out").mkdir()
    apply(folder, [], output=tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        apply(folder, [], output=tmp_path / "out")
    apply(folder, [], output=tmp_path / "out", overwrite=True)
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes.txt, which is no part of the model"):
        apply(folder, [], output=tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_crash_leaves_the_folder_that_was_there(tmp_path, monkeypatch):
    folder = genai_folder(tmp_path / "in", grouped())
    apply(folder, [], output=tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxcompress.package.folder.shutil.copyfile", fails)
    with pytest.raises(OutputError, match="No space left"):
        apply(folder, [QuantizeWeights()], output=tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_size_of_a_head_is_what_attention_makes_of_packed_queries():
    assert genai.facts(grouped())["head_size"] == 16


@pytest.mark.slow
@pytest.mark.skipif(not KIT.is_dir(), reason="the kit is not here")
def test_the_compressed_folder_generates_text(tmp_path):
    og = pytest.importorskip("onnxruntime_genai")
    apply(KIT, [QuantizeWeights()], output=tmp_path / "out")
    model = og.Model(str(tmp_path / "out"))
    tokenizer, parameters = og.Tokenizer(model), og.GeneratorParams(model)
    parameters.set_search_options(max_length=12)
    generator = og.Generator(model, parameters)
    generator.append_tokens(tokenizer.encode("def __init__(self"))
    while not generator.is_done():
        generator.generate_next_token()
    assert len(generator.get_sequence(0)) == 12
