//! The node's firewall, as far as the agent has a part in it.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::node::flanneld_masq::FlanneldMasq;
use crate::node::forward_rules::Keeper;

/// How long a round waits for rules to go, which do no harm: iptables may take its time.
const MOMENT: Duration = Duration::from_secs(5);

/// The accept rules, and flanneld's masquerading.
#[derive(Debug)]
pub(super) struct Firewall {
    /// How often FORWARD is looked at without being told of a change; `None`: never.
    resync: Option<Duration>,
    forward: Option<Keeper>,
    masquerade: FlanneldMasq,
    /// What takes the rules away, with what it has in hand.
    replacing: Option<AbortOnDropHandle<(FlanneldMasq, Result<bool, String>)>>,
}

impl Firewall {
    pub(super) fn new(resync: Option<Duration>) -> Self {
        Self {
            resync,
            forward: None,
            masquerade: FlanneldMasq::default(),
            replacing: None,
        }
    }

    /// Accepts what is forwarded. From the first time on the rules look after themselves.
    pub(super) async fn accept(&mut self, network: Ipv4Net) {
        if let (Some(every), None) = (self.resync, &self.forward) {
            self.forward = Some(Keeper::start(network, every).await);
        }
    }

    /// Takes flanneld's masquerading away. Only once our own programs translate. Rules that stay do no harm but cost time.
    pub(super) async fn replace_masquerading(&mut self, network: Ipv4Net) -> Option<String> {
        let mut task = match self.replacing.take() {
            Some(task) => task,
            None if self.masquerade.is_due() => {
                let mut masquerade = std::mem::take(&mut self.masquerade);
                AbortOnDropHandle::new(tokio::spawn(async move {
                    let outcome = masquerade.replace(network).await;
                    (masquerade, outcome)
                }))
            }
            None => return None,
        };
        let outcome = match timeout(MOMENT, &mut task).await {
            Ok(Ok((masquerade, outcome))) => {
                self.masquerade = masquerade;
                outcome
            }
            // It broke: the next round begins anew.
            Ok(Err(_)) => return None,
            // The next round hears of it.
            Err(_) => {
                self.replacing = Some(task);
                return None;
            }
        };
        match outcome {
            Ok(true) => {
                let done = "flanneld's masquerade rules removed: programs translate";
                tracing::info!("{done}");
                Some(done.to_owned())
            }
            Ok(false) => None,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// Why packets are lost there.
    pub(super) fn hindrance(&self) -> Option<String> {
        self.forward.as_ref()?.hindrance()
    }

    /// What is worth a word, and loses nothing.
    pub(super) fn complaint(&self) -> Option<String> {
        self.masquerade.trouble().map(str::to_owned)
    }

    /// Waits until [`Self::hindrance`] says something else.
    pub(super) async fn changed(&mut self) {
        match &mut self.forward {
            Some(keeper) => keeper.changed().await,
            None => std::future::pending().await,
        }
    }
}
