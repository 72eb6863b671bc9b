//! What this process may do and this kernel can, found out by trying. Nothing stays behind.

use std::path::Path;

use aya::programs::{Program as Loaded, SchedClassifier, TcAttachType};
use aya::{EbpfError, EbpfLoader};
use flannel_common::event::TELLER;
use flannel_common::maps::{FLOWS, FRAGMENTS, SNAT};
use flannel_common::program::Program;

use super::object::Object;
use super::{DataplaneError, requirements};

/// Tables of flows take their memory at once; a probe needs none of it.
const FEW: u32 = 128;

/// # Errors
/// Names the capabilities that are missing.
pub(crate) fn capabilities() -> Result<(), DataplaneError> {
    requirements::check_capabilities()
}

/// Has the verifier look at every program of an object (`None`: the built-in one), with maps of their own. Returns how many.
///
/// # Errors
/// An object that cannot be read, what the kernel lacks, or the verifier's words.
pub(crate) fn programs(object: Option<&Path>) -> Result<usize, DataplaneError> {
    let object = Object::read_bytes(object)?;
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .map_max_entries(FLOWS, FEW)
        .map_max_entries(SNAT, FEW)
        .map_max_entries(FRAGMENTS, FEW)
        .load(&object)
        .map_err(|error| match error {
            EbpfError::ParseError(error) => DataplaneError::Object(error.to_string()),
            error => DataplaneError::Maps(Box::new(error)),
        })?;
    let mut count = 0;
    for (name, program) in ebpf.programs_mut() {
        let known = Program::ALL.iter().find(|program| program.name() == name);
        let name = known.map_or(TELLER, |program| program.name());
        let loaded = match program {
            Loaded::SchedClassifier(program) => program.load(),
            Loaded::Xdp(program) => program.load(),
            _ => continue,
        };
        loaded.map_err(|error| requirements::explain(name, error))?;
        count += 1;
    }
    Ok(count)
}

/// Whether programs can be attached by tcx links (kernel 6.6): asks for those on the loopback device.
pub(crate) fn tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_the_object_is_tried() {
        assert_eq!(
            programs(None).unwrap(),
            Program::ALL.len() + 1,
            "and the listener's"
        );
    }
}
