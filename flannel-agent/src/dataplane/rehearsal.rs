//! A packet through the programs of a node, without the node: what `trace` runs.
//!
//! `BPF_PROG_TEST_RUN` of an attached program would count, enter flows and take ports like any packet. So the
//! programs are loaded a second time, with the constants of those that are attached. What they only read
//! (leases, epoch, exemptions) are the pinned maps themselves; what they write (flows, translations, fragments,
//! counters) are maps of this process, into which the packet's own entries are copied. All of it ends with
//! the process.

use std::collections::BTreeMap;

use aya::EbpfLoader;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions};
use bytemuck::Pod;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::globals::{SHOW_GAP, WIRE};
use flannel_common::maps::{
    EPOCH, EXEMPT, FLOWS, LENT, MACS, OUTLETS, PEERS, SNAT, STATS, STEPS, TIMES, UNFIT, VTEPS,
    YOUNG,
};
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat;
use flannel_common::stats::Counters;

use super::embedded::EMBEDDED;
use super::loader::loader;
use super::shadow::{Likeness, Shadow};
use super::view::{View, constants_by_name};
use super::{DataplaneError, Wire};

/// Enough for one packet. An LRU needs some for each CPU.
const ENTRIES: u32 = 1_024;
/// What the programs never write.
const SHARED: [&str; 9] = [
    PEERS, VTEPS, MACS, EPOCH, EXEMPT, OUTLETS, LENT, UNFIT, TIMES,
];
const OWN: [&str; 4] = [FLOWS, SNAT, YOUNG, flannel_common::maps::FRAGMENTS];

/// The programs of one network, ready to be tried.
pub(crate) struct Rehearsal {
    shadow: Shadow,
    counted: BTreeMap<(Program, Reason), u64>,
    /// The kernel empties a program array that nobody in user space holds.
    steps: Option<Map>,
}

/// What a program did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// TC action.
    pub(crate) action: i32,
    pub(crate) packet: Vec<u8>,
    /// What was counted, by this program or one it went on in.
    pub(crate) reasons: Vec<(Program, Reason)>,
}

/// Why a rehearsal is impossible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RehearsalError {
    #[error(
        "{0} on this node comes from another build: use the flannel-agent that runs here, or restart \
         the agent with this one"
    )]
    OtherBuild(&'static str),
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error("cannot run {program} on a packet: {error}")]
    Run {
        program: &'static str,
        error: Box<aya::programs::ProgramError>,
    },
}

/// What programs see of a packet beside its bytes; 0: as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Index of the device that it is at, if that is not the uplink.
    pub(crate) device: u32,
    /// Index of the device by which the stack received it.
    pub(crate) came_by: u32,
    /// Bytes of payload in each of the segments that it stands for.
    pub(crate) gso_size: u32,
}

impl About {
    /// The head of a `struct __sk_buff` (`linux/bpf.h`). The kernel wants the rest zero.
    fn context(self) -> [u8; 180] {
        const INGRESS_IFINDEX: usize = 36;
        const IFINDEX: usize = 40;
        const GSO_SIZE: usize = 176;
        let mut context = [0; 180];
        let mut set = |at: usize, value: u32| {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        };
        set(IFINDEX, self.device);
        set(INGRESS_IFINDEX, self.came_by);
        set(GSO_SIZE, self.gso_size);
        context
    }
}

impl Rehearsal {
    /// Loads the programs with `constants`, the `.rodata` of an attached one.
    pub(crate) fn new(view: &View, constants: &[u8]) -> Result<Self, RehearsalError> {
        let values = constants_by_name(constants).ok_or(RehearsalError::OtherBuild("a program"))?;
        let mut loader: EbpfLoader<'_> = loader();
        for (name, value) in &values {
            // What the bridge is shown now and then would be what is shown here: nobody has been before.
            if name != SHOW_GAP {
                loader.override_global(name, *value, true);
            }
        }
        let paths: Vec<_> = SHARED
            .iter()
            .map(|name| (*name, view.map_path(name)))
            // The loader would pin a map of its own where none is.
            .filter(|(_, path)| path.exists())
            .collect();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        for name in OWN {
            loader.map_max_entries(name, ENTRIES);
        }
        let mut ebpf = loader
            .load(EMBEDDED)
            .map_err(|error| DataplaneError::Maps(Box::new(error)))?;
        let steps = ebpf.take_map(STEPS);
        let wire = values.get(WIRE).and_then(|value| value.first());
        let wire = wire.copied().unwrap_or_default();
        Ok(Self {
            shadow: Shadow::new(ebpf, wire),
            counted: BTreeMap::new(),
            steps,
        })
    }

    /// Loads what translation goes on in.
    pub(crate) fn add_steps(&mut self) -> Result<(), RehearsalError> {
        let Some(map) = &mut self.steps else {
            return Ok(());
        };
        let failed = |error| DataplaneError::map(STEPS, "write", error);
        let mut steps = ProgramArray::try_from(map).map_err(failed)?;
        for program in Program::STEPS {
            let classifier = self.shadow.program(program)?;
            let fd = classifier.fd().map_err(|error| DataplaneError::Load {
                program: program.name(),
                error: Box::new(error),
            })?;
            steps.set(program.step(), fd, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes sure that the copy is what is attached.
    pub(crate) fn check(
        &mut self,
        program: Program,
        live: &ProgramInfo,
    ) -> Result<(), RehearsalError> {
        let ours = self.shadow.likeness(program)?;
        match Likeness::of(live) {
            Ok(live) if live == ours => Ok(()),
            _ => Err(RehearsalError::OtherBuild(program.name())),
        }
    }

    pub(crate) fn enter_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), RehearsalError> {
        self.enter(FLOWS, key, flow)
    }

    pub(crate) fn enter_snat(
        &mut self,
        key: &snat::Key,
        entry: &snat::Entry,
    ) -> Result<(), RehearsalError> {
        self.enter(SNAT, key, entry)
    }

    fn enter<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        key: &K,
        value: &V,
    ) -> Result<(), RehearsalError> {
        let failed = |error| DataplaneError::map(name, "write", error);
        let map = self.shadow.map(name)?;
        let mut map: HashMap<&mut MapData, Wire<K>, Wire<V>> = map.try_into().map_err(failed)?;
        map.insert(Wire(*key), Wire(*value), 0).map_err(failed)?;
        Ok(())
    }

    /// One packet, from its Ethernet header on, through one program.
    pub(crate) fn run(
        &mut self,
        program: Program,
        packet: &[u8],
        about: About,
    ) -> Result<Outcome, RehearsalError> {
        let context = about.context();
        let mut out = vec![0; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = (about != About::default()).then_some(&context[..]);
        let result = self.shadow.program(program)?.test_run(options);
        let result = result.map_err(|error| RehearsalError::Run {
            program: program.name(),
            error: Box::new(error),
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Outcome {
            action: result.return_value.cast_signed(),
            packet: out,
            reasons: self.count()?,
        })
    }

    /// What was counted since the last look.
    fn count(&mut self) -> Result<Vec<(Program, Reason)>, RehearsalError> {
        let failed = |error| DataplaneError::map(STATS, "read", error);
        let map = self.shadow.map(STATS)?;
        let map: PerCpuArray<&mut MapData, Wire<Counters>> = map.try_into().map_err(failed)?;
        let mut fresh = Vec::new();
        for program in Program::ALL {
            let by_cpu = map.get(&(program as u32), 0).map_err(failed)?;
            for reason in Reason::ALL {
                let counts = by_cpu.iter().map(|Wire(c)| c.get(*reason).packets);
                let sum: u64 = counts.sum();
                let before = self.counted.insert((program, *reason), sum);
                if sum > before.unwrap_or(0) {
                    fresh.push((program, *reason));
                }
            }
        }
        Ok(fresh)
    }
}
