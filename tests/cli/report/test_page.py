"""The report against a run folder of the shape that a recipe leaves, whole and in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from vibethinker.cli.report.page import write_report

pytestmark = pytest.mark.slow

DOMAINS = ("algebra", "calculus", "geometry", "statistics")
PASS_AT_1 = {"base": 0.41, "specialist": 0.56, "fused": 0.52, "signal": 0.71}
PASS_AT_8 = {"base": 0.74, "specialist": 0.86, "fused": 0.84, "signal": 0.85}


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    dump(path, change(json.loads(path.read_text())))


def write_events(folder: Path, curves: dict[str, Any], start: int = 0) -> None:
    with SummaryWriter(str(folder)) as writer:
        for tag, values in curves.items():
            for step, value in enumerate(values, start):
                writer.add_scalar(tag, float(value), step)


def write_specialist(folder: Path, domain: str, rng: np.random.Generator) -> None:
    dump(folder / "stage.json", {"command": ["vibethinker", "fit", "--data", f"{domain} & more"], "seconds": 31.0})
    decay = 0.5 * np.exp(-np.arange(120) / 40)
    noise = rng.normal(0, 0.02, (2, 120))
    write_events(folder, {"train/loss": 0.25 + decay + noise[0], "train/entropy": 0.2 + decay + noise[1]})
    checkpoints = []
    for step, narrow in zip(range(15, 121, 15), np.linspace(0.42, 0.58, 8) + rng.normal(0, 0.02, 8), strict=True):
        wide = 0.86 - ((step - 60) / 160) ** 2 + rng.normal(0, 0.01)
        figures = {"pass@8": wide, "pass@1": narrow, "standard_error": 0.04, "distinct_solutions": 2.1 - step / 150}
        checkpoints.append({"step": step, "solved": [], "figures": {domain: figures}})
    dump(folder / "probe.json", {"k": 8, "n": 16, "problems": [], "checkpoints": checkpoints})


def write_signal(folder: Path, rng: np.random.Generator, tags: int = 6) -> None:
    dump(folder / "stage.json", {"command": ["vibethinker", "fit", "--config", "configs/nano/mgpo.yaml"]})
    steps = np.arange(150)
    rise = 0.72 - 0.2 * np.exp(-steps / 60)
    curves = {
        "train/reward": rise + rng.normal(-0.01, 0.04, 150),
        "train/pass_rate": rise + rng.normal(0, 0.04, 150),
        "train/kl": 0.0004 * steps + np.abs(rng.normal(0, 0.004, 150)),
        "rollout/length": 92 - 0.1 * steps + rng.normal(0, 3, 150),
        "train/entropy": 0.42 * np.exp(-steps / 200) + rng.normal(0, 0.01, 150),
        "train/loss": rng.normal(0, 0.02, 150),
    }
    write_events(folder, dict(list(curves.items())[:tags]))


def row(stage: str, domain: str, metric: str, mean: float, model: Path) -> dict[str, Any]:
    half, problems = (0.03, 256) if domain == "all" else (0.06, 128)
    interval = {"mean": mean, "low": mean - half, "high": mean + half, "problems": problems, "samples": 8}
    return {"stage": stage, "model": str(model), "domain": domain, "split": "test", "metric": metric, **interval}


def sample(domain: str, index: int, right: bool) -> dict[str, Any]:
    a, b = index + 3, index + 14
    text = f"{a} * {b} = {a * b if right else a + b}\n\\boxed{{{a * b if right else a + b}}}"
    completions = [{"text": text, "outcome": float(right)}] * 2
    return {"domain": domain, "prompt": f"{domain}: {a} times {b}?", "answer": str(a * b), "completions": completions}


def write_evaluations(output: Path, domains: Sequence[str]) -> None:
    rows = []
    for stage, mean in PASS_AT_1.items():
        for place, domain in enumerate(domains):
            folder = output / stage / domain if stage == "specialist" else output / stage
            means = {"pass@1": mean + 0.04 * (place - 0.5), "pass@8": PASS_AT_8[stage]}
            rows += [row(stage, domain, metric, value, folder) for metric, value in means.items()]
            if stage == "specialist":
                rows.append(row(stage, domains[place - 1], "pass@1", 0.11, folder))  # in another one's domain
        if stage != "specialist":
            rows += [row(stage, "all", "pass@1", mean, output / stage)]
            samples = [sample(d, i, right=stage == "signal" or i == 2) for d in domains for i in range(4)]
            dump(output / stage / "evaluation.json", {"rows": rows[-3:], "samples": samples})
    dump(output / "results.json", rows)


def write_run(output: Path, domains: Sequence[str], tags: int) -> Path:
    """Base, a specialist for each domain, fused, signal: figures of the size that a small model gives."""
    rng = np.random.default_rng(0)
    timings: dict[str, Any] = {"base": {"seconds": 9.4, "peak_memory_bytes": 640 * 2**20}}
    for domain in domains:
        write_specialist(output / "specialist" / domain, domain, rng)
        timings[f"specialist/{domain}"] = {"seconds": 31.2, "peak_memory_bytes": 1100 * 2**20}
    write_signal(output / "signal", rng, tags)
    timings |= {"fused": {"seconds": 0.6}, "signal": {"seconds": 134.0, "peak_memory_bytes": 1750 * 2**20}}
    dump(output / "timings.json", timings)
    write_evaluations(output, domains)
    return output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two domains and one signal curve: what a test changes is drawn anew."""
    return write_run(tmp_path / "nano", DOMAINS[:2], tags=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(write_run(tmp_path_factory.mktemp("runs") / "nano", DOMAINS, tags=6)))


class Page(HTMLParser):
    """Text, tags and attributes of a page whose every tag is closed in turn."""

    VOID = ("meta", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.html = path.read_text(encoding="utf-8")
        self.text = ""
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""

    @property
    def lead(self) -> str:
        return re.search(r'<p class="lead">(.*?)</p>', self.html, re.DOTALL)[1].replace("&#39;", "'")  # type: ignore[index]

    def described(self, start: str) -> str:
        """The words that stand for the figure whose description starts so."""
        (found,) = (a["aria-label"] for _, a in self.tags if (a.get("aria-label") or "").startswith(start))
        return str(found)


def test_whole_run(whole: Page) -> None:
    page = whole
    for word in (*DOMAINS, *PASS_AT_1, "KL to the reference", "Reward", "Pass rate", "Length in tokens", "Entropy"):
        assert word in page.text
    assert page.html.count("<svg") == 4 + 5 + 2 + 6  # probes, bars with all domains, specialists, signal
    assert 'class="absent"' not in page.html
    assert "--data 'algebra & more'" in page.text  # as a shell takes it
    assert "4 min 29 s" in page.text  # 9.4 + 4 · 31.2 + 0.6 + 134 s
    assert "1.71 GiB" in page.text


def test_summary_says_what_the_numbers_say(run: Path) -> None:
    lead = Page(write_report(run)).lead
    assert lead.startswith(
        "On 256 test problems with 8 samples each, mean pass@1 and its 95% interval are 0.41 [0.38, 0.44] for base, "
        "then 0.52 [0.49, 0.55] for fused (+0.11; the intervals do not overlap), then 0.71 [0.68, 0.74] for signal"
    )
    assert "In 2 of 2 domains the domain's own specialist model beats base; the smallest difference is +0.15" in lead
    assert "not the last one in 2 of 2 cases" in lead

    def worse(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        changes = {("fused", "all"): {"mean": 0.43, "low": 0.40, "high": 0.46}, ("signal", "calculus"): {"mean": 0.40}}
        return [r | changes.get((r["stage"], r["domain"]), {}) for r in rows]

    edit(run / "results.json", worse)
    lead = Page(write_report(run)).lead
    assert "0.43 [0.40, 0.46] for fused (+0.02; the intervals overlap)" in lead
    assert "In 1 of 2 domains signal beats base; the smallest difference is -0.03, in calculus" in lead


def test_chosen_checkpoint_is_what_the_run_says_or_the_first_of_the_best(run: Path) -> None:
    def level(probe: dict[str, Any]) -> dict[str, Any]:
        for checkpoint, value in zip(probe["checkpoints"], (0.5, 0.7, 0.9, 0.8, 0.9, 0.6, 0.6, 0.6), strict=True):
            checkpoint["figures"]["algebra"] |= {"pass@8": value, "pass@1": value / 2}
        return probe

    edit(run / "specialist" / "algebra" / "probe.json", level)
    words = Page(write_report(run)).described("algebra:")
    assert "from step 15 to 120 pass@8 goes from 0.50 to 0.60 and pass@1 from 0.25 to 0.30" in words
    assert "At step 45, which was chosen, they are 0.90 and 0.45" in words
    dump(run / "specialist" / "algebra" / "chosen.json", {"probe/algebra/pass@8": "checkpoints/step=75"})
    assert "At step 75, which was chosen" in Page(write_report(run)).described("algebra:")


def test_bars_show_each_domain_its_own_specialist(whole: Page) -> None:
    assert "specialist 0.54 (95% interval 0.48 to 0.60)" in whole.described("Pass@1, algebra")
    assert "specialist" not in whole.described("Pass@1, all domains")
    assert '<td class="path">specialist/algebra</td>' in whole.html


def test_stages_nobody_foresaw(run: Path) -> None:
    names = [f"extra{i}" for i in range(9)]  # more than there are colours
    rows = [row(name, domain, "pass@1", 0.75, run / name) for name in names for domain in ("algebra", "all")]
    edit(run / "results.json", lambda before: before + rows)
    write_signal(run / "code", np.random.default_rng(1), tags=1)
    figures = {"pass@4": 0.8, "pass@1": 0.5, "standard_error": 0.05, "distinct_solutions": 1.5}
    checkpoint = {"step": 10, "figures": {"algebra": figures, "code": figures, "mean": figures}}
    dump(run / "code" / "probe.json", {"k": 4, "n": 8, "problems": [], "checkpoints": [checkpoint]})
    page = Page(write_report(run))
    assert all(name in page.text for name in (*names, "code"))
    assert all(page.described(f"{domain}, code:") for domain in ("algebra", "all domains"))
    assert "pass@4 / pass@8" in page.text


def test_a_stage_of_another_set_of_domains_is_no_rung(run: Path) -> None:
    """Its mean is of other problems; in words it is compared where it was measured."""
    alone = [row("code", "algebra", "pass@1", 0.75, run / "code")]
    edit(run / "results.json", lambda before: before + alone)
    lead = Page(write_report(run)).lead
    assert "In 1 of 1 domains code beats base; the smallest difference is +0.36, in algebra" in lead
    assert "In 2 of 2 domains signal beats base" in lead
    wider = [*alone, *(row("code", domain, "pass@1", 0.9, run / "code") for domain in ("calculus", "code", "all"))]
    edit(run / "results.json", lambda before: before[:-1] + wider)
    page = Page(write_report(run))
    assert "0.90 [" not in page.lead
    assert "code 0.90 (95% interval" in page.described("Pass@1, code")


def test_what_models_and_people_write_is_text(run: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror='alert(2)'></pre>{{ 7 * 7 }} & $x$ \"--"

    def poison(evaluation: dict[str, Any]) -> dict[str, Any]:
        evaluation["samples"][0]["prompt"] = evaluation["samples"][0]["answer"] = hostile
        evaluation["samples"][0]["completions"][0]["text"] = hostile + "\ud800"  # half a character
        return evaluation

    for stage in ("base", "signal"):
        edit(run / stage / "evaluation.json", poison)
    edit(run / "results.json", lambda rows: [r | {"stage": hostile} if r["stage"] == "fused" else r for r in rows])
    dump(run / "fused" / "stage.json", {"command": hostile})
    page = Page(write_report(run))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(hostile) >= 5  # prompt, answer, two completions, command


def test_nothing_is_fetched(whole: Page) -> None:
    links = [v for _, attrs in whole.tags for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
    assert links
    assert all(str(link).startswith("#") for link in links)
    assert not re.search(r"https?:|@import|url\((?!#)", whole.html)
    identifiers = [attrs["id"] for _, attrs in whole.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert {str(link)[1:] for link in links} <= set(identifiers)


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("results.json", "No stage of this run has been evaluated"),
        ("timings.json", "No stage of this run has been timed"),
        ("probe.json", "No checkpoint has been probed"),
        ("events.out*", "No stage of this run has left training curves"),
        ("evaluation.json", "No two stages of this run have kept completions"),
        ("stage.json", "No stage of this run has recorded its command"),
    ],
)
def test_a_missing_piece_is_said(run: Path, gone: str, sentence: str) -> None:
    for path in run.rglob(gone):
        path.unlink()
    page = Page(write_report(run))
    assert sentence in page.text
    assert page.html.count('class="absent"') == (3 if gone == "results.json" else 1)  # results are told three times


def test_a_run_of_nothing_yet_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "timings.json").write_text("{}")
    page = Page(write_report(tmp_path))
    assert page.html.count('class="absent"') == 7
    assert "No stage has been evaluated over all domains yet." in page.lead


def test_a_folder_of_something_else_gets_no_report(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no run's output folder, it has none of results\.json, timings\.json"):
        write_report(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_resumed_run_counts_its_later_values(tmp_path: Path) -> None:
    write_events(tmp_path / "signal", {"train/reward": [0.5, 0.25, 0.25, 0.25]})
    write_events(tmp_path / "signal", {"train/reward": [0.75, 0.875]}, start=2)
    assert Page(write_report(tmp_path)).described("Reward").endswith("0.5 → 0.875.")


def test_a_broken_file_is_named_and_the_old_report_stays(run: Path) -> None:
    before = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == before
    (run / "timings.json").write_text('{"base": ')
    with pytest.raises(ValueError, match=r"timings\.json: not valid JSON"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".report*"))
    with pytest.raises(FileNotFoundError, match="nowhere: no such output folder"):
        write_report(run / "nowhere")
