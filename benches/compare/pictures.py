"""The four pictures, as plain SVG."""

import math
import statistics
from html import escape

import report

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 44, 52
COLOURS = {
    "toctoc": "#0b6e4f", "toctoc-unfiltered": "#6ab7a0", "door": "#1f5fa8", "door-unfiltered": "#7da7d9",
    "as-knockd": "#7b4fa3", "knockd": "#c0392b", "fwknopd": "#d98200",
}


def all(figures):
    labels, grants, starts = figures["labels"], figures["grants"], figures["starts"]
    rates = sorted({cell["rate"] for cell in figures["floods"] if cell["system"] in labels}, key=lambda rate: rate or math.inf)
    names = [f"{rate:,}" if rate else "maximum" for rate in rates]

    def floods(measure):
        lines = {}
        for key in labels:
            kind = "mixed" if report.cells(figures, key, "mixed", rates[0]) else "first steps"
            lines[key] = [measure(report.cells(figures, key, kind, rate)) for rate in rates]
        return lines

    def growing(found):
        return {key: [middle(found[key].get(number)) for number in numbers_of(found)] for key in found}

    chart, junk = Chart(labels), "junk packets a second"
    return {
        "success": chart.draw("Knocks that open while junk arrives, %", junk, names, floods(success), 0, 100),
        "cpu": chart.draw("Processor that junk costs, % of one", junk, names, floods(share), 0.01, 200),
        "grants": chart.draw("Knock to open port, ms", "live grants", words(grants), growing(grants), 0.1, 10_000),
        "starts": chart.draw("Start until a knock opens, ms", "enrolled clients", words(starts), growing(starts), 10, 20_000),
    }


def numbers_of(found):
    return list(dict.fromkeys(number for times in found.values() for number in times))


def words(found):
    return [f"{int(number):,}" for number in numbers_of(found)]


def middle(values):
    values = [value for value in values or () if value]
    return statistics.median(values) if values else None


def success(cells):
    return 100 * statistics.mean(len(cell["open_ms"]) / cell["knocks"] for cell in cells) if cells else None


def share(cells):
    return 100 * statistics.median(cell["cpu_share"] for cell in cells) if cells else None


class Chart:
    """Lines from left to right, with the label of each system beside the end of its own."""

    def __init__(self, labels):
        self.labels = labels

    def draw(self, title, below, names, lines, low, high):
        """Points at the same distance, by name. A `low` above 0 makes the scale logarithmic."""
        step = (WIDTH - LEFT - RIGHT) / max(1, len(names) - 1)

        def x(at):
            return LEFT + at * step

        def y(value):
            if low:
                part = math.log(max(value, low) / low) / math.log(high / low)
            else:
                part = value / high
            return HEIGHT - BOTTOM - min(part, 1) * (HEIGHT - TOP - BOTTOM)

        parts = [f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold">{escape(title)}</text>']
        for tick in ticks(low, high):
            parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>')
        for at, name in enumerate(names):
            parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{name}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(below)}</text>')
        parts += self.lines(lines, x, y)
        return page(title, parts)

    def lines(self, lines, x, y):
        ends = []
        for key, values in lines.items():
            points = [(x(at), y(value)) for at, value in enumerate(values) if value is not None]
            if not points:
                continue
            colour = COLOURS[key]
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            # Lines that lie on each other stay visible.
            dashes = ' stroke-dasharray="7 5"' if key.endswith("-unfiltered") else ""
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dashes}/>'
            for a, b in points:
                yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>'
            ends.append((points[-1][1], key, colour))
        for (_, key, colour), place in zip(sorted(ends), apart(sorted(end[0] for end in ends))):
            yield f'<text x="{WIDTH - RIGHT + 12}" y="{place + 4:.1f}" fill="{colour}">{escape(self.labels[key])}</text>'


def apart(places):
    """The same from top to bottom, so far from each other that texts fit."""
    done = []
    for place in places:
        done.append(max(place, done[-1] + 16) if done else place)
    # What would stand below the picture moves up with those above it.
    limit = HEIGHT - BOTTOM
    for at in reversed(range(len(done))):
        done[at] = min(done[at], limit)
        limit = done[at] - 16
    return done


def ticks(low, high):
    if not low:
        return [high * at / 4 for at in range(5)]
    return [10**power for power in range(round(math.log10(low)), int(math.log10(high)) + 1)]


def page(title, parts):
    body = "\n".join(parts)
    space, looks = "http://www.w3.org/2000/svg", 'font-family="sans-serif" font-size="13" fill="#222" role="img"'
    return f"""<svg xmlns="{space}" viewBox="0 0 {WIDTH} {HEIGHT}" {looks}>
<title>{escape(title)}</title>
<rect width="100%" height="100%" fill="#fff"/>
{body}
</svg>
"""
