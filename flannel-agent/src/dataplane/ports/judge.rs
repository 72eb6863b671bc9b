//! The judgement about each port, from what was read.

use std::collections::BTreeMap;

use flannel_common::unfit;

use crate::node::net::{Kind, Link};

/// What others put on devices that looks at packets, by ifindex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extras {
    /// The kind of the root queueing discipline, if it does more than hand on.
    pub(super) shapers: BTreeMap<u32, String>,
    /// What filters or programs, in words.
    pub(super) filters: BTreeMap<u32, String>,
}

/// Why a device is unfit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) device: String,
    /// A value of [`unfit`].
    pub(super) why: u32,
    /// Which one it is.
    pub(super) detail: Option<String>,
}

/// Devices at which no flow is to be proven, by ifindex. `own`: our own alias, at the device that packets from the tunnel
/// come by.
pub(super) fn judge(
    links: &[Link],
    bridge: &str,
    own: &str,
    extras: &Extras,
) -> BTreeMap<u32, Verdict> {
    let mut unfit = BTreeMap::new();
    let Some(bridge) = links.iter().find(|link| link.name == bridge) else {
        return unfit;
    };
    // What is at the bridge concerns each port.
    let common = extra(bridge, extras);
    let is_own = |link: &&Link| link.alias.as_deref() == Some(own);
    for link in links.iter().filter(is_own) {
        if let Some((why, detail)) = extra(link, extras) {
            unfit.insert(link.index, verdict(link, why, Some(detail)));
        }
    }
    for port in links.iter().filter(|l| l.controller == Some(bridge.index)) {
        if let Some((why, detail)) = of_port(port, extras) {
            unfit.insert(port.index, verdict(port, why, detail));
        } else if let Some((_, detail)) = &common {
            let detail = format!("{detail} at {}", bridge.name);
            unfit.insert(
                port.index,
                verdict(port, unfit::BEHIND_ANOTHER, Some(detail)),
            );
        }
    }
    unfit
}

fn verdict(link: &Link, why: u32, detail: Option<String>) -> Verdict {
    Verdict {
        device: link.name.clone(),
        why,
        detail,
    }
}

fn of_port(port: &Link, extras: &Extras) -> Option<(u32, Option<String>)> {
    if !port.up {
        return Some((unfit::DOWN, None));
    }
    // Without carrier the bridge blocks as well: then the pod's end is down, which lets nothing in by itself.
    if port.running && port.blocked {
        return Some((unfit::BLOCKED, None));
    }
    if port.kind != Kind::Veth {
        let kind = match &port.kind {
            Kind::Other(kind) => Some(kind.clone()),
            _ => None,
        };
        return Some((unfit::NO_VETH, kind));
    }
    if port.peer.is_some() {
        return Some((unfit::BOTH_ENDS_HERE, None));
    }
    extra(port, extras).map(|(why, detail)| (why, Some(detail)))
}

fn extra(link: &Link, extras: &Extras) -> Option<(u32, String)> {
    let shaper = extras.shapers.get(&link.index);
    let filter = || extras.filters.get(&link.index);
    shaper
        .map(|kind| (unfit::SHAPED, kind.clone()))
        .or_else(|| filter().map(|filter| (unfit::FILTERED, filter.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::{link, veth};

    const OWN: &str = "flannel-ebpf net";

    fn bridge() -> Link {
        Link {
            kind: Kind::Other("bridge".to_owned()),
            ..link(4, "cni0")
        }
    }

    fn port() -> Link {
        Link {
            controller: Some(4),
            ..veth(7, "vethpod", None, None)
        }
    }

    fn why(port: Link, extras: &Extras) -> Option<u32> {
        let links = [bridge(), port];
        let unfit = judge(&links, "cni0", OWN, extras);
        unfit.get(&7).map(|verdict| verdict.why)
    }

    fn at(index: u32) -> BTreeMap<u32, String> {
        BTreeMap::from([(index, "tbf".to_owned())])
    }

    #[test]
    fn a_pods_port_is_fit() {
        assert_eq!(why(port(), &Extras::default()), None);
    }

    #[test]
    fn what_makes_a_port_unfit() {
        let none = Extras::default();
        let down = Link {
            up: false,
            ..port()
        };
        assert_eq!(why(down, &none), Some(unfit::DOWN));
        let blocked = Link {
            blocked: true,
            ..port()
        };
        assert_eq!(why(blocked.clone(), &none), Some(unfit::BLOCKED));
        let without_carrier = Link {
            running: false,
            ..blocked
        };
        assert_eq!(why(without_carrier, &none), None);
        let tap = Link {
            kind: Kind::Other("tun".to_owned()),
            ..port()
        };
        assert_eq!(why(tap, &none), Some(unfit::NO_VETH));
        let loop_back = Link {
            peer: Some(8),
            ..port()
        };
        assert_eq!(why(loop_back, &none), Some(unfit::BOTH_ENDS_HERE));
    }

    #[test]
    fn what_is_on_the_port_the_bridge_or_our_device() {
        let shaped = |index| Extras {
            shapers: at(index),
            ..Extras::default()
        };
        let filtered = |index| Extras {
            filters: at(index),
            ..Extras::default()
        };
        assert_eq!(why(port(), &shaped(7)), Some(unfit::SHAPED));
        assert_eq!(why(port(), &filtered(7)), Some(unfit::FILTERED));
        assert_eq!(why(port(), &shaped(4)), Some(unfit::BEHIND_ANOTHER));
        assert_eq!(why(port(), &filtered(4)), Some(unfit::BEHIND_ANOTHER));
        assert_eq!(why(port(), &shaped(9)), None);
        let links = [bridge(), port(), veth(9, "flannel.1", Some(10), Some(OWN))];
        let unfit = judge(&links, "cni0", OWN, &shaped(9));
        assert_eq!(unfit.keys().copied().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn without_the_bridge_there_are_no_ports() {
        assert_eq!(
            judge(&[port()], "cni0", OWN, &Extras::default()),
            BTreeMap::new()
        );
    }
}
