//! What the flags say of the API, and which Node is ours.

use std::path::PathBuf;

use super::error::AccessError;
use super::names::Names;

/// How the API server is reached, and what is done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeOptions {
    pub api_url: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub names: Names,
    pub net_config: PathBuf,
    /// Whether the condition NetworkUnavailable is set to False.
    pub set_network_available: bool,
}

/// Which Node is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    Node(String),
    Pod { namespace: String, name: String },
}

impl Identity {
    /// `NODE_NAME`, or `POD_NAME` and `POD_NAMESPACE`.
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self, AccessError> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(name) = variable("NODE_NAME") {
            return Ok(Self::Node(name));
        }
        match (variable("POD_NAMESPACE"), variable("POD_NAME")) {
            (Some(namespace), Some(name)) => Ok(Self::Pod { namespace, name }),
            _ => Err(AccessError::NoNodeName),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(variables: &[(&str, &str)]) -> Result<Identity, AccessError> {
        Identity::new(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_nodes_name_comes_first_and_then_the_pods() {
        let pod = [("POD_NAME", "p"), ("POD_NAMESPACE", "n")];
        let both = [&pod[..], &[("NODE_NAME", "a")]].concat();
        assert_eq!(identity(&both).unwrap(), Identity::Node("a".to_owned()));
        let empty = [&pod[..], &[("NODE_NAME", "")]].concat();
        let expected = Identity::Pod {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
        };
        assert_eq!(identity(&empty).unwrap(), expected);
        let error = identity(&pod[..1]).unwrap_err().to_string();
        assert!(error.contains("POD_NAMESPACE"), "{error}");
    }
}
