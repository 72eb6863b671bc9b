//! The programs and the reference side by side.

use flannel_common::flow::{Flow as Entry, Half as Proven};
use flannel_common::program::Program::{
    self, DirectRx, DirectTx, OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::way::{WAYS, Way};
use flannel_tests::packet::world::BRIDGE;
use flannel_tests::packet::{Fixture, Outcome, REDIRECT, Run, cpu, vxlan};

use super::clock::{Clock, Unclear};
use super::draw::{LOOPBACK, Talk, damage, routed};
use super::frame::{Frame, IP, is_out};
use super::model::{Fate, Half, Model, Proof, Shown};
use super::random::Random;

const STEPS: usize = 60;
/// Where the inner frame is in an encapsulated packet.
const ENCAPSULATION: usize = 50;

/// What was seen, by which one can tell that something was tested.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Packets past the stack, by [way](WAYS).
    pub(crate) fast: [u64; WAYS.len()],
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
}

impl Hooks {
    pub(crate) fn new(mut node: Fixture, at_bridge: bool) -> Self {
        // Loaded by a first run, which takes its time.
        for program in [
            PodTx, OverlayTx, DirectTx, UplinkRx, OverlayRx, DirectRx, PodRx,
        ] {
            node.program(program);
        }
        Self {
            node,
            model: Model::new(at_bridge),
            clock: Clock::new(),
            told: Vec::new(),
            tally: Tally::default(),
            port: 1024,
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
                is_direct: random.percent(50),
                proto,
                port: self.port,
            }
        });
        if self.steps(&talks, &mut random).is_err() {
            self.tally.unclear += 1;
        }
    }

    fn steps(&mut self, talks: &[Talk], random: &mut Random) -> Result<(), Unclear> {
        let mut sent: Vec<(Way, Shown)> = Vec::new();
        for _ in 0..STEPS {
            match random.below(100) {
                0..=2 => self.raise_epoch(),
                3..=5 => self.age(random.one_of(&[6_000, 6_000, 16_000])),
                6 => self.age_notes(),
                7 => self.toggle(random.one_of(&[LOOPBACK, BRIDGE])),
                8..=75 => {
                    let talk = random.one_of(talks);
                    let way = talk.way(random.percent(50));
                    let mut packet = talk.packet(way, random);
                    packet.cpu = usize::from(random.percent(4));
                    let is_fast = self.goes_in(way, &packet)?;
                    sent.push((way, packet.clone()));
                    if !is_fast && random.percent(75) {
                        let often = 1 + usize::from(random.percent(5));
                        for _ in 0..often {
                            self.comes_out_of_stack(way, &packet, random, 25)?;
                        }
                    }
                }
                // One that went in some time ago, with others in between.
                _ => {
                    if !sent.is_empty() {
                        let (way, packet) = sent[random.below(sent.len())].clone();
                        self.comes_out_of_stack(way, &packet, random, 40)?;
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
                half.probed = half.probed.map(|at| at.earlier(millis));
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
    fn goes_in(&mut self, way: Way, shown: &Shown) -> Result<bool, Unclear> {
        let node = &mut self.node;
        let ((out, is_fast), now) = self
            .clock
            .during(|| on(shown.cpu, || before(node, way, shown)));
        self.told
            .push(format!("{way:?} in: {shown:x?} fast: {is_fast}"));
        let fate = self.model.goes_in(way, shown, now)?;
        match (&fate, is_fast) {
            (Fate::Stack, false) => {}
            (Fate::Fast(proof), true) => self.is_repeated(way, shown, &out, proof),
            _ => panic!("{fate:?} and {is_fast}: {:#?}", self.told),
        }
        self.agree();
        Ok(is_fast)
    }

    fn comes_out_of_stack(
        &mut self,
        way: Way,
        packet: &Shown,
        random: &mut Random,
        damaged: usize,
    ) -> Result<(), Unclear> {
        let mut after = routed(way, packet, random);
        if random.percent(damaged) {
            damage(way, &mut after, random);
        }
        if random.percent(5) {
            after.cpu ^= 1;
        }
        let (program, node) = (behind(way), &mut self.node);
        let ((), now) = self.clock.during(|| {
            on(after.cpu, || {
                node.run_with(program, &run(&after));
            });
        });
        self.told.push(format!("{way:?} out: {after:x?}"));
        match self.model.comes_out(way, &after, now)? {
            true => self.tally.proven += 1,
            false => self.tally.refused += 1,
        }
        self.agree();
        Ok(())
    }

    /// To the byte what the stack made of the packet that proved it.
    fn is_repeated(&mut self, way: Way, shown: &Shown, out: &Outcome, proof: &Proof) {
        let after = &proof.after;
        let mut want = shown.frame.hop(after.frame.tos());
        let packet = match way {
            Way::Out => &out.packet[ENCAPSULATION..],
            _ => &out.packet,
        };
        let got = Frame(packet.to_vec());
        assert!(
            got.is_like(&want),
            "{got:x?} for {want:x?}: {:#?}",
            self.told
        );
        let is_inward = !is_out(way);
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
        let n = WAYS
            .iter()
            .position(|one| *one == way)
            .expect("one of the four");
        self.tally.fast[n] += 1;
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

fn run(shown: &Shown) -> Run<'_> {
    Run {
        packet: &shown.frame.0,
        mark: shown.mark,
        priority: shown.priority,
        came_by: shown.came_by,
        device: shown.device,
        ..Run::default()
    }
}

/// The hook before the stack, and whether it went past that.
fn before(node: &mut Fixture, way: Way, shown: &Shown) -> (Outcome, bool) {
    let program = match way {
        Way::Out | Way::OutDirectly => PodTx,
        Way::InDirectly => DirectRx,
        Way::In => return from_tunnel(node, shown),
    };
    let out = node.run_with(program, &run(shown));
    let is_fast = out.action == REDIRECT;
    (out, is_fast)
}

/// What `uplink_rx` leaves to the stack comes by the tunnel's device.
fn from_tunnel(node: &mut Fixture, shown: &Shown) -> (Outcome, bool) {
    let fast = |node: &Fixture| node.count(UplinkRx, Reason::FastRx).packets;
    let had = fast(node);
    let mut run = run(shown);
    let packet = vxlan(run.packet);
    let out = node.run_with(
        UplinkRx,
        &Run {
            packet: &packet,
            ..run
        },
    );
    assert_eq!(out.action, REDIRECT, "every packet is for a pod of ours");
    let is_fast = fast(node) > had;
    if !is_fast {
        run.packet = &out.packet;
        node.run_with(OverlayRx, &run);
    }
    (out, is_fast)
}

fn behind(way: Way) -> Program {
    match way {
        Way::Out => OverlayTx,
        Way::OutDirectly => DirectTx,
        Way::In | Way::InDirectly => PodRx,
    }
}

/// Milliseconds as the programs count them.
fn ticks(millis: i64) -> u32 {
    let nanos = u64::try_from(millis).expect("some time") * 1_000_000;
    u32::try_from(nanos >> 20).expect("not that long")
}
