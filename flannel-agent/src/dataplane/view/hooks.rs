//! Where programs of ours are attached: pinned links, and clsact filters by their handles.

use std::path::Path;

use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use flannel_common::program::Program;
use serde::Serialize;

use super::error::unreadable_io;
use super::{Told, View, ViewError, folder_names, here};
use crate::dataplane::chain::Chain;
use crate::dataplane::hooks::is_filter_of;
use crate::node::net::{Direction, Link, NetError, Netlink};

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Tcx,
    Xdp,
    Clsact,
}

/// One program of ours on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub program: String,
    pub ifindex: u32,
    /// `None`: the device is gone.
    pub device: Option<String>,
    /// `None`: on no hook, or not on a TC hook.
    pub direction: Option<Direction>,
    pub mode: Mode,
    pub program_id: u32,
    /// Packets reach the program. A link detached by hand keeps its pin but is on no hook.
    pub attached: bool,
}

impl View {
    /// Everything of this network that is, or was, on a hook. `links` are the node's interfaces.
    ///
    /// # Errors
    /// If the folder of links may not be read, or the kernel refuses to list filters.
    pub async fn hooks(&self, net: &Netlink, links: &[Link]) -> Result<Vec<Hook>, HooksError> {
        let mut hooks = self.pinned(links, |_| true)?;
        hooks.extend(filters(net, links, self.tag(links)).await?);
        hooks.sort_by(|a, b| (&a.program, a.ifindex).cmp(&(&b.program, b.ifindex)));
        Ok(hooks)
    }

    /// One hook, of a network with a tunnel, by which packets come to a program. Pods' ports are not looked at: there may be a
    /// thousand. All programs of a network were told the same, and one is at its own device.
    ///
    /// # Errors
    /// As [`Self::hooks`].
    pub(crate) async fn any_hook(
        &self,
        net: &Netlink,
        links: &[Link],
    ) -> Result<Option<Hook>, HooksError> {
        let pinned = self.pinned(links, |program| !is_for_ports(program))?;
        let found = pinned.into_iter().find(|hook| hook.attached);
        if found.is_some() {
            return Ok(found);
        }
        let alias = crate::node::mark::alias(&self.network);
        let is_its_own = |link: &&Link| link.alias.as_deref() == Some(alias.as_str());
        let own: Vec<Link> = links.iter().filter(is_its_own).cloned().collect();
        let filters = filters(net, &own, self.tag(links)).await?;
        Ok(filters.into_iter().next())
    }

    /// What the network's filters have in their handles.
    fn tag(&self, links: &[Link]) -> u32 {
        let alias = crate::node::mark::alias(&self.network);
        let vni = links.iter().find_map(|link| {
            let ours = link.alias.as_deref() == Some(alias.as_str());
            let vni = link.name.strip_prefix("flannel.").filter(|_| ours)?;
            vni.parse().ok()
        });
        // A network without a tunnel has no VNI.
        vni.unwrap_or_else(|| crate::node::mark::tag(&self.network))
    }

    fn pinned(
        &self,
        links: &[Link],
        concerns: impl Fn(&str) -> bool,
    ) -> Result<Vec<Hook>, ViewError> {
        let folder = self.pins.links();
        let mut hooks = Vec::new();
        for pin in folder_names(&folder)? {
            // Other files in the folder are not ours.
            let Some((program, ifindex)) = parse(&pin).filter(|(program, _)| concerns(program))
            else {
                continue;
            };
            let path = folder.join(&pin);
            let failed = |error| unreadable_io(&path, std::io::Error::other(error));
            let pinned = FdLink::from(PinnedLink::from_pin(&path).map_err(failed)?);
            let info = pinned.info().map_err(failed)?;
            let mode = match info.link_type() {
                Ok(LinkType::Xdp) => Mode::Xdp,
                _ => Mode::Tcx,
            };
            let link = links.iter().find(|link| link.index == ifindex);
            let at_driver = mode == Mode::Xdp
                && link.is_some_and(|link| link.xdp_program == Some(info.program_id()));
            let device = link.map(|link| link.name.clone());
            let direction = device
                .as_deref()
                .filter(|_| mode == Mode::Tcx)
                .and_then(|device| on_hook(device, info.program_id()));
            hooks.push(Hook {
                program: program.to_owned(),
                ifindex,
                attached: direction.is_some() || at_driver,
                device,
                direction,
                mode,
                program_id: info.program_id(),
            });
        }
        Ok(hooks)
    }

    /// What the programs of a network were told; `None` if it has none, or they are another build's.
    pub(crate) async fn told_of(bpffs: &Path, net: &Netlink, network: &str) -> Option<Told> {
        if let Some(told) = here::told(bpffs, network) {
            return Some(told);
        }
        let view = View::open(bpffs, Some(network)).ok()?;
        let links = net.links().await.ok()?;
        let hook = view.any_hook(net, &links).await.ok()??;
        view.told(&hook).ok().flatten()
    }

    /// What the program on `hook` was told; `None` if it is another build's, or gone.
    ///
    /// # Errors
    /// If its constants may not be read.
    pub fn told(&self, hook: &Hook) -> Result<Option<Told>, ViewError> {
        let failed = |error: std::io::Error| unreadable_io(&self.link_path(&hook.program), error);
        let Some(program) = hook.live() else {
            return Ok(None);
        };
        let maps = program
            .map_ids()
            .map_err(|error| failed(std::io::Error::other(error)))?
            .unwrap_or_default();
        Told::of_program(&maps).map_err(failed)
    }
}

/// The program with an id; `None` if it is gone.
pub(crate) fn program(id: u32) -> Option<ProgramInfo> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
}

impl Hook {
    /// The program in the kernel; `None` if it is gone.
    pub(crate) fn live(&self) -> Option<ProgramInfo> {
        program(self.program_id)
    }

    /// The constants of the program, as bytes.
    pub(crate) fn constants(&self) -> std::io::Result<Option<Vec<u8>>> {
        let Some(program) = self.live() else {
            return Ok(None);
        };
        let maps = program.map_ids().map_err(std::io::Error::other)?;
        crate::dataplane::rodata::constants(&maps.unwrap_or_default())
    }
}

/// Programs on a hook of tcx in the order in which packets meet them: ids and names, ours or not.
pub(crate) fn in_order(device: &str, direction: Direction) -> Vec<(u32, String)> {
    let kind = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let Ok((_, programs)) = SchedClassifier::query_tcx(device, kind) else {
        return Vec::new();
    };
    let name = |info: &ProgramInfo| info.name_as_str().unwrap_or("?").to_owned();
    programs
        .iter()
        .map(|info| (info.id(), name(info)))
        .collect()
}

/// Why hooks could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum HooksError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Net(#[from] NetError),
}

fn is_for_ports(program: &str) -> bool {
    [Program::PodTx, Program::PodRx]
        .iter()
        .any(|it| it.name() == program)
}

/// `<program>-<ifindex>`.
fn parse(pin: &str) -> Option<(&str, u32)> {
    let (program, ifindex) = pin.rsplit_once('-')?;
    Some((program, ifindex.parse().ok()?))
}

fn on_hook(device: &str, program: u32) -> Option<Direction> {
    let directions = [Direction::Ingress, Direction::Egress];
    directions
        .into_iter()
        .find(|direction| Chain::of(device, *direction).programs.contains(&program))
}

async fn filters(net: &Netlink, links: &[Link], tag: u32) -> Result<Vec<Hook>, NetError> {
    let mut hooks = Vec::new();
    for link in links {
        for direction in [Direction::Ingress, Direction::Egress] {
            for filter in net.filters(link.index, direction).await? {
                let found = Program::ALL
                    .into_iter()
                    .find(|program| is_filter_of(&filter, *program, tag));
                let Some(program) = found else {
                    continue;
                };
                hooks.push(Hook {
                    program: program.name().to_owned(),
                    ifindex: link.index,
                    device: Some(link.name.clone()),
                    direction: Some(direction),
                    mode: Mode::Clsact,
                    program_id: filter.program,
                    attached: true,
                });
            }
        }
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_program_and_interface() {
        assert_eq!(parse("uplink_rx-12"), Some(("uplink_rx", 12)));
        assert_eq!(parse("stray"), None);
        assert_eq!(parse("stray-x"), None);
    }
}
