//! What `bridge_rx` would do with large packets of the connection. The traced packet is none of them.

use flannel_common::flow::{Direction, Flow, FlowKey, Setting, Step, Tick, tick};
use flannel_common::program::Program;
use serde::Serialize;

use super::Scene;
use super::packet::{Proto, addressed};
use super::walk::REDIRECT;
use crate::base::clock;
use crate::dataplane::About;

/// IPv4 and TCP without options.
const HEADERS: u32 = 40;

/// What becomes of a packet that stands for several segments.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Large {
    pub(super) decision: &'static str,
    /// Word of what would be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    pub(super) meaning: String,
}

impl Scene {
    /// `frame` in large, at the bridge. `None`: such packets are cut up nowhere, or there are none.
    pub(super) fn large(&mut self, frame: &[u8], about: About) -> anyhow::Result<Option<Large>> {
        if self.tuple.proto != Proto::Tcp || about.came_by != self.told.flannel_index {
            return Ok(None);
        }
        // Now, for half a second later it says something else, and to load the programs takes as long.
        let key = FlowKey::pod(self.tuple.dst.octets());
        let pod = self.view.flow(&key)?;
        let mut large = frame.to_vec();
        if let Some(pod) = &pod {
            self.rehearsal.enter_flow(&key, pod)?;
            // As the stack would address it: it asks the pod for its MAC, and a trace asks nobody.
            large = addressed(frame, self.told.vtep_mac.0, pod.pod_mac);
        }
        let about = About {
            gso_size: self.told.overlay_mtu.saturating_sub(HEADERS),
            ..about
        };
        let outcome = self.rehearsal.run(Program::BridgeRx, &large, about)?;
        let reason = outcome.reasons.last().map(|(_, reason)| *reason);
        let meaning = match reason {
            Some(reason) => reason.meaning().to_owned(),
            None => why_not(
                pod.as_ref(),
                &key,
                (tick(clock()), self.view.epoch()?),
                self.told.setting(),
            )
            .to_owned(),
        };
        Ok(Some(Large {
            decision: match outcome.action {
                REDIRECT => "takes",
                _ => "passes",
            },
            reason: reason.map(flannel_common::reason::Reason::name),
            meaning,
        }))
    }
}

/// Why the bridge gets it, which cuts it up.
fn why_not(
    pod: Option<&Flow>,
    key: &FlowKey,
    (now, epoch): (Tick, u32),
    setting: Setting,
) -> &'static str {
    let step = |pod: &Flow| pod.step(key, Direction::Rx, now, epoch, setting);
    match pod.map(step) {
        None => {
            "no large packet has come for this pod yet: the bridge cuts up the first, which shows its port"
        }
        Some(Step::Refresh) => {
            "one of them takes the bridge now, to look at its choice again; the others go past it"
        }
        Some(_) => {
            "the bridge cuts them up: to which port it sends them has not been seen in the last second, so the next shows it"
        }
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::flow::{Half, PORT_LIFETIME, PORT_REFRESH};
    use flannel_common::globals::{FAST_PATH_VERIFIED, POD_HOOK_PORT};

    use super::*;

    const EPOCH: u32 = 3;
    const NOW: Tick = 5_000;
    const SETTING: Setting = Setting {
        fast_path: FAST_PATH_VERIFIED,
        pod_hook: POD_HOOK_PORT,
    };

    /// A port that was seen so many ticks ago.
    fn seen(ago: Tick) -> Flow {
        Flow {
            rx: Half {
                port: 12,
                verified: NOW - ago,
                epoch: EPOCH,
                ..Half::EMPTY
            },
            ..Flow::EMPTY
        }
    }

    fn said(pod: Option<&Flow>, epoch: u32) -> &'static str {
        let key = FlowKey::pod([10, 244, 1, 2]);
        why_not(pod, &key, (NOW, epoch), SETTING)
    }

    #[test]
    fn it_is_said_why_the_bridge_gets_them() {
        assert!(said(None, EPOCH).contains("no large packet has come"));
        assert!(said(Some(&seen(PORT_REFRESH)), EPOCH).contains("look at its choice again"));
        let unseen = "not been seen in the last second";
        assert!(said(Some(&seen(PORT_LIFETIME)), EPOCH).contains(unseen));
        assert!(said(Some(&seen(0)), EPOCH + 1).contains(unseen));
        let mut nowhere = seen(0);
        nowhere.rx.port = 0;
        assert!(said(Some(&nowhere), EPOCH).contains(unseen));
    }
}
