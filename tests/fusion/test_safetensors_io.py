from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vibethinker.fusion.safetensors_io import Files, Spec, lay_out, read_header, read_tensors


def test_written_in_pieces_and_read_by_the_library(tmp_path: Path) -> None:
    specs: dict[str, Spec] = {
        "mask": (torch.bool, (3,)),
        "half": (torch.bfloat16, (3, 5)),
        "empty": (torch.float32, (0, 4)),
        "scalar": (torch.int64, ()),
        "wide": (torch.float32, (2, 3)),
    }
    values = {
        name: (torch.arange(1, 1 + max(1, torch.Size(shape).numel())) * 0.5).to(dtype)[: torch.Size(shape).numel()]
        for name, (dtype, shape) in specs.items()
    }
    places = lay_out(tmp_path, specs, shard_bytes=10**9)
    with Files() as files:
        for place in places:
            for start in range(0, place.numel, 2):
                files.write(place, start, values[place.name][start : start + 2])
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        dtype, shape = specs.pop(name)
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
        assert torch.equal(tensor.flatten(), values[name])
    assert not specs
    refs = read_header(tmp_path / "model.safetensors")
    assert all(ref.offset % ref.dtype.itemsize == 0 for ref in refs.values()), "odd sizes must not misalign the rest"
    with Files() as files:
        half = torch.empty(refs["half"].numel, dtype=refs["half"].dtype)
        files.read(refs["half"], 0, half)
        assert torch.equal(half, values["half"])
        assert files.equal(refs["wide"], refs["wide"])
        assert not files.equal(refs["wide"], refs["half"])


def entry(begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [2], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "tensor b does not start where the one before it ends"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, "tensor b does not start where the one before it ends"),
        ({"a": entry(0, 8)}, "its header describes"),
        ({"a": entry(0, 8, "F4")}, "unknown dtype or no field 'F4'"),
        ({"a": {"dtype": "F32"}}, "no field 'data_offsets'"),
        ([1], "not a safetensors file"),
        ({}, "its header describes"),
    ],
)
def test_header_that_lies(tmp_path: Path, header: object, message: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(20))
    with pytest.raises(ValueError, match=f"model.safetensors: .*{message}"):
        read_header(tmp_path / "model.safetensors")


def test_shards_that_overlap_and_an_index_that_is_none(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a": (torch.float32, (4,)), "b": (torch.float32, (4,))}, shard_bytes=16)
    assert set(read_tensors(tmp_path)) == {"a", "b"}
    second = tmp_path / "model-00002-of-00002.safetensors"
    second.write_bytes((tmp_path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors: tensor a is also in model-00001"):
        read_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ValueError, match=r"index.json: not an index of safetensors shards"):
        read_tensors(tmp_path)
