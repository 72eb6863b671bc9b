//! The network's configuration, as the runtime hands it to the plugin.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::error::CniError;
use crate::version;

const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";

/// What of it is for this plugin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetConf {
    pub(crate) name: String,
    /// Empty if the configuration has none.
    pub(crate) cni_version: String,
    pub(crate) subnet_file: PathBuf,
    /// Where what a delegate was given is kept until DEL.
    pub(crate) data_dir: PathBuf,
    /// Of the delegate's configuration, what does not come from `subnet.env`.
    pub(crate) delegate: Map<String, Value>,
    pub(crate) ipam: Map<String, Value>,
    pub(crate) runtime_config: Option<Map<String, Value>>,
    /// What the chain said at ADD (CHECK, DEL).
    pub(crate) prev_result: Option<Value>,
    /// The attachments that are (GC).
    pub(crate) valid_attachments: Option<Value>,
}

impl NetConf {
    /// # Errors
    /// If a key has a value of another type. Keys are taken in any case, the last one counts: as Go reads them.
    pub(crate) fn read(config: &Value) -> Result<Self, CniError> {
        let none = Map::new();
        let object = config.as_object().unwrap_or(&none);
        let text = |name| -> Result<String, CniError> {
            match field(object, name) {
                None | Some(Value::Null) => Ok(String::new()),
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Err(wrong(name, "a string", other)),
            }
        };
        let map = |name| -> Result<Option<Map<String, Value>>, CniError> {
            match field(object, name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Object(map)) => Ok(Some(map.clone())),
                Some(other) => Err(wrong(name, "an object", other)),
            }
        };
        let path = |name, usual: &str| -> Result<PathBuf, CniError> {
            let text = text(name)?;
            let text = if text.is_empty() { usual } else { &text };
            Ok(PathBuf::from(text))
        };
        Ok(Self {
            name: text("name")?,
            cni_version: text("cniVersion")?,
            subnet_file: path("subnetFile", SUBNET_FILE)?,
            data_dir: path("dataDir", DATA_DIR)?,
            delegate: map("delegate")?.unwrap_or_default(),
            ipam: map("ipam")?.unwrap_or_default(),
            runtime_config: map("runtimeConfig")?,
            prev_result: field(object, "prevResult").cloned(),
            valid_attachments: field(object, "cni.dev/valid-attachments").cloned(),
        })
    }

    /// The version that the configuration is of.
    pub(crate) fn version(&self) -> &str {
        match self.cni_version.as_str() {
            "" => version::OLDEST,
            version => version,
        }
    }
}

fn wrong(name: &str, wanted: &str, found: &Value) -> CniError {
    CniError::internal(format!(
        "failed to load flannel netconf file: failed to load netconf: {name} has to be {wanted}, not {found}"
    ))
}

/// The last key of this name, in any case: how Go's decoder fills the fields of a struct.
pub(crate) fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .next_back()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_as_flannels() {
        let conf = NetConf::read(&json!({"name": "cbr0", "type": "flannel"})).unwrap();
        assert_eq!(conf.subnet_file, Path::new("/run/flannel/subnet.env"));
        assert_eq!(conf.data_dir, Path::new("/var/lib/cni/flannel"));
        assert_eq!((conf.version(), conf.cni_version.as_str()), ("0.1.0", ""));
        assert!(conf.delegate.is_empty() && conf.ipam.is_empty());
    }

    #[test]
    fn keys_are_taken_in_any_case() {
        let conf = json!({"name": "a", "SubnetFile": "/x", "DATADIR": "/y", "delegate": null});
        let conf = NetConf::read(&conf).unwrap();
        assert_eq!(conf.subnet_file, Path::new("/x"));
        assert_eq!(conf.data_dir, Path::new("/y"));
    }

    #[rstest]
    #[case(json!({"subnetFile": 5}), "subnetFile has to be a string, not 5")]
    #[case(json!({"delegate": "bridge"}), "delegate has to be an object, not \"bridge\"")]
    #[case(json!({"ipam": []}), "ipam has to be an object, not []")]
    fn a_wrong_type_is_named(#[case] conf: Value, #[case] says: &str) {
        let error = NetConf::read(&conf).unwrap_err();
        assert_eq!(error.code(), 999);
        assert!(error.to_string().ends_with(says), "{error}");
    }
}
