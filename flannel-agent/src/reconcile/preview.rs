//! A dataplane that is only looked at: what its agent would have to do, found out without doing it.

use aya::programs::ProgramInfo;
use flannel_common::program::Program;

use super::Dataplane;
use crate::dataplane::view::{Hook, View, program};
use crate::dataplane::{
    Attachment, Bpf, DataplaneError, Generation, Likeness, Loaded, Options, ReplacedMap, Shadow,
    check_capabilities, is_mounted,
};
use crate::reconcile::actual::{Actual, Device};
use crate::reconcile::desired::Desired;

/// The dataplane of a node, read only.
#[derive(Debug)]
pub(crate) struct Preview {
    dataplane: Dataplane,
    view: Option<View>,
    is_mounted: bool,
}

impl Preview {
    /// As [`Dataplane::open`], but mounts nothing and makes no folder.
    ///
    /// # Errors
    /// A missing capability, an object that cannot be read.
    pub(crate) fn open(options: &Options) -> Result<Self, DataplaneError> {
        check_capabilities()?;
        Ok(Self {
            dataplane: Dataplane::of(Bpf::look(options)?, options)?,
            view: View::open(&options.bpffs, Some(&options.network)).ok(),
            is_mounted: is_mounted(&options.bpffs),
        })
    }

    /// Whether there is a BPF file system to pin in.
    pub(crate) const fn is_mounted(&self) -> bool {
        self.is_mounted
    }

    /// As [`Dataplane::attaches_filters`].
    pub(crate) fn attaches_filters(&self) -> bool {
        self.dataplane.attaches_filters()
    }

    /// Whether an agent looks after the network now.
    pub(crate) fn agent_runs(&self) -> bool {
        self.view
            .as_ref()
            .is_some_and(|view| view.agent_runs().unwrap_or(false))
    }

    /// Pinned maps that a load would make anew, since they are not what the object wants.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub(crate) fn replaced_maps(&self) -> Result<Vec<ReplacedMap>, DataplaneError> {
        self.dataplane.bpf.replaced_maps()
    }

    /// What the kernel holds, as an agent sees it that loaded this very object: programs that are what it
    /// would load count as its own.
    ///
    /// # Errors
    /// If the kernel does not answer, or does not take our programs.
    pub(crate) async fn actual(&self, desired: &Desired) -> Result<Actual, DataplaneError> {
        let mut actual = self.dataplane.actual(desired).await?;
        let (index, gro_index) = match (&desired.node.pair, &actual.device) {
            (None, _) => (0, 0),
            (Some(_), Device::Ours(pair)) => (pair.index, pair.gro_index),
            (Some(_), _) => return Ok(actual),
        };
        let Some(view) = &self.view else {
            return Ok(actual);
        };
        let links = self.dataplane.net.links().await?;
        let hooks = view.hooks(&self.dataplane.net, &links).await;
        let hooks = hooks.map_err(|error| DataplaneError::Object(error.to_string()))?;
        let told = Loaded {
            globals: desired.node.globals.clone(),
            index,
            gro_index,
        };
        let mut shadow = self.dataplane.bpf.shadow(&told)?;
        for (attachment, generation) in &mut actual.programs.attached {
            if is_ours(&mut shadow, attachment, &hooks)? {
                *generation = Generation::Current;
            }
        }
        let steps = self.dataplane.bpf.step_ids()?;
        for (step, generation) in &mut actual.programs.steps {
            let live = steps.get(step).and_then(|id| program(*id));
            if is_like(&mut shadow, *step, live)? {
                *generation = Generation::Current;
            }
        }
        let attached = &actual.programs.attached;
        let all = attached.values().all(|g| *g == Generation::Current);
        // Maps that cannot be used, or are gone, take a load to come back.
        let whole = !attached.is_empty() && self.dataplane.bpf.has_all_maps()?;
        actual.programs.loaded = (all && whole).then_some(told);
        Ok(actual)
    }
}

fn is_ours(
    shadow: &mut Shadow,
    attachment: &Attachment,
    hooks: &[Hook],
) -> Result<bool, DataplaneError> {
    let id = hooks.iter().find(|hook| {
        hook.program == attachment.program.name()
            && hook.device.as_deref() == Some(attachment.device.as_str())
            && (hook.direction == Some(attachment.direction) || attachment.program.is_xdp())
            && hook.attached
    });
    is_like(shadow, attachment.program, id.and_then(Hook::live))
}

fn is_like(
    shadow: &mut Shadow,
    program: Program,
    live: Option<ProgramInfo>,
) -> Result<bool, DataplaneError> {
    let Some(live) = live else {
        return Ok(false);
    };
    let wanted = shadow.likeness(program)?;
    Ok(Likeness::of(&live).is_ok_and(|live| live == wanted))
}
