//! What the numbers were measured on.

use std::fs;
use std::thread::available_parallelism;

use flannel_agent::base::wall::Moment;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) is_virtual: bool,
    /// When the run began.
    pub(crate) date: String,
    /// Whether agent and bench were optimized.
    pub(crate) is_release: bool,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            processor: field(&info, "model name").to_owned(),
            cores: available_parallelism().map_or(1, usize::from),
            // CPUID's bit by which a hypervisor shows itself.
            is_virtual: field(&info, "flags").split(' ').any(|f| f == "hypervisor"),
            date: Moment::now().to_string(),
            is_release: !cfg!(debug_assertions),
        }
    }

    /// In one sentence.
    pub(crate) fn describe(&self) -> String {
        let Self {
            kernel,
            processor,
            cores,
            date,
            ..
        } = self;
        let kind = match (processor.as_str(), self.is_virtual) {
            ("", true) => "a virtual machine".to_owned(),
            ("", false) => "a machine".to_owned(),
            (name, true) => format!("a virtual machine ({name})"),
            (name, false) => format!("a machine ({name})"),
        };
        let build = if self.is_release { "release" } else { "debug" };
        format!("{date}, {kind} with {cores} cores, Linux {kernel}, {build} build")
    }
}

/// The first of a name in `/proc/cpuinfo`.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let values = info.lines().filter_map(|line| line.split_once(':'));
    let mut of_name = values.filter(|(n, _)| n.trim() == name);
    of_name.next().map_or("", |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "model\t\t: 85\nmodel name\t: Xeon: 2.5 GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(info, "model name"), "Xeon: 2.5 GHz");
        assert_eq!(field(info, "mode"), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        let machine = Machine::this();
        assert!(machine.kernel.starts_with(|c: char| c.is_ascii_digit()));
        assert!(machine.cores > 0);
        assert!(machine.describe().contains(&machine.kernel));
    }
}
