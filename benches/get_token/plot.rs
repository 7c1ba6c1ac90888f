//! Plots as SVG: lines with logarithmic axes, and bars. They follow the reader's light or dark mode.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const STYLE: &str = "<style>\
    text { font: 12px system-ui, sans-serif; fill: #333; stroke: none !important } .title { font-weight: 600; font-size: 14px } \
    .grid { stroke: #8884; stroke-width: 1 } .other { stroke: #888; fill: #888 } .ours { stroke: #0969da; fill: #0969da } \
    polyline { stroke-width: 2; fill: none !important } .spread { stroke: #333; stroke-width: 1.5 } \
    text.ours { font-weight: 600 } text.end { text-anchor: end } text.middle { text-anchor: middle } \
    @media (prefers-color-scheme: dark) { text { fill: #ccc } .spread { stroke: #ddd } \
    .ours, text.ours { stroke: #58a6ff; fill: #58a6ff } }</style>\n";

/// A value for each of the plot's places.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) ours: bool,
    pub(crate) points: Vec<f64>,
}

pub(crate) fn lines(title: &str, places: &[usize], lines: &[Line]) -> String {
    const HEIGHT: f64 = 440.0;
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 520.0;
    const TOP: f64 = 45.0;
    const BOTTOM: f64 = 400.0;
    let values = || lines.iter().flat_map(|line| line.points.iter().copied()).filter(|value| *value > 0.0);
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(1.0, f64::max).log10().ceil();
    let y = |value: f64| BOTTOM - (value.log10() - low) / (high - low) * (BOTTOM - TOP);
    let step = (RIGHT - LEFT) / count(places.len().saturating_sub(1).max(1));
    let x = |at: usize| LEFT + step * count(at);

    let mut svg = head(title, HEIGHT);
    let mut decade = low;
    while decade <= high {
        let (value, y) = (10_f64.powf(decade), y(10_f64.powf(decade)));
        add(&mut svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"));
        add(
            &mut svg,
            format_args!("<text class=\"end\" x=\"{}\" y=\"{:.1}\">{value}</text>", LEFT - 8.0, y + 4.0),
        );
        decade += 1.0;
    }
    for (at, place) in places.iter().enumerate() {
        let y = BOTTOM + 20.0;
        add(&mut svg, format_args!("<text class=\"middle\" x=\"{:.1}\" y=\"{y}\">{place}</text>", x(at)));
    }
    // Names stand where their lines end, from the top, and each below the one before.
    let mut ends: Vec<_> = lines.iter().collect();
    let end = |line: &Line| line.points.last().copied().unwrap_or(f64::NAN);
    ends.sort_by(|a, b| end(b).total_cmp(&end(a)));
    let mut free = TOP;
    for line in ends {
        let points = line.points.iter().enumerate().filter(|(_, value)| value.is_finite());
        let mut path = String::new();
        for (at, value) in points {
            let _ = write!(path, "{:.1},{:.1} ", x(at), y(*value));
        }
        let class = class(line.ours);
        add(&mut svg, format_args!("<polyline class=\"{class}\" points=\"{}\"/>", path.trim_end()));
        let at = y(end(line)).max(free);
        free = at + 15.0;
        let (x, y, name) = (RIGHT + 8.0, at + 4.0, line.name);
        add(&mut svg, format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y:.1}\">{name}</text>"));
    }
    svg + "</svg>\n"
}

/// One bar, with its quartiles when there are some.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) ours: bool,
    pub(crate) value: f64,
    pub(crate) spread: Option<(f64, f64)>,
    /// As it is written beside it.
    pub(crate) label: String,
}

pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 280.0;
    const RIGHT: f64 = 660.0;
    const TOP: f64 = 40.0;
    const STEP: f64 = 26.0;
    let most = bars.iter().map(|bar| bar.spread.map_or(bar.value, |(_, high)| high)).fold(0.0, f64::max);
    let x = |value: f64| LEFT + value / most * (RIGHT - LEFT);
    let mut svg = head(title, TOP + STEP * count(bars.len()) + 10.0);
    for (at, bar) in bars.iter().enumerate() {
        let (y, class) = (TOP + STEP * count(at), class(bar.ours));
        let (text_y, middle, width) = (y + 14.0, y + 10.0, x(bar.value) - LEFT);
        let name = &bar.name;
        add(
            &mut svg,
            format_args!("<text class=\"end {class}\" x=\"{}\" y=\"{text_y}\">{name}</text>", LEFT - 8.0),
        );
        add(
            &mut svg,
            format_args!(
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\"/>"
            ),
        );
        let mut end = x(bar.value);
        if let Some((low, high)) = bar.spread {
            let (low, high) = (x(low), x(high));
            end = end.max(high);
            add(&mut svg, format_args!("<path class=\"spread\" d=\"M{low:.1} {middle}H{high:.1}\"/>"));
        }
        add(&mut svg, format_args!("<text x=\"{:.1}\" y=\"{text_y}\">{}</text>", end + 6.0, bar.label));
    }
    svg + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n{STYLE}<text class=\"title\" x=\"10\" y=\"22\">{title}</text>\n"
    )
}

fn add(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = writeln!(svg, "{element}");
}

fn class(ours: bool) -> &'static str {
    if ours { "ours" } else { "other" }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
