"""Other people's formats: files made by hand as their own tools make them, and files made to do harm."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.card import Card
from mien.directions import Direction, load_direction, save_direction
from mien.errors import FingerprintError, FormatError, InputError, MienError, RunError
from mien.formats import (
    FORMATS,
    CapPlan,
    capping_experiments,
    export_capping,
    export_control_vector,
    export_direction,
    import_assistant_axis,
    import_capping,
    import_control_vector,
    import_direction,
    sniff,
)
from mien.records import ModelInfo

LAYERS, WIDTH = 6, 4
MODEL = ModelInfo("org/model", "a" * 64, LAYERS, WIDTH, "float32", "cpu", True)
FIXED = settings(deadline=None, derandomize=True, max_examples=40)
TOUCHED = "the-bomb-went-off"


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*(shape or (LAYERS, WIDTH)), generator=torch.Generator().manual_seed(seed))


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def make(vector: torch.Tensor, **changes: object) -> Direction:
    fields: dict[str, object] = {
        "kind": "persona_vector",
        "name": "evil",
        "description": "",
        "sign": "larger is more evil",
        "model": MODEL.id,
        "fingerprint": MODEL.fingerprint,
        "n_layers": vector.shape[0],
        "d_model": vector.shape[1],
    }
    return Direction(vector, Card.model_validate({**fields, **changes}))


def message_of(error: pytest.ExceptionInfo[MienError]) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 600
    return text


# ---------------------------------------------------------------------------------------------- every import


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (random_rows(LAYERS + 1, WIDTH), "persona_vectors"),
        (random_rows(), "assistant_axis"),
        ({"axis": random_rows()}, "assistant_axis"),
        ({"vector": random_rows(), "type": "pos_3", "role": "pirate"}, "assistant_axis"),
    ],
)
def test_what_is_imported_says_that_nothing_of_it_was_validated(tmp_path: Path, content: Any, format: str) -> None:
    path = saved(tmp_path / "file.pt", content)
    assert sniff(path, MODEL) == format
    direction = import_direction(path, model=MODEL)
    card = direction.card
    assert card.kind == "imported"
    assert card.verdict is None
    assert card.verdict_reasons[0] == "imported; not validated here"
    assert (card.model, card.fingerprint) == (MODEL.id, MODEL.fingerprint)
    assert (card.n_layers, card.d_model) == (LAYERS, WIDTH)
    assert card.settings == {"file": "file.pt", "format": format, "sign_turned": False}
    assert direction.layer == LAYERS // 2
    assert "not measured" in card.layer_choice
    direction.check_model(MODEL)
    named = import_direction(path, model=MODEL, format=format, name="mine", layer=1)
    assert (named.card.name, named.layer, named.card.layer_choice) == ("mine", 1, "given at import")
    assert torch.equal(named.vector, direction.vector)


@pytest.mark.parametrize("rows", [LAYERS, LAYERS + 1])
def test_flip_turns_the_sign_and_says_so(tmp_path: Path, rows: int) -> None:
    path = saved(tmp_path / "file.pt", random_rows(rows, WIDTH))
    plain, turned = import_direction(path, model=MODEL), import_direction(path, model=MODEL, flip=True)
    assert torch.equal(turned.vector, -plain.vector)
    assert turned.card.sign == f"the reverse of: {plain.card.sign}"
    assert turned.card.settings["sign_turned"] is True


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rows", [LAYERS, LAYERS + 1])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype, rows: int) -> None:
    tensor = random_rows(rows, WIDTH).to(dtype)
    direction = import_direction(saved(tmp_path / "file.pt", tensor), model=MODEL)
    assert direction.vector.dtype == torch.float32
    assert torch.equal(direction.vector[1], tensor[1 + (rows > LAYERS)].float())


def test_a_parameter_that_still_has_its_gradient_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", torch.nn.Parameter(random_rows()))
    assert torch.equal(import_direction(path, model=MODEL).vector, random_rows())


@pytest.mark.parametrize("format", FORMATS)
def test_imported_directions_can_be_kept(tmp_path: Path, format: str) -> None:
    imported = import_direction(export_direction(make(random_rows()), tmp_path / "file", format), model=MODEL)
    kept = load_direction(save_direction(imported, tmp_path / "kept"))
    assert torch.equal(kept.vector, imported.vector)
    assert kept.card == imported.card


@FIXED
@given(seed=st.integers(0, 2**31), format=st.sampled_from(FORMATS), width=st.integers(1, 9), layers=st.integers(3, 9))
def test_round_trips_keep_every_layer_that_the_format_has(
    tmp_path_factory: pytest.TempPathFactory, seed: int, format: str, width: int, layers: int
) -> None:
    model = ModelInfo("org/model", "a" * 64, layers, width, "float32", "cpu", True)
    direction = make(random_rows(layers, width, seed=seed))
    first, second = (tmp_path_factory.mktemp("trip") / "file" for _ in range(2))
    export_direction(direction, first, format)
    assert sniff(first, model) == format
    back = import_direction(first, model=model)
    lost = {"persona_vectors": [layers - 1], "assistant_axis": [], "gguf": [0]}[format]
    for k in range(layers):
        assert torch.equal(back.vector[k], torch.zeros(width) if k in lost else direction.vector[k])
    # What was imported once loses nothing more, and the same rows give the same bytes.
    export_direction(back, second, format)
    assert torch.equal(import_direction(second, model=model).vector, back.vector)
    assert export_direction(direction, second, format).read_bytes() == first.read_bytes()


def test_formats_and_layers_that_do_not_exist(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", random_rows(LAYERS + 1, WIDTH))
    with pytest.raises(InputError, match="no direction format 'onnx'"):
        import_direction(path, model=MODEL, format="onnx")
    with pytest.raises(InputError, match="no direction format 'onnx'"):
        export_direction(make(random_rows()), path, "onnx")
    with pytest.raises(InputError, match="no direction for layer 5"):
        import_direction(path, model=MODEL, layer=LAYERS - 1)


@pytest.mark.parametrize("format", FORMATS)
def test_a_place_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, format: str) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below.pt", tmp_path / "folder"):
        with pytest.raises(RunError) as error:
            export_direction(make(random_rows()), path, format)
        message_of(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    export_direction(make(random_rows()), tmp_path / "new" / "file.pt", format)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.pt"]


# ---------------------------------------------------------------------------------------------- persona_vectors


def test_persona_vectors_are_counted_from_the_embeddings(tmp_path: Path) -> None:
    rows = torch.arange(LAYERS + 1.0)[:, None].expand(-1, WIDTH).clone()  # row k holds only k
    direction = import_direction(saved(tmp_path / "evil_response_avg_diff.pt", rows), model=MODEL)
    assert direction.vector[:, 0].tolist() == [1, 2, 3, 4, 5, 0]
    assert direction.card.name == "evil"
    assert "response tokens" in direction.card.pooling
    assert any("final norm" in reason for reason in direction.card.verdict_reasons)
    with pytest.raises(InputError, match="zero at layer 5; use one of layers 0-4"):
        direction.unit(LAYERS - 1)


@pytest.mark.parametrize(
    ("file", "name", "pooling"),
    [
        ("calm_prompt_last_diff.pt", "calm", "last prompt token"),
        ("calm_prompt_avg_diff.pt", "calm", "mean over prompt tokens"),
        ("calm.pt", "calm", "not stated"),
        ("_response_avg_diff.pt", "_response_avg_diff", "mean over response tokens"),
    ],
)
def test_the_name_of_a_persona_vector_file_says_what_it_is(tmp_path: Path, file: str, name: str, pooling: str) -> None:
    card = import_direction(saved(tmp_path / file, random_rows(LAYERS + 1, WIDTH)), model=MODEL).card
    assert card.name == name
    assert pooling in card.pooling


def test_persona_vectors_are_written_as_their_tools_index_them(tmp_path: Path) -> None:
    direction = make(random_rows())
    written = torch.load(export_direction(direction, tmp_path / "a.pt", "persona_vectors"), weights_only=True)
    assert written.shape == (LAYERS + 1, WIDTH)
    assert written.dtype == torch.float32
    assert not written[0].any()
    assert torch.equal(written[1:], direction.vector)


def test_their_indices_meet_ours_in_a_real_model(tmp_path: Path) -> None:
    """`hidden_states`, by which theirs count, against the outputs of the blocks, by which mien does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH * 4,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    llama = LlamaForCausalLM(config).eval()
    info = ModelInfo("tiny", "c" * 64, LAYERS, WIDTH * 4, "float32", "cpu", False)
    blocks: list[torch.Tensor] = []
    for block in llama.model.layers:
        block.register_forward_hook(
            lambda module, inputs, out: blocks.append(out if isinstance(out, torch.Tensor) else out[0])
        )
    states = []
    for ids in ([[1, 2, 3]], [[4, 5, 6]]):
        with torch.no_grad():
            hidden = llama(torch.tensor(ids), output_hidden_states=True).hidden_states
        states.append(torch.stack([h[0].mean(0) for h in hidden]))
    ours = [torch.stack([h[0].mean(0) for h in part]) for part in (blocks[:LAYERS], blocks[LAYERS:])]
    difference, theirs = ours[0] - ours[1], states[0] - states[1]

    read = import_direction(saved(tmp_path / "a.pt", theirs), model=info).vector
    torch.testing.assert_close(read[:-1], difference[:-1])
    assert not torch.allclose(theirs[-1], difference[-1], rtol=0.1)  # after the norm it is another vector
    assert not read[-1].any()

    # repeng's layer k is hidden_states[k + 1]; block 0 and, of the last, the norm apart, they are the same rows.
    tensors = {f"direction.{k}": theirs[k + 1] for k in range(LAYERS - 1, 0, -1)}
    gguf = write_gguf(tmp_path / "a.gguf", tensors)
    torch.testing.assert_close(import_direction(gguf, model=info).vector[1:-1], difference[1:-1])


# ---------------------------------------------------------------------------------------------- assistant-axis


def test_an_axis_is_read_row_for_row_and_points_to_the_assistant(tmp_path: Path) -> None:
    default, roles = random_rows(seed=1), random_rows(seed=2)
    bare = import_direction(saved(tmp_path / "a.pt", (default - roles).bfloat16()), model=MODEL)
    assert torch.equal(bare.vector, (default - roles).bfloat16().float())
    assert bare.card.sign == "larger is closer to the Assistant"
    full = {"axis": default - roles, "default_mean": default, "role_mean": roles, "n_default": 1, "n_roles": 275}
    direction = import_direction(saved(tmp_path / "b.pt", full), model=MODEL)
    assert torch.equal(direction.vector, default - roles)
    assert direction.card.settings["sign_turned"] is False


def test_an_axis_that_its_own_means_show_to_point_away_is_turned(tmp_path: Path) -> None:
    default, roles = random_rows(seed=1), random_rows(seed=2)
    away = saved(tmp_path / "a.pt", {"axis": roles - default, "default_mean": default, "role_mean": roles})
    direction = import_direction(away, model=MODEL)
    assert torch.equal(direction.vector, default - roles)
    assert direction.card.settings["sign_turned"] is True
    assert direction.card.sign == "the reverse of: larger is further from the Assistant"
    assert torch.equal(import_direction(away, model=MODEL, flip=False).vector, roles - default)


def test_roles_are_means_whose_difference_is_an_axis(tmp_path: Path) -> None:
    default, pirate = random_rows(seed=1), random_rows(seed=2)
    a = import_direction(
        saved(tmp_path / "default.pt", {"vector": default, "type": "mean", "role": "default"}), model=MODEL
    )
    b = import_direction(saved(tmp_path / "x.pt", {"vector": pirate, "type": "pos_3", "role": "pirate"}), model=MODEL)
    assert (a.card.name, b.card.name) == ("default", "pirate")
    assert any("not a difference" in reason for reason in b.card.verdict_reasons)
    torch.testing.assert_close((a - b).vector, default - pirate)


def test_an_axis_is_written_as_released(tmp_path: Path) -> None:
    direction = make(random_rows())
    written = torch.load(export_direction(direction, tmp_path / "a.pt", "assistant_axis"), weights_only=True)
    assert torch.equal(written, direction.vector)


# ---------------------------------------------------------------------------------------------- capping configs


def capping_config(vectors: torch.Tensor, layers: list[int], caps: list[Any]) -> dict[str, Any]:
    names = [f"contrast_{i}" for i in range(len(layers))]
    return {
        "vectors": {n: {"vector": v, "layer": k} for n, v, k in zip(names, vectors, layers, strict=True)},
        "experiments": [
            {"id": "baseline", "interventions": []},
            {
                "id": "layers_2:4-p0.25",
                "interventions": [{"vector": n, "cap": c} for n, c in zip(names, caps, strict=True)],
            },
        ],
    }


def clamp_from_above(h: torch.Tensor, vector: torch.Tensor, cap: float) -> torch.Tensor:
    """What the released code does with a vector and a cap."""
    unit = vector / vector.norm()
    return h - ((h @ unit) - cap).clamp(min=0)[:, None] * unit


def hold_from_below(h: torch.Tensor, plan: CapPlan) -> torch.Tensor:
    """What the paper says, and mien does, with a direction and a floor."""
    unit = plan.direction.unit(plan.layer)
    return h + (plan.low - h @ unit).clamp(min=0)[:, None] * unit


def test_an_imported_cap_does_what_the_released_code_does(tmp_path: Path) -> None:
    vectors, caps = random_rows(2, WIDTH), [-1.5, 0.25]
    path = saved(tmp_path / "capping_config.pt", capping_config(vectors, [2, 3], caps))
    plans = import_capping(path, MODEL, "layers_2:4-p0.25")
    assert [(p.layer, p.low) for p in plans] == [(2, 1.5), (3, -0.25)]
    h = random_rows(200, WIDTH, seed=3) * 3
    for plan, vector, cap in zip(plans, vectors, caps, strict=True):
        expected = clamp_from_above(h, vector, cap)
        torch.testing.assert_close(hold_from_below(h, plan), expected)
        changed = (expected != h).any(dim=1)
        assert 0 < changed.sum() < len(h)  # the test would see a sign that is wrong
        assert torch.equal(plan.direction.vector[plan.layer], -vector)
    assert plans[0].direction is plans[1].direction
    assert plans[0].direction.card.kind == "imported"
    assert plans[0].direction.card.sign == "the reverse of: larger is further from the Assistant"
    with pytest.raises(InputError, match="zero at layer 0"):
        plans[0].direction.unit(0)


def test_two_caps_on_one_layer_stay_two(tmp_path: Path) -> None:
    vectors = random_rows(3, WIDTH)
    path = saved(tmp_path / "a.pt", capping_config(vectors, [2, 2, 3], [1.0, 2.0, 3.0]))
    plans = import_capping(path, MODEL, "layers_2:4-p0.25")
    assert [(p.layer, p.low) for p in plans] == [(2, -1.0), (2, -2.0), (3, -3.0)]
    for plan, vector in zip(plans, vectors, strict=True):
        assert torch.equal(plan.direction.vector[plan.layer], -vector)


def test_caps_may_be_numpy_numbers_or_tensors(tmp_path: Path) -> None:
    caps = [np.float64(-1.5), np.float32(0.5), torch.tensor(2.0), 3]
    path = saved(tmp_path / "a.pt", capping_config(random_rows(4, WIDTH), [0, 1, 2, 3], caps))
    assert [p.low for p in import_capping(path, MODEL, "layers_2:4-p0.25")] == [1.5, -0.5, -2.0, -3.0]


def test_steering_without_a_cap_is_left_out(tmp_path: Path) -> None:
    config = capping_config(random_rows(2, WIDTH), [2, 3], [1.0, 2.0])
    config["experiments"][1]["interventions"].append({"vector": "contrast_0", "coefficient": 5.0})
    assert len(import_capping(saved(tmp_path / "a.pt", config), MODEL, "layers_2:4-p0.25")) == 2


def test_experiments_are_listed_and_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", capping_config(random_rows(1, WIDTH), [2], [1.0]))
    assert capping_experiments(path) == ["baseline", "layers_2:4-p0.25"]
    with pytest.raises(InputError, match=r"no experiment 'x'.*it has baseline, layers_2:4-p0\.25"):
        import_capping(path, MODEL, "x")
    with pytest.raises(InputError, match="Say which experiment"):
        import_capping(path, MODEL)
    with pytest.raises(FormatError, match="no caps"):
        import_capping(path, MODEL, "baseline")
    with pytest.raises(FormatError, match="import_capping"):
        import_direction(path, model=MODEL)


def test_an_exported_cap_does_in_the_released_code_what_it_does_here(tmp_path: Path) -> None:
    direction = make(random_rows())
    plans = [CapPlan(direction, 2, 0.5), CapPlan(direction, 3, -0.25), CapPlan(make(random_rows(seed=5)), 3, 1.0)]
    path = export_capping(plans, tmp_path / "a.pt", "layers_2:4")
    config = torch.load(path, weights_only=True)
    (experiment,) = config["experiments"]
    assert experiment["id"] == "layers_2:4"
    h = random_rows(200, WIDTH, seed=3)
    for plan, step in zip(plans, experiment["interventions"], strict=True):
        entry = config["vectors"][step["vector"]]
        assert entry["layer"] == plan.layer
        torch.testing.assert_close(clamp_from_above(h, entry["vector"], step["cap"]), hold_from_below(h, plan))
    back = import_capping(path, MODEL)
    assert [(p.layer, p.low) for p in back] == [(p.layer, p.low) for p in plans]
    for one, two in zip(back, plans, strict=True):
        assert torch.equal(one.direction.vector[one.layer], two.direction.vector[two.layer])


def test_caps_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    direction = make(random_rows())
    for plans in (
        [],
        [CapPlan(direction, LAYERS, 0.0)],
        [CapPlan(direction, 1, float("nan"))],
        [CapPlan(direction - direction, 1, 0.0)],
    ):
        with pytest.raises(InputError):
            export_capping(plans, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def broken_config(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    config = capping_config(random_rows(1, WIDTH), [2], [1.0])
    change(config)
    return config


CONFIGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "vectors a list": lambda c: c.update(vectors=[]),
    "experiments a dict": lambda c: c.update(experiments={}),
    "an experiment a number": lambda c: c.update(experiments=[1]),
    "no id": lambda c: c["experiments"][1].pop("id"),
    "no interventions": lambda c: c["experiments"][1].pop("interventions"),
    "a step a number": lambda c: c["experiments"][1].update(interventions=[1]),
    "a vector not there": lambda c: c["vectors"].clear(),
    "a vector's name a list": lambda c: c["experiments"][1]["interventions"][0].update(vector=[]),
    "a vector a number": lambda c: c["vectors"].update(contrast_0=1),
    "no tensor": lambda c: c["vectors"]["contrast_0"].pop("vector"),
    "a matrix": lambda c: c["vectors"]["contrast_0"].update(vector=torch.ones(1, WIDTH)),
    "a zero vector": lambda c: c["vectors"]["contrast_0"].update(vector=torch.zeros(WIDTH)),
    "NaN in a vector": lambda c: c["vectors"]["contrast_0"].update(vector=torch.full((WIDTH,), float("nan"))),
    "integers": lambda c: c["vectors"]["contrast_0"].update(vector=torch.ones(WIDTH, dtype=torch.int64)),
    "no layer": lambda c: c["vectors"]["contrast_0"].pop("layer"),
    "a layer too deep": lambda c: c["vectors"]["contrast_0"].update(layer=LAYERS),
    "a negative layer": lambda c: c["vectors"]["contrast_0"].update(layer=-1),
    "a layer that is true": lambda c: c["vectors"]["contrast_0"].update(layer=True),
    "a cap of NaN": lambda c: c["experiments"][1]["interventions"][0].update(cap=float("nan")),
    "a cap of text": lambda c: c["experiments"][1]["interventions"][0].update(cap="1"),
    "a cap of many": lambda c: c["experiments"][1]["interventions"][0].update(cap=torch.ones(2)),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_a_broken_capping_config_is_refused_in_a_sentence(tmp_path: Path, change: str) -> None:
    path = saved(tmp_path / "a.pt", broken_config(CONFIGS[change]))
    with pytest.raises(FormatError, match=r"a\.pt") as error:
        import_capping(path, MODEL, "layers_2:4-p0.25")
    message_of(error)


def test_a_capping_config_of_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", capping_config(random_rows(1, WIDTH + 1), [2], [1.0]))
    with pytest.raises(FingerprintError, match="width 5"):
        import_capping(path, MODEL, "layers_2:4-p0.25")
    with pytest.raises(FormatError, match="not a capping config"):
        import_capping(saved(tmp_path / "b.pt", random_rows()), MODEL, "x")


# ---------------------------------------------------------------------------------------------- GGUF

UINT32, INT32, STRING, ARRAY = 4, 5, 8, 9
F32, F16, Q8_0, BF16 = 0, 1, 8, 30


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def basics(count: int, kind: int = UINT32) -> list[bytes]:
    return [
        pair("general.architecture", STRING, text("controlvector")),
        pair("controlvector.model_hint", STRING, text("llama")),
        pair("controlvector.layer_count", kind, struct.pack("<I", count)),
    ]


def raw(tensor: torch.Tensor, kind: int) -> bytes:
    dtype = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}.get(kind)
    return (tensor if dtype is None else tensor.to(dtype)).contiguous().view(torch.uint8).numpy().tobytes()


def gguf_bytes(
    tensors: dict[str, torch.Tensor], pairs: list[bytes] | None = None, kind: int = F32, version: int = 3
) -> bytes:
    """A GGUF file by the specification, without the package that mien writes with."""
    pairs = basics(len(tensors)) if pairs is None else pairs
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs)) + b"".join(pairs)
    infos, blobs = b"", b""
    for name, tensor in tensors.items():
        infos += text(name) + struct.pack("<I", tensor.ndim)
        infos += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
        infos += struct.pack("<IQ", kind, len(blobs))
        blob = raw(tensor, kind)
        blobs += blob + bytes(-len(blob) % 32)
    head += infos
    return head + bytes(-len(head) % 32) + blobs


def write_gguf(path: Path, tensors: dict[str, torch.Tensor], pairs: list[bytes] | None = None, **how: int) -> Path:
    path.write_bytes(gguf_bytes(tensors, pairs, **how))
    return path


def directions_of(rows: torch.Tensor, layers: list[int]) -> dict[str, torch.Tensor]:
    return {f"direction.{k}": rows[k] for k in layers}


def test_direction_n_is_row_n(tmp_path: Path) -> None:
    rows = random_rows()
    as_repeng = write_gguf(tmp_path / "a.gguf", directions_of(rows, [5, 4, 3, 2, 1]))
    direction = import_direction(as_repeng, model=MODEL)
    assert torch.equal(direction.vector[1:], rows[1:])
    assert not direction.vector[0].any()
    card = direction.card
    assert card.name == "a"
    assert "llama" in card.description
    assert "direction.N was read as the output of block N, counted from 0" in card.verdict_reasons
    assert any("repeng" in reason for reason in card.verdict_reasons)
    assert not any("cvector-generator" in reason for reason in card.verdict_reasons)


@pytest.mark.parametrize("version", [2, 3])
def test_gaps_layer_zero_and_a_name_are_taken(tmp_path: Path, version: int) -> None:
    rows = random_rows()
    pairs = [*basics(2), pair("general.name", STRING, text("calm"))]
    path = write_gguf(tmp_path / "a.gguf", directions_of(rows, [0, 4]), pairs, version=version)
    direction = import_direction(path, model=MODEL)
    assert torch.nonzero(direction.vector.any(dim=1)).flatten().tolist() == [0, 4]
    assert torch.equal(direction.vector[[0, 4]], rows[[0, 4]])
    assert direction.card.name == "calm"
    assert direction.layer == 4


def test_files_of_llama_cpps_generator_are_noticed_and_can_be_read_as_measured(tmp_path: Path) -> None:
    rows = random_rows()
    path = write_gguf(tmp_path / "a.gguf", directions_of(rows, [1, 2, 3, 4, 5]), basics(5, INT32))
    as_applied = import_control_vector(path, model=MODEL)
    assert any("cvector-generator" in reason for reason in as_applied.card.verdict_reasons)
    as_measured = import_control_vector(path, model=MODEL, shift=-1)
    assert torch.equal(as_measured.vector[:-1], rows[1:])
    assert not as_measured.vector[-1].any()
    assert any("block N-1" in reason for reason in as_measured.card.verdict_reasons)


@pytest.mark.parametrize("kind", [F16, BF16])
def test_half_precision_control_vectors_are_widened(tmp_path: Path, kind: int) -> None:
    rows = random_rows()
    path = write_gguf(tmp_path / "a.gguf", directions_of(rows, [1]), kind=kind)
    dtype = torch.float16 if kind == F16 else torch.bfloat16
    assert torch.equal(import_direction(path, model=MODEL).vector[1], rows[1].to(dtype).float())


def parse_gguf(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors of a control vector, read by the specification and with llama.cpp's conditions."""
    at = 8

    def number(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def string() -> str:
        nonlocal at
        size = number("Q")
        at += size
        return data[at - size : at].decode()

    assert data[:4] == b"GGUF"
    assert struct.unpack_from("<I", data, 4) == (3,)
    n_tensors, n_pairs = number("Q"), number("Q")
    pairs: dict[str, Any] = {}
    for _ in range(n_pairs):
        key = string()
        pairs[key] = {STRING: string, UINT32: lambda: number("I")}[number("I")]()
    infos = []
    for _ in range(n_tensors):
        name, dimensions = string(), number("I")
        sizes = [number("Q") for _ in range(dimensions)]
        kind, offset = number("I"), number("Q")
        assert dimensions == 1, "llama.cpp: non-1D direction tensor"
        assert kind == F32, "llama.cpp: non-F32 direction tensor"
        assert int(name.removeprefix("direction.")) > 0, "llama.cpp: zero direction tensor layer index"
        infos.append((name, sizes[0], offset))
    start = at + -at % 32
    return pairs, {n: np.frombuffer(data, "<f4", size, start + offset) for n, size, offset in infos}


def test_a_control_vector_is_written_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    rows = random_rows()
    rows[3] = 0
    path = export_control_vector(make(rows), tmp_path / "a.gguf", model_hint="qwen2")
    pairs, tensors = parse_gguf(path.read_bytes())
    assert pairs == {
        "general.architecture": "controlvector",
        "general.name": "evil",
        "controlvector.model_hint": "qwen2",
        "controlvector.layer_count": 4,
    }
    assert list(tensors) == ["direction.1", "direction.2", "direction.4", "direction.5"]
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, rows[int(name[-1])].numpy())


def test_single_layers_can_be_written(tmp_path: Path) -> None:
    direction = make(random_rows())
    pairs, tensors = parse_gguf(export_control_vector(direction, tmp_path / "a.gguf", layers=[3]).read_bytes())
    assert list(tensors) == ["direction.3"]
    assert pairs["controlvector.layer_count"] == 1
    assert pairs["controlvector.model_hint"] == MODEL.id
    for layers in ([0], [LAYERS], []):
        with pytest.raises(InputError, match="layer 0 is never steered"):
            export_control_vector(direction, tmp_path / "b.gguf", layers=layers)
    only_first = torch.zeros(LAYERS, WIDTH)
    only_first[0] = 1
    with pytest.raises(InputError):
        export_direction(make(only_first), tmp_path / "b.gguf", "gguf")
    assert not (tmp_path / "b.gguf").exists()


ROW = {"direction.1": torch.ones(WIDTH)}
HOSTILE_GGUF: dict[str, tuple[bytes, str]] = {
    "only the magic": (b"GGUF", "truncated"),
    "version 1": (gguf_bytes(ROW, version=1), "version 1"),
    "version 99": (gguf_bytes(ROW, version=99), "version 99"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1), "big-endian"),
    "too many tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), "hostile"),
    "too many pairs": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**63), "hostile"),
    "an endless string": (
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + struct.pack("<Q", 2**62) + bytes(64),
        "past the end",
    ),
    "an endless array": (
        gguf_bytes(ROW, [*basics(1), pair("x", ARRAY, struct.pack("<IQ", 0, 2**62))]),
        "array",
    ),
    "an array of arrays": (
        gguf_bytes(ROW, [*basics(1), pair("x", ARRAY, struct.pack("<IQIQ", ARRAY, 1, ARRAY, 1))]),
        "array",
    ),
    "an unknown type": (gguf_bytes(ROW, [*basics(1), pair("x", 77, bytes(8))]), "unknown type"),
    "a key twice": (gguf_bytes(ROW, [*basics(1), *basics(1)]), "corrupt"),
    "many dimensions": (gguf_bytes({"direction.1": torch.ones(1, 1, 1, 1, WIDTH)}), "5 dimensions"),
    "two dimensions": (gguf_bytes({"direction.1": torch.ones(1, WIDTH)}), "one dimension"),
    "cut short": (gguf_bytes(ROW)[:-20], "truncated or corrupt"),
    "no architecture": (gguf_bytes(ROW, basics(1)[1:]), "architecture none"),
    "a language model": (
        gguf_bytes(ROW, [pair("general.architecture", STRING, text("llama")), *basics(1)[1:]]),
        "architecture llama",
    ),
    "architecture a number": (
        gguf_bytes(ROW, [pair("general.architecture", UINT32, struct.pack("<I", 3))]),
        "architecture none",
    ),
    "architecture not UTF-8": (
        gguf_bytes(ROW, [pair("general.architecture", STRING, struct.pack("<Q", 2) + b"\xff\xff")]),
        "architecture none",
    ),
    "no tensors": (gguf_bytes({}), "no directions"),
    "another tensor": (gguf_bytes({**ROW, "output.weight": torch.ones(WIDTH)}), "output.weight"),
    "a negative layer": (gguf_bytes({"direction.-1": torch.ones(WIDTH)}), "direction.-1"),
    "the same layer twice": (gguf_bytes({**ROW, "direction.01": torch.ones(WIDTH)}), "direction.01"),
    "a huge layer": (gguf_bytes({"direction." + "9" * 5000: torch.ones(WIDTH)}), "direction.N"),
    "quantised": (gguf_bytes({"direction.1": torch.zeros(34, dtype=torch.uint8)}, kind=Q8_0), "corrupt"),
    "integers": (gguf_bytes({"direction.1": torch.ones(WIDTH, dtype=torch.int32)}, kind=26), "I32"),
    "NaN": (gguf_bytes({"direction.1": torch.full((WIDTH,), float("nan"))}), "NaN"),
    "zeros": (gguf_bytes({"direction.1": torch.zeros(WIDTH)}), "only zeros"),
    "attention heads": (
        gguf_bytes(
            ROW, [*basics(1), pair("controlvector.easysteer", STRING, text('{"component": "attention_heads"}'))]
        ),
        "attention_heads",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_GGUF)
def test_a_bad_gguf_file_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    data, words = HOSTILE_GGUF[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=words) as error:
        import_direction(path, model=MODEL)
    assert "a.gguf" in message_of(error)


def test_a_gguf_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = gguf_bytes(ROW)
    path = tmp_path / "a.gguf"
    for size in range(len(whole) - 16):  # the last 16 bytes are padding that no tensor needs
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            import_direction(path, model=MODEL, format="gguf")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"direction.1": torch.ones(WIDTH + 1)}, "width 5"),
        ({f"direction.{LAYERS}": torch.ones(WIDTH)}, "counts layers from 1"),
    ],
)
def test_a_control_vector_of_another_model_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(FingerprintError, match=words) as error:
        import_direction(write_gguf(tmp_path / "a.gguf", tensors), model=MODEL)
    message_of(error)


def test_easysteers_residual_vectors_are_read(tmp_path: Path) -> None:
    for note in ('{"component": "hidden_states"}', '{"component": null}', "not json", "[]"):
        pairs = [*basics(1), pair("controlvector.easysteer", STRING, text(note))]
        assert import_direction(write_gguf(tmp_path / "a.gguf", ROW, pairs), model=MODEL).vector[1].all()


# ---------------------------------------------------------------------------------------------- hostile .pt files


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


BOMBS: dict[str, Callable[[Any], bytes]] = {
    "a bare pickle": pickle.dumps,
    "a bare pickle of protocol 0": lambda value: pickle.dumps(value, 0),
    "torch.save": lambda value: torch_bytes(value),
    "torch.save with protocol 4": lambda value: torch_bytes(value, pickle_protocol=4),
    "torch.save before 1.6": lambda value: torch_bytes(value, _use_new_zipfile_serialization=False),
    "in an axis": lambda value: torch_bytes({"axis": random_rows(), "note": value}),
    "in a role": lambda value: torch_bytes({"vector": random_rows(), "type": value, "role": "x"}),
    "in a config": lambda value: torch_bytes({"vectors": {}, "experiments": [value]}),
}


def torch_bytes(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_pickle_bomb_is_refused_and_does_nothing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / TOUCHED
    data = BOMBS[kind](Bomb(target))
    if "bare" in kind:
        pickle.loads(data)
        assert target.exists()  # it is a real one
        target.unlink()
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    for read in (
        lambda: import_direction(path, model=MODEL),
        lambda: import_direction(path, model=MODEL, format="persona_vectors"),
        lambda: import_direction(path, model=MODEL, format="assistant_axis"),
        lambda: import_direction(path, model=MODEL, format="gguf"),
        lambda: import_capping(path, MODEL, "x"),
        lambda: capping_experiments(path),
    ):
        with pytest.raises(FormatError) as error:
            read()
        assert "weights_only" not in message_of(error)
    assert not target.exists()


def test_a_bomb_is_named_in_the_refusal(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(Bomb(tmp_path / TOUCHED)))
    with pytest.raises(FormatError, match=r"asks for \w+\.exec .* nothing was run"):
        import_direction(path, model=MODEL)


def repacked(value: Any, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, with the pickle in it changed."""
    old, buffer = zipfile.ZipFile(io.BytesIO(torch_bytes(value))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)
    return buffer.getvalue()


def sized(data: bytes, rows: bytes, row_stride: bytes) -> bytes:
    """Change the size and stride of the one `[7, 4]` tensor in a pickle."""
    old = b"K\x07K\x04\x86"
    assert data.count(old) == 1
    at = data.index(old)
    tail = data[at:].replace(old, rows + b"K\x04\x86", 1).replace(b"K\x04K\x01\x86", row_stride + b"K\x01\x86", 1)
    return data[:at] + tail


MILLIARD = b"J" + struct.pack("<i", 10**9)
SEVEN = torch.ones(LAYERS + 1, WIDTH)
HOSTILE_PT: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "text": (lambda: b"hello", "not a .pt file"),
    "a trait": (lambda: b'{"instruction": []}', "JSON"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(4096), "not a .pt file"),
    "another zip": (lambda: repacked_as({"a.txt": b"hi"}), "not one that torch.save wrote"),
    "a zip bomb": (lambda: repacked(SEVEN, lambda d: d, zipfile.ZIP_DEFLATED), "unpacks to more"),
    "an empty pickle": (lambda: repacked(SEVEN, lambda d: b""), "corrupt"),
    "half a pickle": (lambda: repacked(SEVEN, lambda d: d[: len(d) // 2]), "corrupt"),
    "a bytearray of a milliard": (
        lambda: repacked(SEVEN, lambda d: b"\x80\x02cbuiltins\nbytearray\n" + MILLIARD + b"\x85R."),
        "builtins.bytearray",
    ),
    "a tensor larger than its file": (lambda: repacked(SEVEN, lambda d: sized(d, MILLIARD, b"K\x04")), "corrupt"),
    "a list": (lambda: torch_bytes([random_rows()]), "list"),
    "a number": (lambda: torch_bytes(3.5), "float"),
    "nothing in it": (lambda: torch_bytes(None), "NoneType"),
    "a vector": (lambda: torch_bytes(torch.ones(WIDTH)), r"\[4\]"),
    "three dimensions": (lambda: torch_bytes(torch.ones(1, LAYERS, WIDTH)), "tensor"),
    "a dict of other things": (lambda: torch_bytes({"weight": 1}), "a dict of weight"),
    "an axis of text": (lambda: torch_bytes({"axis": "up"}), "the axis is 'up'"),
    "an axis of one row": (lambda: torch_bytes({"axis": torch.ones(WIDTH)}), r"\[4\]"),
    "a role of nothing": (lambda: torch_bytes({"vector": None, "role": "x"}), "is None"),
    "integers": (lambda: torch_bytes(SEVEN.long()), "int64"),
    "complex numbers": (lambda: torch_bytes(SEVEN.to(torch.complex64)), "complex64"),
    "a sparse tensor": (lambda: torch_bytes(SEVEN.to_sparse()), "_rebuild_sparse_tensor"),
    "a tensor without content": (lambda: torch_bytes(SEVEN.to("meta")), "_rebuild_meta_tensor"),
    "NaN": (lambda: torch_bytes(SEVEN * float("nan")), "NaN"),
    "infinity": (lambda: torch_bytes({"axis": random_rows() / 0}), "infinity"),
    "beyond float32": (lambda: torch_bytes(SEVEN.double() * 1e300), "infinity"),
    "zeros": (lambda: torch_bytes(SEVEN * 0), "only zeros"),
}


def repacked_as(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("case", HOSTILE_PT)
def test_a_bad_pt_file_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    build, words = HOSTILE_PT[case]
    path = tmp_path / "a.pt"
    path.write_bytes(build())
    with pytest.raises(FormatError, match=words) as error:
        import_direction(path, model=MODEL)
    assert "a.pt" in message_of(error)


def test_a_view_that_would_fill_the_memory_is_refused_by_its_shape(tmp_path: Path) -> None:
    """A stride of 0 describes a milliard rows in a file of a few bytes; they must never be made."""
    path = tmp_path / "a.pt"
    path.write_bytes(repacked(SEVEN, lambda d: sized(d, MILLIARD, b"K\x00")))
    for format in (None, "persona_vectors", "assistant_axis"):
        with pytest.raises(FingerprintError, match="1000000000"):
            import_direction(path, model=MODEL, format=format)


def test_a_pt_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = torch_bytes(SEVEN), tmp_path / "a.pt"
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            import_direction(path, model=MODEL)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (torch.ones(LAYERS + 1, WIDTH + 1), None),
        (torch.ones(LAYERS, WIDTH + 1), None),
        (torch.ones(LAYERS + 2, WIDTH), None),
        (torch.ones(LAYERS - 1, WIDTH), None),
        (torch.ones(LAYERS, WIDTH), "persona_vectors"),
        (torch.ones(LAYERS + 1, WIDTH), "assistant_axis"),
        ({"axis": torch.ones(LAYERS - 1, WIDTH)}, None),
        ({"vector": torch.ones(LAYERS, WIDTH - 1), "role": "x"}, None),
    ],
)
def test_a_file_of_another_model_is_refused(tmp_path: Path, content: Any, format: str | None) -> None:
    with pytest.raises(FingerprintError, match="org/model") as error:
        import_direction(saved(tmp_path / "a.pt", content), model=MODEL, format=format)
    message_of(error)


def test_a_format_that_the_file_is_not_of(tmp_path: Path) -> None:
    gguf, axis = write_gguf(tmp_path / "a.gguf", ROW), saved(tmp_path / "a.pt", {"axis": random_rows()})
    for path, format in (
        (gguf, "persona_vectors"),
        (gguf, "assistant_axis"),
        (axis, "gguf"),
        (axis, "persona_vectors"),
    ):
        with pytest.raises(FormatError):
            import_direction(path, model=MODEL, format=format)
    with pytest.raises(FormatError, match="neither an axis nor a vector"):
        import_assistant_axis(saved(tmp_path / "b.pt", {"w": 1}), model=MODEL)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="load_direction"):
        import_direction(tmp_path, model=MODEL)
    with pytest.raises(FormatError, match="There is no"):
        import_direction(tmp_path / "nothing.pt", model=MODEL)
    with pytest.raises(FormatError, match="not a regular file"):
        import_direction("/dev/zero", model=MODEL)
