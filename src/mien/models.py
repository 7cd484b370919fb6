"""Load a causal language model and find its decoder blocks. The only file that knows where a model keeps them.

This file does not know chat templates' contents, traits, or what a direction is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mien.chat import Chat
from mien.embedded import EMBEDDED, converted_gguf, embedded_gguf
from mien.errors import FingerprintError, InputError, ModelError, NonFiniteError
from mien.machine import best_dtype, quiet_libraries
from mien.records import ModelInfo

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What a config must agree on. Its other keys say how a model was stored, or come and go with transformers' versions.
_SHAPE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip

_SLICE = 4096
"""Numbers of each weight tensor that its digest is made of, spread over all of it."""


@dataclass(frozen=True)
class Blocks:
    """Where the residual stream runs: found by watching one small forward pass, not by the model's name."""

    path: str
    """Dotted name of the list of blocks."""
    modules: tuple[nn.Module, ...]
    """Decoder blocks in the order they run; layer k is the output of `modules[k]`."""
    backbone: nn.Module
    """The module that runs the blocks and makes no logits."""
    d_model: int


def stream_of(output: Any) -> torch.Tensor:
    """The residual stream `[b, s, d]` in what a block returned: a tensor, or a tuple that begins with it."""
    stream = output if isinstance(output, torch.Tensor) else output[0]
    assert isinstance(stream, torch.Tensor)
    return stream


def locate_blocks(model: nn.Module) -> Blocks:
    """Find the decoder blocks of any causal LM by structure.

    Every `ModuleList` is a candidate. The right one is the outermost whose members each ran exactly once, in order,
    each giving `[1, s, d]` of one width, in a forward pass over three tokens; of several, the longest.

    Raises:
        ModelError: no such list, so the model is not a decoder that mien can read.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or not hasattr(model, "get_input_embeddings"):
        raise ModelError(f"A {type(model).__name__} is no transformers model; mien reads causal language models of it.")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"A {type(model).__name__} has an encoder and a decoder; mien reads decoder-only models.")
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0}
    calls: list[tuple[int, tuple[int, ...]]] = []

    def record(module: nn.Module, _args: Any, output: Any) -> None:
        first = output if isinstance(output, torch.Tensor) else output[0] if isinstance(output, tuple) else None
        calls.append((id(module), tuple(first.shape) if isinstance(first, torch.Tensor) else ()))

    members = {id(block): block for blocks in lists.values() for block in blocks}
    handles = [block.register_forward_hook(record) for block in members.values()]
    ids = torch.tensor([[1, 2, 3]], device=input_device(model))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception as error:  # any model's code runs here
        raise ModelError(f"A trial run of the model failed ({_first_line(error)}), so it cannot be read.") from error
    finally:
        for handle in handles:
            handle.remove()

    fitting = {}
    for name, blocks in lists.items():
        own = {id(block) for block in blocks}
        seen = [(key, shape) for key, shape in calls if key in own]
        shapes = {shape for _, shape in seen}
        if [key for key, _ in seen] == [id(b) for b in blocks] and len(shapes) == 1:
            shape = shapes.pop()
            if len(shape) == 3 and shape[:2] == (1, 3):
                fitting[name] = shape[2]
    outer = [n for n in fitting if not any(n.startswith(other + ".") for other in fitting if other != n)]
    if not outer:
        raise ModelError("No stack of decoder blocks was found in this model; mien reads decoder-only language models.")
    path = max(outer, key=lambda n: len(lists[n]))
    parent = path.rpartition(".")[0]
    return Blocks(path, tuple(lists[path]), model.get_submodule(parent), fitting[path])


def input_device(model: nn.Module) -> torch.device:
    """Where token ids must be: the embedding's device, also under a `device_map`."""
    embedding = _hf(model).get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weight = getattr(embedding, "weight", None)
    parameter = weight if isinstance(weight, torch.Tensor) else next(model.parameters())
    hook = getattr(embedding, "_hf_hook", None)
    if parameter.device.type == "meta" and hook is not None:
        return torch.device(hook.execution_device)
    return parameter.device


def _hf(model: nn.Module) -> Any:
    """The same object, free of `nn.Module`'s static type: transformers adds methods it does not declare."""
    return model


def fingerprint(model: nn.Module, blocks: Blocks, *, adapters: bool = True) -> str:
    """Short hash of the config and of a slice of the weights (embedding rows, norms of the middle block).

    Weights are rounded to bfloat16 first, so a model has one fingerprint in float32 and bfloat16; embeddings and
    norms are what quantisers leave alone. An adapter adds its own weights to the hash; without `adapters` the hash is
    that of the model under it.
    """
    digest = hashlib.sha256()
    config = _hf(model).config.get_text_config()
    digest.update(json.dumps([getattr(config, key, None) for key in _SHAPE], default=str).encode())
    embedding = _hf(model).get_input_embeddings().weight
    rows = torch.arange(64) * (embedding.shape[0] - 1) // 63  # whole numbers: no rounding that differs by machine
    middle = blocks.modules[len(blocks.modules) // 2]
    slices = [embedding.detach()[rows.to(embedding.device)]] if embedding.device.type != "meta" else []
    slices += [p.detach() for _, p in sorted(middle.named_parameters()) if p.ndim == 1 and p.device.type != "meta"]
    slices += [
        p.detach().flatten()[:512]
        for block in blocks.modules
        for n, p in sorted(block.named_parameters())
        if adapters and "lora_" in n and p.device.type != "meta"
    ]
    for part in slices:
        digest.update(part.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Model:
    """A loaded model, its tokenizer behind `chat`, and where its blocks are."""

    net: nn.Module
    chat: Chat
    blocks: Blocks
    info: ModelInfo

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return input_device(self.net)

    @property
    def n_layers(self) -> int:
        return len(self.blocks.modules)

    @property
    def pad_id(self) -> int:
        """What rows are filled up with. Some tokenizers have a padding token that their model has no embedding for."""
        return self.chat.pad_id if self.chat.pad_id < self.n_vocab else 0

    @property
    def n_vocab(self) -> int:
        """How many ids the model has embeddings for."""
        return int(_hf(self.net).get_input_embeddings().weight.shape[0])

    @property
    def positions(self) -> int | None:
        """Longest sequence the config allows; None if it does not say."""
        room = getattr(_hf(self.net).config.get_text_config(), "max_position_embeddings", None)
        return room if isinstance(room, int) else None


def weights_digest(model: Model) -> str:
    """Sixteen hex digits that name a model by a slice of every weight: unlike its fingerprint, they tell fine-tunes of
    one model apart.
    """
    digest = hashlib.sha256(model.info.fingerprint.encode())
    for name, weight in sorted(model.net.named_parameters()):
        flat = weight.detach().flatten()
        step = max(1, flat.numel() // _SLICE)
        digest.update(name.encode())
        digest.update(flat[::step].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def wrap(net: nn.Module, tokenizer: Any, name: str = "model") -> Model:
    """Make a `Model` of a transformers (or PEFT) model and tokenizer that are loaded already.

    Raises:
        ModelError: no decoder blocks can be found, it cannot be run, or it is not causal.
        NonFiniteError: its weights give NaN or infinity.
    """
    net.eval()
    blocks = locate_blocks(net)
    chat = Chat(tokenizer, getattr(net, "generation_config", None))
    parameter = next(net.parameters())
    own, under = fingerprint(net, blocks), fingerprint(net, blocks, adapters=False)
    info = ModelInfo(
        id=name,
        fingerprint=own,
        n_layers=len(blocks.modules),
        d_model=blocks.d_model,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(input_device(net)),
        chat=chat.templated,
        under=under if under != own else None,
    )
    _check_logits(net, name)
    return Model(net, chat, blocks, info)


def load(
    name: str | Path = EMBEDDED,
    *,
    device: str | None = None,
    dtype: str | None = None,
    adapter: str | Path | None = None,
) -> Model:
    """Load a model by hub id, folder, GGUF file, or the embedded default `smollm2-135m`.

    Args:
        name: what to load.
        device: `cpu`, `cuda`, `mps`, `auto` (spread by accelerate); default is the best there is.
        dtype: `float32`, `bfloat16`, `float16`; default is the faster one of those exact enough on this device.
        adapter: folder or id of a PEFT adapter to put on top.

    Raises:
        ModelError: not there, not a causal LM, or corrupt.
        InputError: an unknown device or dtype.
        FingerprintError: the adapter's card says that it was trained on another model.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    where = best if device is None else device
    _check_device(best if where == "auto" else where)
    chosen = DTYPES[dtype] if dtype else best_dtype(best if where == "auto" else where)
    source = _resolve(str(name))
    net, tokenizer = _from_pretrained(source, str(name), where, chosen)
    if adapter is None:
        return wrap(net, tokenizer, str(name))
    net.eval()
    check_base(adapter, str(name), fingerprint(net, locate_blocks(net)))
    return wrap(put_adapter(net, str(adapter)), tokenizer, f"{name}+{Path(adapter).name}")


def _check_device(device: str) -> None:
    """Before anything large is loaded: asking for `cuda` where there is none fails late and in many ways."""
    try:
        if torch.zeros(1, device=device).device.type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"The device {device!r} cannot be used here: {_first_line(error)}") from error


def _resolve(name: str) -> str:
    """A folder or hub id that transformers can load: GGUF files are converted once into the cache."""
    if not name.strip():
        raise ModelError(f"No model was named: give a hub id, a folder, a GGUF file or {EMBEDDED}.")
    if name == EMBEDDED:
        return str(converted_gguf(embedded_gguf()))
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{name[:80]!r} cannot be the name of a model: {_first_line(error)[:80]}") from error
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        if not path.is_file():
            raise ModelError(f"There is no GGUF file {name}.")
        return str(converted_gguf(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"The folder {name} holds no config.json, so it is not a transformers model.")
        return str(path)
    if path.exists():
        raise ModelError(f"{name} is a file, but neither a GGUF file nor a model folder.")
    return name


def _from_pretrained(source: str, name: str, device: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    placed: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {}
    # Code that comes with a model is not run, and the user is not asked whether it should be.
    safely: dict[str, Any] = {"trust_remote_code": False}
    loader: Any = AutoModelForCausalLM
    with quiet_libraries():
        try:
            net, info = loader.from_pretrained(source, dtype=dtype, output_loading_info=True, **placed, **safely)
            tokenizer: Any = AutoTokenizer.from_pretrained(source, **safely)
        except Exception as error:  # safetensors raises its own type, pickle whatever it likes
            raise ModelError(_why_not_loaded(name, error)) from error
    if lacking := sorted(info["missing_keys"]):
        # transformers fills what is missing with random numbers and only warns.
        raise ModelError(f"The weights of {name} are not complete: {len(lacking)} are missing, such as {lacking[0]}.")
    try:
        return (net if placed else net.to(device)), tokenizer
    except RuntimeError as error:
        raise ModelError(f"The model {name} does not fit on {device!r}: {_first_line(error)}") from error


def _why_not_loaded(name: str, error: Exception) -> str:
    text = str(error)
    if "weights_only" in text:
        return f"The weights of {name} are a pickle that holds more than numbers; convert them to safetensors."
    if "Unrecognized configuration class" in text or "AutoModelForCausalLM" in text:
        return f"{name} is not a causal language model, so there is no character to read in it."
    if "SafetensorError" in type(error).__name__ or "safetensor" in text.lower() or "header" in text.lower():
        return f"The weights of {name} are corrupt: {_first_line(error)}"
    offline = any(word in text.lower() for word in ("connect", "offline", "not a local folder", "cached", "repo"))
    if offline:
        return (
            f"There is no model {name}: it is no folder, no GGUF file, not in the local cache, and the hub "
            f"cannot be asked or does not have it."
        )
    return f"The model {name} could not be loaded: {_first_line(error)}"


def put_adapter(net: nn.Module, adapter: str) -> nn.Module:
    """Put a PEFT adapter (folder or id) on a model, in place; what comes back is the PEFT model.

    Raises:
        MissingExtraError: PEFT is not installed.
        ModelError: the adapter cannot be read, or does not fit.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        from mien.errors import MissingExtraError

        raise MissingExtraError("Adapters need PEFT: pip install 'mien[peft]'.") from error
    try:
        with quiet_libraries():
            found = PeftModel.from_pretrained(_hf(net), adapter)
            stray = _stray_weights(found, adapter)
    except Exception as error:
        raise ModelError(f"The adapter {adapter} could not be put on the model: {_first_line(error)}") from error
    if stray:
        # PEFT leaves what it does not find as it was made, which changes nothing, and only warns.
        found.unload()
        raise ModelError(
            f"The adapter {adapter} does not fit the model: {len(stray)} of its weights have no place or are missing, "
            f"such as {stray[0]}."
        )
    return found


def _stray_weights(net: Any, adapter: str) -> list[str]:
    """Weights that the adapter's file has and the model has no place for, and the other way round."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    # Embeddings that were saved along with an adapter are no part of it.
    own = set(get_peft_model_state_dict(net, save_embedding_layers=False))
    there = set(load_peft_weights(adapter, device="cpu"))
    return sorted((own - there) | {name for name in there - own if ".lora_" in name})


def check_base(adapter: str | Path, name: str, own: str) -> None:
    """Refuse an adapter that mien trained on another model; nothing is known of an adapter without mien's card.

    Args:
        adapter: folder or id.
        name: of the model that it is to go on.
        own: that model's fingerprint.

    Raises:
        FingerprintError: its card names another model.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        card = json.loads((Path(adapter) / "card.json").read_text("utf-8"))
        known, trained_on = card.get("fingerprint"), card.get("model")
        if isinstance(known, str) and known != own:
            raise FingerprintError(
                f"The adapter {adapter} was trained on {trained_on} (fingerprint {known[:12]}) and not on {name} "
                f"(fingerprint {own[:12]}); give the model that it was trained on."
            )


def _check_logits(net: nn.Module, name: str) -> None:
    """Two texts that differ in their last token: a causal model gives the same before it, and nothing is NaN."""
    with torch.no_grad():
        output = net(input_ids=torch.tensor([[1, 2, 3], [1, 2, 4]], device=input_device(net)), use_cache=True)
    logits = getattr(output, "logits", None)
    if logits is None:
        raise ModelError(f"{name} has no head that says what comes next; load it as a causal language model.")
    if not torch.isfinite(logits).all():
        raise NonFiniteError(
            f"The model {name} gives NaN or infinity on plain text; try --dtype float32 or another file."
        )
    leak = (logits[0, :2].float() - logits[1, :2].float()).abs().max()
    # A processor may sum the rows of a product in different orders, and outlying dimensions make that larger.
    eps = torch.finfo(logits.dtype).eps
    if leak > max(16 * eps, eps**0.5) * logits.float().abs().max():
        raise ModelError(f"{name} looks ahead in the text, so it is an encoder; mien reads causal language models.")
    layers = getattr(getattr(output, "past_key_values", None), "layers", None)
    if not layers or not all(hasattr(layer, "batch_select_indices") for layer in layers):
        raise ModelError(
            f"{name} has blocks that keep no keys and values; mien reads models with attention throughout."
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
