#!/usr/bin/env python3
"""Time against sequence length for the SSD scan and attention, beside what memory and matrix units allow, as SVG.

Use: cuda_bench --json lengths > FILE && tools/roofline_svg.py FILE docs/ssd-roofline.svg
"""

import argparse
import html
import json
import math
import sys

WIDTH, HEIGHT = 760, 500
LEFT, RIGHT, TOP, BOTTOM = 76, 208, 56, 58  # of the plot within the picture
KERNELS = {"ssd_scan": ("SSD scan", "#1f6fb2"), "attention": ("attention", "#c2541b")}
OTHERS = ["#6b7f1e", "#7a4aa0", "#555555"]


class Unusable(Exception):
    """What is wrong with the input, in a line."""


def number(row, field, line, least=0.0):
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= least:
        raise Unusable(f"line {line}: '{field}' is {value!r}, expected a number above {least:g}")
    return float(value)


def read(text):
    """The device's line and {kernel: [(tokens, ms, bytes, flop)]} in order; other lines are passed over."""
    device, rows = None, {kernel: {} for kernel in KERNELS}
    for line, content in enumerate(text.splitlines(), 1):
        if not content.startswith("{"):
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise Unusable(f"line {line} is no JSON object: {error}") from None
        if "device" in row:
            device = {"name": str(row["device"]),
                      "copy": number(row, "copy_bytes_per_s", line),
                      "products": number(row, "product_flop_per_s", line)}
        elif row.get("kernel") in rows:
            tokens = number(row, "tokens", line)
            rows[row["kernel"]][tokens] = (tokens, *(number(row, field, line) for field in ("ms", "bytes", "flop")))
    if device is None:
        raise Unusable("has no line with 'device': was it printed with --json?")
    for kernel, points in rows.items():
        if len(points) < 2:
            raise Unusable(f"has {len(points)} lengths of '{kernel}', expected 2 or more")
    return device, {kernel: [points[tokens] for tokens in sorted(points)] for kernel, points in rows.items()}


def read_other(text):
    """NAME=TOKENS:MS,TOKENS:MS,... of somebody else's kernel."""
    name, _, points = text.partition("=")
    try:
        pairs = sorted(tuple(float(part) for part in point.split(":")) for point in points.split(","))
        usable = bool(name) and all(len(pair) == 2 and min(pair) > 0 for pair in pairs)
    except ValueError:
        usable = False
    if not usable:
        raise Unusable(f"--also is '{text}', expected NAME=TOKENS:MS,TOKENS:MS,...")
    return name, pairs


def crossing(a, b):
    """(tokens, ms) where two measured curves meet, straight between points of a log-log plot; None where they don't."""
    shared = sorted({p[0] for p in a + b if max(a[0][0], b[0][0]) <= p[0] <= min(a[-1][0], b[-1][0])})

    def at(curve, tokens):
        for (x0, y0, *_), (x1, y1, *_) in zip(curve, curve[1:]):
            if x0 <= tokens <= x1:
                share = (math.log(tokens) - math.log(x0)) / (math.log(x1) - math.log(x0))
                return math.log(y0) + share * (math.log(y1) - math.log(y0))
        raise AssertionError(tokens)

    for x0, x1 in zip(shared, shared[1:]):
        d0, d1 = at(a, x0) - at(b, x0), at(a, x1) - at(b, x1)
        if d0 == 0 or d0 * d1 < 0:
            share = d0 / (d0 - d1) if d0 != d1 else 0.0
            tokens = math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))
            return tokens, math.exp(at(a, tokens))
    return None


def short(value):
    """2048 as 2K, for an axis of powers of two."""
    return f"{value // 1024}K" if value >= 1024 and value % 1024 == 0 else str(value)


class Plot:
    """A log-log plot: places, and the elements drawn so far."""

    def __init__(self, tokens, milliseconds):
        self.tokens = [2 ** math.floor(math.log2(min(tokens))), 2 ** math.ceil(math.log2(max(tokens)))]
        self.ms = [10.0 ** math.floor(math.log10(min(milliseconds))), 10.0 ** math.ceil(math.log10(max(milliseconds)))]
        for low_high, step in ((self.tokens, 2), (self.ms, 10)):
            if low_high[0] == low_high[1]:
                low_high[1] *= step
        self.parts = []

    def x(self, tokens):
        low, high = map(math.log, self.tokens)
        return LEFT + (math.log(tokens) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, milliseconds):
        low, high = map(math.log, self.ms)
        return HEIGHT - BOTTOM - (math.log(milliseconds) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def text(self, x, y, content, extra=""):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{html.escape(content)}</text>')

    def line(self, x0, y0, x1, y1, extra):
        self.parts.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" {extra}/>')

    def curve(self, points, extra):
        places = " ".join(f"{self.x(t):.1f},{self.y(ms):.1f}" for t, ms in points)
        self.parts.append(f'<polyline points="{places}" fill="none" {extra}/>')

    def axes(self):
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        tokens = int(self.tokens[0])
        while tokens <= self.tokens[1]:
            self.line(self.x(tokens), TOP, self.x(tokens), bottom, 'stroke="#e3e3e3"')
            self.text(self.x(tokens), bottom + 18, short(tokens), 'text-anchor="middle"')
            tokens *= 2
        ms = self.ms[0]
        while ms <= self.ms[1] * 1.0001:
            self.line(LEFT, self.y(ms), right, self.y(ms), 'stroke="#e3e3e3"')
            self.text(LEFT - 8, self.y(ms) + 4, f"{ms:g}", 'text-anchor="end"')
            ms *= 10
        self.parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" '
                          'stroke="#444444"/>')
        self.text((LEFT + right) / 2, HEIGHT - 16, "tokens of the sequence", 'text-anchor="middle"')
        middle = (TOP + bottom) / 2
        self.text(18, middle, "milliseconds", f'text-anchor="middle" transform="rotate(-90 18 {middle:.1f})"')


def limits(points, device):
    """[(what, dashes, [(tokens, ms)])] of what the device allows."""
    return [("bytes at copy rate", "2 3", [(t, size / device["copy"] * 1e3) for t, _, size, _ in points]),
            ("products at bf16 rate", "7 4", [(t, flop / device["products"] * 1e3) for t, _, _, flop in points])]


def draw(device, rows, others):
    curves = [points for kernel in rows.values() for _, _, points in limits(kernel, device)]
    curves += [[point[:2] for point in kernel] for kernel in rows.values()] + [points for _, points in others]
    everything = [point for curve in curves for point in curve]
    plot = Plot([tokens for tokens, _ in everything], [ms for _, ms in everything])
    plot.text(LEFT, 24, f"Time against sequence length, {device['name']}", 'font-size="16" font-weight="bold"')
    plot.axes()
    legend = TOP + 12

    def explain(label, style):
        nonlocal legend
        plot.line(WIDTH - RIGHT + 14, legend - 4, WIDTH - RIGHT + 44, legend - 4, style)
        plot.text(WIDTH - RIGHT + 50, legend, label)
        legend += 20

    for kernel, points in rows.items():
        label, colour = KERNELS[kernel]
        style = f'stroke="{colour}" stroke-width="2.5"'
        plot.curve([point[:2] for point in points], style)
        for tokens, ms, *_ in points:
            plot.parts.append(f'<circle cx="{plot.x(tokens):.1f}" cy="{plot.y(ms):.1f}" r="3" fill="{colour}"/>')
        explain(label, style)
        for what, dashes, limit in limits(points, device):
            style = f'stroke="{colour}" stroke-width="1.2" stroke-dasharray="{dashes}"'
            plot.curve(limit, style)
            explain(what, style)
    for (label, points), colour in zip(others, OTHERS):
        style = f'stroke="{colour}" stroke-width="2"'
        plot.curve(points, style)
        explain(label, style)

    notes = []
    for label, points in [("attention", rows["attention"]), *others]:
        meeting = crossing(rows["ssd_scan"], points)
        if meeting:
            x, y = plot.x(meeting[0]), plot.y(meeting[1])
            plot.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none" stroke="#222222" '
                              'stroke-width="1.5"/>')
            notes.append(f"SSD scan and {label} cross at {meeting[0]:.0f} tokens")
        elif label == "attention":
            faster = min(rows, key=lambda kernel: rows[kernel][0][1])
            notes.append(f"{KERNELS[faster][0]} is faster at every length measured")
    plot.text(LEFT, 44, "; ".join(notes), 'fill="#444444"')
    body = "\n  ".join(plot.parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="sans-serif" font-size="12">\n'
            f'  <title>SSD scan and attention: time against sequence length</title>\n'
            f'  <rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n  {body}\n</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="what cuda_bench --json lengths printed")
    parser.add_argument("output", help="the SVG to write")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=TOKENS:MS,...",
                        help="another kernel's times; up to three")
    arguments = parser.parse_args()
    try:
        others = [read_other(text) for text in arguments.also]
        if len(others) > len(OTHERS):
            raise Unusable(f"--also is there {len(others)} times, expected at most {len(OTHERS)}")
        with open(arguments.input, encoding="utf-8") as file:
            picture = draw(*read(file.read()), others)
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(picture)
    except Unusable as error:
        sys.exit(f"error: {arguments.input}: {error}")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
