//! What a boot without the datastore would go by.

use std::path::Path;

use super::Report;
use crate::flannel::backend::Backend;
use crate::flannel::config::NetworkConfig;
use crate::source::place::Place;
use crate::source::remembered::{Memory, Standing, look};

/// `network`: what the datastore says now, if it answered.
pub(super) fn check(
    (file, here): (Option<&Path>, &Place),
    network: Option<&NetworkConfig>,
    report: &mut Report,
) {
    let Some(file) = file else {
        return report
            .ok("--snapshot-dir is empty: a boot while the datastore is away waits for it");
    };
    let shown = file.display();
    match look(file, here) {
        // Before the first start, and for ten seconds after it.
        Ok(None) => report.ok(format!("{shown} is not there yet")),
        Ok(Some(memory)) => judge(&shown.to_string(), &memory, network, report),
        Err(error) => report.warning(
            format!("{shown} is of no use to a boot while the datastore is away: {error:#}"),
            "remove it, or make it readable: the agent writes it anew with the next change of a lease, and at its start",
        ),
    }
}

/// Of what was remembered from what is wanted.
fn difference(old: &NetworkConfig, new: &NetworkConfig) -> String {
    let range = |config: &NetworkConfig| format!("{} to {}", config.subnet_min, config.subnet_max);
    let length = |config: &NetworkConfig| config.subnet_len.to_string();
    let mut named = vec![
        ("network", old.network.to_string(), new.network.to_string()),
        ("subnet length", length(old), length(new)),
        ("subnets", range(old), range(new)),
        (
            "backend",
            old.backend.name().to_owned(),
            new.backend.name().to_owned(),
        ),
    ];
    if let (Backend::Vxlan(old), Backend::Vxlan(new)) = (&old.backend, &new.backend) {
        named.push(("VNI", old.vni.to_string(), new.vni.to_string()));
        named.push(("port", old.port.to_string(), new.port.to_string()));
    }
    named.retain(|(_, old, new)| old != new);
    if named.is_empty() {
        return format!("other options of the backend {}", new.backend.name());
    }
    let words = named.iter();
    let words = words.map(|(what, old, new)| format!("{what} {old}, now {new}"));
    words.collect::<Vec<_>>().join("; ")
}

fn judge(shown: &str, memory: &Memory, network: Option<&NetworkConfig>, report: &mut Report) {
    let standing = memory.standing;
    if let Some(network) = network.filter(|network| **network != memory.config) {
        return report.warning(
            format!(
                "{shown} is of another configuration than the datastore's: {}",
                difference(&memory.config, network)
            ),
            "restart the agent, which takes the new configuration and writes the file",
        );
    }
    let what = format!("{shown}: {}", memory.start());
    match standing {
        Standing::Holds => report.ok(what),
        Standing::Ended => report.warning(
            what,
            "see that the agent runs and the datastore answers: it writes the file with each renewal, and within a minute of this \
             node's clock being set",
        ),
        Standing::Old => report.warning(
            what,
            "see that the agent runs and the datastore answers: it writes the file each hour",
        ),
        Standing::Elsewhere(_) => report.warning(
            what,
            "start the agent, which writes the file anew when the datastore answers; remove the file from images of machines",
        ),
        Standing::Unknown => report.warning(
            what,
            "set this node's clock (NTP); if the file's time is the wrong one, remove the file",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::super::tests::said;
    use super::*;
    use crate::base::wall::Moment;

    fn config(network: &str) -> NetworkConfig {
        let text = format!(r#"{{"Network":"{network}","Backend":{{"Type":"vxlan"}}}}"#);
        NetworkConfig::parse(&text).unwrap()
    }

    fn memory(standing: Standing) -> Memory {
        Memory {
            written: Moment::now(),
            config: config("10.244.0.0/16"),
            subnet: "10.244.1.0/24".parse().unwrap(),
            peers: 3,
            standing,
        }
    }

    fn one(check: impl FnOnce(&mut Report)) -> (Mark, String) {
        let mut lines = said(check);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (mark, what, _) = lines.remove(0);
        (mark, what)
    }

    #[test]
    fn what_a_boot_would_make_of_it_is_said() {
        let ours = config("10.244.0.0/16");
        for (standing, mark, words) in [
            (Standing::Holds, Mark::Ok, "10.244.1.0/24 and 3 peers"),
            (Standing::Ended, Mark::Warning, "has ended"),
            (Standing::Unknown, Mark::Warning, "later than now"),
            (Standing::Old, Mark::Warning, "for more than a day"),
            (
                Standing::Elsewhere("of another cluster"),
                Mark::Warning,
                "it is of another cluster",
            ),
        ] {
            for network in [Some(&ours), None] {
                let (said, what) = one(|report| judge("f", &memory(standing), network, report));
                assert!(said == mark && what.contains(words), "{what}");
            }
        }
    }

    #[test]
    fn another_network_is_named() {
        let other = config("10.1.0.0/16");
        let (mark, what) = one(|report| judge("f", &memory(Standing::Holds), Some(&other), report));
        assert!(
            mark == Mark::Warning && what.contains("10.244.0.0/16") && what.contains("10.1.0.0/16"),
            "{what}"
        );
    }

    #[test]
    fn what_differs_is_named() {
        let with = |options: &str| {
            let text =
                format!(r#"{{"Network":"10.244.0.0/16","Backend":{{"Type":"vxlan"{options}}}}}"#);
            let other = NetworkConfig::parse(&text).unwrap();
            one(|report| judge("f", &memory(Standing::Holds), Some(&other), report)).1
        };
        let start = "f is of another configuration than the datastore's: ";
        assert_eq!(with(r#","VNI":7"#), format!("{start}VNI 1, now 7"));
        assert_eq!(
            with(r#","GBP":true"#),
            format!("{start}other options of the backend vxlan")
        );
    }

    #[test]
    fn what_cannot_be_used_is_named_and_what_is_missing_is_none_the_worse() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.json");
        assert_eq!(
            one(|report| check((Some(&file), &Place::here()), None, report)).0,
            Mark::Ok
        );
        std::fs::write(&file, "{\"form\":9}").unwrap();
        let (mark, what) = one(|report| check((Some(&file), &Place::here()), None, report));
        assert!(mark == Mark::Warning && what.contains("form 9"), "{what}");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let (mark, what) = one(|report| check((Some(&file), &Place::here()), None, report));
        assert!(
            mark == Mark::Warning && what.contains("cannot be read"),
            "{what}"
        );
        assert_eq!(
            one(|report| check((None, &Place::here()), None, report)).0,
            Mark::Ok
        );
    }
}
