from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.checkpoints import bits, listing, rewrite, save_expert, weights_of
from vibethinker.fusion import fuse, stream
from vibethinker.fusion.stream import anchored_sum

ROOT = Path(__file__).parents[2]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
finite = st.floats(width=32, allow_nan=False, min_value=-(2.0**100), max_value=2.0**100)


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that end inside rows, and several tasks per tensor, in tiny models too."""
    monkeypatch.setattr(stream, "_RANGE", 7)
    monkeypatch.setattr(stream, "_TASK", 100)


def average(folders: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """Σ w_i θ_i in float64."""
    loaded = [weights_of(folder) for folder in folders]
    return {
        n: sum((w * t[n].double() for w, t in zip(weights, loaded, strict=True)), torch.tensor(0.0)) for n in loaded[0]
    }


# --- the formula ------------------------------------------------------------------------------------------------------


def test_formula_by_hand() -> None:
    others = torch.tensor([[4.0, 2.0], [0.0, -2.0]])
    assert anchored_sum(torch.tensor([2.0, 0.0]), others, [0.5, 0.25]).tolist() == [2.5, 0.5]


@given(st.lists(finite, min_size=1, max_size=20), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5))
def test_copies_give_the_copy_bitwise_whatever_the_weights(values: list[float], coefficients: list[float]) -> None:
    anchor = torch.tensor(values)
    copies = anchor.repeat(len(coefficients), 1)
    assert torch.equal(bits(anchored_sum(anchor, copies, coefficients)), bits(torch.tensor(values)))


def test_copies_keep_negative_zero() -> None:
    zeros = torch.tensor([-0.0, 0.0])
    assert torch.equal(bits(anchored_sum(zeros, zeros.repeat(3, 1), [0.1, 0.2, 0.3])), bits(zeros))


@given(st.data(), st.integers(2, 5))
def test_formula_is_the_weighted_mean_to_float32_rounding(data: st.DataObject, count: int) -> None:
    raw = data.draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count))
    shares = [share / math.fsum(raw) for share in raw]
    stack = torch.tensor(
        data.draw(st.lists(st.tuples(*[st.floats(-10, 10, width=32)] * count), min_size=1, max_size=9))
    ).T
    expected = (torch.tensor(shares, dtype=torch.float64)[:, None] * stack.double()).sum(0)
    result = anchored_sum(stack[0].clone(), stack[1:].clone(), shares[1:])
    assert (result - expected).abs().max() <= (count + 2) * 2**-23 * 20  # |a − θ_i| ≤ 20, one rounding per operation


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4], [1 / 3, 1 / 3, 1 / 3, 0.0]])
def test_four_copies_give_the_copy_bitwise(tmp_path: Path, dtype: torch.dtype, weights: list[float] | None) -> None:
    first = save_expert(tmp_path / "0", 0, dtype=dtype)
    original = weights_of(first)
    original["model.norm.weight"][:2] = -0.0
    rewrite(first, original)
    copies = [first, *(Path(shutil.copytree(first, tmp_path / str(i))) for i in (1, 2, 3))]
    fuse(copies, tmp_path / "out", weights=weights)
    fused = weights_of(tmp_path / "out")
    assert fused.keys() == original.keys()
    for name, tensor in original.items():
        assert fused[name].dtype == dtype
        assert torch.equal(bits(fused[name]), bits(tensor)), name


@pytest.mark.usefixtures("small_ranges")
def test_average_of_differently_sharded_experts(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i, tied=False, shard=s) for i, s in enumerate(["5GB", "4KB", "9KB"])]
    assert len(list(folders[1].glob("*.safetensors"))) > len(list(folders[2].glob("*.safetensors"))) > 1
    weights = [0.5, 0.2, 0.3]
    fuse(folders, tmp_path / "out", weights=weights)
    fused = weights_of(tmp_path / "out")
    expected = average(folders, weights)
    assert fused.keys() == expected.keys()
    assert "lm_head.weight" in fused
    for name, tensor in expected.items():
        torch.testing.assert_close(fused[name].double(), tensor, rtol=2e-7, atol=3e-8)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i, dtype=torch.bfloat16) for i in range(4)]
    fuse(folders, tmp_path / "kept")
    fuse(folders, tmp_path / "wide", dtype="float32")
    kept, wide = weights_of(tmp_path / "kept"), weights_of(tmp_path / "wide")
    for name, tensor in average(folders, [0.25] * 4).items():
        torch.testing.assert_close(wide[name].double(), tensor, rtol=2e-7, atol=3e-8)
        assert torch.equal(kept[name], wide[name].bfloat16())


def test_widest_precision_is_kept_and_loaded(tmp_path: Path) -> None:
    folders = [
        save_expert(tmp_path / str(i), i, dtype=dtype) for i, dtype in enumerate([torch.bfloat16, torch.float32])
    ]
    fuse(folders, tmp_path / "out")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "out").values()} == {torch.float32}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_task_arithmetic(tmp_path: Path) -> None:
    base, *folders = [save_expert(tmp_path / str(i), i) for i in range(3)]
    fuse(folders, tmp_path / "out", weights=[0.25, 0.75], method="task_arithmetic", base=base, scaling=0.8)
    zero, one, two, fused = (weights_of(folder) for folder in (base, *folders, tmp_path / "out"))
    for name, tensor in zero.items():
        expected = tensor.double() + 0.8 * (0.25 * (one[name] - tensor).double() + 0.75 * (two[name] - tensor).double())
        torch.testing.assert_close(fused[name].double(), expected, rtol=2e-7, atol=3e-8)


def test_expert_given_twice_counts_twice(tmp_path: Path) -> None:
    one, two = (save_expert(tmp_path / str(i), i) for i in range(2))
    record = fuse([one, two, one], tmp_path / "uniform")
    assert record.experts == [str(one), str(two), str(one)]
    fuse([one, two, two], tmp_path / "given", weights=[0.6, 0.1, 0.3])
    for out, weights in (("uniform", [2 / 3, 1 / 3]), ("given", [0.6, 0.4])):
        for name, tensor in average([one, two], weights).items():
            torch.testing.assert_close(weights_of(tmp_path / out)[name].double(), tensor, rtol=2e-7, atol=3e-8)


def test_weight_of_one_gives_that_expert_bitwise(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    fuse(folders, tmp_path / "out", weights=[0, 1])
    assert all(torch.equal(t, weights_of(folders[1])[n]) for n, t in weights_of(tmp_path / "out").items())


def test_workers_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_TASK", 50)
    folders = [save_expert(tmp_path / str(i), i) for i in range(3)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for workers in (1, 5):
            fuse(folders, tmp_path / f"out{workers}", workers=workers)
        assert torch.get_num_threads() == 3, "a setting of the process, given back"
    finally:
        torch.set_num_threads(before)
    files = [tmp_path / f"out{workers}" / "model.safetensors" for workers in (1, 5)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_tied_head_stored_twice_is_written_once(tmp_path: Path) -> None:
    one, two = (save_expert(tmp_path / str(i), i) for i in range(2))
    tensors = weights_of(one)
    rewrite(one, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    fuse([one, two], tmp_path / "out")
    assert "lm_head.weight" not in weights_of(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_integer_buffers_are_copied_or_refused(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i, dtype=torch.bfloat16) for i in range(2)]
    for folder in folders:
        rewrite(
            folder, {**weights_of(folder), "steps": torch.tensor([3, 4]), "mask": torch.tensor([True, False, True])}
        )
    fuse(folders, tmp_path / "out", dtype="float32")
    fused = weights_of(tmp_path / "out")
    assert fused["steps"].tolist() == [3, 4]
    assert fused["mask"].tolist() == [True, False, True]
    rewrite(folders[1], {**weights_of(folders[1]), "steps": torch.tensor([3, 5])})
    with pytest.raises(ValueError, match=r"1: steps \(torch.int64\) is not that of"):
        fuse(folders, tmp_path / "other")
    assert listing(tmp_path) == {"0", "1", "out"}


# --- the folder -------------------------------------------------------------------------------------------------------


def test_folder_is_complete_and_loads(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    record = fuse(folders, tmp_path / "a" / "out", dtype="bfloat16")
    out = tmp_path / "a" / "out"
    assert listing(out) >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "fusion.json",
    }
    assert listing(tmp_path / "a") == {"out"}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model(torch.tensor([[2, 3, 4]])).logits.isfinite().all()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "two"}], tokenize=False) == "two"
    stored = json.loads((out / "fusion.json").read_text())
    assert stored["weights"] == record.weights == [0.5, 0.5]
    assert stored["experts"] == [str(folder) for folder in folders]
    weights = folders[1] / "model.safetensors"
    assert stored["hashes"][str(weights)] == f"xxh3_128:{xxhash.xxh3_128(weights.read_bytes()).hexdigest()}"


def test_large_result_is_sharded(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i, dtype=torch.bfloat16) for i in range(2)]
    fuse(folders, tmp_path / "out", shard_bytes=4000)
    fuse(folders, tmp_path / "one")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert {file.name for file in files} == set(index["weight_map"].values())
    fused, one = weights_of(tmp_path / "out"), weights_of(tmp_path / "one")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in fused.values())
    assert fused.keys() == one.keys() == index["weight_map"].keys()
    assert all(torch.equal(fused[name], one[name]) for name in one)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.state_dict()["model.norm.weight"], one["model.norm.weight"])


def test_only_an_earlier_fusion_is_replaced(tmp_path: Path) -> None:
    one, two = (save_expert(tmp_path / str(i), i) for i in range(2))
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("the only copy")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not an earlier fusion"):
            fuse([one, two], out, overwrite=overwrite)
    assert listing(out) == {"thesis.txt"}
    (out / "thesis.txt").unlink()
    fuse([one, two], out)
    save_expert(one, 7)
    fuse([one, two], out)
    assert listing(tmp_path) == {"0", "1", "out"}
    torch.testing.assert_close(
        weights_of(out)["model.norm.weight"], average([one, two], [0.5, 0.5])["model.norm.weight"].float()
    )
    with pytest.raises(FileExistsError, match="fusion of other inputs"):
        fuse([one, two], out, weights=[0.4, 0.6])
    fuse([one, two], out, weights=[0.4, 0.6], overwrite=True)
    assert json.loads((out / "fusion.json").read_text())["weights"] == [0.4, 0.6]
    with pytest.raises(ValueError, match="also one of the inputs"):
        fuse([one, out], out, overwrite=True)


# --- bad options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [0.5, 0.4]}, "weights: .* sum to 0.9, not to 1"),
        ({"weights": [1.5, -0.5]}, "none may be negative"),
        ({"weights": [math.nan, 1.0]}, "none may be negative"),
        ({"weights": [1.0]}, "weights: 1 for 2 experts"),
        ({"method": "slerp"}, "method: 'slerp' is none of linear, task_arithmetic"),
        ({"method": "task_arithmetic"}, "base: task_arithmetic needs one"),
        ({"base": "0"}, "base: only task_arithmetic has one"),
        ({"scaling": 0.5}, "scaling"),
        ({"dtype": "int8"}, "dtype: 'int8' is none of"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse([tmp_path / "0", tmp_path / "1"], tmp_path / "out", **options)
    with pytest.raises(ValueError, match="experts: none given"):
        fuse([], tmp_path / "out")
    assert listing(tmp_path) == set()


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    tensors = weights_of(folders[1])
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value  # 1e6 is too large for float16
    rewrite(folders[1], tensors)
    with pytest.raises(ValueError, match=r"^model.layers.1.mlp.up_proj.weight: NaN or infinity"):
        fuse(folders, tmp_path / "out", dtype="float16")
    assert listing(tmp_path) == {"0", "1"}


def test_values_near_the_largest_are_no_fault(tmp_path: Path) -> None:
    folder = save_expert(tmp_path / "0", 0)
    mask = torch.full((8,), torch.finfo(torch.float32).min)
    rewrite(folder, {**weights_of(folder), "mask": mask})
    fuse([folder], tmp_path / "out")
    assert torch.equal(weights_of(tmp_path / "out")["mask"], mask)


def test_disk_known_to_be_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_expert(tmp_path / "0", 0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"GB needed, 0.00 GB free: '.*out'$"):
        fuse([folder], tmp_path / "deep" / "out")
    assert listing(tmp_path) == {"0"}


@pytest.mark.usefixtures("small_ranges")
def test_disk_that_fills_up_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    write, left = os.pwrite, [200]

    def full(fd: int, view: memoryview, at: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            time.sleep(0.02)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, view[:3], at)  # a short write is carried on

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"no space left on the disk, nothing was written: '.*out'$") as caught:
        fuse(folders, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert left[0] > -20, "the tasks that wait, some hundred, are given up"
    assert listing(tmp_path) == {"0", "1"}
    left[0] = 10**9
    fuse(folders, tmp_path / "out")
    for name, tensor in average(folders, [0.5, 0.5]).items():
        torch.testing.assert_close(weights_of(tmp_path / "out")[name].double(), tensor, rtol=2e-7, atol=3e-8)


@pytest.mark.slow
def test_full_file_system(tmp_path: Path) -> None:
    """A real one, of 64 KiB, in a namespace of its own."""
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=64k none {tmp_path / 'disk'}"
    (tmp_path / "disk").mkdir()
    if not shutil.which("unshare") or subprocess.run([*in_namespace, mount], capture_output=True).returncode:
        pytest.skip("this system gives no mount namespace")
    folder = save_expert(tmp_path / "0", 0, vocab_size=1000)
    code = (
        "import shutil; from vibethinker.fusion.average import fuse; usage = shutil.disk_usage('/')\n"
        "shutil.disk_usage = lambda path: usage  # as if the space went after the check\n"
        f"fuse([{str(folder)!r}], {str(tmp_path / 'disk' / 'out')!r})"
    )
    script = f'{mount} && {{ "$0" -c "$1"; ls -A {tmp_path / "disk"}; }}'
    ended = subprocess.run([*in_namespace, script, sys.executable, code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stderr.splitlines()[-1].startswith(
        "OSError: [Errno 28] no space left on the disk, nothing was written"
    )
    assert ended.stdout == ""


@pytest.mark.slow
def test_killed_fusion_leaves_no_folder_and_is_repeated(tmp_path: Path) -> None:
    folders = [save_expert(tmp_path / str(i), i) for i in range(2)]
    out = tmp_path / "out"
    code = (
        "import os, signal, sys; from vibethinker.fusion import average as fusion, stream\n"
        "assert not {'lightning', 'transformers'} & set(sys.modules), 'fusion alone needs neither'\n"
        "write = os.pwrite; stream._RANGE = 64; count = [30]\n"
        "def dying(*a):\n"
        "    count[0] -= 1\n"
        "    return write(*a) if count[0] else os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.pwrite = dying\n"
        f"fusion.fuse({[str(folder) for folder in folders]!r}, {str(out)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == -9, ended.stderr
    assert listing(tmp_path) == {"0", "1", ".out.partial"}
    fuse(folders, out)
    assert listing(tmp_path) == {"0", "1", "out"}
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 16


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(0, 20_000))
def test_weight_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = save_expert(tmp_path_factory.mktemp("cut") / "0", 0)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model.safetensors: (not a safetensors file|.* its header describes)"):
        fuse([folder], folder.parent / "out")
    assert listing(folder.parent) == {"0"}
