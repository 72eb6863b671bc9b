//! The results as a picture: bars of speed relative to flannel's kernel vxlan, one group a traffic.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::goals::BASE;
use crate::job::Traffic;
use crate::mode::Mode;
use crate::plan::{Condition, Cores};
use crate::rounds::Series;

const SIZE: (u32, u32) = (960, 480);

fn color(mode: Mode) -> RGBColor {
    match mode {
        Mode::Bare => RGBColor(190, 190, 190),
        Mode::Kernel => RGBColor(110, 110, 110),
        Mode::HostGw => RGBColor(150, 180, 210),
        Mode::Verified => RGBColor(20, 120, 70),
        Mode::Bridge => RGBColor(90, 170, 120),
        Mode::Always => RGBColor(150, 205, 100),
        Mode::Off => RGBColor(225, 200, 120),
    }
}

/// What one picture shows: the usual node, one flow, one core; bulk on both wires.
fn is_shown(series: &Series) -> bool {
    let group = &series.group;
    let usual = Condition {
        wire: group.condition.wire,
        ..Condition::USUAL
    };
    group.condition == usual
        && group.cores == Cores::One
        && group.flows == 1
        && (group.condition == Condition::USUAL || matches!(series.traffic, Traffic::TcpStream(_)))
}

fn label(series: &Series) -> String {
    let name = series.traffic.name();
    if series.group.condition == Condition::USUAL {
        name
    } else {
        format!("{name} 1500")
    }
}

/// Writes an SVG; nothing if no series is to be shown.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(path: &Path, all: &[Series], modes: &[Mode]) -> Result<(), Box<dyn Error>> {
    let shown: Vec<&Series> = all.iter().filter(|s| is_shown(s)).collect();
    let bars: Vec<(Mode, Vec<Bar>)> = modes
        .iter()
        .zip(0u32..)
        .map(|(mode, nth)| (*mode, bars(&shown, *mode, nth, modes.len())))
        .collect();
    let tops = bars.iter().flat_map(|(_, bars)| bars).map(|bar| bar.top);
    let Some(top) = tops.max_by(f64::total_cmp) else {
        return Ok(());
    };

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(
            "Speed relative to flannel's kernel vxlan; higher is better",
            ("sans-serif", 18),
        )
        .x_label_area_size(8)
        .y_label_area_size(40)
        // Room for the names below the bars.
        .build_cartesian_2d(0.0..position(shown.len()), -0.12 * top..1.05 * top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_label_formatter(&|y| {
            if *y < 0.0 {
                String::new()
            } else {
                format!("{y:.1}")
            }
        })
        .label_style(("sans-serif", 12))
        .draw()?;
    for (mode, bars) in &bars {
        let style = color(*mode).filled();
        let rectangle = |bar: &Bar| Rectangle::new([(bar.left, 0.0), (bar.right, bar.top)], style);
        chart
            .draw_series(bars.iter().map(rectangle))?
            .label(mode.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], style));
    }
    let names = shown.iter().enumerate().map(|(group, series)| {
        let at = (position(group) + 0.1, -0.04 * top);
        Text::new(label(series), at, ("sans-serif", 12))
    });
    chart.draw_series(names)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 12))
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// In the chart's coordinates: a group of bars is 1 wide.
#[derive(Debug)]
struct Bar {
    left: f64,
    right: f64,
    top: f64,
}

fn bars(shown: &[&Series], mode: Mode, nth: u32, modes: usize) -> Vec<Bar> {
    let width = 0.8 / position(modes);
    let bar = |(group, series): (usize, &&Series)| {
        let left = position(group) + 0.1 + width * f64::from(nth);
        Some(Bar {
            left,
            right: left + width,
            top: series.speed(mode, BASE)?.median,
        })
    };
    shown.iter().enumerate().filter_map(bar).collect()
}

fn position(group: usize) -> f64 {
    u32::try_from(group).map_or(0.0, f64::from)
}
