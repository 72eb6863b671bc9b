//! Why the agent holds a port of the pod bridge for no fast one: values of [`crate::maps::UNFIT`].

/// Taken down.
pub const DOWN: u32 = 1;
/// The bridge forwards nothing by it (`bridge link set dev … state`, spanning tree).
pub const BLOCKED: u32 = 2;
/// No veth, so nothing is behind it that could be given packets directly.
pub const NO_VETH: u32 = 3;
/// A veth of which both ends are on the node: what lies behind is no pod, but more of the node.
pub const BOTH_ENDS_HERE: u32 = 4;
/// A queueing discipline shapes what leaves by it.
pub const SHAPED: u32 = 5;
/// Filters or programs of others look at its packets.
pub const FILTERED: u32 = 6;
/// The same of the bridge itself, or of our own device.
pub const BEHIND_ANOTHER: u32 = 7;
/// Taken out of the bridge; our programs are still there.
pub const LEFT: u32 = 8;

/// For people, about a device.
#[must_use]
pub const fn words(why: u32) -> &'static str {
    match why {
        DOWN => "it is down",
        BLOCKED => "the bridge forwards nothing by it",
        NO_VETH => "it is no veth device",
        BOTH_ENDS_HERE => "both ends of it are on this node",
        SHAPED => "a queueing discipline shapes what leaves by it",
        FILTERED => "filters or programs of others are on it",
        BEHIND_ANOTHER => "a queueing discipline, or filters of others, are on the bridge",
        LEFT => "it is no port of the bridge any more",
        _ => "a later version of the agent says so",
    }
}

/// Whether an operator did that by intent to a pod's port, for whom it is worth a line.
#[must_use]
pub const fn is_of_note(why: u32) -> bool {
    !matches!(why, DOWN | BLOCKED | LEFT)
}
