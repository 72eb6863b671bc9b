//! The programs and the reference side by side.

use std::collections::BTreeMap;

use flannel_common::flow::{Flow as Entry, Half as Proven};
use flannel_common::program::Program::{OverlayRx, UplinkTx};
use flannel_tests::packet::outside::{SERVER, US, source};
use flannel_tests::packet::world::BRIDGE;
use flannel_tests::packet::{Fixture, Outcome, REDIRECT, Run, UNSPEC, cpu, vxlan};

use super::clock::{Clock, Unclear};
use super::draw::{Talk, damage, routed};
use super::frame::{Frame, IP};
use super::model::{Fate, Half, Model, Proof, Shown};
use super::path::{LOOPBACK, Link, PROGRAMS, Path};
use super::random::Random;

const STEPS: usize = 60;
/// Where the inner frame is in an encapsulated packet.
const ENCAPSULATION: usize = 50;

/// What was seen, by which one can tell that something was tested.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Packets past the stack, by [path](Path::number).
    pub(crate) fast: [u64; Path::COUNT],
    /// Of which something was written to.
    pub(crate) changed: u64,
    pub(crate) proven: u64,
    pub(crate) refused: u64,
    /// Cases that came too close to a limit in time.
    pub(crate) unclear: u64,
}

#[derive(Debug)]
pub(crate) struct Hooks {
    node: Fixture,
    model: Model,
    clock: Clock,
    /// For a failure.
    told: Vec<String>,
    pub(crate) tally: Tally,
    /// Of the next flow: none is another case's.
    port: u16,
    /// The node's port for a pod's, to the outside.
    leaves_as: BTreeMap<u16, u16>,
}

impl Hooks {
    pub(crate) fn new(mut node: Fixture, at_bridge: bool) -> Self {
        // Loaded by a first run, which takes its time.
        for program in PROGRAMS {
            node.program(program);
        }
        Self {
            node,
            model: Model::new(at_bridge),
            clock: Clock::new(),
            told: Vec::new(),
            tally: Tally::default(),
            port: 1024,
            leaves_as: BTreeMap::new(),
        }
    }

    pub(crate) fn case(&mut self, number: u64) {
        let mut random = Random::new(number);
        self.told = vec![format!("case {number}")];
        self.model.flows.clear();
        for device in std::mem::take(&mut self.model.unfit) {
            self.node.fit(device);
        }
        let talks = [17, 6, 6].map(|proto| {
            self.port = self.port.checked_add(1).unwrap_or(1024);
            Talk {
                // Of what goes to the outside, the first packets make an entry and no proof.
                link: random.one_of(&[Link::Tunnel, Link::Direct, Link::Outside, Link::Outside]),
                proto,
                port: self.port,
            }
        });
        self.open(&talks);
        if self.steps(&talks, &mut random).is_err() {
            self.tally.unclear += 1;
        }
    }

    /// Those to the outside get their translation.
    fn open(&mut self, talks: &[Talk]) {
        self.model.outside.clear();
        self.leaves_as.clear();
        self.node.clear_snat();
        for talk in talks.iter().filter(|talk| talk.link == Link::Outside) {
            let path = talk.path(true);
            let mut frame = Frame::of(path, talk.proto, talk.port, 32);
            frame.set(0, &path.macs_after().concat());
            let (came_by, device) = path.leaves_by();
            let run = Run {
                packet: &frame.0,
                came_by,
                device,
                ..Run::default()
            };
            let gone = self.node.run_with(UplinkTx, &run);
            assert_eq!((gone.action, source(&gone.packet).0), (UNSPEC, US));
            self.leaves_as.insert(talk.port, source(&gone.packet).1);
            self.model.outside.insert(frame.tuple(true));
        }
    }

    fn steps(&mut self, talks: &[Talk], random: &mut Random) -> Result<(), Unclear> {
        let mut sent: Vec<(Path, Shown)> = Vec::new();
        for _ in 0..STEPS {
            match random.below(100) {
                0..=2 => self.raise_epoch(),
                3..=5 => self.age(random.one_of(&[6_000, 6_000, 16_000])),
                6 => self.age_notes(),
                7 => self.toggle(random.one_of(&[LOOPBACK, BRIDGE])),
                8..=75 => {
                    let talk = random.one_of(talks);
                    let path = talk.path(random.percent(50));
                    let mut packet = talk.packet(path, random);
                    packet.cpu = usize::from(random.percent(4));
                    let is_fast = self.goes_in(path, &packet)?;
                    sent.push((path, packet.clone()));
                    if !is_fast && random.percent(75) {
                        let often = 1 + usize::from(random.percent(5));
                        for _ in 0..often {
                            self.comes_out_of_stack(path, &packet, random, 25)?;
                        }
                    }
                }
                // One that went in some time ago, with others in between.
                _ => {
                    if !sent.is_empty() {
                        let (path, packet) = sent[random.below(sent.len())].clone();
                        self.comes_out_of_stack(path, &packet, random, 40)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn raise_epoch(&mut self) {
        self.told.push("epoch".to_owned());
        self.node.bump_epoch();
        self.model.epoch += 1;
    }

    fn toggle(&mut self, device: u32) {
        self.told.push(format!("unfit or fit: {device}"));
        if self.model.unfit.remove(&device) {
            self.node.fit(device);
        } else {
            self.model.unfit.insert(device);
            self.node.unfit(device);
        }
    }

    /// As if all that is known of flows were so many milliseconds older.
    fn age(&mut self, millis: i64) {
        self.told.push(format!("{millis} ms later"));
        let older = |tick: &mut u32| {
            if *tick != 0 {
                *tick = tick.wrapping_sub(ticks(millis)) | 1;
            }
        };
        for (tuple, flow) in &mut self.model.flows {
            for half in [&mut flow.out, &mut flow.into] {
                if let Some(proof) = &mut half.proof {
                    proof.at = proof.at.earlier(millis);
                }
            }
            flow.closed = flow.closed.map(|at| at.earlier(millis));
            let mut entry = self.node.flow(&tuple.key()).expect("a flow");
            for half in [&mut entry.tx, &mut entry.rx] {
                older(&mut half.verified);
                older(&mut half.probed);
            }
            older(&mut entry.closed);
            self.node.set_flow(&tuple.key(), &entry);
        }
    }

    /// As if what is in the stack stayed there longer than anything does.
    fn age_notes(&mut self) {
        const LONG: i64 = 1_200;
        self.told.push("notes grow old".to_owned());
        self.node.age_notes(ticks(LONG));
        self.model.age_notes(LONG);
    }

    /// Whether it went past the stack.
    fn goes_in(&mut self, path: Path, shown: &Shown) -> Result<bool, Unclear> {
        let wire = self.wire(path, shown);
        self.keep_lasting(path);
        let node = &mut self.node;
        let ((out, is_fast), now) = self
            .clock
            .during(|| on(shown.cpu, || before(node, path, shown, &wire)));
        self.told
            .push(format!("{path:?} in: {shown:x?} fast: {is_fast}"));
        let fate = self.model.goes_in(path, shown, now)?;
        match (&fate, is_fast) {
            (Fate::Stack, false) => {}
            (Fate::Fast(proof), true) => self.is_repeated(path, shown, &out, proof),
            _ => panic!("{fate:?} and {is_fast}: {:#?}", self.told),
        }
        self.agree();
        Ok(is_fast)
    }

    /// A packet as it arrives. What comes from the outside is for the node, until it is translated.
    fn wire(&self, path: Path, shown: &Shown) -> Vec<u8> {
        match (path.link, path.is_out) {
            (Link::Tunnel, false) => vxlan(&shown.frame.0),
            (Link::Outside, false) => {
                let pod = u16::from_be_bytes(shown.frame.tuple(false).local.1);
                let port = self.leaves_as.get(&pod).copied().unwrap_or(pod);
                shown.frame.to(US, port).0
            }
            _ => shown.frame.0.clone(),
        }
    }

    /// What is translated is worth a proof: it began long ago, and its last packet came just now.
    fn keep_lasting(&mut self, path: Path) {
        if path.link == Link::Outside {
            self.node.keep_snat_lasting();
        }
    }

    fn comes_out_of_stack(
        &mut self,
        path: Path,
        packet: &Shown,
        random: &mut Random,
        damaged: usize,
    ) -> Result<(), Unclear> {
        let mut after = routed(path, packet, random);
        if random.percent(damaged) {
            damage(path, &mut after, random);
        }
        if random.percent(5) {
            after.cpu ^= 1;
        }
        self.keep_lasting(path);
        let (program, node) = (path.program_behind(), &mut self.node);
        let (out, now) = self.clock.during(|| {
            on(after.cpu, || {
                node.run_with(program, &run(&after, &after.frame.0))
            })
        });
        self.told.push(format!("{path:?} out: {after:x?}"));
        match self.model.comes_out(path, &after, now)? {
            true => self.tally.proven += 1,
            false => self.tally.refused += 1,
        }
        if path.link == Link::Outside && path.is_out {
            self.is_no_pods(&out);
        }
        self.agree();
        Ok(())
    }

    /// Whatever became of it on its way, no packet leaves for the server under a pod's address.
    fn is_no_pods(&self, out: &Outcome) {
        let frame = Frame(out.packet.clone());
        assert!(
            out.action != UNSPEC || frame.dst() != SERVER || frame.src()[..2] != [10, 244],
            "{frame:x?}: {:#?}",
            self.told
        );
    }

    /// To the byte what the stack made of the packet that proved it.
    fn is_repeated(&mut self, path: Path, shown: &Shown, out: &Outcome, proof: &Proof) {
        let after = &proof.after;
        let mut want = shown.frame.hop(after.frame.tos());
        let packet = match (path.link, path.is_out) {
            (Link::Tunnel, true) => &out.packet[ENCAPSULATION..],
            _ => &out.packet,
        };
        let got = Frame(packet.to_vec());
        assert!(
            got.is_like(&want),
            "{got:x?} for {want:x?}: {:#?}",
            self.told
        );
        let is_inward = !path.is_out;
        if is_inward {
            want.set(0, &after.frame.0[..12]);
            assert_eq!(got.0[..IP], want.0[..IP], "{:#?}", self.told);
        }
        let class = match is_inward && !self.model.at_bridge {
            true => (0, 0),
            false => (after.mark, after.priority),
        };
        assert_eq!((out.mark, out.priority), class, "{:#?}", self.told);
        let is_changed = class != (shown.mark, shown.priority) || got.tos() != shown.frame.tos();
        self.tally.changed += u64::from(is_changed);
        self.tally.fast[path.number()] += 1;
    }

    /// What the table says of the case's flows is what the reference says, and it says nothing of others.
    fn agree(&self) {
        let told = &self.told;
        for (tuple, flow) in &self.model.flows {
            let entry: Entry = self.node.flow(&tuple.key()).expect("a flow");
            assert_eq!(entry.closed != 0, flow.closed.is_some(), "{told:#?}");
            for (half, is_out, want) in
                [(&entry.tx, true, &flow.out), (&entry.rx, false, &flow.into)]
            {
                assert!(
                    is_the_same(half, want, is_out || self.model.at_bridge),
                    "{half:?} for {want:?}: {told:#?}"
                );
            }
        }
    }
}

fn is_the_same(half: &Proven, want: &Half, has_class: bool) -> bool {
    let Some(proof) = &want.proof else {
        return half.verified == 0;
    };
    let (change, after) = (&half.change, &proof.after);
    let class = if has_class {
        (after.mark, after.priority)
    } else {
        (0, 0)
    };
    half.verified != 0
        && (half.port, half.epoch) == (proof.port, proof.epoch)
        && (change.mark_in, change.tos_in) == (proof.before.mark, proof.before.frame.tos())
        && (change.mark, change.priority) == class
        && change.tos == after.frame.tos()
}

/// On the test's CPU, 0, or another.
fn on<T>(cpu: usize, run: impl FnOnce() -> T) -> T {
    match cpu {
        0 => run(),
        _ => cpu::elsewhere(run),
    }
}

fn run<'a>(shown: &Shown, packet: &'a [u8]) -> Run<'a> {
    Run {
        packet,
        mark: shown.mark,
        priority: shown.priority,
        came_by: shown.came_by,
        device: shown.device,
        ..Run::default()
    }
}

/// The hook before the stack, and whether the packet went past that.
fn before(node: &mut Fixture, path: Path, shown: &Shown, wire: &[u8]) -> (Outcome, bool) {
    let (counter, reason) = path.counts_fast();
    let had = node.count(counter, reason).packets;
    let mut run = run(shown, wire);
    let out = node.run_with(path.program_before(), &run);
    let is_fast = node.count(counter, reason).packets > had;
    // What `uplink_rx` leaves to the stack comes by the tunnel's device.
    if path.link == Link::Tunnel && !path.is_out {
        assert_eq!(out.action, REDIRECT, "every packet is for a pod of ours");
        if !is_fast {
            run.packet = &out.packet;
            node.run_with(OverlayRx, &run);
        }
    }
    (out, is_fast)
}

/// Milliseconds as the programs count them.
fn ticks(millis: i64) -> u32 {
    let nanos = u64::try_from(millis).expect("some time") * 1_000_000;
    u32::try_from(nanos >> 20).expect("not that long")
}
