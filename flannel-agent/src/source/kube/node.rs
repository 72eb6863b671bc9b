//! What of a Node object concerns flannel; nothing else of it is kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::names::{Name, Names};

/// The part of a Node that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Another one after the Node was deleted and made again.
    pub(super) uid: String,
    pub(super) version: String,
    /// RFC 3339 in UTC with whole seconds, so that texts sort as times do.
    pub(super) created: String,
    /// As they are written; the first family first.
    pub(super) pod_cidrs: Vec<String>,
    /// flannel's, without the prefix that they share.
    pub(super) annotations: BTreeMap<Name, String>,
    /// Whether the condition NetworkUnavailable is False, whoever said so: a cloud's route controller would write against us.
    pub(super) network_up: bool,
}

impl Node {
    /// Reads an object as the API server sends it.
    ///
    /// # Errors
    /// When it is no Node.
    pub(super) fn read(json: &[u8], names: &Names) -> serde_json::Result<Self> {
        let raw: Raw<'_> = serde_json::from_slice(json)?;
        Ok(raw.keep(names))
    }

    pub(super) fn get(&self, name: Name) -> Option<&str> {
        self.annotations.get(&name).map(String::as_str)
    }
}

/// A Node as it is in JSON. What is not named here is skipped by the reader, without a copy.
#[derive(Deserialize)]
pub(super) struct Raw<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    annotations: Option<Pairs<'a>>,
}

#[derive(Deserialize, Default)]
struct Spec<'a> {
    #[serde(borrow, default, rename = "podCIDR")]
    pod_cidr: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "podCIDRs")]
    pod_cidrs: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize, Default)]
struct Status<'a> {
    #[serde(borrow, default)]
    conditions: Option<Vec<Condition<'a>>>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
}

/// A map of texts in the order in which they come: most of them are dropped at once.
#[derive(Default)]
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Borrowed where nothing is escaped: `Cow` alone would copy inside a map.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Raw<'_> {
    pub(super) fn keep(self, names: &Names) -> Node {
        let annotations = self.metadata.annotations.unwrap_or_default().0;
        let ours = annotations
            .into_iter()
            .filter_map(|(name, value)| Some((names.of(&name)?, value.into_owned())));
        let listed = self.spec.pod_cidrs.unwrap_or_default();
        let pod_cidrs: Vec<String> = match listed.is_empty() {
            // Before Kubernetes 1.16 there was only one.
            true => self
                .spec
                .pod_cidr
                .into_iter()
                .map(Cow::into_owned)
                .collect(),
            false => listed.into_iter().map(Cow::into_owned).collect(),
        };
        let conditions = self.status.conditions.unwrap_or_default();
        Node {
            name: self.metadata.name.into_owned(),
            uid: self.metadata.uid.into_owned(),
            version: self.metadata.resource_version.into_owned(),
            created: self
                .metadata
                .creation_timestamp
                .unwrap_or_default()
                .into_owned(),
            pod_cidrs: pod_cidrs.into_iter().filter(|c| !c.is_empty()).collect(),
            annotations: ours.collect(),
            network_up: conditions.iter().any(|condition| {
                condition.kind == "NetworkUnavailable" && condition.status == "False"
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Node {
        Node::read(json.as_bytes(), &Names::new("x.y").unwrap()).unwrap()
    }

    #[test]
    fn what_concerns_flannel_is_kept_and_nothing_else() {
        let node = read(
            r#"{"kind":"Node","metadata":{"name":"a","uid":"u","resourceVersion":"7","creationTimestamp":"2026-01-02T03:04:05Z",
                "labels":{"x.y/public-ip":"no"},"managedFields":[{"x":1}],
                "annotations":{"x.y/public-ip":"192.0.2.1","x.y/backend-data":"{\"VNI\":1}","x.y/else":"1","z":"2"}},
               "spec":{"podCIDR":"10.1.1.0/24","podCIDRs":["10.1.1.0/24","fd00::/64"],"taints":[{}]},
               "status":{"images":[{}],"conditions":[{"type":"Ready","status":"False","reason":"FlannelIsUp"}]}}"#,
        );
        let annotations = [
            (Name::BackendData, r#"{"VNI":1}"#.to_owned()),
            (Name::PublicIp, "192.0.2.1".to_owned()),
        ];
        let expected = Node {
            name: "a".to_owned(),
            uid: "u".to_owned(),
            version: "7".to_owned(),
            created: "2026-01-02T03:04:05Z".to_owned(),
            pod_cidrs: vec!["10.1.1.0/24".to_owned(), "fd00::/64".to_owned()],
            annotations: annotations.into(),
            network_up: false,
        };
        assert_eq!(node, expected);
    }

    #[test]
    fn a_node_may_lack_everything() {
        let node = read(r#"{"metadata":{"name":"a","annotations":null},"spec":{"podCIDRs":null}}"#);
        assert!(node.annotations.is_empty() && node.pod_cidrs.is_empty() && !node.network_up);
        let node = read(r#"{"metadata":{"name":"a"},"spec":{"podCIDR":"10.1.1.0/24"}}"#);
        assert_eq!(node.pod_cidrs, ["10.1.1.0/24"]);
    }

    #[test]
    fn the_condition_is_anybodys() {
        let of = |status, reason| {
            let condition = format!(
                r#"{{"type":"NetworkUnavailable","status":"{status}","reason":"{reason}"}}"#
            );
            read(&format!(
                r#"{{"metadata":{{"name":"a"}},"status":{{"conditions":[{condition}]}}}}"#
            ))
            .network_up
        };
        assert!(of("False", "FlannelIsUp") && of("False", "RouteCreated"));
        assert!(!of("True", "FlannelIsUp") && !of("Unknown", "RouteCreated"));
    }
}
