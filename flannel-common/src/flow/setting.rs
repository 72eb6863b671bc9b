//! What an entry is worth to the programs, by the way they were loaded: the same for those that act on it and for those
//! that show it.

use super::{Direction, Flow, FlowKey, Step, Tick};
use crate::globals::{FAST_PATH_ALWAYS, FAST_PATH_VERIFIED, POD_HOOK_BRIDGE, POD_HOOK_PORT};
use crate::header::PROTO_TCP;

/// How the programs were loaded, as far as entries are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// A value of [`crate::globals::FAST_PATH`].
    pub fast_path: u8,
    /// A value of [`crate::globals::POD_HOOK`].
    pub pod_hook: u8,
}

impl FlowKey {
    /// Whether it stands for a [pod](Self::pod). Only TCP and UDP have flows.
    #[must_use]
    pub const fn is_pod(&self) -> bool {
        self.proto == 0
    }

    /// Whether both directions must be proven before either is fast; see [`Flow::decide`]. `pod_hook` gives a value of
    /// [`crate::globals::POD_HOOK`], and is asked only if it matters: a load more costs the verifier a branch more.
    #[inline(always)]
    #[must_use]
    pub fn needs_both(&self, pod_hook: impl FnOnce() -> u8) -> bool {
        self.proto == PROTO_TCP || pod_hook() == POD_HOOK_BRIDGE
    }
}

impl Flow {
    /// Which way the next packet takes that the entry is asked about: the flow's own, or for a pod what comes from the
    /// overlay (`--fast-path=always`) or from the stack to the bridge (`verified`), under the MAC that is noted.
    #[must_use]
    pub fn step(
        &self,
        key: &FlowKey,
        direction: Direction,
        now: Tick,
        epoch: u32,
        setting: Setting,
    ) -> Step {
        match (key.is_pod(), direction, setting.fast_path) {
            (false, _, FAST_PATH_VERIFIED | FAST_PATH_ALWAYS) => {
                self.decide(direction, now, epoch, key.needs_both(|| setting.pod_hook))
            }
            (true, Direction::Rx, FAST_PATH_ALWAYS) if self.rx.port != 0 => {
                self.decide(direction, now, epoch, false)
            }
            // On the bridge itself nobody sees which port it chooses.
            (true, Direction::Rx, FAST_PATH_VERIFIED) if setting.pod_hook == POD_HOOK_PORT => {
                self.decide_at_bridge(self.pod_mac, now, epoch)
            }
            _ => Step::Stack,
        }
    }

    /// Whether packets leave out the stack, or the bridge, because of this entry: what an operator calls an accelerated flow.
    #[must_use]
    pub fn is_live(&self, key: &FlowKey, now: Tick, epoch: u32, setting: Setting) -> bool {
        [Direction::Tx, Direction::Rx]
            .into_iter()
            .any(|direction| self.step(key, direction, now, epoch, setting) != Step::Stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::flow::{Half, LIFETIME, PORT_LIFETIME, Proof};
    use crate::globals::FAST_PATH_OFF;
    use crate::header::PROTO_UDP;

    const EPOCH: u32 = 7;
    /// Close to the wrap.
    const START: Tick = u32::MAX - 500;
    const POD: FlowKey = FlowKey::pod([10, 244, 1, 5]);

    const fn setting(fast_path: u8, pod_hook: u8) -> Setting {
        Setting {
            fast_path,
            pod_hook,
        }
    }

    const OFF: Setting = setting(FAST_PATH_OFF, POD_HOOK_PORT);
    const VERIFIED: Setting = setting(FAST_PATH_VERIFIED, POD_HOOK_PORT);
    const AT_BRIDGE: Setting = setting(FAST_PATH_VERIFIED, POD_HOOK_BRIDGE);
    const ALWAYS: Setting = setting(FAST_PATH_ALWAYS, POD_HOOK_PORT);

    fn of(proto: u8) -> FlowKey {
        FlowKey {
            remote: [10, 244, 2, 3],
            proto,
            ..POD
        }
    }

    /// Proven at the start.
    fn proven(directions: &[Direction]) -> Flow {
        let mut flow = Flow::EMPTY;
        let proof = Proof {
            epoch: EPOCH,
            port: 7,
            change: Change::NONE,
            opener: super::super::NOBODY.into(),
        };
        for direction in directions {
            assert!(flow.note_passed(*direction, START, &proof));
        }
        flow
    }

    fn pod() -> Flow {
        Flow {
            pod_mac: [2, 0, 0, 0, 0, 5],
            ..proven(&[Direction::Rx])
        }
    }

    /// After so many ticks.
    fn live(key: &FlowKey, flow: &Flow, ticks: Tick, setting: Setting) -> bool {
        flow.is_live(key, START.wrapping_add(ticks), EPOCH, setting)
    }

    #[test]
    fn a_pod_s_port_is_worth_a_second_to_the_bridge() {
        assert!(live(&POD, &pod(), 0, VERIFIED));
        assert!(live(&POD, &pod(), PORT_LIFETIME - 1, VERIFIED));
        assert!(!live(&POD, &pod(), PORT_LIFETIME, VERIFIED));
        assert!(!pod().is_live(&POD, START, EPOCH + 1, VERIFIED));
        let mut nowhere = pod();
        nowhere.rx.port = 0;
        assert!(!live(&POD, &nowhere, 0, VERIFIED));
        assert!(!live(&POD, &pod(), 0, AT_BRIDGE), "nobody asks there");
    }

    #[test]
    fn without_proof_a_pod_s_port_lasts_as_long_as_a_proof() {
        assert!(live(&POD, &pod(), LIFETIME - 1, ALWAYS));
        assert!(!live(&POD, &pod(), LIFETIME, ALWAYS));
        assert!(!pod().is_live(&POD, START, EPOCH + 1, ALWAYS));
        let mut nowhere = pod();
        nowhere.rx.port = 0;
        assert!(!live(&POD, &nowhere, 0, ALWAYS));
    }

    #[test]
    fn a_pod_s_entry_is_for_what_it_receives() {
        let both = proven(&[Direction::Tx, Direction::Rx]);
        for setting in [VERIFIED, ALWAYS] {
            let step = |direction| both.step(&POD, direction, START, EPOCH, setting);
            assert_eq!(
                (step(Direction::Tx), step(Direction::Rx)),
                (Step::Stack, Step::Fast)
            );
        }
    }

    #[test]
    fn a_flow_s_proof_lasts_its_lifetime() {
        let flow = proven(&[Direction::Tx, Direction::Rx]);
        for key in [of(PROTO_TCP), of(PROTO_UDP)] {
            // Flows to the outside are proven with `always`, too.
            for setting in [VERIFIED, AT_BRIDGE, ALWAYS] {
                assert!(live(&key, &flow, PORT_LIFETIME, setting));
                assert!(live(&key, &flow, LIFETIME - 1, setting));
                assert!(!live(&key, &flow, LIFETIME, setting));
            }
        }
    }

    #[test]
    fn half_a_proof_is_none_for_tcp_and_behind_br_netfilter() {
        let half = proven(&[Direction::Tx]);
        assert!(live(&of(PROTO_UDP), &half, 0, VERIFIED));
        assert!(!live(&of(PROTO_UDP), &half, 0, AT_BRIDGE));
        assert!(!live(&of(PROTO_TCP), &half, 0, VERIFIED));
        assert_eq!(half.rx, Half::EMPTY);
    }

    #[test]
    fn switched_off_nothing_is_live() {
        let flow = proven(&[Direction::Tx, Direction::Rx]);
        assert!(!live(&of(PROTO_TCP), &flow, 0, OFF));
        assert!(!live(&of(PROTO_UDP), &flow, 0, OFF));
        assert!(!live(&POD, &pod(), 0, OFF));
    }
}
