//! What a look at the node finds that is not the agent's to change: it is named, once.

use super::{Kernel, Wanted};
use crate::base::options::Mode;
use crate::dataplane::moves::Moves;
use crate::dataplane::view::View;
use crate::node::conntrack::forgets_fast_flows;
use crate::node::net::sysctl;
use crate::node::pod_bridge;

pub(super) const NO_FORWARDING: &str = "net.ipv4.ip_forward is 0: no pod reaches another node; set it to 1 (sysctl -w), and in /etc/sysctl.d for the next boot";

const STRICT: &str = "conntrack minds TCP's windows and cannot be told not to, so no flow is fast; set \
    net.netfilter.nf_conntrack_tcp_be_liberal=1 on the node, or make /proc/sys writable for the agent";

const FORGETS: &str =
    "conntrack forgets flows sooner than the fast path shows them to it, so no flow is fast";

impl Kernel {
    /// The bridge is the CNI plugin's: reported, never touched.
    pub(super) async fn look_at_bridge(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let (network, subnet) = (wanted.network.network, wanted.own.subnet);
        let found = pod_bridge::check(
            self.dataplane.netlink(),
            &self.fast_path.bridge,
            network,
            subnet,
        )
        .await?;
        if let Some(mismatch) = found.as_ref().filter(|_| found != self.bridge) {
            tracing::warn!("{mismatch}");
        }
        self.bridge = found;
        Ok(())
    }

    /// Somebody else's to switch on, as with flanneld: the CNI plugin does with each pod that it makes. Before the first it is no
    /// news.
    pub(super) fn look_at_forwarding(&mut self) {
        let value = sysctl::read(sysctl::FORWARDING).ok().flatten();
        let forwards = value.is_none_or(|value| value != "0") || self.facts.pod_ports.is_empty();
        if self.forwards && !forwards {
            tracing::warn!("{NO_FORWARDING}");
        }
        if !self.forwards && forwards {
            tracing::info!("the kernel forwards IPv4 again");
        }
        self.forwards = forwards;
    }

    /// Flows that are fast beside a strict conntrack break where a rule drops what it calls INVALID; and beside one that forgets
    /// them, where a rule lets only answers through.
    pub(super) fn look_at_conntrack(&mut self) {
        let strict = self.facts.strict.as_ref();
        let strict = strict.map(|why| format!("{STRICT}: {why}"));
        let forgets = forgets_fast_flows(&self.facts.times);
        let unfit = strict.or_else(|| Some(format!("{FORGETS}: {}", forgets?)));
        let is_new = unfit != self.unfit;
        self.unfit.clone_from(&unfit);
        if !is_new || self.fast_path.mode != Mode::Verified {
            return;
        }
        if let Some(why) = unfit {
            tracing::warn!("{why}");
        } else {
            tracing::info!("conntrack is no hindrance any more: flows may be fast");
        }
    }

    /// Without it flows follow with their renewals.
    pub(super) fn follow_moves(&mut self) {
        let netlink = self.dataplane.netlink();
        match Moves::follow(netlink, &self.fast_path, &self.bpffs, &self.network) {
            Ok(moves) => self.moves = moves,
            Err(error) => tracing::debug!("addresses that move are followed in 5 s: {error}"),
        }
    }

    /// Why there is no anchor, although it is asked for.
    pub(super) fn without_anchor(&self) -> Option<String> {
        let holder = self.facts.port_holder.as_ref()?;
        Some(format!(
            "our UDP port is held by {holder}, so there is no anchor: fragmented tunnel packets go there, and GRO knows the port \
             only if that is a vxlan device; networks of one node that share a port need the same --gro"
        ))
    }

    pub(super) fn name_port_holder(&mut self) {
        let holder = &self.facts.port_holder;
        if *holder != self.port_holder
            && let Some(text) = self.without_anchor()
        {
            tracing::warn!("{text}");
        }
        self.port_holder.clone_from(&self.facts.port_holder);
    }

    pub(super) fn name_unserved(&mut self) {
        let unserved = &self.facts.outlets.unserved;
        for device in unserved.difference(&self.unserved) {
            if self.snat.is_some() {
                tracing::warn!(
                    "what pods send by {device} leaves under their own addresses, as far as no rule of somebody else \
                     masquerades it: the device has a link-layer header that --ip-masq does not know"
                );
            }
        }
        self.unserved.clone_from(unserved);
    }

    /// Whose tunnel packets come from elsewhere. Without programs there are no such maps.
    pub(super) fn name_senders(&mut self) {
        if let Ok(view) = View::open(&self.bpffs, Some(&self.network)) {
            self.senders.look(&view);
        }
    }
}
