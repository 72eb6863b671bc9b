//! Others' programs where ours are. They are welcome; whoever comes first sees the packets first, and may keep
//! them.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::program::Program;

use super::{Patient, Report};
use crate::dataplane::chain::Chain;
use crate::dataplane::strangers::Stranger;
use crate::dataplane::view::{Hook, Mode, program};
use crate::node::net::{Direction, PRIORITIES};

/// Somebody's program on a hook of ours.
struct Found {
    place: String,
    /// Packets meet it before ours.
    first: bool,
    /// What it may answer that keeps packets from these of ours.
    hides: Option<(String, Vec<String>)>,
    fix: String,
}

/// Names of our programs by the kernel's ids.
type Ours = BTreeMap<u32, String>;

pub(super) async fn check(patient: &Patient<'_>, hooks: &[Hook], report: &mut Report) {
    let hooks: Vec<&Hook> = hooks.iter().filter(|hook| hook.attached).collect();
    let ours: Ours = hooks
        .iter()
        .map(|hook| (hook.program_id, hook.program.clone()))
        .collect();
    let places: BTreeSet<(&str, u32, Direction)> = hooks
        .iter()
        .filter_map(|hook| Some((hook.device.as_deref()?, hook.ifindex, hook.direction?)))
        .collect();
    let mut found = Vec::new();
    for (device, ifindex, direction) in places {
        let here = hooks
            .iter()
            .filter(|hook| hook.ifindex == ifindex && hook.direction == Some(direction));
        let (tcx, filters): (Vec<&Hook>, _) = here.partition(|hook| hook.mode == Mode::Tcx);
        let filters: Vec<&str> = filters.iter().map(|hook| hook.program.as_str()).collect();
        found.extend(at_tcx(device, direction, &ours, &filters));
        let place = (device, ifindex, direction);
        found.extend(at_clsact(patient, place, !tcx.is_empty(), &ours).await);
    }
    found.extend(at_driver(patient, &hooks, &ours));
    if found.is_empty() {
        report.ok("nobody else's programs on our hooks");
    }
    for Found {
        place,
        first,
        hides,
        fix,
    } in found
    {
        match (hides, first) {
            (Some((answer, ours)), _) => report.failure(
                format!(
                    "{place} may answer {answer}, which ends the hook's chain: such packets never reach {}",
                    ours.join(", ")
                ),
                fix,
            ),
            (None, true) => report.warning(format!("{place} runs before ours"), fix),
            (None, false) => report.ok(format!("{place} runs after ours")),
        }
    }
}

/// tcx comes before clsact. `filters`: ours there.
fn at_tcx(device: &str, direction: Direction, ours: &Ours, filters: &[&str]) -> Vec<Found> {
    let chain = Chain::of(device, direction).programs;
    let first_of_ours = chain.iter().position(|id| ours.contains_key(id));
    let strange = chain.iter().enumerate().filter_map(|(place, id)| {
        let stranger = Stranger::of(*id, |id| ours.contains_key(&id))?;
        Some((place, stranger))
    });
    let found = strange.map(|(place, stranger)| {
        let behind = chain.iter().skip(place).filter_map(|id| ours.get(id));
        let behind = behind.map(String::as_str).chain(filters.iter().copied());
        let behind: Vec<String> = behind.map(str::to_owned).collect();
        let hides = stranger.ends_chain() && !behind.is_empty();
        let fix = match hides {
            false => format!(
                "make sure that it lets tunnel packets pass: bpftool net show dev {device}"
            ),
            true => "a running agent goes in front of it within a second or, where two do so in turn, half a minute; \
                     have the program answer TC_ACT_UNSPEC (-1), and both see all packets"
                .to_owned(),
        };
        Found {
            place: format!("the program {} at {direction} of {device}", stranger.with_owner()),
            // Where ours are filters, all of tcx is before them.
            first: first_of_ours.is_none_or(|first| place < first),
            hides: hides.then(|| (stranger.answer(), behind)),
            fix,
        }
    });
    found.collect()
}

async fn at_clsact(
    patient: &Patient<'_>,
    (device, ifindex, direction): (&str, u32, Direction),
    by_tcx: bool,
    ours: &Ours,
) -> Vec<Found> {
    let Ok(filters) = patient.net.filters(ifindex, direction).await else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for filter in &filters {
        let Some(stranger) = Stranger::of(filter.program, |id| ours.contains_key(&id)) else {
            continue;
        };
        let behind = filters
            .iter()
            .filter(|other| other.priority > filter.priority);
        let behind: Vec<String> = behind
            .filter_map(|other| ours.get(&other.program).cloned())
            .collect();
        let first = !by_tcx && !behind.is_empty();
        let hides = first && stranger.ends_filters();
        let fix = match hides {
            false => format!(
                "make sure that it lets tunnel packets pass: tc filter show dev {device} {direction}"
            ),
            true => format!(
                "give it a pref above {}, or have it answer TC_ACT_UNSPEC (-1): tc filter show dev {device} {direction}",
                PRIORITIES[1]
            ),
        };
        found.push(Found {
            place: format!(
                "the filter {} (id {}, pref {}) at {direction} of {device}",
                stranger.name(),
                filter.program,
                filter.priority
            ),
            first,
            hides: hides.then(|| (stranger.answer(), behind)),
            fix,
        });
    }
    found
}

/// A driver's program sees packets before the kernel does.
fn at_driver(patient: &Patient<'_>, hooks: &[&Hook], ours: &Ours) -> Vec<Found> {
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
        .filter(|(_, id)| !ours.contains_key(id))
        .map(|(link, id)| (link, id, name(id)))
        .filter(|(_, _, name)| !is_family(name))
        .map(|(link, id, name)| Found {
            place: format!("the XDP program {name} (id {id}) on {}", link.name),
            first: true,
            hides: None,
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
    match name.as_deref() {
        None => "?".to_owned(),
        Some("") => "without a name".to_owned(),
        Some(name) => name.to_owned(),
    }
}
