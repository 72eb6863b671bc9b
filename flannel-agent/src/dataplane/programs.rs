//! The programs of the loaded object, by what they are. `wire`: a value of [`flannel_common::globals::WIRE`].

use aya::Ebpf;
use aya::programs::{SchedClassifier, Xdp};
use flannel_common::program::Program;

use super::verifier::patiently;
use super::{DataplaneError, requirements};

/// Loads one program. Returns its kernel id.
pub(super) fn load(ebpf: &mut Ebpf, wire: u8, program: Program) -> Result<u32, DataplaneError> {
    let explain = |error| requirements::explain(program.name(), error);
    let info = if program.is_xdp() {
        let xdp = at_driver(ebpf, wire, program)?;
        patiently(|| xdp.load()).map_err(explain)?;
        xdp.info()
    } else {
        let classifier = classifier(ebpf, wire, program)?;
        patiently(|| classifier.load()).map_err(explain)?;
        classifier.info()
    };
    let info = info.map_err(|error| DataplaneError::load(program.name(), error))?;
    Ok(info.id())
}

pub(super) fn at_driver(
    ebpf: &mut Ebpf,
    wire: u8,
    program: Program,
) -> Result<&mut Xdp, DataplaneError> {
    of_kind(ebpf, program.symbol(wire), "XDP program")
}

pub(super) fn classifier(
    ebpf: &mut Ebpf,
    wire: u8,
    program: Program,
) -> Result<&mut SchedClassifier, DataplaneError> {
    of_kind(ebpf, program.symbol(wire), "TC classifier")
}

fn of_kind<'a, P>(ebpf: &'a mut Ebpf, name: &str, kind: &str) -> Result<&'a mut P, DataplaneError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let found = ebpf
        .program_mut(name)
        .ok_or_else(|| DataplaneError::Object(format!("it has no program {name}")))?;
    found
        .try_into()
        .map_err(|_| DataplaneError::Object(format!("its program {name} is no {kind}")))
}
