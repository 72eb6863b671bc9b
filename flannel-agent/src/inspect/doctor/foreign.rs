//! Others' programs where ours are. They are welcome; whoever comes first sees the packets first, and may keep
//! them.

use std::collections::BTreeSet;

use flannel_common::program::Program;

use super::{Patient, Report};
use crate::dataplane::view::{Hook, Mode, in_order, program};
use crate::node::net::Direction;

/// Somebody's program on a hook of ours.
struct Stranger {
    place: String,
    /// Packets meet it before ours.
    first: bool,
    fix: String,
}

pub(super) async fn check(patient: &Patient<'_>, hooks: &[Hook], report: &mut Report) {
    let hooks: Vec<&Hook> = hooks.iter().filter(|hook| hook.attached).collect();
    let ours: BTreeSet<u32> = hooks.iter().map(|hook| hook.program_id).collect();
    let places: BTreeSet<(&str, u32, Direction)> = hooks
        .iter()
        .filter_map(|hook| Some((hook.device.as_deref()?, hook.ifindex, hook.direction?)))
        .collect();
    let mut strangers = Vec::new();
    for (device, ifindex, direction) in places {
        let by_tcx = hooks.iter().any(|hook| {
            hook.mode == Mode::Tcx && hook.ifindex == ifindex && hook.direction == Some(direction)
        });
        strangers.extend(at_tcx(device, direction, &ours));
        strangers.extend(at_clsact(patient, (device, ifindex, direction), by_tcx, &ours).await);
    }
    strangers.extend(at_driver(patient, &hooks, &ours));
    if strangers.is_empty() {
        report.ok("nobody else's programs on our hooks");
    }
    for Stranger { place, first, fix } in strangers {
        match first {
            true => report.warning(format!("{place} runs before ours"), fix),
            false => report.ok(format!("{place} runs after ours")),
        }
    }
}

/// tcx comes before clsact.
fn at_tcx(device: &str, direction: Direction, ours: &BTreeSet<u32>) -> Vec<Stranger> {
    let programs = in_order(device, direction);
    let first_of_ours = programs.iter().position(|(id, _)| ours.contains(id));
    let strange = programs.iter().enumerate();
    let strange = strange.filter(|(_, (id, name))| !ours.contains(id) && !is_family(name));
    strange
        .map(|(place, (id, name))| Stranger {
            place: format!("the program {name} (id {id}) at {direction} of {device}"),
            // Where ours are filters, all of tcx is before them.
            first: first_of_ours.is_none_or(|first| place < first),
            fix: format!(
                "make sure that it lets tunnel packets pass: bpftool net show dev {device}"
            ),
        })
        .collect()
}

async fn at_clsact(
    patient: &Patient<'_>,
    (device, ifindex, direction): (&str, u32, Direction),
    by_tcx: bool,
    ours: &BTreeSet<u32>,
) -> Vec<Stranger> {
    let Ok(filters) = patient.net.filters(ifindex, direction).await else {
        return Vec::new();
    };
    let of_ours = filters.iter().filter(|f| ours.contains(&f.program));
    let first_of_ours = of_ours.map(|filter| filter.priority).min();
    let mut strangers = Vec::new();
    for filter in filters.iter().filter(|f| !ours.contains(&f.program)) {
        let name = name(filter.program);
        if is_family(&name) {
            continue;
        }
        strangers.push(Stranger {
            place: format!(
                "the filter {name} (id {}, pref {}) at {direction} of {device}",
                filter.program, filter.priority
            ),
            first: !by_tcx && first_of_ours.is_none_or(|first| filter.priority < first),
            fix: format!(
                "make sure that it lets tunnel packets pass: tc filter show dev {device} {direction}"
            ),
        });
    }
    strangers
}

/// A driver's program sees packets before the kernel does.
fn at_driver(patient: &Patient<'_>, hooks: &[&Hook], ours: &BTreeSet<u32>) -> Vec<Stranger> {
    let entries: BTreeSet<u32> = hooks
        .iter()
        .filter(|hook| {
            [Program::UplinkRx.name(), Program::DirectRx.name()].contains(&hook.program.as_str())
        })
        .map(|hook| hook.ifindex)
        .collect();
    let links = patient.links.iter();
    links
        .filter(|link| entries.contains(&link.index))
        .filter_map(|link| Some((link, link.xdp_program?)))
        .filter(|(_, id)| !ours.contains(id))
        .map(|(link, id)| (link, id, name(id)))
        .filter(|(_, _, name)| !is_family(name))
        .map(|(link, id, name)| Stranger {
            place: format!("the XDP program {name} (id {id}) on {}", link.name),
            first: true,
            fix: format!(
                "make sure that it passes tunnel packets unchanged, or take it off: ip link set dev {} xdp off",
                link.name
            ),
        })
        .collect()
}

/// Another network's agent.
fn is_family(name: &str) -> bool {
    Program::ALL.iter().any(|program| program.name() == name)
}

fn name(id: u32) -> String {
    let name = program(id).and_then(|info| info.name_as_str().map(str::to_owned));
    name.unwrap_or_else(|| "?".to_owned())
}
