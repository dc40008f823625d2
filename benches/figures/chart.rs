//! Two kinds of chart, as SVG: lines over two logarithmic axes, and horizontal bars.

use std::fmt::Write as _;

use crate::measure::digits;

const FONT: &str = "font-family='Helvetica, Arial, sans-serif'";
/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];
const GREY: &str = "#666666";

/// One line of a chart.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Which of the colours.
    pub colour: usize,
    /// Which of the strokes: whole, dashes, dots.
    pub stroke: usize,
}

/// Lines over two logarithmic axes.
pub struct Lines<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub ticks: &'a [f64],
    pub series: Vec<Series>,
}

fn open(svg: &mut String, width: f64, height: f64, title: &str) {
    writeln!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'>\n\
         <title>{title}</title>\n<rect width='{width}' height='{height}' fill='white'/>"
    )
    .unwrap();
    text(svg, (16.0, 26.0), "start", 15, "#111111", title);
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, size: u32, colour: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        "<text x='{:.1}' y='{:.1}' text-anchor='{anchor}' font-size='{size}' fill='{colour}' {FONT}>{words}</text>",
        at.0, at.1
    )
    .unwrap();
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    writeln!(
        svg,
        "<line x1='{:.1}' y1='{:.1}' x2='{:.1}' y2='{:.1}' stroke='{colour}'/>",
        from.0, from.1, to.0, to.1
    )
    .unwrap();
}

impl Lines<'_> {
    pub fn svg(&self) -> String {
        let (width, height) = (760.0, 460.0);
        let (left, right, top, bottom) = (70.0, 220.0, 48.0, 52.0);
        let points = || self.series.iter().flat_map(|one| &one.points);
        let highest = points().map(|point| point.1).fold(f64::MIN, f64::max);
        let lowest = points().map(|point| point.1).fold(f64::MAX, f64::min);
        let (low, high) = (lowest.log10().floor(), highest.log10().ceil());
        let first = self.ticks[0].log10();
        let span = self.ticks[self.ticks.len() - 1].log10() - first;
        let x = |value: f64| left + (value.log10() - first) / span * (width - left - right);
        let y = |value: f64| {
            height - bottom - (value.log10() - low) / (high - low) * (height - top - bottom)
        };
        let mut svg = String::new();
        open(&mut svg, width, height, self.title);
        let mut power = low;
        while power <= high {
            let at = y(10_f64.powf(power));
            line(&mut svg, (left, at), (width - right, at), "#dddddd");
            let label = if power < 0.0 {
                10_f64.powf(power).to_string()
            } else {
                crate::measure::thousands(10_f64.powf(power))
            };
            text(&mut svg, (left - 8.0, at + 4.0), "end", 12, GREY, &label);
            power += 1.0;
        }
        for &tick in self.ticks {
            let at = x(tick);
            line(&mut svg, (at, top), (at, height - bottom), "#eeeeee");
            let label = crate::measure::thousands(tick);
            let place = (at, height - bottom + 18.0);
            text(&mut svg, place, "middle", 12, GREY, &label);
        }
        let middle = f64::midpoint(left, width - right);
        text(
            &mut svg,
            (middle, height - 12.0),
            "middle",
            13,
            "#111111",
            self.x,
        );
        text(&mut svg, (16.0, top - 6.0), "start", 12, GREY, self.y);
        let mut labels: Vec<(f64, &Series)> = Vec::new();
        for series in &self.series {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let dashes = ["", "7 4", "2 4"][series.stroke % 3];
            let path: Vec<String> = series
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
                .collect();
            writeln!(
                svg,
                "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2' stroke-dasharray='{dashes}'/>",
                path.join(" ")
            )
            .unwrap();
            for point in &series.points {
                writeln!(
                    svg,
                    "<circle cx='{:.1}' cy='{:.1}' r='3' fill='{colour}'/>",
                    x(point.0),
                    y(point.1)
                )
                .unwrap();
            }
            let last = series.points[series.points.len() - 1];
            labels.push((y(last.1), series));
        }
        // A label beside the end of each line, none over another.
        labels.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let mut free = top;
        for (at, series) in labels {
            let at = at.max(free);
            let colour = COLOURS[series.colour % COLOURS.len()];
            let place = (width - right + 10.0, at + 4.0);
            text(&mut svg, place, "start", 12, colour, &series.name);
            free = at + 16.0;
        }
        svg += "</svg>\n";
        svg
    }
}

/// A bar, or a heading above some.
pub enum Bar {
    Heading(String),
    Value {
        name: String,
        value: f64,
        colour: usize,
    },
}

/// Horizontal bars from zero.
pub struct Bars<'a> {
    pub title: &'a str,
    pub unit: &'a str,
    pub rows: Vec<Bar>,
}

impl Bars<'_> {
    pub fn svg(&self) -> String {
        let (width, left, right, top, step) = (760.0, 270.0, 110.0, 44.0, 22.0);
        #[allow(clippy::cast_precision_loss)] // a few bars
        let height = top + step * self.rows.len() as f64 + 14.0;
        let values = self.rows.iter().map(|bar| match bar {
            Bar::Heading(_) => 0.0,
            Bar::Value { value, .. } => *value,
        });
        let most = values.fold(0.0, f64::max);
        let mut svg = String::new();
        open(&mut svg, width, height, self.title);
        let mut at = top;
        for bar in &self.rows {
            match bar {
                Bar::Heading(words) => {
                    text(&mut svg, (16.0, at + 16.0), "start", 13, "#111111", words);
                }
                Bar::Value {
                    name,
                    value,
                    colour,
                } => {
                    let length = (value / most * (width - left - right)).max(1.0);
                    text(
                        &mut svg,
                        (left - 8.0, at + 15.0),
                        "end",
                        12,
                        "#333333",
                        name,
                    );
                    writeln!(
                        svg,
                        "<rect x='{left}' y='{:.1}' width='{length:.1}' height='{}' fill='{}'/>",
                        at + 3.0,
                        step - 6.0,
                        COLOURS[colour % COLOURS.len()]
                    )
                    .unwrap();
                    let label = format!("{} {}", digits(*value), self.unit);
                    let place = (left + length + 6.0, at + 15.0);
                    text(&mut svg, place, "start", 12, "#333333", &label);
                }
            }
            at += step;
        }
        svg += "</svg>\n";
        svg
    }
}
