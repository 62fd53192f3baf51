"""The README's first figure: pictures before and after, and the curve that says which step to refine.

    python -m tests.benchmarks.readme_figure docs/images/keystep.png --config out/demo/step_config.json

The pictures are of held-out prompts of the demo's search; the curve is that of the recorded grid of keystep/shapes-sd.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from core.config import StepConfig
from core.generation import generate, load_pipeline
from core.prompts import Prompt, parse_entities
from search.plots import save
from search.recorded_grid import load_grid
from tests.benchmarks.shapes_curve import curve, estimate

PICTURES = (
    ("a photo of a heart and a cross", "heart, cross", 100),
    ("a photo of a green heart and a purple triangle", "green heart, purple triangle", 101),
    ("a photo of a yellow heart next to a pink circle and a red cross", "yellow heart, pink circle, red cross", 100),
    ("a photo of a star and a triangle", "star, triangle", 100),
)
INK, AFTER, BEFORE = "#1c1e22", "#0072b2", "#8a8f98"


def pictures(config: StepConfig) -> list[tuple[str, Image.Image, Image.Image]]:
    """Prompt, unrefined and refined image."""
    pipe, shown = load_pipeline(config), []
    for text, entities, seed in PICTURES:
        prompt = Prompt(text, parse_entities(entities))
        before, after = (generate(pipe, prompt, config, [seed], refine=refine).images[0] for refine in (False, True))
        shown.append((text, before, after))
    return shown


def draw(config: StepConfig) -> Figure:
    """Pairs of pictures at the left, the curve at the right."""
    figure = Figure(figsize=(11.6, 4.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.12, 1])
    axes = left.subplots(2, len(PICTURES))
    for column, (text, before, after) in enumerate(pictures(config)):
        for row, image in enumerate((before, after)):
            axes[row, column].imshow(np.asarray(image), interpolation="bicubic")
            axes[row, column].set(xticks=[], yticks=[])
            for spine in axes[row, column].spines.values():
                spine.set_edgecolor((BEFORE, AFTER)[row])
                spine.set_linewidth(2)
        axes[0, column].set_title("\n".join(textwrap.wrap(text, 20)), fontsize=8, color=INK)
    for row, (label, color) in enumerate((("as it is", BEFORE), ("one step refined", AFTER))):
        axes[row, 0].set_ylabel(label, fontsize=10, color=color, fontweight="bold")
    _draw_curve(right.subplots(), config)
    return figure


def _draw_curve(axes: Axes, config: StepConfig) -> None:
    grid = load_grid("shapes-sd")
    points = [point for point, _ in curve(grid) if not point.gsng]
    points.sort(key=lambda point: point.step_index)
    baseline = estimate(grid, None)
    steps = [point.step_index for point in points]
    axes.axhspan(baseline.low, baseline.high, color=BEFORE, alpha=0.14, linewidth=0)
    axes.axhline(baseline.mean, color=BEFORE, linestyle=(0, (4, 3)), label="as it is")
    axes.fill_between(
        steps, [p.estimate.low for p in points], [p.estimate.high for p in points], color=AFTER, alpha=0.16
    )
    axes.plot(steps, [p.estimate.mean for p in points], color=AFTER, marker="o", label="refined at this step alone")
    assert config.refinement.iterref is not None
    chosen = points[steps.index(config.refinement.iterref.step_index)]
    axes.annotate(
        "the step that keystep chose",
        (chosen.step_index, chosen.estimate.mean),
        xytext=(chosen.step_index + 2.2, chosen.estimate.high),
        arrowprops={"arrowstyle": "->", "color": INK},
        color=INK,
        fontweight="bold",
    )
    axes.set_xticks(steps, [f"{point.timestep:.0f}" for point in points], fontsize=8)
    axes.set_xlabel("timestep that is refined, of the 12 of a sampling")
    axes.set_ylabel("images that show all that was asked (TIAM)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(f"keystep/shapes-sd, {baseline.num_prompts} prompts, 95 % intervals", fontsize=10, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("out/demo/step_config.json"))
    options = parser.parse_args()
    print(save(draw(StepConfig.load(options.config)), options.out))


if __name__ == "__main__":
    main()
