//! OpenMetrics texts of several networks as one: a metric is described once, and each sample says whose it is.

use std::fmt::Write as _;

/// What the texts say, metric by metric.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: String,
    described: Vec<String>,
    samples: Vec<String>,
}

impl Families {
    /// Adds the text of one network.
    pub(super) fn add(&mut self, network: &str, text: &str) {
        let mut current = None;
        for line in text.lines() {
            let Some(description) = line.strip_prefix("# ") else {
                if let Some(family) = current.and_then(|index: usize| self.0.get_mut(index)) {
                    family.samples.push(labelled(line, network));
                }
                continue;
            };
            // "HELP name text", and at the end of all "EOF"
            let Some(name) = description.split(' ').nth(1) else {
                continue;
            };
            let index = self.family(name);
            current = Some(index);
            let described = &mut self.0[index].described;
            if !described.iter().any(|known| known == line) {
                described.push(line.to_owned());
            }
        }
    }

    fn family(&mut self, name: &str) -> usize {
        if let Some(index) = self.0.iter().position(|family| family.name == name) {
            return index;
        }
        self.0.push(Family {
            name: name.to_owned(),
            described: Vec::new(),
            samples: Vec::new(),
        });
        self.0.len() - 1
    }

    pub(super) fn text(&self) -> String {
        let lines = self
            .0
            .iter()
            .flat_map(|family| family.described.iter().chain(&family.samples));
        let mut text = String::new();
        for line in lines {
            // A string takes everything.
            let _ = writeln!(text, "{line}");
        }
        text.push_str("# EOF\n");
        text
    }
}

/// The sample with one label more. Names of networks have nothing that needs an escape.
fn labelled(sample: &str, network: &str) -> String {
    let label = format!("network=\"{network}\"");
    match sample.split_once('{') {
        Some((name, rest)) if rest.starts_with('}') => format!("{name}{{{label}{rest}"),
        Some((name, rest)) => format!("{name}{{{label},{rest}"),
        None => match sample.split_once(' ') {
            Some((name, value)) => format!("{name}{{{label}}} {value}"),
            None => sample.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_description_and_samples_of_everybody() {
        let mut families = Families::default();
        families.add(
            "blue",
            "# HELP x_y Is.\n# TYPE x_y counter\nx_y_total 1\n# HELP z Is.\n# TYPE z gauge\nz{a=\"b c\"} 2\n# EOF\n",
        );
        families.add(
            "red",
            "# HELP x_y Is.\n# TYPE x_y counter\nx_y_total 3\n# EOF\n",
        );
        assert_eq!(
            families.text(),
            "# HELP x_y Is.\n# TYPE x_y counter\nx_y_total{network=\"blue\"} 1\nx_y_total{network=\"red\"} 3\n\
             # HELP z Is.\n# TYPE z gauge\nz{network=\"blue\",a=\"b c\"} 2\n# EOF\n"
        );
    }

    #[test]
    fn no_network_is_an_empty_text() {
        assert_eq!(Families::default().text(), "# EOF\n");
    }
}
