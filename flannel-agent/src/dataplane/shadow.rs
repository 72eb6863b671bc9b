//! A copy of the programs that no packet of the node reaches: the same code, maps of its own.
//!
//! Loaded and never attached, it tells whether what is attached is what we would attach, and what it would
//! do with a packet. It ends with the process.

use std::io;

use aya::Ebpf;
use aya::maps::Map;
use aya::programs::{ProgramInfo, SchedClassifier, Xdp};
use flannel_common::program::Program;

use super::programs::{at_driver, classifier};
use super::rodata::constants;
use super::verifier::patiently;
use super::view::forget_own;
use super::{DataplaneError, requirements};

/// The programs of one object with one set of constants.
#[derive(Debug)]
pub(crate) struct Shadow {
    ebpf: Ebpf,
    wire: u8,
}

/// What makes two loaded programs the same: code and constants, whatever their maps are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Likeness {
    /// The kernel's hash of the instructions, made before it replaces map descriptors in them.
    tag: u64,
    constants: Option<Vec<u8>>,
}

impl Shadow {
    pub(super) fn new(ebpf: Ebpf, wire: u8) -> Self {
        Self { ebpf, wire }
    }

    /// Loads a program, unless that was done before.
    pub(super) fn program(
        &mut self,
        program: Program,
    ) -> Result<&mut SchedClassifier, DataplaneError> {
        let classifier = classifier(&mut self.ebpf, self.wire, program)?;
        if classifier.fd().is_err() {
            patiently(|| classifier.load())
                .map_err(|error| requirements::explain(program.name(), error))?;
        }
        Ok(classifier)
    }

    fn at_driver(&mut self, program: Program) -> Result<&mut Xdp, DataplaneError> {
        let xdp = at_driver(&mut self.ebpf, self.wire, program)?;
        if xdp.fd().is_err() {
            patiently(|| xdp.load())
                .map_err(|error| requirements::explain(program.name(), error))?;
        }
        Ok(xdp)
    }

    pub(super) fn map(&mut self, name: &'static str) -> Result<&mut Map, DataplaneError> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| DataplaneError::no_map(name))
    }

    pub(crate) fn likeness(&mut self, program: Program) -> Result<Likeness, DataplaneError> {
        let info = match program.is_xdp() {
            true => self.at_driver(program)?.info(),
            false => self.program(program)?.info(),
        };
        let info = info.map_err(|error| DataplaneError::load(program.name(), error))?;
        Likeness::of(&info).map_err(|error| DataplaneError::map(".rodata", "read", error.into()))
    }
}

impl Likeness {
    /// Of any program in the kernel.
    pub(crate) fn of(info: &ProgramInfo) -> io::Result<Self> {
        let maps = info.map_ids().map_err(io::Error::other)?;
        let mut constants = constants(&maps.unwrap_or_default())?;
        if let Some(constants) = &mut constants {
            forget_own(constants);
        }
        Ok(Self {
            tag: info.tag(),
            constants,
        })
    }
}
