//! Plots of a report, as SVG.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries,
        PathElement, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
    },
    style::{Color as _, IntoFont as _},
};

use super::{
    report::{Measured, Report, rate_text, time_text},
    row::Group,
    soak::Soak,
};

const SIZE: (u32, u32) = (900, 480);
const FONT: &str = "sans-serif";
const CAPTION_PX: u32 = 18;
const LABEL_PX: u32 = 13;
/// Colours that are told apart by those who see few of them (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Names a line and has its points.
type Line = (String, Vec<(f64, f64)>);

/// How a chart is written.
struct Chart<'a> {
    caption: &'a str,
    x: &'a str,
    y: &'a str,
    x_text: &'a dyn Fn(&f64) -> String,
    y_text: &'a dyn Fn(&f64) -> String,
    has_log_y: bool,
    begins_at_zero: bool,
}

/// Returns the plots of a report, each with the name of its file.
pub fn all(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let mut plots = Vec::new();
    let rates = rates(report);
    if !rates.is_empty() {
        plots.push(("rates.svg", single(&RATES, &rates)?));
    }
    let latencies: Vec<Line> = report.of(Group::Open).map(curve).collect();
    if !latencies.is_empty() {
        plots.push(("latency.svg", single(&LATENCY, &latencies)?));
    }
    if let Some(soak) = &report.soak {
        plots.push(("soak.svg", over_time(soak)?));
    }
    Ok(plots)
}

const RATES: Chart<'static> = Chart {
    caption: "Calls per second by callers",
    x: "callers",
    y: "calls per second",
    x_text: &|x| format!("{x:.0}"),
    y_text: &|y| rate_text(*y),
    has_log_y: true,
    begins_at_zero: false,
};

const LATENCY: Chart<'static> = Chart {
    caption: "Time by percentile, at a constant rate",
    x: "percentile",
    y: "time",
    x_text: &|x| percentile_text(*x),
    y_text: &|y| time_text(*y),
    has_log_y: true,
    begins_at_zero: false,
};

/// The rates over NATS, by callers.
fn rates(report: &Report) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in report.of(Group::Calls).chain(report.of(Group::Hosts)) {
        let Some(callers) = row.concurrency else { continue };
        let point = (callers as f64, row.rate);
        match lines.iter_mut().find(|(name, _)| *name == row.name) {
            Some((_, points)) => points.push(point),
            None => lines.push((row.name.clone(), vec![point])),
        }
    }
    lines
}

/// The times of a row by percentile; those near 100 have as much room as the others.
fn curve(row: &Measured) -> Line {
    let points = row.curve.iter().map(|(percentile, us)| (nines(*percentile), *us));
    (row.name.clone(), points.collect())
}

/// The number of nines of a percentile.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn percentile_text(nines: f64) -> String {
    let percentile = 100.0 * (1.0 - 10f64.powf(-nines));
    let text = format!("{percentile:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn over_time(soak: &Soak) -> Result<String> {
    let megabytes = |name: &str, bytes: &dyn Fn(usize) -> Option<u64>| -> Line {
        let windows = soak.windows.iter().enumerate();
        let points =
            windows.filter_map(|(at, window)| Some((window.at_seconds, bytes(at)? as f64 / 1e6)));
        (name.to_owned(), points.collect())
    };
    let memory = [
        megabytes("host that serves", &|at| soak.windows[at].serving_bytes),
        megabytes("this process, which calls", &|at| soak.windows[at].calling_bytes),
    ];
    let time = |name: &str, of: &dyn Fn(usize) -> f64| -> Line {
        let windows = soak.windows.iter().enumerate();
        (name.to_owned(), windows.map(|(at, window)| (window.at_seconds, of(at))).collect())
    };
    let times = [
        time("p99", &|at| soak.windows[at].latency_us.p99),
        time("p50", &|at| soak.windows[at].latency_us.p50),
    ];
    let seconds = |x: &f64| format!("{x:.0} s");
    let (mb, us) = (|y: &f64| format!("{y:.0} MB"), |y: &f64| time_text(*y));
    let chart = Chart {
        caption: "Memory over time",
        x: "",
        y: "resident",
        x_text: &seconds,
        y_text: &mb,
        has_log_y: false,
        begins_at_zero: true,
    };
    let mut svg = String::new();
    {
        let root = root(&mut svg)?;
        let halves = root.split_evenly((2, 1));
        chart.draw(&halves[0], &memory)?;
        let chart = Chart { caption: "Time of calls", y: "time", y_text: &us, ..chart };
        chart.draw(&halves[1], &times)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn single(chart: &Chart<'_>, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = root(&mut svg)?;
        chart.draw(&root, lines)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn root(svg: &mut String) -> Result<Area<'_>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    Ok(root)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw a plot: {error}")
}

/// The least and the most of some numbers, apart from each other.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(value), most.max(value))
        });
    match (least.is_finite(), most > least) {
        (false, _) => (0.0, 1.0),
        (true, true) => (least, most),
        (true, false) => (least * 0.9, least * 1.1 + f64::EPSILON),
    }
}

/// Draws lines with their legend on a chart whose axes are there.
macro_rules! draw {
    ($self:ident, $chart:expr, $lines:ident) => {{
        let mut chart = $chart.map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc($self.x)
            .y_desc($self.y)
            .x_label_formatter($self.x_text)
            .y_label_formatter($self.y_text)
            .label_style((FONT, LABEL_PX).into_font())
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        for ((name, points), colour) in $lines.iter().zip(COLOURS.iter().cycle()) {
            let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(series)
                .map_err(failed)?
                .label(name.as_str())
                .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, LABEL_PX).into_font())
            .draw()
            .map_err(failed)?;
        Ok(())
    }};
}

impl Chart<'_> {
    fn draw(&self, area: &Area<'_>, lines: &[Line]) -> Result<()> {
        let (x_least, x_most) = span(lines.iter().flat_map(|(_, points)| points).map(|(x, _)| *x));
        let (y_least, y_most) = span(lines.iter().flat_map(|(_, points)| points).map(|(_, y)| *y));
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(self.caption, (FONT, CAPTION_PX).into_font())
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(80);
        let x = x_least..x_most;
        if self.has_log_y {
            // A logarithm has no zero, and the legend wants room.
            let y = (y_least.max(1e-3) * 0.8..y_most.max(2e-3) * 4.0).log_scale();
            draw!(self, builder.build_cartesian_2d(x, y), lines)
        } else {
            let y = if self.begins_at_zero { 0.0 } else { y_least }..y_most * 1.4;
            draw!(self, builder.build_cartesian_2d(x, y), lines)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_room_by_their_nines() {
        for (percentile, text) in [(0.0, "0"), (90.0, "90"), (99.0, "99"), (99.9, "99.9")] {
            assert_eq!(percentile_text(nines(percentile)), text);
        }
        assert!((nines(99.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_plot_names_its_lines_and_bears_lines_without_points() {
        let lines: [Line; 3] = [
            ("plain".into(), vec![(1.0, 2000.0), (64.0, 40_000.0)]),
            ("one".into(), vec![(1.0, 5.0)]),
            ("none".into(), Vec::new()),
        ];
        let svg = single(&RATES, &lines).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("plain") && svg.contains("polyline"));
        single(&LATENCY, &[]).unwrap();
        assert_eq!(span([3.0, 1.0, 2.0].into_iter()), (1.0, 3.0));
    }
}
