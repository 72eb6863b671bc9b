//! The loaded object: maps, programs, and the hooks they are on.

mod contents;
mod observed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use flannel_common::program::Program;

use super::alive::{Presence, ServesAlone};
use super::bpffs::{self, Pins};
use super::chain;
use super::clsact::MadeQdiscs;
use super::definition::ReplacedMap;
use super::hooks::{self, Target, Way};
use super::kept::Kept;
use super::maps::Maps;
use super::object::Object;
use super::programs::{at_driver, classifier, load};
use super::shadow::Shadow;
use super::snat_maps::SnatMaps;
use super::view::{Told, here};
use super::xdp::{self, Refusal};
use super::{DataplaneError, Options, carry};
use crate::dataplane::{Loaded, SnatTable, Stale};
use crate::node::net::Link;

#[derive(Debug)]
pub(crate) struct Bpf {
    object: Object,
    bpffs: PathBuf,
    network: String,
    pins: Pins,
    way: Way,
    loaded: Option<Running>,
    kept: Kept,
    /// What is kept is not pinned, and cannot be.
    unpinned: bool,
    xdp_refusal: Option<Refusal>,
    made: MadeQdiscs,
    /// Tells `flannel-agent status` that somebody is here; worth no failure.
    alive: Option<Presence>,
}

/// What this process loaded.
#[derive(Debug)]
struct Running {
    ebpf: Ebpf,
    told: Loaded,
    maps: Maps,
    snat: SnatMaps,
    /// Kernel ids of the programs.
    ids: BTreeMap<Program, u32>,
    /// For others in this process.
    _here: Option<Arc<Told>>,
}

impl Bpf {
    /// `present`: somebody in this process who was here before, and stays.
    pub(crate) fn open(
        options: &Options,
        present: Option<Presence>,
    ) -> Result<Self, DataplaneError> {
        let object = Object::read(options)?;
        let pins = Pins::open(&options.bpffs, &options.network)?;
        let alive = present.or_else(|| Presence::of(pins.root()).ok());
        Ok(Self::not_loaded(object, pins, options, alive))
    }

    /// Pins again what is not pinned any more, if somebody unmounted the file system or removed pins: everything is open here
    /// still, and runs on. A map that is not open here is made anew, with the programs.
    ///
    /// # Errors
    /// They cannot be pinned now: without the right to mount, say. What they held runs on, and takes what changes.
    pub(crate) fn repair_pins(&mut self) -> Result<(), DataplaneError> {
        let are_pinned =
            || self.object.is_pinned(&self.pins) && self.kept.are_links_pinned(&self.pins);
        self.unpinned = self.loaded.is_some() && !are_pinned();
        if !self.unpinned {
            return Ok(());
        }
        self.pins = Pins::open(&self.bpffs, &self.network)?;
        let root = self.pins.root();
        if !self.alive.as_ref().is_some_and(|alive| alive.is_at(root)) {
            self.alive = Presence::of(root).ok();
        }
        self.kept.pin_links(&self.pins)?;
        let known = self.kept.pin_maps(self.object.map_names(), &self.pins)?;
        self.unpinned = false;
        if known {
            tracing::warn!(
                "pins were removed below {}: pinned again what they held, which ran on",
                root.display()
            );
        } else {
            tracing::warn!(
                "maps are not pinned in {} any more, and cannot be again: loading the programs again",
                root.display()
            );
            self.loaded = None;
        }
        Ok(())
    }

    /// Another agent serves here.
    pub(crate) fn stand_back(&mut self) {
        self.kept.let_all_go();
    }

    /// The table of translated flows, where there is one.
    pub(crate) fn snat_table(&self) -> Result<Option<SnatTable>, DataplaneError> {
        SnatTable::open(&self.bpffs, &self.network)
    }

    /// Whether another agent looks after this network on this node, too.
    pub(crate) fn has_company(&self) -> bool {
        let alive = self.alive.as_ref();
        alive.is_some_and(|alive| alive.has_company().unwrap_or(false))
    }

    pub(crate) fn serve_alone(&self) -> Option<ServesAlone> {
        ServesAlone::try_hold(&self.pins.links())
    }

    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    pub(crate) fn pins_of_maps(&self) -> PathBuf {
        self.pins.maps()
    }

    pub(crate) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Takes over what is pinned for another network. `false`: nothing is, or this one has pins of its own.
    pub(crate) fn inherit(&mut self, from: &str) -> Result<bool, DataplaneError> {
        if !self.pins.take_from(&Pins::of(&self.bpffs, from))? {
            return Ok(false);
        }
        self.pins = Pins::open(&self.bpffs, &self.network)?;
        self.alive = Presence::of(self.pins.root()).ok();
        Ok(true)
    }

    /// What was `from`'s beside its pins is this network's as well.
    pub(crate) fn has_inherited(&self, from: &str) -> Result<(), DataplaneError> {
        self.pins.settle(&Pins::of(&self.bpffs, from))
    }

    /// As [`Self::open`], but leaves no trace: no folder, and no word that an agent is here.
    pub(crate) fn look(options: &Options) -> Result<Self, DataplaneError> {
        let object = Object::read(options)?;
        let pins = Pins::of(&options.bpffs, &options.network);
        Ok(Self::not_loaded(object, pins, options, None))
    }

    fn not_loaded(object: Object, pins: Pins, options: &Options, alive: Option<Presence>) -> Self {
        Self {
            object,
            bpffs: options.bpffs.clone(),
            network: options.network.clone(),
            pins,
            way: options.attach.into(),
            loaded: None,
            kept: Kept::default(),
            unpinned: false,
            xdp_refusal: None,
            made: MadeQdiscs::new(&options.state_dir),
            alive,
        }
    }

    /// The programs that [`Self::load`] would load, with maps of their own.
    pub(crate) fn shadow(&self, told: &Loaded) -> Result<Shadow, DataplaneError> {
        let wire = told.globals.wire;
        let ebpf = self.object.load_alone(told)?;
        Ok(Shadow::new(ebpf, wire))
    }

    /// Pinned maps that [`Self::load`] would make anew.
    pub(crate) fn replaced_maps(&self) -> Result<Vec<ReplacedMap>, DataplaneError> {
        self.object.replaced_maps(&self.pins)
    }

    /// Whether every map is pinned in the shape that the object wants.
    pub(crate) fn has_all_maps(&self) -> Result<bool, DataplaneError> {
        self.object.has_all_pins(&self.pins)
    }

    /// Makes room for a table of translated connections of another size. What is set aside is an old layout from here on: it is carried
    /// over, and goes.
    pub(crate) fn set_table_aside(&self) -> Result<(), DataplaneError> {
        match self.loaded {
            Some(_) => Ok(()),
            None => self.object.set_table_aside(&self.pins),
        }
    }

    /// Opens the maps and loads the programs of `attachments` with new constants. What is attached runs on.
    pub(crate) fn load(
        &mut self,
        told: &Loaded,
        programs: &BTreeSet<Program>,
    ) -> Result<(), DataplaneError> {
        let mut ebpf = self.object.load(told, &self.pins)?;
        let mut ids = BTreeMap::new();
        for program in programs.iter().copied() {
            match load(&mut ebpf, told.globals.wire, program) {
                Ok(id) => {
                    ids.insert(program, id);
                }
                // Nothing but speed depends on it: attaching it says what is the matter.
                Err(_) if program.is_xdp() => {}
                Err(error) => return Err(error),
            }
        }
        let maps = Maps::take(&mut ebpf)?;
        let snat = SnatMaps::take(&mut ebpf)?;
        // From here on nothing fails: until then it is the programs of before that others hear of, and whose maps are held.
        self.kept.keep_maps(self.object.map_names(), &self.pins);
        let here = Told::of_loaded(told);
        self.loaded = Some(Running {
            _here: here.map(|told| here::tell(&self.bpffs, &self.network, told)),
            maps,
            snat,
            told: told.clone(),
            ids,
            ebpf,
        });
        Ok(())
    }

    /// Puts a loaded program on its hook, which is at `link`.
    pub(crate) fn attach(&mut self, to: &Target<'_>, link: &Link) -> Result<(), DataplaneError> {
        self.put(to, link)?;
        self.kept.keep(to.pin_name(), &self.pins);
        Ok(())
    }

    fn put(&mut self, to: &Target<'_>, link: &Link) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        let program = to.attachment.program;
        if !program.is_xdp() {
            // The first device of its kind came after the start.
            if !running.ids.contains_key(&program) {
                let id = load(&mut running.ebpf, running.told.globals.wire, program)?;
                running.ids.insert(program, id);
            }
            let program = classifier(&mut running.ebpf, running.told.globals.wire, program)?;
            return hooks::attach(program, to, &self.pins, &self.made, &mut self.way);
        }
        let attached = if running.ids.contains_key(&to.attachment.program) {
            let program = at_driver(
                &mut running.ebpf,
                running.told.globals.wire,
                to.attachment.program,
            )?;
            xdp::attach(program, to, &self.pins, link)
        } else {
            load(
                &mut running.ebpf,
                running.told.globals.wire,
                to.attachment.program,
            )
            .map(drop)
        };
        self.xdp_refusal = attached.is_err().then(|| Refusal::by(link));
        if attached.is_err() {
            // It would look at every packet in vain.
            self.detach(&hooks::stale(Program::XdpRx, to, self.way))?;
        }
        attached
    }

    /// Whether programs are clsact filters here; not known before the first is attached.
    pub(crate) fn attaches_filters(&self) -> bool {
        match self.way {
            Way::Clsact => true,
            Way::Tcx => false,
            Way::Untried => !super::probe::tcx(),
        }
    }

    pub(crate) fn detach(&mut self, stale: &Stale) -> Result<(), DataplaneError> {
        match stale {
            Stale::Pin(name) => {
                self.kept.let_go(name);
                chain::end(&self.pins.link(name))
            }
            Stale::Filter {
                device,
                direction,
                handle,
            } => hooks::remove_filter(device, *direction, *handle)
                .map_err(|error| DataplaneError::attach(stale.to_string(), error)),
        }
    }

    pub(crate) fn carry_nat(&self, folder: &str) -> Result<(), DataplaneError> {
        let entries = carry::carry(&self.pins, folder)?;
        if bpffs::is_aside(folder) {
            tracing::info!(
                entries,
                "translated connections carried into a table of another size"
            );
        } else {
            tracing::info!(
                entries,
                "translated connections of layout {folder} are known here"
            );
        }
        Ok(())
    }

    pub(crate) fn remove_maps(&self) -> Result<(), DataplaneError> {
        self.pins.remove_maps()
    }

    pub(crate) fn remove_layout(&self, name: &str) -> Result<(), DataplaneError> {
        self.pins.remove_layout(name)
    }
}
