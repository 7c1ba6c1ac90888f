"""A terminal's screen as SVG, still or moving, in light and dark; nothing in it is fetched."""

from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _MARGIN = 8.4, 20, 16  # of a character at 14 px, of a line, around all
_LAST = 4.0  # seconds for which a recording's end is shown
_LONGEST = 2.0  # seconds for which anything else is, however long it took
_STYLE = """
rect { fill: #f6f8fa; stroke: #d1d9e0 }
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328; white-space: pre }
.bold { font-weight: 700 } .green { fill: #116329 } .brown { fill: #7d4e00 } .red { fill: #a40e26 }
@media (prefers-color-scheme: dark) {
  rect { fill: #0d1117; stroke: #3d444d } text { fill: #e6edf3 }
  .green { fill: #3fb950 } .brown { fill: #d29922 } .red { fill: #ff7b72 }
}
"""
_MOVING = """.moving { visibility: hidden; animation: %.1fs step-end infinite }
@media (prefers-reduced-motion: reduce) { .moving { animation: none } .end { visibility: visible } }
"""


def svg(frames, title):
    """Draws the frames of a Terminal; one of them is a still picture."""
    times = _times(frames)
    height = max(row + 1 for _, shown in frames for row, runs in enumerate(shown) if runs)
    width = max(run[0] + len(run[1]) for _, shown in frames for runs in shown for run in runs)
    style, lines = [_STYLE], []
    if len(frames) > 1:
        style.append(_MOVING % times[-1])
    for row in range(height):
        for begin, end, runs in _lives([shown[row] for _, shown in frames]):
            if not runs:
                continue
            attributes = ""
            if end - begin < len(frames):
                name = f"k{row}-{begin}"
                style.append(_keyframes(name, times[begin] / times[-1], times[end] / times[-1]))
                kind = "moving end" if end == len(frames) else "moving"
                attributes = f' class="{kind}" style="animation-name:{name}"'
            lines.append(f"<g{attributes}>{''.join(_text(row, *run) for run in runs)}</g>")
    box = (width * _WIDTH + 2 * _MARGIN, height * _HEIGHT + 2 * _MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" xml:space="preserve" '
        f'width="{box[0]:.0f}" height="{box[1]:.0f}" viewBox="0 0 {box[0]:.0f} {box[1]:.0f}">\n'
        f"<title>{escape(title)}</title>\n<style>{''.join(style)}</style>\n"
        f'<rect x=".5" y=".5" width="{box[0] - 1:.0f}" height="{box[1] - 1:.0f}" rx="8"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _times(frames):
    """When each frame begins, and the whole ends; nobody wants to wait as long as the program did."""
    times = [0.0]
    for (before, _), (after, _) in zip(frames, frames[1:]):
        times.append(times[-1] + min(after - before, _LONGEST))
    return [*times, times[-1] + _LAST]


def _lives(shown):
    """What one line shows in turn: (first frame, frame after the last, runs)."""
    begin = 0
    for at in range(1, len(shown) + 1):
        if at == len(shown) or shown[at] != shown[begin]:
            yield begin, at, shown[begin]
            begin = at


def _keyframes(name, begin, end):
    hidden, visible = "{visibility:hidden}", "{visibility:visible}"
    steps = [] if begin == 0 else [f"0%{hidden}"]
    steps.append(f"{begin * 100:.2f}%{visible}")
    if end < 1:
        steps.append(f"{end * 100:.2f}%{hidden}")
    return f"@keyframes {name}{{{''.join(steps)}}}\n"


def _text(row, column, text, colour, bold):
    looks = [name for name, wanted in ((colour, colour != "default"), ("bold", bold)) if wanted]
    kind = f' class="{" ".join(looks)}"' if looks else ""
    x, y = _MARGIN + column * _WIDTH, _MARGIN + row * _HEIGHT + 15
    # Whatever font there is, the columns stay where they were.
    return f'<text x="{x:.1f}" y="{y}" textLength="{len(text) * _WIDTH:.1f}"{kind}>{escape(text)}</text>'
