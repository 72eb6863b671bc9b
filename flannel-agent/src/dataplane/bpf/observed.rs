//! What is loaded and attached, and what is left of earlier agents.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::program::Program;

use super::Bpf;
use crate::dataplane::hooks::{self, Target, Way};
use crate::dataplane::strays::stray_filters;
use crate::dataplane::xdp;
use crate::dataplane::{
    DataplaneError, Generation, Places, Programs, Stale, anchors, barrier, carry,
};
use crate::node::net::{Link, NetError, Netlink};

impl Bpf {
    fn steps(&self) -> Result<BTreeMap<Program, Generation>, DataplaneError> {
        let ids = self.step_ids()?;
        let judged = |(step, id)| (step, self.generation(step, id));
        Ok(ids.into_iter().map(judged).collect())
    }

    /// Looks at every hook that is wanted, and for whatever of ours is elsewhere.
    pub(crate) async fn observe(
        &self,
        places: &Places<'_>,
        net: &Netlink,
        links: &[Link],
    ) -> Result<Programs, DataplaneError> {
        let tag = places.tag;
        let mut programs = Programs {
            loaded: self.loaded.as_ref().map(|running| running.told.clone()),
            stale: BTreeSet::new(),
            attached: BTreeMap::new(),
            steps: self.steps()?,
            has_maps: self.pins.has_maps()?,
            old_layouts: self.old_layouts()?,
            xdp_refused: self.xdp_refusal.as_ref().is_some_and(|r| r.holds(links)),
        };
        let mut pins = self.pins.link_names()?;
        for attachment in places.attachments {
            let Some(link) = links.iter().find(|link| link.name == attachment.device) else {
                continue;
            };
            let target = Target::new(attachment, link.index, tag);
            pins.remove(&target.pin_name());
            if attachment.program.is_xdp() {
                if let Some(id) = xdp::pinned_program(&target, &self.pins, link)? {
                    let generation = self.generation(attachment.program, id);
                    programs.attached.insert(attachment.clone(), generation);
                }
                continue;
            }
            let filters = net.filters(link.index, attachment.direction).await?;
            let filter = hooks::filter_program(&target, &filters);
            let pinned = match self.way {
                Way::Clsact => None,
                _ => self.tcx_program(&target),
            };
            if let Some(id) = pinned.or(filter) {
                let hidden = pinned.is_some()
                    && barrier::find(attachment, link.index, pinned, &self.pins).is_some();
                let generation = match hidden {
                    true => Generation::Hidden,
                    false => self.generation(attachment.program, id),
                };
                programs.attached.insert(attachment.clone(), generation);
            }
            if pinned.is_some() && filter.is_some() {
                programs.stale.insert(Stale::Filter {
                    device: attachment.device.clone(),
                    direction: attachment.direction,
                    handle: target.handle(),
                });
            }
        }
        programs.stale.extend(pins.into_iter().map(Stale::Pin));
        if self.way != Way::Tcx {
            let strays = stray_filters(places, net, links).await?;
            programs.stale.extend(strays);
        }
        Ok(programs)
    }

    /// The program of our link on a hook of tcx.
    fn tcx_program(&self, target: &Target<'_>) -> Option<u32> {
        let kept = || self.kept.program(&target.pin_name());
        let kept = || kept().filter(|id| self.unpinned && hooks::is_on(target, *id));
        hooks::pinned_program(target, &self.pins).or_else(kept)
    }

    /// Whether another network has a program at an anchor.
    pub(crate) async fn is_shared(
        &self,
        net: &Netlink,
        anchor: &Link,
        tags: &[u32],
    ) -> Result<bool, NetError> {
        anchors::is_shared(net, anchor, &self.pins, tags).await
    }

    fn old_layouts(&self) -> Result<BTreeMap<String, bool>, DataplaneError> {
        let folders = self.pins.old_layouts()?.into_iter();
        folders
            .map(|folder| {
                let carried = carry::is_carried(&self.pins, &folder)?;
                Ok((folder, carried))
            })
            .collect()
    }

    fn generation(&self, program: Program, id: u32) -> Generation {
        let current = self.loaded.as_ref().and_then(|r| r.ids.get(&program));
        if current == Some(&id) {
            Generation::Current
        } else {
            Generation::Earlier
        }
    }
}
