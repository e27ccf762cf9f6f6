"""Expert fusion at the end of a fit: one fit on several domains, several fits that meet in a folder, refusals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from tests.support import quick
from vibethinker import Problem
from vibethinker.callbacks import DiversityProbe, ExpertFusion, HuggingFaceExport


class Improving:
    """A reward whose probes of some domains get better each time, while those of the others stay alike."""

    def __init__(self, improving: Sequence[str]):
        self.improving, self.calls = improving, Counter[str]()

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        self.calls.update({p.domain for p in problems})
        return [
            float(i % 4 < (self.calls[p.domain] if p.domain in self.improving else 1)) for i, p in enumerate(problems)
        ]


def fit(folder: Path, model: str, domains: Sequence[str], improving: Sequence[str], *callbacks: Any) -> pl.Trainer:
    """Probed at 2 and 4; domains that improve choose 4, the others tie and keep 2."""
    choices = [quick.best(folder, domain) for domain in domains]
    run = quick.trainer(folder, DiversityProbe(2, n=4, k=2), HuggingFaceExport(), *callbacks, *choices, max_steps=4)
    run.fit(
        quick.sft(model, reward=Improving(improving), seed=len(domains[0])),
        datamodule=quick.data(domains, probe_size=2 * len(domains)),
    )
    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_one_fit_fuses_the_choices_of_its_domains(tmp_path: Path, tiny_model: str) -> None:
    out = tmp_path / "fused"
    fit(tmp_path, tiny_model, ["algebra", "geometry", "calculus"], ["geometry"], ExpertFusion(str(out)))
    early, late = tensors(tmp_path / "algebra" / "step=2"), tensors(tmp_path / "geometry" / "step=4")
    assert any(not torch.equal(early[name], late[name]) for name in early)
    for name, weight in tensors(out).items():
        # the checkpoint that two of three domains chose counts twice
        torch.testing.assert_close(weight, (2 * early[name].double() + late[name].double()).float() / 3)
    record = json.loads((out / "fusion.json").read_text())
    assert [Path(e).parts[-2:] for e in record["experts"]] == [
        ("algebra", "step=2"),
        ("geometry", "step=4"),
        ("calculus", "step=2"),
    ]


def test_weights_are_of_domains(tmp_path: Path, tiny_model: str) -> None:
    fusion = ExpertFusion(str(tmp_path / "fused"), weights={"geometry": 1.0, "algebra": 0.0})
    fit(tmp_path, tiny_model, quick.DOMAINS, ["geometry"], fusion)
    fused, chosen = tensors(tmp_path / "fused"), tensors(tmp_path / "geometry" / "step=4")
    quick.assert_same_weights(fused, chosen)


def test_the_fit_that_completes_the_set_fuses(tmp_path: Path, tiny_model: str) -> None:
    def specialist(domain: str) -> None:
        fusion = ExpertFusion(str(tmp_path / "fused"), quick.DOMAINS, experts=str(tmp_path / "experts"))
        fit(tmp_path / domain, tiny_model, [domain], [domain], fusion)

    specialist("geometry")
    assert not (tmp_path / "fused").exists()
    specialist("algebra")
    experts = [tensors(tmp_path / "experts" / domain) for domain in quick.DOMAINS]
    for name, weight in tensors(tmp_path / "fused").items():
        torch.testing.assert_close(weight, (experts[0][name] + experts[1][name]) / 2)
    choice = json.loads((tmp_path / "experts" / "algebra" / "choice.json").read_text())
    assert choice["checkpoint"].endswith("algebra/step=4.ckpt")
    assert choice["probe/algebra/pass@2"] == pytest.approx(1 - 1 / 6)  # two of four: 1 − C(2,2)/C(4,2)
    before = (tmp_path / "fused" / "fusion.json").stat().st_ino
    specialist("algebra")  # again: fuses anew
    assert (tmp_path / "fused" / "fusion.json").stat().st_ino != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": "e"}, "experts needs domains"),
        ({"weights": {"algebra": 0.7, "geometry": 0.7}}, "sum to one"),
        ({"weights": {"algebra": 1.5, "geometry": -0.5}}, "non-negative"),
        ({"weights": {"algebra": float("nan")}}, "non-negative"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertFusion("out", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["algebra", "topology"]}, "topology has no ModelCheckpoint"),
        ({"domains": ["geometry"], "experts": "experts"}, "algebra is not in domains"),
        ({"weights": {"geometry": 1.0}}, r"weights are of \['geometry'\], domains are \['algebra'\]"),
        ({"out": "taken"}, "taken exists and is not a fusion"),
    ],
)
def test_refuses_before_training(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, tiny_model, ["algebra"], [], ExpertFusion(**{"out": "out", **options}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]


def test_refuses_without_choices_or_folders(tmp_path: Path, tiny_model: str) -> None:
    plain = ModelCheckpoint(tmp_path, every_n_train_steps=2)
    with pytest.raises(ValueError, match=r"no ModelCheckpoint monitors a probe/<domain>/… metric"):
        quick.fit(tmp_path, tiny_model, plain, ExpertFusion("out"))
    twice = [quick.best(tmp_path, "algebra"), quick.best(tmp_path, "algebra", k=1)]
    with pytest.raises(ValueError, match="two ModelCheckpoints choose the expert of algebra"):
        quick.fit(tmp_path, tiny_model, *twice, ExpertFusion("out"))
    run = quick.trainer(tmp_path, DiversityProbe(2, n=4, k=2), ExpertFusion("out"), quick.best(tmp_path, "algebra"))
    with pytest.raises(ValueError, match="needs the HuggingFaceExport callback"):
        run.fit(quick.sft(tiny_model), datamodule=quick.data())
