//! Places on the way of a packet, and what comes next.

use flannel_common::header::Eth;
use flannel_common::reason::Reason;

use super::packet::Described;

/// Where the packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod's port of the bridge, or the bridge.
    FromPod,
    ToPod,
    Stack,
    IntoOverlay,
    /// The far end of the pair, where what could not be encapsulated comes out.
    FarEnd,
    FromOverlay,
    /// Egress of the bridge, for what the stack sends to pods; with the device by which the stack got it, 0: the node's own.
    IntoBridge {
        bridge: u32,
        came_by: u32,
    },
    /// Egress and ingress of the uplink, or of another device that leads out.
    Out(u32),
    In(u32),
}

/// How it ends.
pub(super) struct End(pub(super) &'static str, pub(super) String);

/// What a hook leads to.
pub(super) enum Next {
    Place(Place),
    End(End),
}

impl Place {
    /// Where the stack, which got the packet from here, sends it that is for a pod of this node. `flannel`: index of
    /// `flannel.<VNI>`.
    pub(super) const fn to_pod(self, bridge: u32, flannel: u32) -> Self {
        let came_by = match self {
            // From port to port; the bridge's own egress sees nothing of it.
            Self::FromPod => return Self::ToPod,
            Self::FromOverlay => flannel,
            Self::In(index) => index,
            _ => 0,
        };
        Self::IntoBridge { bridge, came_by }
    }

    pub(super) const fn came_by(self) -> u32 {
        match self {
            Self::IntoBridge { came_by, .. } => came_by,
            _ => 0,
        }
    }
}

/// Behind a hook whose programs all let the packet pass.
pub(super) fn behind(place: Place, frame: &[u8]) -> Next {
    let dst = Described::of(frame, Eth::LEN).map(|d| d.dst());
    let dst = dst.map_or_else(String::new, |dst| dst.to_string());
    match place {
        Place::FromPod | Place::FromOverlay | Place::In(_) | Place::Stack => {
            Next::Place(Place::Stack)
        }
        Place::IntoOverlay => Next::Place(Place::FarEnd),
        Place::FarEnd => end(
            "dropped",
            "nothing takes it at the far end of the pair".to_owned(),
        ),
        Place::IntoBridge { .. } => Next::Place(Place::ToPod),
        Place::Out(_) => end("sent", format!("to {dst}")),
        Place::ToPod => end("delivered", format!("to the pod {dst}")),
    }
}

pub(super) fn dropped(reason: Option<Reason>) -> Next {
    let why = reason.map_or("a program drops it", Reason::meaning);
    end("dropped", why.to_owned())
}

pub(super) fn end(end: &'static str, why: String) -> Next {
    Next::End(End(end, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 5;
    const FLANNEL: u32 = 3;

    #[test]
    fn what_the_stack_sends_to_a_pod_passes_the_egress_of_the_bridge() {
        let came_by = |place: Place| place.to_pod(BRIDGE, FLANNEL).came_by();
        assert_eq!(came_by(Place::FromOverlay), FLANNEL);
        assert_eq!(came_by(Place::In(2)), 2);
        assert_eq!(came_by(Place::Stack), 0, "the node's own");
        let at_bridge = Place::Stack.to_pod(BRIDGE, FLANNEL);
        assert!(matches!(
            at_bridge,
            Place::IntoBridge { bridge: BRIDGE, .. }
        ));
    }

    #[test]
    fn what_goes_from_port_to_port_does_not() {
        assert_eq!(Place::FromPod.to_pod(BRIDGE, FLANNEL), Place::ToPod);
    }
}
