//! GC: what is kept for containers that are no more.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::conf::NetConf;
use crate::error::{CniError, Code};
use crate::saved;

pub(crate) const ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// The containers that the runtime still has, with the list as it is for the delegate.
///
/// # Errors
/// Without a list: taking it for an empty one would forget all pods that run.
pub(crate) fn alive(conf: &NetConf) -> Result<(BTreeSet<String>, Value), CniError> {
    let wrong = |what: &str| {
        let msg = format!("{ATTACHMENTS} {what}: GC has to be told which attachments are valid");
        CniError::new(Code::InvalidConfig, msg)
    };
    let Some(list) = &conf.valid_attachments else {
        return Err(wrong("is missing"));
    };
    let attachments = list.as_array().ok_or_else(|| wrong("is no list"))?;
    let containers = attachments.iter().map(|attachment| {
        let container = attachment.get("containerID").and_then(Value::as_str);
        container.map(str::to_owned)
    });
    let containers: Option<_> = containers.collect();
    let containers = containers.ok_or_else(|| wrong("has an entry without containerID"))?;
    Ok((containers, json!(list)))
}

/// Forgets the containers of this network that are not `alive`. Other networks may share the folder.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn forget_others(conf: &NetConf, alive: &BTreeSet<String>) -> Result<(), CniError> {
    let cannot = |error: std::io::Error| {
        CniError::new(
            Code::InputOutput,
            format!("{}: {error}", conf.data_dir.display()),
        )
    };
    for container in saved::containers(&conf.data_dir).map_err(cannot)? {
        if alive.contains(&container) {
            continue;
        }
        let Ok(Some(bytes)) = saved::load(&conf.data_dir, &container) else {
            continue;
        };
        let given: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if given.get("name").and_then(Value::as_str) == Some(&conf.name) {
            saved::forget(&conf.data_dir, &container);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn conf(config: &Value) -> NetConf {
        NetConf::read(config).unwrap()
    }

    #[rstest]
    #[case(json!({"name": "n"}), "is missing")]
    #[case(json!({"name": "n", ATTACHMENTS: null}), "is no list")]
    #[case(json!({"name": "n", ATTACHMENTS: [{"ifname": "eth0"}]}), "has an entry without containerID")]
    fn without_a_list_nothing_is_forgotten(#[case] config: Value, #[case] says: &str) {
        let error = alive(&conf(&config)).unwrap_err();
        assert_eq!(error.code(), 7);
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn only_the_dead_of_this_network_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for (container, text) in [
            ("dead", r#"{"name":"n"}"#),
            ("alive", r#"{"name":"n"}"#),
            ("foreign", r#"{"name":"m"}"#),
            ("broken", "{"),
        ] {
            saved::save(path, container, text).unwrap();
        }
        let list = json!([{"containerID": "alive", "ifname": "eth0"}]);
        let conf = conf(&json!({"name": "n", "dataDir": path, ATTACHMENTS: list}));
        let (alive, handed_on) = alive(&conf).unwrap();
        assert_eq!(handed_on, list);
        forget_others(&conf, &alive).unwrap();
        let mut left = saved::containers(path).unwrap();
        left.sort();
        assert_eq!(left, ["alive", "broken", "foreign"]);
    }
}
