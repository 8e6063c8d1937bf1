"""Line charts as SVG text: no library, small files that a browser and a README show alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 40, 48  # margins; the legend stands in the right one
COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
    "#393b79", "#637939", "#843c39", "#7b4173",
)  # fmt: skip

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Values over something that took a few values, which stand at equal distances.

    `lines` are named series of (x, y); `levels` are named values drawn as dashed lines across. The axis goes from 0 to
    `top`, and its numbers are `unit` times the values: by default shares, in percent.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]
    levels: Mapping[str, float]
    top: float = 1.0
    unit: float = 100.0

    @property
    def tells(self) -> bool:
        """Whether there is something to compare along the axis."""
        return len(self._values) > 1

    def svg(self, x: int = 0, y: int = 0) -> str:
        """The chart as a document, or as the part of one that begins at (x, y)."""
        names = [*self.lines, *self.levels]
        colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
        parts = [*self._frame(), *self._levels(colours), *self._lines(colours)]
        parts += [mark for k, name in enumerate(names) for mark in self._legend(k, name, colours[name])]
        body = "\n".join(parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" x="{x}" y="{y}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
        )

    @property
    def _values(self) -> list[float]:
        return sorted({x for points in self.lines.values() for x, _ in points})

    def _x(self, value: float) -> float:
        values = self._values
        return LEFT + (WIDTH - LEFT - RIGHT) * (values.index(value) + 0.5) / len(values)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def _frame(self) -> list[str]:
        """Title, grid and axes."""
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts = [_text(middle, 22, self.title, "middle", bold=True), _text(middle, HEIGHT - 8, self.x_label, "middle")]
        parts.append(_text(LEFT, TOP - 8, self.y_label, "middle"))
        for value in (self.top * fifth / 5 for fifth in range(6)):
            y = self._y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(_text(LEFT - 8, y + 4, f"{self.unit * value:.3g}", "end"))
        parts += [_text(self._x(value), HEIGHT - BOTTOM + 18, f"{value:g}", "middle") for value in self._values]
        return parts

    def _levels(self, colours: Mapping[str, str]) -> list[str]:
        return [
            f'<path d="M{LEFT} {self._y(share):.1f}H{WIDTH - RIGHT}" stroke="{colours[name]}" stroke-dasharray="5 4"/>'
            for name, share in self.levels.items()
        ]

    def _lines(self, colours: Mapping[str, str]) -> list[str]:
        parts = []
        for name, points in self.lines.items():
            places = [(self._x(x), self._y(share)) for x, share in sorted(points)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in places]
        return parts

    def _legend(self, row: int, name: str, colour: str) -> list[str]:
        x, y = WIDTH - RIGHT + 14, TOP + 10 + 20 * row
        dashes = ' stroke-dasharray="5 4"' if name in self.levels else ""
        return [f'<path d="M{x} {y}h22" stroke="{colour}" stroke-width="2"{dashes}/>', _text(x + 28, y + 4, name)]


def side_by_side(charts: Sequence[Chart], columns: int = 2) -> str:
    """Several charts as one document, row by row."""
    width, height = min(columns, len(charts)) * WIDTH, -(-len(charts) // columns) * HEIGHT
    parts = [chart.svg(k % columns * WIDTH, k // columns * HEIGHT) for k, chart in enumerate(charts)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"{''.join(parts)}</svg>\n"
    )


def _text(x: float, y: float, words: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
