//! The object under test, loaded once per test into maps nobody else sees, and packets through its programs.

use aya::Ebpf;
use aya::maps::Map;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use flannel_agent::dataplane::verifier::patiently;
use flannel_common::program::Program;

use super::node::Node;
use super::world::{BRIDGE, UPLINK};
use crate::netns::Netns;

#[derive(Debug)]
pub struct Fixture {
    pub(super) ebpf: Ebpf,
    pub(super) wire: u8,
    pub(super) names: Vec<&'static str>,
    pub(super) steps: Option<Map>,
    /// Holds the listener's program.
    pub(super) teller: Option<Map>,
    /// See [`Node::load_among_peers`].
    pub(super) among_peers: Option<Netns>,
}

/// One packet through one program.
#[derive(Debug, Clone, Default)]
pub struct Run<'a> {
    pub packet: &'a [u8],
    /// Segment size of a GSO packet; 0 for one packet.
    pub gso_size: u32,
    pub mark: u32,
    pub priority: u32,
    /// Device the packet came by, of this network namespace; 0: the node sends it.
    pub came_by: u32,
    /// Device whose hook it is at; 0: the loopback device.
    pub device: u32,
}

#[derive(Debug)]
pub struct Outcome {
    pub action: i32,
    pub packet: Vec<u8>,
    pub mark: u32,
    pub priority: u32,
    pub nanos_per_packet: u128,
}

impl Fixture {
    /// The loaded program at the driver.
    pub fn xdp(&mut self) -> &mut Xdp {
        let name = Program::UplinkXdp.name();
        let xdp: &mut Xdp = self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        if !self.names.contains(&name) {
            patiently(|| xdp.load()).expect("the verifier accepts the program");
            self.names.push(name);
        }
        xdp
    }

    /// One frame through `uplink_xdp`. An `Outcome` whose action is an XDP action.
    pub fn run_xdp(&mut self, packet: &[u8]) -> Outcome {
        let mut out = vec![0u8; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let result = self.xdp().test_run(options).expect("test run");
        out.truncate(result.data_size_out as usize);
        Outcome {
            action: result.return_value.cast_signed(),
            packet: out,
            mark: 0,
            priority: 0,
            nanos_per_packet: result.duration.as_nanos(),
        }
    }

    pub fn program(&mut self, program: Program) -> &mut SchedClassifier {
        let classifier: &mut SchedClassifier = self
            .ebpf
            .program_mut(program.symbol(self.wire))
            .unwrap()
            .try_into()
            .unwrap();
        if !self.names.contains(&program.name()) {
            patiently(|| classifier.load()).expect("the verifier accepts the program");
            self.names.push(program.name());
        }
        classifier
    }

    /// Has programs loaded ahead of their first run: what the first of them writes down is old after a second, and the verifier may
    /// take as long for the next.
    pub fn prepare(&mut self, programs: &[Program]) {
        for program in programs {
            self.program(*program);
        }
    }

    /// A packet at the hook of `program`. At a pod's port it is one that came by the tunnel.
    pub fn run(&mut self, program: Program, packet: &[u8]) -> Outcome {
        let (came_by, device) = match program {
            Program::PodRx => (Node::FLANNEL, 0),
            Program::DirectTx if self.among_peers.is_some() => (BRIDGE, UPLINK),
            _ => (0, 0),
        };
        self.run_with(
            program,
            &Run {
                packet,
                came_by,
                device,
                ..Run::default()
            },
        )
    }

    pub fn run_with(&mut self, program: Program, run: &Run<'_>) -> Outcome {
        self.repeat(program, run, 1)
    }

    /// Runs the program `repeat` times on the packet; only the first sees it unchanged.
    pub fn repeat(&mut self, program: Program, run: &Run<'_>, repeat: u32) -> Outcome {
        // Room for headers in front and for the longest packet a test run takes.
        let mut out = vec![0u8; run.packet.len() + 256];
        let ctx = context(run);
        let mut ctx_out = vec![0u8; ctx.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(run.packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&ctx);
        options.ctx_out = Some(&mut ctx_out);
        options.repeat = repeat;
        let result = self
            .program(program)
            .test_run(options)
            .unwrap_or_else(|e| panic!("test run of {} bytes: {e:?}", run.packet.len()));
        out.truncate(result.data_size_out as usize);
        let field = |at: usize| u32::from_ne_bytes(ctx_out[at..at + 4].try_into().unwrap());
        Outcome {
            action: result.return_value.cast_signed(),
            packet: out,
            mark: field(MARK),
            priority: field(PRIORITY),
            nanos_per_packet: result.duration.as_nanos(),
        }
    }
}

/// Offsets in `struct __sk_buff` (`linux/bpf.h`).
const CTX_LEN: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

fn context(run: &Run<'_>) -> Vec<u8> {
    let mut ctx = vec![0u8; CTX_LEN];
    let mut set = |at: usize, value: u32| ctx[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    set(MARK, run.mark);
    set(PRIORITY, run.priority);
    set(INGRESS_IFINDEX, run.came_by);
    set(IFINDEX, run.device);
    if run.gso_size > 0 {
        let payload = u32::try_from(run.packet.len()).unwrap();
        set(GSO_SIZE, run.gso_size);
        set(GSO_SEGS, payload.div_ceil(run.gso_size));
    }
    ctx
}
