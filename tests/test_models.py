"""Where blocks are found in every family, what a fingerprint tells apart, and what `load` says to every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

import random_models as tiny
from mien import models
from mien.errors import FingerprintError, FormatError, InputError, MienError, ModelError, NonFiniteError
from mien.machine import best_dtype, vectors_pay
from mien.models import input_device, load, locate_blocks, wrap
from mien.residual import watched

EXPECTED_PATH = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "mpt": "transformer.blocks"}
FINAL_NORM = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm", "phi": "final_layernorm", "mpt": "norm_f"}
IDS = torch.tensor([[5, 9, 2, 7, 3, 8, 8, 1, 4, 6, 200, 30]])  # longer than the sliding windows of 8


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_are_found_in_their_order(family: str) -> None:
    net = tiny.net_of(family)
    blocks = locate_blocks(net)
    assert blocks.path == EXPECTED_PATH.get(family, "model.layers")
    assert list(blocks.modules) == [net.get_submodule(f"{blocks.path}.{k}") for k in range(4)]
    assert blocks.d_model == 32
    with torch.no_grad():
        output = blocks.backbone(input_ids=IDS)
    assert not hasattr(output, "logits")
    assert output.last_hidden_state.shape == (1, IDS.shape[1], 32)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_layer_k_is_the_stream_after_block_k_before_the_final_norm(family: str) -> None:
    net = tiny.build(family)  # not the shared one: transformers leaves its own hooks where hidden states are asked for
    blocks = locate_blocks(net)
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        with watched(blocks, range(4), lambda k, h: seen.__setitem__(k, h)):
            output = net(input_ids=IDS, output_hidden_states=True, use_cache=False)
        for k in range(3):
            torch.testing.assert_close(seen[k], output.hidden_states[k + 1])
        norm = blocks.backbone.get_submodule(FINAL_NORM.get(family, "norm"))
        last = blocks.backbone(input_ids=IDS, use_cache=False).last_hidden_state
        torch.testing.assert_close(norm(seen[3]), last)
    assert not torch.allclose(seen[3], last, atol=0.1)


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_any_number_of_blocks(layers: int) -> None:
    net = tiny.build("llama", num_hidden_layers=layers)
    assert len(locate_blocks(net).modules) == layers


def test_as_many_experts_as_blocks_or_more_are_not_taken_for_blocks() -> None:
    class Experts(nn.Module):
        """Every expert runs on every token, in order: a list that looks like blocks in all but where it stands."""

        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(9))

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return torch.stack([expert(h) for expert in self.experts]).mean(0)

    net = tiny.build("llama")
    for layer in net.model.layers:
        layer.mlp = Experts()
    assert locate_blocks(net).path == "model.layers"


def adapted(net: Any, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **changes)
        return get_peft_model(net, config).eval()


def test_blocks_are_found_under_an_adapter_and_its_weights_count() -> None:
    plain = tiny.build("llama")
    before = locate_blocks(plain).modules
    with torch.no_grad():
        unadapted = plain.model(input_ids=IDS).last_hidden_state
    net = adapted(plain)
    blocks = locate_blocks(net)
    assert blocks.modules == before
    with torch.no_grad():
        output = blocks.backbone(input_ids=IDS)
    assert not hasattr(output, "logits")
    assert not torch.allclose(output.last_hidden_state, unadapted, atol=0.01), "the adapter must be in the backbone"


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_an_adapter_on_any_layer_changes_the_fingerprint(layer: int) -> None:
    made = wrap(adapted(tiny.build("llama"), layers_to_transform=[layer]), tiny.tokenizer())
    plain = tiny.model_of("llama").info
    assert made.info.fingerprint != plain.fingerprint
    assert (made.info.under, plain.under) == (plain.fingerprint, None)


def test_what_was_made_for_the_model_under_an_adapter_goes_with_it() -> None:
    """And not the other way round."""
    plain, made = tiny.model_of("llama"), wrap(adapted(tiny.build("llama")), tiny.tokenizer())
    tiny.direction_of(plain).check_model(made.info)
    with pytest.raises(FingerprintError):
        tiny.direction_of(made).check_model(plain.info)


def test_a_device_map_changes_nothing() -> None:
    from accelerate import dispatch_model

    plain = tiny.model_of("llama")
    net = tiny.build("llama")
    dispatched = dispatch_model(net, {"model.embed_tokens": "cpu", "model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    model = wrap(dispatched, tiny.tokenizer())
    assert model.info.fingerprint == plain.info.fingerprint
    assert model.device == torch.device("cpu")
    seen: list[torch.Tensor] = []
    for each in (plain, model):
        with torch.no_grad(), watched(each.blocks, [2], lambda _, h: seen.append(h)):
            each.blocks.backbone(input_ids=IDS)
    torch.testing.assert_close(seen[0], seen[1])


def test_weights_that_are_offloaded_do_not_hide_where_ids_go(tmp_path: Path) -> None:
    from accelerate import cpu_offload

    net = cpu_offload(tiny.build("llama"), execution_device=torch.device("cpu"))
    assert net.model.embed_tokens.weight.device.type == "meta"
    assert input_device(net) == torch.device("cpu")
    assert wrap(net, tiny.tokenizer()).n_layers == 4


def bert(kind: Any = hf.AutoModelForCausalLM) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    return tiny.from_config(hf.BertConfig(vocab_size=tiny.VOCAB, initializer_range=0.15, **sizes), kind=kind)


def t5() -> Any:
    config = hf.T5Config(vocab_size=tiny.VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
    return tiny.from_config(config, kind=hf.AutoModelForSeq2SeqLM)


def bart() -> Any:
    sizes = {f"{side}_{what}": 4 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = hf.BartConfig(vocab_size=tiny.VOCAB, d_model=32, **sizes, encoder_ffn_dim=48, decoder_ffn_dim=48)
    return tiny.from_config(config, kind=hf.AutoModelForSeq2SeqLM)


class Plain(nn.Module):
    """A stack that runs like blocks, of no transformers model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(9, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        h = self.embed(input_ids)
        for layer in self.layers:
            h = layer(h)
        return h


@pytest.mark.parametrize("build", [t5, bart, Plain, nn.Identity, lambda: nn.Linear(2, 2)])
def test_what_is_no_decoder_is_refused(build: Any) -> None:
    with pytest.raises(ModelError) as caught:
        locate_blocks(build())
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("kind", [hf.AutoModelForCausalLM, hf.AutoModelForMaskedLM])
def test_an_encoder_is_refused_because_it_looks_ahead(kind: Any) -> None:
    with pytest.raises(ModelError, match="encoder"):
        wrap(bert(kind), tiny.tokenizer())


def test_rows_of_a_batch_may_differ_by_rounding() -> None:
    """On some processors, threads share a product's rows out so that two rows are summed in different orders."""
    net = tiny.build("llama")
    net.lm_head.register_forward_hook(lambda _m, _a, out: out * (1 + 1e-5 * torch.arange(len(out))[:, None, None]))
    assert wrap(net, tiny.tokenizer()).n_layers == 4


@pytest.mark.model
@pytest.mark.parametrize("threads", [2, 3])
def test_the_embedded_model_loads_with_several_threads(threads: int) -> None:
    """The other tests run with one, users with as many as there are cores."""
    code = "import mien.models; mien.models.load()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_without_a_head_is_refused(family: str) -> None:
    with pytest.raises(ModelError, match="head"):
        wrap(tiny.from_config(tiny.FAMILIES[family](), kind=hf.AutoModel), tiny.tokenizer())


@pytest.mark.parametrize("kind", ["recurrent", "partly"])
def test_a_model_without_keys_and_values_in_every_block_is_refused(kind: str) -> None:
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"]}
    config = hf.MambaConfig(**sizes, state_size=4) if kind == "recurrent" else hf.Lfm2Config(**sizes, **heads)
    with pytest.raises(ModelError, match="keys and values"):
        wrap(tiny.from_config(config), tiny.tokenizer())


def test_no_hook_is_left_after_locating_or_failing() -> None:
    net = tiny.build("llama")
    locate_blocks(net)
    assert tiny.hooks_on(net) == []
    net.model.layers[1].mlp.down_proj = nn.Linear(3, 3)  # shapes that do not fit
    with pytest.raises(ModelError, match="trial run"):
        locate_blocks(net)
    assert tiny.hooks_on(net) == []


def assert_one_sentence(error: BaseException) -> None:
    assert isinstance(error, MienError)
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert 20 < len(text) < 400, text


def save(net: Any, folder: Path, made_with: Any = None) -> Path:
    net.save_pretrained(folder)
    (made_with or tiny.tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny.build("gemma3"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_load_gives_the_model_that_was_saved(saved: Path) -> None:
    model = load(saved, device="cpu", dtype="float32")
    assert (model.info.n_layers, model.info.d_model, model.info.dtype, model.info.device) == (4, 32, "float32", "cpu")
    assert model.info.chat
    with torch.no_grad():
        torch.testing.assert_close(model.net(IDS).logits, tiny.net_of("gemma3")(IDS).logits)


def test_a_fingerprint_is_of_the_model_and_not_of_how_it_is_held(saved: Path) -> None:
    prints = {dtype: load(saved, device="cpu", dtype=dtype).info for dtype in ("float32", "bfloat16")}
    assert prints["float32"].fingerprint == prints["bfloat16"].fingerprint
    assert prints["bfloat16"].dtype == "bfloat16"
    assert wrap(tiny.build("gemma3"), tiny.tokenizer(None), "another").info.fingerprint == prints["float32"].fingerprint
    runs_otherwise = tiny.build("gemma3", use_cache=False, output_hidden_states=True, eos_token_id=7)
    assert wrap(runs_otherwise, tiny.tokenizer()).info.fingerprint == prints["float32"].fingerprint


def test_fingerprints_of_different_models_differ() -> None:
    models = [wrap(tiny.build("llama", seed), tiny.tokenizer()) for seed in (0, 1)]
    models += [wrap(tiny.build("llama", num_hidden_layers=5), tiny.tokenizer()), tiny.model_of("mistral")]
    assert len({m.info.fingerprint for m in models}) == 4


def fails(name: Any, **asked: Any) -> MienError:
    """The error that loading gives; anything but a `MienError` of one sentence fails the test."""
    with pytest.raises(MienError) as caught:
        load(name, **{"device": "cpu", "dtype": "float32", **asked})
    assert_one_sentence(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "nobody/no-such-model",
        "no-such-model",
        "not a model!",
        "",
        "   ",
        "x" * 5000,
        "a\0b",
        "~no-such-user-here/model",
        "absent.gguf",
        "/absent/folder",
    ],
)
def test_a_name_of_nothing(name: str) -> None:
    assert isinstance(fails(name), ModelError)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "config.json" in str(fails(tmp_path))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a model")
    assert "notes.txt" in str(fails(path))


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"model_type": "nothing-known"}', '{"model_type": 3}'])
def test_a_folder_with_a_strange_config(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert isinstance(fails(tmp_path), ModelError)


@pytest.mark.parametrize("build", [bert, t5, lambda: bert(hf.AutoModel)])
def test_a_folder_with_a_model_that_is_not_causal(tmp_path: Path, build: Any) -> None:
    assert isinstance(fails(save(build(), tmp_path)), ModelError)


def test_a_folder_without_weights_or_without_a_tokenizer(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")
    assert isinstance(fails(folder), ModelError)
    (folder / "elsewhere").rename(folder / "model.safetensors")
    for path in folder.glob("token*"):
        path.unlink()
    assert isinstance(fails(folder), ModelError)


@pytest.mark.parametrize("left", [0, 4, 100, 5000, -10])
def test_weights_that_are_cut_off(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert isinstance(fails(folder), ModelError)


def test_weights_that_are_garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(4096))
    assert "corrupt" in str(fails(folder))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    assert "up_proj" in str(fails(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert isinstance(fails(folder), ModelError)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(tmp_path: Path, bad: float) -> None:
    net = tiny.build("llama")
    with torch.no_grad():
        net.model.layers[1].mlp.up_proj.weight[3, 4] = bad
    assert isinstance(fails(save(net, tmp_path)), NonFiniteError)


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    proof = folder / "was-run"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass C: pass\nclass M: pass\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto}))
    assert isinstance(fails(folder), ModelError)
    assert not proof.exists()


def test_pickled_weights_do_not_run(folder: Path) -> None:
    import pickle

    proof = folder / "was-run"

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(proof), "w"))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil()}))
    assert isinstance(fails(folder), ModelError)
    assert not proof.exists()


@pytest.mark.parametrize("dtype", ["int8", "float64", "f32", ""])
def test_an_unknown_dtype(saved: Path, dtype: str) -> None:
    assert isinstance(fails(saved, dtype=dtype), InputError)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", "cpu:x", "", "xpu"])
def test_a_device_that_is_not_there(saved: Path, device: str) -> None:
    for dtype in ("float32", None):
        assert isinstance(fails(saved, device=device, dtype=dtype), InputError)


def test_the_device_may_be_left_to_mien(saved: Path) -> None:
    for device in ("auto", None):
        model = load(saved, device=device)
        assert model.info.dtype in ("float32", "bfloat16", "float16")


def test_an_adapter_is_put_on(saved: Path, tmp_path: Path) -> None:
    adapted(tiny.build("gemma3")).save_pretrained(tmp_path / "mine")
    plain, made = load(saved, dtype="float32"), load(saved, dtype="float32", adapter=tmp_path / "mine")
    assert made.info.id.endswith("+mine")
    assert made.info.fingerprint != plain.info.fingerprint
    with torch.no_grad():
        assert not torch.allclose(plain.net(IDS).logits, made.net(IDS).logits, atol=0.01)


def test_a_model_under_an_adapter_is_checked_once(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(models, "_check_logits", lambda net, name: checked.append(name))
    adapted(tiny.build("gemma3")).save_pretrained(tmp_path / "mine")
    load(saved, dtype="float32", adapter=tmp_path / "mine")
    assert checked == [f"{saved}+mine"]


def test_an_adapter_of_another_model_is_refused_by_its_card(saved: Path, tmp_path: Path) -> None:
    adapted(tiny.build("gemma3")).save_pretrained(tmp_path / "mine")
    own = load(saved, dtype="float32").info.fingerprint
    card = tmp_path / "mine" / "card.json"
    card.write_text(json.dumps({"model": "somebody", "fingerprint": "0" * 16}))
    refused = fails(saved, adapter=tmp_path / "mine")
    assert isinstance(refused, FingerprintError)
    assert "was trained on somebody" in str(refused)
    assert own[:12] in str(refused)
    card.write_text(json.dumps({"model": "it", "fingerprint": own}))
    assert load(saved, dtype="float32", adapter=tmp_path / "mine").info.under == own


def test_an_adapter_that_is_none(saved: Path, tmp_path: Path) -> None:
    assert isinstance(fails(saved, adapter=tmp_path), ModelError)
    adapted(tiny.build("llama", hidden_size=64, head_dim=16)).save_pretrained(tmp_path / "other")
    assert isinstance(fails(saved, adapter=tmp_path / "other"), ModelError)


def gguf_file(path: Path) -> Path:
    """A file that is GGUF through and through, of a model with one tensor."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(300)])
    writer.add_token_merges([])
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    folder = tmp_path_factory.mktemp("own-cache")
    monkeypatch.setenv("MIEN_CACHE", str(folder))
    return folder


def test_a_gguf_file_that_is_none(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"", b"GG", b"not a gguf file at all" * 99, b"FUGG" + bytes(64)):
        path.write_bytes(content)
        assert isinstance(fails(path), FormatError)
    assert not list((own_cache / "gguf").glob("*")), "nothing half-made may be left in the cache"


@pytest.mark.parametrize("left", [4, 8, 20, 60, 400, 2000, -40, None])
def test_a_gguf_file_that_is_cut_off_or_lacks_weights(tmp_path: Path, own_cache: Path, left: int | None) -> None:
    path = gguf_file(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:left])
    assert isinstance(fails(path), FormatError)
    assert not list((own_cache / "gguf").glob("*"))


def test_the_choice_of_dtype_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    first = best_dtype("cpu")
    known = json.loads((tmp_path / "machine.json").read_text())
    assert list(known.values()) == [str(first).removeprefix("torch.")]
    other = {"float32": "bfloat16", "bfloat16": "float32"}[next(iter(known.values()))]
    (tmp_path / "machine.json").write_text(json.dumps(dict.fromkeys(known, other)))
    assert str(best_dtype("cpu")) == f"torch.{other}"
    (tmp_path / "machine.json").write_text("garbage")
    assert best_dtype("cpu") in (torch.float32, torch.bfloat16)


def test_whether_vectors_pay_is_remembered_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    dtype, found = best_dtype("cpu"), vectors_pay()
    known = json.loads((tmp_path / "machine.json").read_text())
    assert sorted(known.values()) == sorted([str(dtype).removeprefix("torch."), "mv" if found else "mm"])
    turned = {key: {"mv": "mm", "mm": "mv"}.get(value, value) for key, value in known.items()}
    (tmp_path / "machine.json").write_text(json.dumps(turned))
    assert vectors_pay() is not found
    assert best_dtype("cpu") == dtype


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    (tmp_path / "machine.json" / "in the way").mkdir(parents=True)
    assert best_dtype("cpu") in (torch.float32, torch.bfloat16)
