//! What each network of a daemon takes of the node. What one has, no other gets: who comes later is refused, and the first goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use tokio::sync::watch;

use crate::flannel::backend::{Backend, Wire};
use crate::flannel::config::NetworkConfig;
use crate::node::{mark, wireguard};

/// Shared by all networks of a daemon.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeMap<String, NetworkConfig>>>);

/// One network's hand on the [`Claims`]. Lets go when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    name: String,
    claims: Claims,
    /// Told once it is known whether the network gets what it wants.
    settled: watch::Sender<bool>,
}

impl Claims {
    pub(super) fn of(&self, name: &str, settled: watch::Sender<bool>) -> Claim {
        Claim {
            name: name.to_owned(),
            claims: self.clone(),
            settled,
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, NetworkConfig>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Takes what a network with this configuration needs.
    ///
    /// # Errors
    /// Another network has some of it: which, and of what.
    pub(super) fn stake(&self, wanted: &NetworkConfig) -> anyhow::Result<()> {
        let mut held = self.claims.held();
        for (other, has) in held.iter().filter(|(other, _)| **other != self.name) {
            if let Some(conflict) = conflict(wanted, has) {
                bail!(
                    "the network {} cannot be served beside {other}: {conflict}",
                    self.name
                );
            }
        }
        held.insert(self.name.clone(), wanted.clone());
        drop(held);
        self.settled.send_replace(true);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.held().remove(&self.name);
        self.settled.send_replace(true);
    }
}

fn conflict(one: &NetworkConfig, other: &NetworkConfig) -> Option<String> {
    let (a, b) = (one.network, other.network);
    if a.contains(&b) || b.contains(&a) {
        return Some(format!(
            "Network {a} overlaps its Network {b}: give one of them another range"
        ));
    }
    let udp = |config: &NetworkConfig| {
        let tunnel = config.backend.tunnel();
        tunnel.filter(|it| it.wire == Wire::Udp)?.port
    };
    if let Some(port) = udp(one).filter(|port| udp(other) == Some(*port)) {
        return Some(format!(
            "both would have UDP port {port}: give one of them another Port"
        ));
    }
    let device = device(&one.backend)?;
    (Some(&device) == self::device(&other.backend).as_ref()).then(|| {
        let fix = match one.backend.tunnel().map(|tunnel| tunnel.wire) {
            Some(Wire::Vxlan { .. }) => "another VNI",
            _ => "another backend, of which a node can have several",
        };
        format!("both would have the device {device}: give one of them {fix}")
    })
}

/// The backend's device that others look for, and there is one of.
fn device(backend: &Backend) -> Option<String> {
    let kernels = backend.wireguard().map(|_| wireguard::DEVICE.to_owned());
    // Of udp a node has as many as there are ports.
    let tunnel = backend.tunnel().filter(|it| it.wire != Wire::Udp);
    let ours = tunnel.map(|tunnel| mark::device(tunnel.wire));
    ours.or(kernels)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("udp", r#","Port":9000"#, None)]
    #[case(
        "udp",
        "",
        Some("both would have UDP port 8285: give one of them another Port")
    )]
    #[case("ipip", "", None)]
    fn of_udp_there_may_be_several(
        #[case] backend: &str,
        #[case] more: &str,
        #[case] refused: Option<&str>,
    ) {
        let claims = Claims::default();
        let blue = claim(&claims, "blue");
        let udp = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp"}}"#;
        blue.stake(&config(udp)).unwrap();
        let green =
            format!(r#"{{"Network":"10.2.0.0/16","Backend":{{"Type":"{backend}"{more}}}}}"#);
        let outcome = claim(&claims, "green").stake(&config(&green));
        let said = outcome.err().map(|error| error.to_string());
        assert_eq!(said.is_some(), refused.is_some(), "{said:?}");
        assert!(
            said.unwrap_or_default()
                .contains(refused.unwrap_or_default())
        );
    }

    const BLUE: &str = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":1}}"#;

    fn config(json: &str) -> NetworkConfig {
        NetworkConfig::parse(json).unwrap()
    }

    fn claim(claims: &Claims, name: &str) -> Claim {
        claims.of(name, watch::channel(false).0)
    }

    #[rstest]
    #[case(
        r#"{"Network":"10.2.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#,
        None
    )]
    #[case(r#"{"Network":"10.2.0.0/16","Backend":{"Type":"host-gw"}}"#, None)]
    #[case(
        r#"{"Network":"10.1.128.0/17","Backend":{"Type":"host-gw"}}"#,
        Some(
            "green cannot be served beside blue: Network 10.1.128.0/17 overlaps its Network 10.1.0.0/16"
        )
    )]
    #[case(
        r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","VNI":2}}"#,
        Some("overlaps")
    )]
    #[case(
        r#"{"Network":"10.2.0.0/16","Backend":{"Type":"vxlan","VNI":1,"Port":9999}}"#,
        Some("green cannot be served beside blue: both would have the device flannel.1")
    )]
    #[case(r#"{"Network":"10.2.0.0/16","Backend":{"Type":"wireguard"}}"#, None)]
    fn what_one_has_no_other_gets(#[case] green: &str, #[case] refused: Option<&str>) {
        let claims = Claims::default();
        let blue = claim(&claims, "blue");
        blue.stake(&config(BLUE)).unwrap();
        blue.stake(&config(BLUE)).unwrap();
        let outcome = claim(&claims, "green").stake(&config(green));
        match (outcome, refused) {
            (Ok(()), None) => {}
            (Err(error), Some(why)) => {
                assert!(error.to_string().contains(why), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(blue);
        claim(&claims, "green").stake(&config(green)).unwrap();
    }
}
