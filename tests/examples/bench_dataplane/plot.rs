//! The results as a picture: bars of speed relative to flannel's kernel vxlan, one group a traffic.

use std::error::Error;

use plotters::prelude::*;

use crate::goals::BASE;
use crate::job::Traffic;
use crate::mode::Mode;
use crate::plan::{Condition, Cores};
use crate::rounds::Series;

const SIZE: (u32, u32) = (1200, 480);

fn color(mode: Mode) -> RGBColor {
    match mode {
        Mode::Bare => RGBColor(190, 190, 190),
        Mode::Kernel => RGBColor(110, 110, 110),
        Mode::KernelHostGw => RGBColor(150, 180, 210),
        Mode::Verified => RGBColor(20, 120, 70),
        Mode::Before => RGBColor(120, 160, 140),
        Mode::Bridge => RGBColor(90, 170, 120),
        Mode::Always => RGBColor(150, 205, 100),
        Mode::Off => RGBColor(225, 200, 120),
        Mode::HostGw => RGBColor(40, 90, 160),
        Mode::Xdp => RGBColor(190, 110, 160),
        Mode::Anchor => RGBColor(70, 140, 70),
        Mode::Udp => RGBColor(60, 150, 160),
        Mode::FlanneldUdp => RGBColor(200, 140, 110),
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

/// An SVG; `None` if no series is to be shown.
///
/// # Errors
/// When it cannot be drawn.
pub(crate) fn svg(all: &[Series]) -> Result<Option<String>, Box<dyn Error>> {
    let shown: Vec<&Series> = all.iter().filter(|s| is_shown(s)).collect();
    // The kernel's bars would all be 1.
    let modes = Mode::ALL.into_iter().filter(|mode| *mode != BASE);
    let modes: Vec<Mode> = modes
        .filter(|mode| shown.iter().any(|s| s.speed(*mode, BASE).is_some()))
        .collect();
    let bars: Vec<(Mode, Vec<Bar>)> = modes
        .iter()
        .zip(0u32..)
        .map(|(mode, nth)| (*mode, bars(&shown, *mode, nth, modes.len())))
        .collect();
    let tops = bars.iter().flat_map(|(_, bars)| bars).map(|bar| bar.top);
    let Some(top) = tops.max_by(f64::total_cmp) else {
        return Ok(None);
    };
    let mut svg = String::new();
    draw(&mut svg, &shown, &bars, top.max(1.0))?;
    Ok(Some(svg))
}

fn draw(
    svg: &mut String,
    shown: &[&Series],
    bars: &[(Mode, Vec<Bar>)],
    top: f64,
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let end = position(shown.len());
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(
            "Speed relative to flannel's kernel vxlan (1); higher is better",
            ("sans-serif", 18),
        )
        .x_label_area_size(8)
        .y_label_area_size(40)
        // Room for the names below the bars, and for the legend above them.
        .build_cartesian_2d(0.0..end, -0.12 * top..1.3 * top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
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
    for (mode, bars) in bars {
        let style = color(*mode).filled();
        let rectangle = |bar: &Bar| Rectangle::new([(bar.left, 0.0), (bar.right, bar.top)], style);
        chart
            .draw_series(bars.iter().map(rectangle))?
            .label(mode.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], style));
    }
    let kernel = vec![(0.0, 1.0), (end, 1.0)];
    let line = PathElement::new(kernel, color(BASE).stroke_width(2));
    chart.draw_series(std::iter::once(line))?;
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

/// The `nth` of so many modes' bars.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::document;

    /// Names of the elements, in order; panics where the text is no well-formed XML.
    fn elements(xml: &str) -> Vec<&str> {
        let (mut names, mut open) = (Vec::new(), Vec::new());
        let mut rest = xml;
        while let Some(at) = rest.find('<') {
            assert!(!rest[..at].contains('>'), "{rest}");
            let end = rest.find('>').expect("an end of each tag");
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if tag.starts_with(['?', '!']) {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let name = tag.split([' ', '/', '\n']).next().expect("a name");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            names.push(name);
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert_eq!(open, [""; 0], "all are closed");
        let entities = xml.split('&').skip(1);
        let known = ["amp;", "lt;", "gt;", "quot;", "apos;"];
        assert!(
            entities
                .into_iter()
                .all(|e| known.iter().any(|k| e.starts_with(k)))
        );
        names
    }

    #[test]
    fn the_picture_is_well_formed_and_names_what_it_shows() {
        let all = document().series;
        let svg = svg(&all).unwrap().unwrap();
        let names = elements(&svg);
        assert_eq!(names[0], "svg");
        assert_eq!(names.iter().filter(|name| **name == "svg").count(), 1);
        // Eight kinds of traffic, and streams on the other wire; every mode but the kernel's and XDP, which has one wire.
        let bars = 8 * 7 + 3 * 8;
        assert!(names.iter().filter(|name| **name == "rect").count() >= bars);
        for mode in Mode::ALL.into_iter().filter(|mode| *mode != BASE) {
            assert!(svg.contains(&mode.name()), "{}", mode.name());
        }
        assert!(svg.contains("tcp-stream-1 1500"));
    }

    #[test]
    #[should_panic(expected = "all are closed")]
    fn the_check_knows_xml_that_is_not_well_formed() {
        elements("<svg><g/>");
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        assert_eq!(svg(&[]).unwrap(), None);
    }
}
