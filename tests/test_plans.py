"""Plans: kept, written, read, and carried out again to the same bytes; nothing else is carried out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from command_line import call
from corpus.text import model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxcompress import apply, plan_json, registry, save
from onnxcompress.contract import Change, Changes, Context, Pass, Plan
from onnxcompress.errors import OptionError, PlanError
from onnxcompress.graph import edit, fingerprint
from onnxcompress.graph.fingerprint import Fingerprints
from onnxcompress.plans import plan_type, read_plans, write_plans
from onnxcompress.surgery import SurgeonStep

NET = """g (float[N,3,8,8] x) => (float[N,4] y) {
    unused = Neg(x)
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    n1 = BatchNormalization(c1, scale, shift, mean, var)
    r1 = Relu(n1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2)
    scaled = Mul(c2, two)
    sum = Add(three, three)
    moved = Add(scaled, sum)
    r2 = Relu(moved)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    skip = MatMul(f, w5)
    both = Add(f, skip)
    h = MatMul(both, w3)
    hb = Add(h, b3)
    r3 = Relu(hb)
    y = Gemm(r3, w4, b4)
}"""
SHAPES: dict[str, Any] = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (16, 8, 3, 3),
    "w3": (16, 128),
    "b3": (128,),
    "w5": (16, 16),
    "w4": (128, 4),
    "b4": (4,),
    "shift": (8,),
    "mean": (8,),
    "scale": np.full(8, 0.9, np.float32),
    "var": np.full(8, 1.1, np.float32),
    "two": np.full(1, 0.7, np.float32),
    "three": np.full(1, 0.3, np.float32),
}

STREAM = """g (float[N,3,8,8] x) => (float[N,3] y) {
    a = MatMul(x, u) b = MatMul(x, v) s = Add(a, b) n = LayerNormalization(s, g) z = MatMul(n, h)
    p = GlobalAveragePool(z) y = Flatten(p)
}"""
"""What has a residual stream."""

CASES: list[tuple[str, dict[str, Any]]] = [
    ("activation-prune", {}),
    ("apply-mask", {"masks": "masks.npz"}),
    ("cluster", {}),
    ("cluster", {"granularity": "channel"}),
    ("convert-float", {}),
    ("convert-float", {"dtype": "bfloat16", "keep_io": False}),
    ("distill", {"epochs": 1, "keep_anyway": True}),
    ("distill", {"epochs": 1, "keep_anyway": True, "student": "m.onnx", "initialise": "he"}),
    ("drop-blocks", {"share": 1.0}),
    ("factorise", {"share": 0.5}),
    ("fold-affine", {}),
    ("fold-batch-norm", {}),
    ("fold-constants", {}),
    ("freeze-inputs", {}),
    ("magnitude-prune", {}),
    ("prune-blocks", {}),
    ("prune-channels", {}),
    ("prune-channels", {"compensate": True}),
    ("prune-channels", {"sparsity": "auto", "max_drop": 0.5}),
    ("prune-channels", {"importance": "reconstruction", "budget": "macs"}),
    ("prune-n-of-m", {}),
    ("prune-slices", {}),
    ("quantize", {}),
    ("quantize", {"max_drop": 0.0}),
    ("quantize", {"equalise": True, "target": "qnn"}),
    ("quantize-dynamic", {}),
    ("quantize-weights", {"rounding": "gptq"}),
    ("quantize-weights", {"dtype": "int4", "block_size": 32, "format": "matmulnbits"}),
    ("quantize-weights", {"dtype": "uint4", "block_size": 16, "format": "matmulinteger", "minimum_size": 1}),
    ("quantize-weights", {"dtype": "uint4", "equalise": True}),
    ("random-prune", {}),
    ("remove-dead", {}),
    ("merge-nodes", {}),
    ("quantize-weights", {"bits": 4.5}),
    ("rotate", {"seed": 1}),
    ("shorten-names", {}),
    ("shrink", {}),
]


def net() -> ir.Model:
    subject = model(NET, SHAPES)
    weight = subject.graph.initializers["w3"]
    array = weight.const_value.numpy().copy()  # type: ignore[union-attr]
    array[:, 5:9] = 0  # something for shrink
    weight.const_value = ir.tensor(array, name="w3")
    return subject


def data() -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(0)
    return {"x": random.standard_normal((64, 3, 8, 8), np.float32), "labels": random.integers(0, 4, 64)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model, samples, masks and a user's function."""
    monkeypatch.chdir(tmp_path)
    save(net(), "m.onnx")
    np.savez("d.npz", **data())  # type: ignore[arg-type]
    np.savez("masks.npz", w4=np.arange(512).reshape(128, 4) % 3 > 0)
    Path("mine.py").write_text("def rename(graph):\n    graph.nodes[1].name = 'first'\n    return graph\n")
    return tmp_path


def test_every_pass_is_a_case() -> None:
    elsewhere = {"prune-vocabulary", "quantize-cache"}  # the net has no table and no caches; their own tests have
    assert {name for name, _ in CASES} | elsewhere == set(registry.names())


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_a_replayed_plan_gives_the_same_bytes(folder: Path, name: str, options: dict[str, Any]) -> None:
    step = registry.make(name, options)
    if name == "freeze-inputs":  # a caller may replace a weight
        subject = ir.load("m.onnx")
        subject.graph.inputs.append(subject.graph.initializers["b4"])
        save(subject, "m.onnx", overwrite=True)
    if name == "merge-nodes":
        subject = ir.load("m.onnx")
        edit.set_constant(subject.graph.initializers["two"], np.full(1, 0.3, np.float32))
        save(subject, "m.onnx", overwrite=True)
    if name == "rotate":
        save(model(STREAM, {"u": (8, 8), "v": (8, 8), "g": (8,), "h": (8, 8)}), "m.onnx", overwrite=True)
    _, report = apply("m.onnx", [step], data="d.npz", output="a.onnx", seed=3)
    assert report.steps[0].done, "this case should do something"
    write_plans("plans", report.plans)
    made = Path("a.onnx").read_bytes()
    _, again = apply("m.onnx", plans=report.plans, output="b.onnx")
    assert Path("b.onnx").read_bytes() == made
    assert (again.steps[0].done, again.steps[0].notes) == (report.steps[0].done, report.steps[0].notes)
    assert read_plans("plans")[0].step == step
    result = call("apply", "m.onnx", "-o", "c.onnx", "--replay", "plans")
    assert (result.exit_code, result.stderr.count("\n")) == ((1, 1) if report.unmet else (0, 0))
    assert Path("c.onnx").read_bytes() == made


def test_plans_of_a_chain_with_a_function_of_the_user(folder: Path) -> None:
    steps = ["prune-channels sparsity=0.5", "shrink", "quantize"]
    Path("r.toml").write_text('[[pass]]\nsurgeon = "mine.py:rename"\n')
    arguments = ["apply", "m.onnx", "-r", "r.toml", *(word for step in steps for word in ("-p", step))]
    assert call(*arguments, "-o", "a.onnx", "--data", "d.npz", "--plans", "plans").exit_code == 0
    names = ["01-surgeon-step", "02-prune-channels", "03-shrink", "04-quantize"]
    assert sorted(path.name for path in Path("plans").iterdir()) == [f"{name}.json" for name in names]
    result = call("apply", "m.onnx", "-o", "b.onnx", "--replay", "plans")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("b.onnx").read_bytes() == Path("a.onnx").read_bytes()
    first = call("apply", "m.onnx", "-o", "1.onnx", "--replay", "plans/01-surgeon-step.json")
    assert first.exit_code == 0
    assert call("apply", "1.onnx", "-o", "2.onnx", "--replay", "plans/02-prune-channels.json").exit_code == 0


def test_a_changed_plan_is_carried_out_and_checked_like_a_new_one(folder: Path) -> None:
    _, report = apply("m.onnx", [registry.make("prune-channels", {})])
    write_plans("plans", report.plans)
    file = Path("plans/01-prune-channels.json")
    content = json.loads(file.read_text())
    group = next(iter(content["plan"]["channels"]))
    content["plan"]["channels"] = {group: [0]}
    content["plan"]["unmet"] = ["not enough"]
    file.write_text(json.dumps(content))
    _, again = apply("m.onnx", plans="plans")
    assert [(c.subject, c.what.split()[0]) for c in again.steps[0].done] == [(group, "1")]
    assert again.unmet == ["prune-channels: not enough"]
    result = call("apply", "m.onnx", "-o", "a.onnx", "--replay", "plans")
    assert (result.exit_code, result.stderr) == (1, "fell short: prune-channels: not enough\n")


def test_a_plan_that_breaks_a_promise_is_rolled_back(folder: Path) -> None:
    """Shrink promises the same outputs; the plan takes channels away that count."""
    _, report = apply("m.onnx", [registry.make("shrink", {})])
    write_plans("plans", report.plans)
    file = Path("plans/01-shrink.json")
    content = json.loads(file.read_text())
    group = next(iter(content["plan"]["rounds"][0]["channels"]))
    content["plan"]["rounds"][0]["channels"][group] = [0, 1]
    file.write_text(json.dumps(content))
    result = call("apply", "m.onnx", "-o", "a.onnx", "--replay", "plans")
    assert (result.exit_code, Path("a.onnx").exists()) == (1, False)
    assert result.stderr.startswith("error: shrink: output 'y' differs by ")


Damage = Callable[[dict[str, Any]], Any]


def setter(*path: str | int, value: Any) -> Damage:
    def damage(content: dict[str, Any]) -> dict[str, Any]:
        place = content
        for key in path[:-1]:
            place = place[key]  # type: ignore[index]
        place[path[-1]] = value  # type: ignore[index]
        return content

    return damage


FILE = "plans/01-quantize.json"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no object": (lambda content: [content], f"{FILE}: expected `object`, got `array`"),
    "no number": (setter("number", value="one"), f"{FILE}: number: expected `int`, got `str`"),
    "wrong place": (setter("number", value=0), f"{FILE}: number: 0, and it is file 1 of the folder"),
    "of more": (setter("of", value=2), "plans: the plan of pass 2 of 2 is missing"),
    "another field": (setter("modl", value=""), f"{FILE}: object contains unknown field `modl`"),
    "unknown pass": (setter("pass", "name", value="quantise"), f"{FILE}: pass: unknown pass 'quantise'; did you"),
    "wrong pass": (
        setter("pass", value={"name": "shrink"}), f"{FILE}: plan.scheme: is no field; the fields are refused, unmet"
    ),
    "wrong option": (setter("pass", "symmetric", value=5), f"{FILE}: pass: quantize: symmetric = 5: expected `bool"),
    "another model": (setter("model", value="0" * 32), f"{FILE}: model: it was made for another model; plan anew"),
    "wrong type": (
        setter("plan", "activations", 0, "scale", value="x"),
        f"{FILE}: plan.activations[0].scale: expected `float`, got `str`",
    ),
    "misspelt": (
        setter("plan", "activations", 0, "gian", value=2.0), f"{FILE}: plan.activations[0].gian: is no field; did you"
    ),
    "array": (setter("plan", "weights", 0, "scale", value=[1.0]), f"{FILE}: plan.weights[0].scale: expected an array"),
    "object array": (
        setter("plan", "weights", 0, "scale", "dtype", value="object"),
        f"{FILE}: plan.weights[0].scale: dtype: 'object': expected float32",
    ),
    "huge array": (
        setter("plan", "weights", 0, "scale", "shape", value=[1 << 60]), f"{FILE}: plan.weights[0].scale: base64: "
    ),
    "negative array": (
        setter("plan", "weights", 0, "scale", "shape", value=[-1]), f"{FILE}: plan.weights[0].scale: shape: [-1]: exp"
    ),
    "no base64": (setter("plan", "weights", 0, "scale", "base64", value="é"), f"{FILE}: plan.weights[0].scale: base64"),
    "unknown node": (
        setter("plan", "weights", 0, "node", value="no"), f"{FILE}: plan: the plan names the node that gives 'no'"
    ),
    "unknown tensor": (
        setter("plan", "activations", 0, "tensor", value="no"), f"{FILE}: plan: the plan names the tensor 'no', which"
    ),
    "unknown input": (setter("plan", "weights", 0, "input", value=7), f"{FILE}: plan: it does not fit the model: In"),
    "unknown fold": (setter("plan", "folds", value=["x"]), f"{FILE}: plan: it does not fit the model: KeyError: 'x'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a plan file of `Quantize`."""
    _, report = apply(net(), [registry.make("quantize", {})], data=data())
    folder = tmp_path_factory.mktemp("quantized")
    write_plans(folder, report.plans)
    return (folder / "01-quantize.json").read_text()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_plan_is_one_line_that_names_file_and_field(folder: Path, written: str, kind: str) -> None:
    damage, message = DAMAGES[kind]
    Path("plans").mkdir()
    Path(FILE).write_text(json.dumps(damage(json.loads(written))))
    result = call("apply", "m.onnx", "-o", "o.onnx", "--replay", "plans")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"error: {message}")
    assert not Path("o.onnx").exists()


@settings(max_examples=40, deadline=None)
@given(part=st.floats(0, 0.999), noise=st.binary(max_size=8))
def test_a_truncated_or_overwritten_plan_never_passes(
    written: str, tmp_path_factory: pytest.TempPathFactory, part: float, noise: bytes
) -> None:
    file = tmp_path_factory.mktemp("plans") / "01-quantize.json"
    file.write_bytes(written.encode()[: int(part * len(written))] + noise)
    with pytest.raises(PlanError, match="01-quantize.json: "):
        read_plans(file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "plans: there are no plans in it"),
        (["01-remove-dead.json", "03-shrink.json"], "plans: the plan of pass 2 of 3 is missing"),
        (["02-fold-constants.json", "03-shrink.json"], "plans: the plan of pass 1 of 3 is missing"),
        (["01-remove-dead.json", "02-fold-constants.json"], "plans: the plan of pass 3 of 3 is missing"),
    ],
)
def test_a_missing_plan_is_named(folder: Path, names: list[str], message: str) -> None:
    steps = [registry.make(name, {}) for name in ("remove-dead", "fold-constants", "shrink")]
    write_plans("plans", apply("m.onnx", steps)[1].plans)
    for file in Path("plans").iterdir():
        if file.name not in names:
            file.unlink()
    with pytest.raises(PlanError, match=message):
        read_plans("plans")


def test_plans_in_another_order_are_refused(folder: Path) -> None:
    steps = [registry.make(name, {}) for name in ("remove-dead", "fold-constants")]
    write_plans("plans", apply("m.onnx", steps)[1].plans)
    Path("plans/01-remove-dead.json").rename("plans/03-remove-dead.json")
    with pytest.raises(PlanError, match="the plan of pass 1 of 2 is missing"):
        read_plans("plans")
    Path("plans/03-remove-dead.json").rename("plans/01-fold-constants.json")
    with pytest.raises(PlanError, match="01-fold-constants.json: pass: remove-dead, and the file is named after"):
        read_plans("plans")


def test_a_plan_for_another_weight_is_refused(folder: Path) -> None:
    _, report = apply("m.onnx", [registry.make("shrink", {})])
    other = net()
    tensor = other.graph.initializers["w1"].const_value
    assert tensor is not None
    array = tensor.numpy().copy()
    array[0, 0, 0, 0] += 1e-6
    other.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    with pytest.raises(PlanError, match="the plan of shrink: model: it was made for another model; plan anew"):
        apply(other, plans=report.plans)


def test_passes_and_plans_do_not_go_together(folder: Path) -> None:
    step = registry.make("shrink", {})
    _, report = apply("m.onnx", [step])
    with pytest.raises(OptionError, match="give passes or plans, not both"):
        apply("m.onnx", [step], plans=report.plans)
    with pytest.raises(OptionError, match="plans: expected those of Report.plans, got ShrinkPlan"):
        apply("m.onnx", plans=[report.plans[0].plan])  # type: ignore[list-item]
    result = call("apply", "m.onnx", "-o", "o.onnx", "--replay", "plans", "-p", "shrink")
    assert "--replay takes no -r and no -p" in result.stderr
    assert "takes no --plans" in call("apply", "m.onnx", "--dry-run", "-p", "shrink", "--plans", "p").stderr


def test_plans_do_not_take_the_place_of_anything(folder: Path) -> None:
    arguments = ["apply", "m.onnx", "-o", "o.onnx", "-p", "shrink"]
    Path("file").write_text("")
    Path("others").mkdir()
    Path("others/02-cluster.json").write_text("{}")
    for where, message in {
        "file": "--plans file: file is no folder",
        "file/deeper": "file is no folder",
        "others": "--plans others: holds a plan of another run (02-cluster.json)",
        "m.onnx": "--plans m.onnx: m.onnx is no folder",
    }.items():
        result = call(*arguments, "--plans", where)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), where
        assert message in result.stderr
        assert not Path("o.onnx").exists()
    assert call(*arguments, "--plans", "new/plans").exit_code == 0
    assert [path.name for path in Path("new/plans").iterdir()] == ["01-shrink.json"]
    Path("o.onnx").unlink()
    assert "exists already" in call(*arguments, "--plans", "new/plans").stderr
    assert call(*arguments, "--plans", "new/plans", "--overwrite").exit_code == 0


def test_the_annotation_of_plan_says_how_plans_are_read() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd(Pass):
        def plan(self, model: ir.Model, context: Context) -> Any:
            return Plan()

        def apply(self, model: ir.Model, plan: Any) -> Changes:
            return Changes((Change("x", "y"),))

    assert plan_type(SurgeonStep(function="a.py:f")) is Plan
    with pytest.raises(PlanError, match="odd: plans cannot be read: `plan` is not annotated with a subclass of Plan"):
        plan_type(Odd())


@dataclasses.dataclass(frozen=True)
class Held:
    array: npt.NDArray[Any]


NUMBERS = arrays.arrays(
    st.sampled_from([name for name in plan_json.DTYPES if name not in plan_json.OWN]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
)


@settings(deadline=None)
@given(array=NUMBERS, transposed=st.booleans())
def test_arrays_come_back_bit_for_bit(array: npt.NDArray[Any], transposed: bool) -> None:
    array = array.T if transposed else array
    again = plan_json.read(plan_json.to_text(Held(array)), Held, "t").array
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", plan_json.OWN)
def test_arrays_of_types_that_numpy_lacks_come_back(name: str) -> None:
    array = np.array([[1, 0], [2, 1]]).astype(plan_json.DTYPES[name])
    again = plan_json.read(plan_json.to_text(Held(array)), Held, "t").array
    assert (again.dtype, again.tolist()) == (array.dtype, array.tolist())


def test_a_fingerprint_is_of_what_is_computed(folder: Path) -> None:
    found = Fingerprints().of(net())
    assert found == Fingerprints().of(ir.load("m.onnx")) == Fingerprints().of(net())
    ir.save(net(), "external.onnx", external_data="weights.bin")
    assert Fingerprints().of(ir.load("external.onnx")) == found
    copy = net()
    copy.graph.doc_string = copy.producer_name = "another"
    assert Fingerprints().of(copy) == found
    differ = {found}
    for change in (
        lambda m: setattr(m.graph.node(0), "op_type", "Abs"),
        lambda m: m.graph.opset_imports.update({"": 16}),
        lambda m: m.graph.inputs.pop(),
        lambda m: m.graph.node(1).attributes.pop("pads"),
        lambda m: m.graph.node(3).replace_input_with(0, m.graph.node(1).outputs[0]),
        lambda m: setattr(m.graph.initializers["b1"], "const_value", ir.tensor(np.zeros(8, np.float32))),
        lambda m: setattr(m.graph.initializers["b1"], "const_value", ir.tensor(np.zeros(8, np.int32))),
    ):
        copy = net()
        change(copy)
        differ.add(Fingerprints().of(copy))
    assert len(differ) == 8


def test_a_fingerprint_tells_large_weights_by_every_element_and_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LARGE", 1)
    array = np.arange(1, 22, dtype=np.float16).reshape(3, 7)  # 42 bytes: no whole number of words
    swapped, negative, last = array[[1, 0, 2]], -array, array.copy()
    last[-1, -1] += 1
    found = set()
    for each in (array, swapped, negative, last, array.reshape(7, 3), array.view(np.int16)):
        copy = net()
        copy.graph.initializers["b1"].const_value = ir.tensor(each)
        found.add(Fingerprints().of(copy))
    assert len(found) == 6
