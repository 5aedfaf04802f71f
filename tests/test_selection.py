"""Which nodes, weights and groups an option means: the same terms, and the same errors, in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import drawn, model

from onnxcompress import apply, registry
from onnxcompress.contract import Changes, Context, Pass
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph import shapes
from onnxcompress.passes.distill import distill
from onnxcompress.recipe import parse_pass, parse_recipe, write_recipe
from onnxcompress.samples.samples import load_samples
from onnxcompress.selection import OverridablePass, SelectivePass, node_subjects
from onnxcompress.training import Trained

TEXT = """g (float[N,3,6,6] x, float[4] d1, float[4] d2) => (float[N,4] y) {
    [k1] q1 = Neg(p1) [k2] q2 = Neg(p2) [dead1] u = Relu(x) [dead2] v = Abs(x)
    [conv1] c1 = Conv<pads = [1,1,1,1]>(x, w1) [norm1] n1 = BatchNormalization(c1, s1, t1, m1, v1_var) r1 = Relu(n1)
    [conv2] c2 = Conv<pads = [1,1,1,1]>(r1, w2) [norm2] n2 = BatchNormalization(c2, s2, t2, m2, v2_var) r2 = Relu(n2)
    [pool] g = GlobalAveragePool(r2) [flat] f = Flatten(g) [sum1] h1 = Add(f, q1) [sum2] h2 = Add(h1, q2)
    [skip1] o1 = MatMul(h2, u1) [res1] h3 = Add(h2, o1) [skip2] o2 = MatMul(h3, u2) [res2] h4 = Add(h3, o2)
    [fc1] a = MatMul(h4, w3) [twice1] b = Mul(a, half) [act] c = Relu(b) [fc2] d = MatMul(c, w4)
    [twice2] e = Mul(d, half) [give1] i = Add(e, d1) [give2] y = Add(i, d2)
}"""
SHAPES = {"p": (8,), "s": (8,), "t": (8,), "m": (8,), "d": (4,)}
DATA = {"x": np.random.default_rng(1).standard_normal((32, 3, 6, 6)).astype(np.float32)}
ONE = {
    "activation-prune": ("conv1", "w1"),
    "prune-channels": ("conv1", "w1"),
    "shrink": ("conv1", "w1"),
    "drop-blocks": ("skip1", "h3"),
    "fold-affine": ("fc1", "twice1 (Mul)"),
    "fold-batch-norm": ("conv1", "norm1 (BatchNormalization)"),
    "fold-constants": ("k1", "k1 (Neg)"),
    "freeze-inputs": ("d1", "d1"),
    "remove-dead": ("dead1", "model"),
    "convert-float": ("conv2", "conv2 (Conv)"),
    "quantize": ("conv2", "conv2 (Conv)"),
    "quantize-dynamic": ("conv2", "conv2 (Conv)"),
}
"""Pass → a term, and what then alone is in the report; of all others conv2 and its weight."""
NEEDED: dict[str, dict[str, Any]] = {
    "apply-mask": {"masks": "masks.npz"},
    "drop-blocks": {"share": 1.0, "choose": "alternate"},
    "quantize-weights": {"minimum_size": 1},
    "quantize-dynamic": {"conv": True},
}
NAMES = [name for name in registry.names() if name != "prune-vocabulary"]
"""All but one that works on the model's tokens, wherever they are read and scored."""
NONE_HERE = ("distill", "merge-nodes", "quantize-cache", "rotate")
"""The net has no caches, no twins and no streams that can be rotated; nor is it trained here."""
UNNAMED = (*NONE_HERE, "freeze-inputs")
"""What they change is no operator, or the net has none."""


def net(text: str = TEXT) -> ir.Model:
    """Two of everything that some pass works on."""
    random = np.random.default_rng(0)
    weights = {f"{name}{n}": drawn(random, name, shape) for n in "12" for name, shape in SHAPES.items()}
    weights |= {f"v{n}_var": drawn(random, "var", (8,)) for n in "12"}
    weights |= {f"u{n}": drawn(random, "u", (8, 8)) for n in "12"}
    weights |= {"w1": drawn(random, "w", (8, 3, 3, 3)), "w2": drawn(random, "w", (8, 8, 3, 3))}
    weights |= {"w3": drawn(random, "w", (8, 16)), "w4": drawn(random, "w", (16, 4)), "half": np.array([0.5], "f")}
    weights["w2"][:, 1] = weights["u1"][2] = weights["u2"][2] = weights["w3"][2] = 0  # nothing reads these channels
    found = model(text, weights)
    shapes.infer(found)
    return found


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("masks.npz", w1=np.zeros((8, 3, 3, 3), bool), w2=np.zeros((8, 8, 3, 3), bool))


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Distill trains nothing; what it would have left alone is listed."""
    found: list[str] = []

    def train(model: ir.Model, *_: Any, frozen: tuple[str, ...], **__: Any) -> Trained:
        found.extend(frozen)
        return Trained({}, [])

    monkeypatch.setattr(distill, "train", train)
    return found


def make(name: str, **options: Any) -> Pass:
    return registry.find(name)(**NEEDED.get(name, {}), **options)


def run(step: Pass, subject: ir.Model | None = None) -> tuple[ir.Model, Changes]:
    subject = net() if subject is None else subject
    plan = step.plan(subject, Context(subject, samples=load_samples(DATA, subject)))
    copy = subject.clone()
    return copy, step.apply(copy, plan)


def test_every_pass_takes_a_selection() -> None:
    assert [name for name in NAMES if not issubclass(registry.find(name), SelectivePass)] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_what_matches_nothing_is_an_error_with_the_nearest_name(name: str, option: str) -> None:
    with pytest.raises(PassError, match=rf"^{name}: {option}: 'nope\*' matches nothing in the model; there are"):
        run(make(name, **{option: "nope*"}))
    with pytest.raises(
        PassError, match=rf"^{name}: {option}: 'conw2' matches nothing in the model; did you mean 'conv2'"
    ):
        run(make(name, **{option: ("fc1", "conw2")}))
    with pytest.raises(PassError, match="'type:Conw' matches nothing in the model; did you mean 'type:Conv'"):
        run(make(name, **{option: ("type:Conw",)}))
    with pytest.raises(
        PassError, match="'MatMul' matches nothing .*; for all operators of that type write 'type:MatMul'"
    ):
        run(make(name, **{option: ("MatMul",)}))


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(registry.find(name), OverridablePass)])
def test_an_override_that_matches_nothing_is_an_error(name: str) -> None:
    kind = registry.find(name)
    assert issubclass(kind, OverridablePass)
    option = kind.overridable[0]
    value = make(name).options()[option]
    with pytest.raises(PassError, match=rf"^{name}: overrides: 'nope\*' matches nothing in the model"):
        run(make(name, overrides={"nope*": {option: value}}))
    with pytest.raises(OptionError, match=rf"^{name}: overrides.fc1.nope: it cannot be overridden"):
        make(name, overrides={"fc1": {"nope": 1}})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NONE_HERE])
def test_what_is_included_alone_changes(name: str) -> None:
    term, label = ONE.get(name, ("conv2", "w2"))
    everything, _ = run(make(name))
    result, step = run(make(name, include=(term,)))
    done = {change.subject for change in step.done} - ({"model"} if label != "model" else set())
    assert done == {label}
    if name not in ("quantize", "convert-float"):  # these prepare the model
        changed, all_changed = set(differing(net(), result)), set(differing(net(), everything))
        assert changed < all_changed
    assert not any(refusal.subject == term for refusal in step.refused)


def differing(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """Yield the nodes and constants of one model that are not in the other as they were, and what is no constant."""
    nodes = {str(node.name): [v and v.name for v in node.inputs] for node in after.graph}
    yield from (str(n.name) for n in before.graph if nodes.get(str(n.name)) != [v and v.name for v in n.inputs])
    yield from (name for name in {v.name for v in before.graph.inputs} - {v.name for v in after.graph.inputs} if name)
    for name, value in before.graph.initializers.items():
        other = after.graph.initializers.get(name)
        old, new = (None if v is None or v.const_value is None else v.const_value.numpy() for v in (value, other))
        if old is None or new is None or old.tobytes() != new.tobytes():
            yield name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNNAMED])
def test_an_operator_type_excludes_all_of_its_kind(name: str) -> None:
    _, everything = run(make(name))
    _, step = run(make(name, exclude="type:*"))
    assert everything.done
    assert not step.done
    assert any("excluded by 'type:*'" in refusal.reason for refusal in step.refused)


@pytest.mark.parametrize("name", NAMES)
def test_a_term_for_what_a_pass_has_nothing_to_do_with(name: str) -> None:
    """It is no error; where it asks for something, it is said that nothing comes of it."""
    term, subject = "k2" if name == "remove-dead" else "dead2", net()
    if name == "convert-float":
        term, subject = "none", net(TEXT.replace("[give2]", "z = Shape(x) [none] o = Abs(z) [give2]"))
    _, step = run(make(name, exclude=(term,)), subject)
    assert not any("nothing that" in refusal.reason for refusal in step.refused)
    if name == "distill":
        return  # everything is left out then, and there is nothing to train
    _, step = run(make(name, include=(term,)), subject)
    assert [r.reason for r in step.refused if r.subject == term] == [
        f"include names it, and there is nothing that {name} could do to it"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_toml_python_and_the_command_line_say_the_same(name: str) -> None:
    kind = registry.find(name)
    own, options = "", dict[str, Any](include=("conv1", "head*"), exclude=("type:Gemm",))
    if issubclass(kind, OverridablePass):
        option = kind.overridable[-1]
        value = next(v for v in (make(name).options()[option], 0.25) if v is not None)
        overrides = {term: {option: value} for term in ("type:Conv", "a.b*")}
        typed = str(value).lower() if isinstance(value, bool) else value
        own = " ".join(f"overrides.{term}.{option}={typed}" for term in overrides)
        options["overrides"] = overrides
    python = make(name, **options)
    (toml,) = parse_recipe(write_recipe([python]))
    needed = " ".join(f"{key}={str(value).lower()}" for key, value in NEEDED.get(name, {}).items())
    typed_in = parse_pass(f"{name} {needed} include=conv1,head* exclude=type:Gemm {own}")
    assert toml == python == typed_in
    assert make(name, include="conv1") == make(name, include=("conv1",))


def test_distill_leaves_alone_what_is_excluded(frozen: list[str]) -> None:
    _, step = run(make("distill", exclude=("norm2", "w3")))
    defaults = {"d1", "d2"}  # a caller may replace these
    assert set(frozen) - defaults == {"m2", "s2", "t2", "v2_var", "w3"}
    assert {r.subject: r.reason for r in step.refused}["w3"] == "excluded by 'w3'"
    frozen.clear()
    run(make("distill", include="conv1"))
    assert {"w2", "w3", "w4", "m1", "m2"} < set(frozen)
    assert "w1" not in frozen


def test_a_name_is_meant_as_it_is_where_it_looks_like_a_pattern() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { [a] a = MatMul(x, w1) [b] y = MatMul(a, w2) }", {
        "w1": (4, 4), "w2": (4, 4)})  # fmt: skip
    next(iter(subject.graph)).name = "block[0]/fc"
    plan = make("magnitude-prune", include=("block[0]/fc",)).plan(subject, Context(subject))
    assert [refusal.subject for refusal in plan.refused] == ["w2"]


CALLS = """g (float[N,8] x) => (float[N,8] y) {
    [first] a = local.Block(x, w1) [second] b = local.Block(a, w2) [last] y = MatMul(b, w3) }
<domain: "local", opset_import: ["" : 18]> Block (i, w) => (o) { [product] p = MatMul(i, w) [act] o = Relu(p) }"""


@pytest.mark.parametrize(("term", "kept"), [
    ("first", 1), ("second", 1), ("type:Block", 2), ("product", 2), ("p", 2), ("a", 1), ("last", 1), ("type:MatMul", 3),
])  # fmt: skip
@pytest.mark.parametrize("name", ["quantize", "quantize-dynamic"])
def test_what_is_in_a_local_function_goes_by_its_names_there_and_by_those_of_the_call(
    name: str, term: str, kept: int
) -> None:
    subject = model(CALLS, {"w1": (8, 8), "w2": (8, 8), "w3": (8, 8)})
    data = {"x": np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)}
    _, report = apply(subject, [make(name, exclude=(term,))], data=data)
    products = {r.subject for r in report.steps[0].refused if "(MatMul)" in r.subject}
    assert len(products) == kept
    assert all(r.reason == f"excluded by '{term}'" for r in report.steps[0].refused if r.subject in products)


def test_what_a_pass_cannot_touch_is_said() -> None:
    subject = net()
    step = SelectivePass(include=("fc1", "act"), exclude=("act",))
    products = {node: known for node, known in node_subjects(subject.graph).items() if node.op_type == "MatMul"}
    found = step.select(subject, products)
    assert [node.name for node in found.why_not] == ["skip1", "skip2", "fc2"]
    reason = "include names it, and there is nothing that selective-pass could do to it"
    assert [(refusal.subject, refusal.reason) for refusal in found.idle] == [("act", reason)]


def test_options_of_an_override_must_go_together() -> None:
    with pytest.raises(OptionError, match="quantize-weights: granularity = 'block': block_size is missing"):
        make("quantize-weights", overrides={"fc1": {"granularity": "block"}})


def test_what_preparation_folds_away_may_be_named() -> None:
    for name in ("norm1", "n1", "type:BatchNormalization"):
        _, step = run(make("quantize", exclude=name))
        assert step.done
    _, step = run(make("quantize", include=("norm1", "conv2")))
    assert "include names it, and there is nothing that quantize could do to it" in [
        refusal.reason for refusal in step.refused if refusal.subject == "norm1"
    ]


def test_channels_that_could_go_and_stay_are_said() -> None:
    _, step = run(make("shrink", exclude="conv1"))
    assert [change.subject for change in step.done] == ["w2"]
    assert {r.subject: r.reason for r in step.refused} == {"w1": "1 channels that could go stay: excluded by 'conv1'"}


def test_what_is_dead_and_excluded_stays_with_what_it_needs() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { [a] a = Mul(x, c) [b] b = Neg(a) [d] d = Abs(x) y = Relu(x) }"
    subject = model(text, {"c": (4,), "unread": (2,)})
    step = make("remove-dead", exclude=("b", "unread"))
    step.apply(subject, step.plan(subject.clone(), Context(subject.clone())))
    assert [node.name for node in subject.graph][:2] == ["a", "b"]
    assert len(list(subject.graph)) == 3
    assert set(subject.graph.initializers) == {"c", "unread"}
    assert [value.name for value in subject.graph.outputs] == ["y"]
