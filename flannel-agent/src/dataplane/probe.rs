//! What this process may do and this kernel can, found out by trying. Nothing stays behind.

use std::path::Path;

use aya::EbpfError;
use aya::programs::{Program as Loaded, ProgramError, SchedClassifier, TcAttachType};
use flannel_common::event::TELLER;
use flannel_common::maps::{FLOWS, FRAGMENTS, SNAT, YOUNG};
use flannel_common::program::Program;

use super::loader::loader;
use super::object::Object;
use super::verifier::patiently;
use super::{DataplaneError, requirements};

/// Tables of flows take their memory at once; a probe needs none of it.
const FEW: u32 = 128;

/// # Errors
/// Names the capabilities that are missing.
pub(crate) fn capabilities() -> Result<(), DataplaneError> {
    requirements::check_capabilities()
}

/// What came of loading every program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    /// How many the verifier takes.
    pub(crate) taken: usize,
    /// Why it does not take those for XDP, which the agent leaves out then.
    pub(crate) no_xdp: Option<String>,
}

/// Has the kernel make room in a packet, and the verifier look at every program of an object (`None`: the built-in one), with
/// maps of their own.
///
/// # Errors
/// An object that cannot be read, what the kernel lacks that the agent cannot do without, or the verifier's words.
pub(crate) fn programs(object: Option<&Path>) -> Result<Tried, DataplaneError> {
    let object = Object::read_bytes(object)?;
    requirements::check_kernel()?;
    let mut ebpf = loader()
        .map_max_entries(FLOWS, FEW)
        .map_max_entries(SNAT, FEW)
        .map_max_entries(FRAGMENTS, FEW)
        .map_max_entries(YOUNG, FEW)
        .load(&object)
        .map_err(|error| match error {
            EbpfError::ParseError(error) => DataplaneError::Object(error.to_string()),
            error => DataplaneError::Maps(Box::new(error)),
        })?;
    let mut tried = Tried {
        taken: 0,
        no_xdp: None,
    };
    for (name, program) in ebpf.programs_mut() {
        let known = Program::of_symbol(name);
        let name = known.map_or(TELLER, |program| program.name());
        match program {
            Loaded::SchedClassifier(program) => {
                let loaded = patiently(|| program.load());
                loaded.map_err(|error| requirements::explain(name, error))?;
            }
            Loaded::Xdp(program) => {
                if let Err(error) = patiently(|| program.load()) {
                    tried.no_xdp = Some(without_xdp(name, error));
                    continue;
                }
            }
            _ => continue,
        }
        tried.taken += 1;
    }
    Ok(tried)
}

fn without_xdp(name: &'static str, error: ProgramError) -> String {
    match requirements::lacking_for_xdp() {
        missing if missing.is_empty() => requirements::explain(name, error).to_string(),
        missing => format!("the kernel lacks {}", missing.join(", ")),
    }
}

/// Whether programs can be attached by tcx links (kernel 6.6): asks for those on the loopback device.
pub(crate) fn tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

#[cfg(test)]
mod tests {
    use flannel_common::globals::{WIRE_IPIP, WIRE_UDP};

    use super::*;

    #[test]
    fn every_program_of_the_object_is_tried() {
        let own = |wire: u8| {
            let all = Program::ALL.into_iter();
            all.filter(move |program| program.symbol(wire) != program.name())
        };
        let of_others = own(WIRE_UDP).chain(own(WIRE_IPIP));
        let all = Tried {
            // And the listener's.
            taken: Program::ALL.len() + of_others.count() + 1,
            no_xdp: None,
        };
        assert_eq!(programs(None).unwrap(), all);
    }
}
