"""Weights in 4 or 8 bits (bitsandbytes; QLoRA, arXiv 2305.14314): checks, loading options, values in full.

A weight comes quantized in one of two ways: on loading, from a folder in full precision, or in the checkpoint itself.
Either way an adapter is trained over the values that the bits stand for, so these are what it is merged into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Quantization = Literal["4bit", "4bit-double", "8bit"]


def check_method(where: str, stored: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's `quantization_config` is bitsandbytes', and that this is installed."""
    by_bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    method = stored.get("quant_method", "bitsandbytes" if by_bits else "an unknown method")
    if method != "bitsandbytes" or not by_bits:
        raise ValueError(
            f"{where}: config.json has quantization_config of {method}; only bitsandbytes' 4 and 8 bits can be read"
        )
    need_bitsandbytes(where)


def need_bitsandbytes(where: str) -> None:
    """Checks that bitsandbytes is installed; `where` begins the error message."""
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"{where}: needs bitsandbytes: pip install 'vibethinker[quantized]'")


def loading_options(quantization: Quantization, dtype: torch.dtype) -> Any:
    """Options under which transformers quantizes every linear layer but the head on loading."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quantization != "8bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization == "4bit-double",
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantized(parameter: Tensor) -> bool:
    """True if a parameter holds 4 or 8 bits, whatever dtype they are stored as."""
    return type(parameter).__name__ in ("Params4bit", "Int8Params")


def expanded(module: nn.Module, parameter: Tensor) -> Tensor:
    """A layer's parameter in full. PEFT's own helper would replace the layer's parameter on a CPU."""
    if not is_quantized(parameter):
        return parameter.data
    from bitsandbytes import functional

    quantized = cast(Any, parameter)
    if hasattr(quantized, "quant_state"):
        return functional.dequantize_4bit(parameter.data, quantized.quant_state)
    state: Any = module.state
    return functional.int8_vectorwise_dequant(parameter.data, quantized.SCB if state.SCB is None else state.SCB)


def describe(weights: Iterable[tuple[str, Tensor]], loaded_as: torch.dtype) -> dict[str, Any] | None:
    """How weights were quantized on loading, those in 8 bits from `loaded_as`, for `round_trip`; None if none was."""
    quantized: dict[str, Any] = {name: weight for name, weight in weights if is_quantized(weight)}
    if not quantized:
        return None
    state = getattr(next(iter(quantized.values())), "quant_state", None)
    scheme: dict[str, Any] = {"bits": 8, "dtype": loaded_as, "quant_type": "nf4", "blocksize": 64, "double": False}
    if state is not None:
        scheme = {"bits": 4, "dtype": state.dtype, "quant_type": state.quant_type}
        scheme |= {"blocksize": state.blocksize, "double": bool(state.nested)}
    return {**scheme, "dtype": str(scheme["dtype"]).removeprefix("torch."), "weights": list(quantized)}


def round_trip(weight: Tensor, record: Mapping[str, Any]) -> Tensor:
    """The values that quantization leaves of a weight.

    Args:
        weight: in full.
        record: `bits` 4 or 8, and `dtype`, the precision that was quantized. Of 4 bits also `quant_type`, `blocksize`,
            the elements that share a scale, and `double`, true if the scales are quantized too.
    """
    from bitsandbytes import functional

    weight = weight.to(getattr(torch, record["dtype"]))
    if record["bits"] == 8:
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        return functional.int8_vectorwise_dequant(codes, scales)
    packed, state = functional.quantize_4bit(
        weight, blocksize=record["blocksize"], compress_statistics=record["double"], quant_type=record["quant_type"]
    )
    return functional.dequantize_4bit(packed, state)
