"""A chart with logarithmic axes as SVG text, where a power law is a straight line and its slope the exponent."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 480, 320, 56
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")

Points = Sequence[tuple[float, float]]


def exponent(points: Points) -> float:
    """The slope of the line that fits (log x, log y) best."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(each) / len(logs) for each in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def chart(title: str, x_label: str, y_label: str, lines: Mapping[str, Points]) -> str:
    """The lines, their points marked and each named with its exponent."""
    xs, ys = ({point[k] for points in lines.values() for point in points} for k in (0, 1))
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / min(xs)) / math.log(max(xs) / min(xs))
        up = (math.log10(y) - low) / (high - low)
        return MARGIN + (WIDTH - 2 * MARGIN) * across, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * up

    parts = [text(WIDTH / 2, 20, title, "middle"), text(WIDTH / 2, HEIGHT - 12, x_label, "middle")]
    parts.append(text(8, MARGIN - 12, y_label))
    for power in range(low, high + 1):
        _, y = at(min(xs), 10.0**power)
        parts += [
            f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>',
            text(MARGIN - 6, y + 4, f"{10.0**power:g}", "end"),
        ]
    parts += [text(at(x, 1)[0], HEIGHT - MARGIN + 18, f"{x:g}", "middle") for x in sorted(xs)]
    for number, (name, points) in enumerate(lines.items()):
        colour, places = COLOURS[number % len(COLOURS)], [at(*point) for point in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        named = f"{name}: exponent {exponent(points):.2f}"
        parts.append(text(MARGIN + 10, MARGIN + 6 + 16 * number, named, colour=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
