//! The backend `extension`: commands of the operator's, run as flanneld runs them. They are root's on every node of the network, and
//! whoever may write its configuration decides what they are.

mod run;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::node::Wanted;
use crate::flannel::backend::{CommandLine, ExtensionOptions};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};
use run::run;

/// What flanneld writes for an address, and for a subnet, that an IPv4 network does not have.
const NO_ADDRESS: &str = "<nil>";
const NO_SUBNET: &str = "::/0";

/// The commands of a network, and what became of them.
#[derive(Debug)]
pub(super) struct Extension {
    options: ExtensionOptions,
    /// What the first command printed; `None` before it has run.
    data: Option<Option<String>>,
    /// The subnet that this node was set up with.
    set_up: Option<Ipv4Net>,
    /// Whoever is to be reached. The commands take their time, for which nobody waits.
    peers: watch::Sender<Peers>,
    _task: AbortOnDropHandle<()>,
}

/// Whoever can be a peer, as the leases say.
type Peers = BTreeMap<Ipv4Net, LeaseAttrs>;

impl Extension {
    pub(super) fn new(options: &ExtensionOptions) -> Self {
        let (peers, receiver) = watch::channel(Peers::new());
        let keeper = Keeper {
            add: options.subnet_add.clone(),
            remove: options.subnet_remove.clone(),
            known: Peers::new(),
        };
        Self {
            options: options.clone(),
            data: None,
            set_up: None,
            peers,
            _task: AbortOnDropHandle::new(tokio::spawn(keeper.run(receiver))),
        }
    }

    /// What this node's lease says: what the first command prints, which runs once.
    ///
    /// # Errors
    /// It fails.
    pub(super) async fn data(&mut self) -> anyhow::Result<Option<String>> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let data = match &self.options.pre_startup {
            Some(command) => Some(run(command, &[], "").await.context("PreStartupCommand")?),
            None => None,
        };
        self.data = Some(data.clone());
        Ok(data)
    }

    /// This node has its lease, and others have theirs.
    ///
    /// # Errors
    /// The command that sets up this node fails.
    pub(super) async fn settle(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let own = &wanted.own;
        if self.set_up != Some(own.subnet) {
            if let Some(command) = &self.options.post_startup {
                let variables = [
                    ("NETWORK", wanted.network.network.to_string()),
                    ("SUBNET", own.subnet.to_string()),
                    ("IPV6SUBNET", NO_SUBNET.to_owned()),
                    ("PUBLIC_IP", own.attrs.public_ip.to_string()),
                    ("PUBLIC_IPV6", NO_ADDRESS.to_owned()),
                ];
                run(command, &variables, "")
                    .await
                    .context("PostStartupCommand")?;
            }
            self.set_up = Some(own.subnet);
        }
        self.follow(&wanted.network, own.subnet, &wanted.leases);
        Ok(())
    }

    /// Others have their leases.
    pub(super) fn follow(&self, network: &NetworkConfig, own: Ipv4Net, leases: &Leases) {
        let peers = peers(network, own, leases);
        self.peers.send_if_modified(|known| {
            let changed = *known != peers;
            *known = peers;
            changed
        });
    }
}

fn peers(network: &NetworkConfig, own: Ipv4Net, leases: &Leases) -> Peers {
    let usable = leases.iter().filter(|(subnet, attrs)| {
        let why = match network.check_peer(**subnet, own) {
            Ok(()) => attrs.extension_data().err(),
            Err(why) => Some(why),
        };
        if let Some(why) = &why {
            tracing::debug!("the lease of {subnet} is ignored: {why}");
        }
        why.is_none() && **subnet != own
    });
    usable
        .map(|(subnet, attrs)| (*subnet, attrs.clone()))
        .collect()
}

/// Tells the commands of peers that come and go, one at a time.
#[derive(Debug)]
struct Keeper {
    add: Option<CommandLine>,
    remove: Option<CommandLine>,
    /// Those that were added, also where the command failed: flanneld does not try it again either.
    known: Peers,
}

impl Keeper {
    async fn run(mut self, mut peers: watch::Receiver<Peers>) {
        while peers.changed().await.is_ok() {
            loop {
                let step = next(&self.known, &peers.borrow_and_update());
                match step {
                    Some(step) => self.take(step).await,
                    None => break,
                }
            }
        }
    }

    async fn take(&mut self, step: Step) {
        let (command, subnet, attrs) = match step {
            Step::Remove(subnet, attrs) => {
                self.known.remove(&subnet);
                (&self.remove, subnet, attrs)
            }
            Step::Add(subnet, attrs) => {
                self.known.insert(subnet, attrs.clone());
                (&self.add, subnet, attrs)
            }
        };
        let Some(command) = command else {
            return;
        };
        let data = attrs.extension_data().unwrap_or_default();
        if let Err(error) = run(command, &of_peer(subnet, attrs.public_ip), data).await {
            tracing::error!("{error:#}; it is not tried again");
        }
    }
}

fn of_peer(subnet: Ipv4Net, public_ip: Ipv4Addr) -> [(&'static str, String); 2] {
    [
        ("SUBNET", subnet.to_string()),
        ("PUBLIC_IP", public_ip.to_string()),
    ]
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Remove(Ipv4Net, LeaseAttrs),
    Add(Ipv4Net, LeaseAttrs),
}

/// Whoever is gone first, or who says something else now: he is added anew.
fn next(known: &Peers, wanted: &Peers) -> Option<Step> {
    let gone = known
        .iter()
        .find(|(subnet, attrs)| wanted.get(subnet) != Some(attrs));
    if let Some((subnet, attrs)) = gone {
        return Some(Step::Remove(*subnet, attrs.clone()));
    }
    let (subnet, attrs) = wanted
        .iter()
        .find(|(subnet, _)| !known.contains_key(subnet))?;
    Some(Step::Add(*subnet, attrs.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(subnet: &str, data: &str) -> (Ipv4Net, LeaseAttrs) {
        let attrs = LeaseAttrs::extension(Ipv4Addr::new(192, 0, 2, 1), Some(data.to_owned()));
        (subnet.parse().unwrap(), attrs)
    }

    #[test]
    fn a_changed_lease_is_removed_and_added() {
        let (a, b) = (peer("10.1.2.0/24", "a"), peer("10.1.3.0/24", "b"));
        let other = peer("10.1.3.0/24", "c");
        let known = Peers::from([a.clone(), b.clone()]);
        assert_eq!(next(&known, &known), None);
        let wanted = Peers::from([a.clone(), other.clone()]);
        assert_eq!(next(&known, &wanted), Some(Step::Remove(b.0, b.1)));
        let known = Peers::from([a]);
        assert_eq!(next(&known, &wanted), Some(Step::Add(other.0, other.1)));
    }

    #[test]
    fn who_cannot_be_a_peer_is_none() {
        let json = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"extension"}}"#;
        let network = NetworkConfig::parse(json).unwrap();
        let host_gw = (
            "10.1.5.0/24",
            LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, 5)),
        );
        let leases: Leases = [
            peer("10.1.2.0/24", "a"),
            peer("10.2.2.0/24", "outside"),
            (host_gw.0.parse().unwrap(), host_gw.1),
        ]
        .into_iter()
        .collect::<Peers>()
        .into();
        let own = "10.1.1.0/24".parse().unwrap();
        let peers = peers(&network, own, &leases);
        assert_eq!(peers, Peers::from([peer("10.1.2.0/24", "a")]));
    }
}
