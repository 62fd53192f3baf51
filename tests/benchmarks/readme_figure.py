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
from PIL import Image

from keystep.core.config import StepConfig
from keystep.core.entity_list import parse_entities
from keystep.core.generation import generate, load_pipeline
from keystep.core.prompts import Prompt
from keystep.search.replaying.recorded_grid import load_grid
from keystep.search.reporting.plots import save
from tests.benchmarks.shapes_curve import curve

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
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.12, 1])
    axes = left.subplots(2, len(PICTURES))
    for column, (text, before, after) in enumerate(pictures(config)):
        for row, image in enumerate((before, after)):
            axes[row, column].imshow(np.asarray(image), interpolation="bicubic")
            axes[row, column].set(xticks=[], yticks=[])
            for spine in axes[row, column].spines.values():
                spine.set_edgecolor((BEFORE, AFTER)[row])
                spine.set_linewidth(2)
        axes[0, column].set_title("\n".join(textwrap.wrap(text.removeprefix("a photo of "), 19)), fontsize=8, color=INK)
    for row, (label, color) in enumerate((("as it is", BEFORE), ("one step refined", AFTER))):
        axes[row, 0].set_ylabel(label, fontsize=10, color=color, fontweight="bold")
    _draw_curve(right.subplots(), config)
    return figure


def _draw_curve(axes: Axes, config: StepConfig) -> None:
    points = sorted(
        ((point, gain) for point, gain in curve(load_grid("shapes-sd")) if not point.gsng),
        key=lambda pair: pair[0].step_index,
    )
    steps, gains = [point.step_index for point, _ in points], [gain for _, gain in points]
    axes.axhline(0, color=BEFORE, linestyle=(0, (4, 3)), linewidth=1.4)
    axes.annotate("as it is", (steps[-1], 0), (0, 4), textcoords="offset points", ha="right", color=BEFORE)
    axes.fill_between(steps, [gain.low for gain in gains], [gain.high for gain in gains], color=AFTER, alpha=0.15)
    axes.plot(steps, [gain.mean for gain in gains], color=AFTER, marker="o")
    assert config.refinement.iterref is not None
    chosen = steps.index(config.refinement.iterref.step_index)
    axes.annotate(
        "chosen by the search",
        (steps[chosen], gains[chosen].mean),
        xytext=(steps[chosen] + 3.2, gains[chosen].high),
        arrowprops={"arrowstyle": "->", "color": INK},
        color=INK,
        fontweight="bold",
    )
    axes.set_xticks(steps, [f"{point.timestep:.0f}" for point, _ in points], fontsize=8)
    axes.set_xlabel("timestep that is refined, one of the 12 of a sampling")
    axes.set_ylabel("gain in images that show all that was asked")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f} %" if value else "0")
    axes.set_title(
        f"Gain by refined step: {gains[0].num_prompts} prompts, paired, 95 % intervals", fontsize=9, color=INK
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("out/demo/step_config.json"))
    options = parser.parse_args()
    print(save(draw(StepConfig.load(options.config)), options.out))


if __name__ == "__main__":
    main()
