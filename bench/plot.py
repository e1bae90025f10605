"""A drawing of figures as a function of the nodes, which follows the color scheme of the reader."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median

from bench.report import Figure

_WIDTH, _HEIGHT = 330, 210
_LEFT, _TOP, _INNER_WIDTH, _INNER_HEIGHT = 46, 34, 268, 134
_STEPS = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
"""Between the lines of a panel."""

_STYLE = """
text { font: 12px sans-serif; fill: #57606a } .title { font-weight: bold; fill: #24292f }
line { stroke: #d0d7de } .spread, polyline { stroke: #0969da; stroke-width: 2; fill: none } circle { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #8d96a0 } .title { fill: #e6edf3 } line { stroke: #30363d }
  .spread, polyline { stroke: #4493f8 } circle { fill: #4493f8 }
}
"""


def svg(figures: Sequence[Figure]) -> str:
    """Draw the figures that have a number of nodes, two panels a row: medians, and bars from minimum to maximum."""
    drawn = [figure for figure in figures if figure.nodes]
    panels = [_panel(name, [*group]) for name, group in groupby(drawn, lambda figure: figure.name)]
    width, height = 2 * _WIDTH, (len(panels) + 1) // 2 * _HEIGHT
    placed = (
        f'<g transform="translate({number % 2 * _WIDTH} {number // 2 * _HEIGHT})">{panel}</g>'
        for number, panel in enumerate(panels)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}<style>{_STYLE}</style>\n{''.join(placed)}</svg>\n"


def _panel(name: str, figures: Sequence[Figure]) -> str:
    most_nodes, highest = figures[-1].nodes or 1, max(max(figure.ours) for figure in figures) * 1.1

    def x(nodes: float) -> float:
        return round(_LEFT + nodes / most_nodes * _INNER_WIDTH, 1)

    def y(value: float) -> float:
        return round(_TOP + (1 - value / highest) * _INNER_HEIGHT, 1)

    bottom, right = _TOP + _INNER_HEIGHT, _LEFT + _INNER_WIDTH
    step = next(step for step in _STEPS if highest / step < 5)
    parts = [f'<text class="title" x="{_LEFT}" y="18">{name}, {figures[0].unit}</text>\n']
    for value in (number * step for number in range(int(highest / step) + 1)):
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>\n')
    for figure in figures:
        at = x(figure.nodes or 0)
        parts.append(
            f'<line class="spread" x1="{at}" x2="{at}" y1="{y(min(figure.ours))}" y2="{y(max(figure.ours))}"/>'
        )
        parts.append(f'<circle cx="{at}" cy="{y(median(figure.ours))}" r="3.5"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{figure.nodes}</text>\n')
    points = " ".join(f"{x(figure.nodes or 0)},{y(median(figure.ours))}" for figure in figures)
    parts.append(f'<polyline points="{points}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 34}" text-anchor="middle">nodes</text>')
    return "\n".join(parts)
