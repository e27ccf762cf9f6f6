"""Weights in 4 or 8 bits (bitsandbytes; QLoRA, arXiv 2305.14314): what is refused, how they load, what they stand for.

A weight comes quantized in one of two ways: on loading, from a folder in full precision, or in the checkpoint itself.
Either way an adapter is trained over the values that the bits stand for, so these are what it is merged into.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vibethinker.utils.safetensors_io import Files, TensorRef

Quantization = Literal["4bit", "4bit-double", "8bit"]
_STATE = ".quant_state.bitsandbytes__"  # followed by nf4 or fp4
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")


def check_method(where: str, stored: Mapping[str, Any]) -> None:
    """Refuses a checkpoint's `quantization_config` unless it is bitsandbytes' and that is installed."""
    by_bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    method = stored.get("quant_method", "bitsandbytes" if by_bits else "an unknown method")
    if method != "bitsandbytes" or not by_bits:
        raise ValueError(
            f"{where}: config.json has quantization_config of {method}; only bitsandbytes' 4 and 8 bits can be read"
        )
    need_bitsandbytes(where)


def need_bitsandbytes(where: str) -> None:
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"{where}: needs bitsandbytes: pip install 'vibethinker[quantized]'")


def loading_options(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What transformers is told to quantize on loading: every linear layer but the head."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quantization != "8bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization == "4bit-double",
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantized(parameter: Tensor) -> bool:
    """Whether a parameter holds 4 or 8 bits, whatever dtype they are stored as."""
    return type(parameter).__name__ in ("Params4bit", "Int8Params")


def expanded(module: nn.Module, parameter: Tensor) -> Tensor:
    """A layer's parameter in full. PEFT's own helper would put another parameter in the place of one on a CPU."""
    if not is_quantized(parameter):
        return parameter.data
    from bitsandbytes import functional

    quantized = cast(Any, parameter)
    if hasattr(quantized, "quant_state"):
        return functional.dequantize_4bit(parameter.data, quantized.quant_state)
    state: Any = module.state
    return functional.int8_vectorwise_dequant(parameter.data, quantized.SCB if state.SCB is None else state.SCB)


@dataclass(frozen=True)
class Scheme:
    """How weights were quantized on loading.

    Attributes:
        bits: 4 or 8.
        dtype: what they were before, and 4 bits expand to.
        quant_type: `nf4` or `fp4` (4 bits).
        blocksize: elements that share a scale (4 bits); in 8 bits a row does.
        double: whether the scales are quantized too (4 bits).
    """

    bits: int
    dtype: str
    quant_type: str = "nf4"
    blocksize: int = 64
    double: bool = False

    @classmethod
    def of(cls, parameter: Tensor, loaded_as: torch.dtype) -> Scheme:
        """That of a quantized parameter."""
        state = getattr(parameter, "quant_state", None)
        if state is None:
            return cls(8, str(loaded_as).removeprefix("torch."))
        return cls(4, str(state.dtype).removeprefix("torch."), state.quant_type, state.blocksize, bool(state.nested))

    def round_trip(self, weight: Tensor) -> Tensor:
        """The values that are left of a weight."""
        from bitsandbytes import functional

        weight = weight.to(getattr(torch, self.dtype))
        if self.bits == 8:
            codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
            return functional.int8_vectorwise_dequant(codes, scales)
        packed, state = functional.quantize_4bit(
            weight, blocksize=self.blocksize, compress_statistics=self.double, quant_type=self.quant_type
        )
        return functional.dequantize_4bit(packed, state)


@dataclass(frozen=True, slots=True)
class QuantizedRef(TensorRef):
    """A weight that fewer bits stand for; `dtype` and `shape` are those in full.

    Attributes:
        parts: the tensors it is stored as, by what follows the layer's name; one alone where `scheme` is given.
        scheme: of a weight stored in full that was quantized on loading.
    """

    parts: tuple[tuple[str, TensorRef], ...] = ()
    scheme: Scheme | None = None

    def expanded(self, files: Files) -> Tensor:
        """All of it, as many readers as may ask: expanded once while it is among the last few."""
        return files.once(self, lambda: self._expanded(files))

    def _expanded(self, files: Files) -> Tensor:
        from bitsandbytes import functional

        parts = {name: files.tensor(ref) for name, ref in self.parts}
        weight = parts.pop(".weight")
        if self.scheme is not None:
            return self.scheme.round_trip(weight)
        if ".SCB" in parts:
            return functional.int8_vectorwise_dequant(weight, parts[".SCB"])
        state = {name.removeprefix(".weight."): part for name, part in parts.items()}
        return functional.dequantize_4bit(weight, functional.QuantState.from_dict(state, torch.device("cpu")))


def stored_in_full(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors of a checkpoint in 4 or 8 bits as those of the model in full."""
    plain = dict(tensors)
    for name, ref in tensors.items():
        module, _, kind = name.rpartition(".")
        if _STATE in name:
            weight = name.partition(_STATE)[0]
            parts = {key: plain.pop(key) for key in (name, *(weight + p for p in _PARTS)) if key in plain}
            with Files() as files:
                state = json.loads(bytes(files.tensor(ref).tolist()))
            dtype, shape = getattr(torch, state["dtype"]), tuple(state["shape"])
        elif kind == "SCB":
            weight, dtype, shape = f"{module}.weight", torch.float32, tensors[f"{module}.weight"].shape
            parts = {name: plain.pop(name)}
            plain.pop(f"{module}.weight_format", None)
        else:
            continue
        parts[weight] = tensors[weight]
        prefix = len(weight.removesuffix(".weight"))
        named = tuple((key[prefix:], part) for key, part in parts.items())
        plain[weight] = QuantizedRef(ref.file, weight, dtype, shape, tensors[weight].offset, named)
    return plain


def quantized_on_loading(tensors: Mapping[str, TensorRef], record: Mapping[str, Any]) -> dict[str, TensorRef]:
    """The tensors of a base with those weights as quantization left them that `describe` wrote down."""
    record = dict(record)
    weights = record.pop("weights")
    scheme = Scheme(**record)
    dtype = torch.float32 if scheme.bits == 8 else getattr(torch, scheme.dtype)
    rounded = {
        name: QuantizedRef(ref.file, name, dtype, ref.shape, ref.offset, ((".weight", ref),), scheme)
        for name, ref in ((name, tensors[name]) for name in weights)
    }
    return {**tensors, **rounded}


def describe(weights: Iterable[tuple[str, Tensor]], loaded_as: torch.dtype) -> dict[str, Any] | None:
    """What quantization on loading did to a model's weights: the scheme and their names; None if nothing."""
    quantized = {name: weight for name, weight in weights if is_quantized(weight)}
    if not quantized:
        return None
    return {**asdict(Scheme.of(next(iter(quantized.values())), loaded_as)), "weights": list(quantized)}
