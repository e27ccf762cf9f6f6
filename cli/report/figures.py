"""The report's figures: small inline SVGs whose ink, rules and background are the page's, so they follow its theme."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colour-blind-safe palette, without the yellow that vanishes on white and the black that does on black
PALETTE: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
STAGES: Final = ("#8b9099", "#e69f00", "#009e73", "#0072b2", "#cc79a7", "#d55e00", "#56b4e9")  # grey: where all began
WIDE, NARROW = "#0072b2", "#d55e00"
_THEME: Final = {"#010101": "var(--ink)", "#020202": "var(--rule)", "#030303": "var(--card)", "#040404": "var(--soft)"}
_INK, _RULE, _CARD, _SOFT = _THEME
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vibethinker",  # the same run gives the same bytes
    "text.parse_math": False,  # names come from a configuration and may hold a dollar
    "text.color": _INK,
    "font.size": 10.5,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "ytick.left": False,
    **{f"axes.spines.{side}": False for side in ("top", "left", "right")},
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "lines.solid_joinstyle": "round",
}

Curve = Sequence[tuple[int, float]]  # (step, value)


class Panel(NamedTuple):
    """One small figure: heading, note beside it, description in words, drawing."""

    title: str
    note: str
    description: str
    svg: Markup


class Probed(NamedTuple):
    """Metrics of the diversity probe on one domain in one run, checkpoint by checkpoint."""

    run: str
    domain: str
    k: int
    steps: list[int]
    metrics: list[dict[str, float]]
    chosen: int  # index of the checkpoint

    def column(self, name: str) -> list[float]:
        """One metric, checkpoint by checkpoint."""
        return [metrics[name] for metrics in self.metrics]


def probe_panel(probed: Probed) -> Panel:
    """Pass@K with a band of one standard error, pass@1 as a thinner line, and the checkpoint that was chosen."""
    steps, step = probed.steps, probed.steps[probed.chosen]
    wide, narrow, error = (np.array(probed.column(name)) for name in (f"pass@{probed.k}", "pass@1", "standard_error"))

    def draw(axes: Axes) -> None:
        axes.fill_between(steps, wide - error, wide + error, color=WIDE, alpha=0.18, linewidth=0)
        axes.plot(steps, wide, color=WIDE, linewidth=2.2)
        axes.plot(steps, narrow, color=NARROW, linewidth=1.3, dashes=(4, 2))
        axes.axvline(step, color=_SOFT, linewidth=0.8, dashes=(1, 2))
        for values, colour, size in ((wide, WIDE, 10), (narrow, NARROW, 7)):
            point = step, values[probed.chosen]
            axes.plot(*point, "o", color=colour, markersize=size, markeredgecolor=_CARD, markeredgewidth=2)
            axes.annotate(f"{point[1]:.2f}", point, (7, 8), textcoords="offset points", fontweight="bold")
        axes.set(ylim=(0, 1.08), yticks=np.linspace(0, 1, 5), xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    domain = "all domains" if probed.domain == "mean" else probed.domain
    title = domain if probed.run.endswith(domain) else f"{domain}, {probed.run}"
    return Panel(
        title,
        f"step {step} chosen, {probed.metrics[probed.chosen]['distinct_solutions']:.1f} solution paths per problem",
        f"{title}: from step {steps[0]} to {steps[-1]} pass@{probed.k} goes from {wide[0]:.2f} to {wide[-1]:.2f} and "
        f"pass@1 from {narrow[0]:.2f} to {narrow[-1]:.2f}. At step {step}, which was chosen, they are "
        f"{wide[probed.chosen]:.2f} and {narrow[probed.chosen]:.2f}.",
        _svg(draw, 500, 250),
    )


def bar_panel(domain: str, rows: Mapping[str, Any], wide: Mapping[str, Any], colours: Mapping[str, str]) -> Panel:
    """Pass@1 of every stage in one domain with its 95% interval; pass@K, where there is one, as an open diamond.

    Args:
        domain: its name, or `all`.
        rows: stage → row of `results.json`, in the order of the stages.
        wide: the same for pass@K; stages may be missing.
        colours: of every stage, in drawing order.
    """

    def draw(axes: Axes) -> None:
        for y, stage in enumerate(colours):
            if stage not in rows:
                axes.text(0.01, y, "–", va="center", color=_SOFT)
                continue
            row = rows[stage]
            axes.barh(y, row["mean"], height=0.62, color=colours[stage])
            for colour, width in ((_CARD, 3.6), (_INK, 1.4)):
                axes.plot((row["low"], row["high"]), (y, y), color=colour, linewidth=width)
            if stage in wide:
                axes.plot(wide[stage]["mean"], y, "D", color=_CARD, markersize=5.5, markeredgecolor=colours[stage])
            axes.text(1.16, y, f"{row['mean']:.2f}", ha="right", va="center", fontweight="bold")
        axes.set(xlim=(0, 1.16), xticks=(0, 0.5, 1), ylim=(len(colours) - 0.5, -0.5))
        axes.set_yticks(range(len(colours)), [name if len(name) <= 16 else f"{name[:15]}…" for name in colours])
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.grid(visible=False, axis="y")

    means = [row["mean"] for row in rows.values()]
    title = "all domains" if domain == "all" else domain
    values = (f"{s} {r['mean']:.2f} (95% interval {r['low']:.2f} to {r['high']:.2f})" for s, r in rows.items())
    note = f"{means[-1] - means[0]:+.2f}" if len(means) > 1 else ""
    return Panel(title, note, f"Pass@1, {title}: {', '.join(values)}.", _svg(draw, 300, 40 + 28 * len(colours)))


def curve_panel(title: str, curves: Mapping[str, Curve]) -> Panel:
    """One scalar over the steps, a line for each run: faint as it was logged, bold as a running mean."""
    means = {}
    for run, curve in curves.items():  # centred, over about a tenth of the curve; at its ends over what there is of it
        window = np.ones((len(curve) // 10) | 1)
        sums = np.convolve([value for _, value in curve], window, "same")
        means[run] = list(sums / np.convolve(np.ones(len(curve)), window, "same"))

    def draw(axes: Axes) -> None:
        for (run, curve), colour in zip(curves.items(), PALETTE * len(curves), strict=False):
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.9)
            axes.plot(steps, means[run], color=colour, linewidth=2, marker="o" if len(steps) == 1 else "")
        axes.margins(x=0.02, y=0.1)
        axes.set(xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    ends = {run: f"{mean[0]:.3g} → {mean[-1]:.3g}" for run, mean in means.items()}
    words = "; ".join(f"{run} {change}".strip() for run, change in ends.items())
    note = next(iter(ends.values())) if len(ends) == 1 else ""
    return Panel(title, note, f"{title}, running mean from the first to the last step: {words}.", _svg(draw, 300, 170))


def _svg(draw: Callable[[Axes], None], width: int, height: int) -> Markup:
    """A drawing as an element of the page, `width` by `height` CSS pixels before the page scales it."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.subplots())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    key = hashlib.sha256(text.encode()).hexdigest()[:8]  # identifiers are the whole page's
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>f{key}-", text)
    for stand_in, variable in _THEME.items():
        text = text.replace(stand_in, variable)
    return Markup(text)
