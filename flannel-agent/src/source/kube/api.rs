//! The few requests that are made: paths, and what their answers mean.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::client::{Ask, Client, Events};
use super::error::{KubeError, Status};
use super::names::Names;
use super::node::{Node, Raw};

/// Of Nodes in one answer.
const PAGE: usize = 500;
/// The server ends a watch after this long, as client-go asks for; by chance, so that not all come at once.
const WATCH: std::ops::Range<u64> = 300..600;

/// A watch that the server has not ended so long after it should have is ended here.
const LATE: Duration = Duration::from_secs(30);

const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

/// The API server, asked for Nodes.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) client: Arc<Client>,
    pub(super) names: Names,
}

/// One event of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Made or changed.
    Put(Box<Node>),
    Deleted(Box<Node>),
    /// All up to this version has been sent; `true`: and that was the whole list.
    Bookmark(String, bool),
}

/// Nodes up to a version, and where the next page begins.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) nodes: Vec<Node>,
    pub(super) version: String,
    pub(super) next: Option<String>,
}

impl Api {
    pub(super) async fn node(&self, name: &str) -> Result<Option<Node>, KubeError> {
        let what = format!("get nodes ({name})");
        let path = format!("/api/v1/nodes/{}", escape(name));
        match self.client.send(&Ask::get(&what, &path)).await {
            Ok(answer) => self.read(&what, &answer.body).map(Some),
            Err(KubeError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Node on which a pod runs; `None`: nobody has scheduled it.
    pub(super) async fn node_of(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<String>, KubeError> {
        #[derive(Deserialize)]
        struct Pod {
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Deserialize, Default)]
        struct Spec {
            #[serde(rename = "nodeName")]
            node_name: Option<String>,
        }
        let what = format!("get pods ({namespace}/{pod})");
        let (namespace, pod) = (escape(namespace), escape(pod));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let answer = self.client.send(&Ask::get(&what, &path)).await?;
        let pod: Pod =
            serde_json::from_slice(&answer.body).map_err(|error| unreadable(&what, &error))?;
        Ok(pod.spec.node_name.filter(|name| !name.is_empty()))
    }

    /// Through the status, as flanneld: its ClusterRole allows nothing else.
    pub(super) async fn patch(&self, name: &str, body: &str) -> Result<Node, KubeError> {
        let what = format!("patch nodes/status ({name})");
        let path = format!("/api/v1/nodes/{}/status", escape(name));
        let ask = Ask {
            what: &what,
            method: Method::PATCH,
            path: &path,
            body: Some((STRATEGIC_MERGE, body)),
        };
        let answer = self.client.send(&ask).await?;
        self.read(&what, &answer.body)
    }

    pub(super) async fn page(&self, from: Option<&str>) -> Result<Page, KubeError> {
        let from = from.map_or_else(String::new, |from| format!("&continue={}", escape(from)));
        let path = format!("/api/v1/nodes?limit={PAGE}{from}");
        let what = "list nodes";
        let answer = match self.client.send(&Ask::get(what, &path)).await {
            Err(KubeError::Refused { code: 410, .. }) => {
                return Err(KubeError::Gone("of a page".to_owned()));
            }
            answer => answer?,
        };
        read_page(&answer.body, &self.names).map_err(|error| unreadable(what, &error))
    }

    /// From `version` on; without one, everything that is there and then on.
    pub(super) async fn watch(&self, version: Option<&str>) -> Result<Events, KubeError> {
        let from = match version {
            Some(version) => format!("&resourceVersion={version}"),
            None => "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        let seconds = rand::random_range(WATCH);
        let path = format!(
            "/api/v1/nodes?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{from}"
        );
        let begun = self.client.watch(&Ask::get("watch nodes", &path)).await;
        let begun = begun.map(|events| events.until(Duration::from_secs(seconds) + LATE));
        match (begun, version) {
            (Err(KubeError::Refused { code: 410, .. }), Some(version)) => {
                Err(KubeError::Gone(version.to_owned()))
            }
            // An older one, or one that was told not to.
            (
                Err(KubeError::Refused {
                    code: 400 | 422,
                    reason,
                    ..
                }),
                None,
            ) => Err(KubeError::NoStream(reason)),
            (begun, _) => begun,
        }
    }

    /// Until something happens to one Node after `version`, or `longest` has passed.
    pub(super) async fn await_change(
        &self,
        name: &str,
        version: Option<&str>,
        longest: Duration,
    ) -> Result<(), KubeError> {
        let from = version.map_or_else(String::new, |v| format!("&resourceVersion={v}"));
        let (name, seconds) = (escape(name), longest.as_secs());
        let path = format!(
            "/api/v1/nodes?watch=true&fieldSelector=metadata.name%3D{name}&timeoutSeconds={seconds}{from}"
        );
        let mut events = self.client.watch(&Ask::get("watch nodes", &path)).await?;
        // A server that is gone without a word does not end it.
        match tokio::time::timeout(longest + LATE, events.next()).await {
            Err(_) => Err(KubeError::WatchEnded("it did not end in time".to_owned())),
            Ok(Ok(Some(line))) => self.event(line).map(drop),
            Ok(ended) => ended.map(drop),
        }
    }

    pub(super) fn event(&self, line: &[u8]) -> Result<Event, KubeError> {
        read_event(line, &self.names)
    }

    fn read(&self, what: &str, body: &[u8]) -> Result<Node, KubeError> {
        Node::read(body, &self.names).map_err(|error| unreadable(what, &error))
    }
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> KubeError {
    KubeError::Answer {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

/// For paths and queries.
fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut escaped, byte| {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let written = match plain {
            true => write!(escaped, "{}", char::from(byte)),
            false => write!(escaped, "%{byte:02X}"),
        };
        // A String takes everything.
        let _ = written;
        escaped
    })
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    metadata: ListMetadata<'a>,
    #[serde(borrow, default)]
    items: Option<Vec<Raw<'a>>>,
}

#[derive(Deserialize)]
struct ListMetadata<'a> {
    #[serde(borrow, default, rename = "resourceVersion")]
    version: Cow<'a, str>,
    #[serde(borrow, default, rename = "continue")]
    next: Option<Cow<'a, str>>,
}

fn read_page(body: &[u8], names: &Names) -> serde_json::Result<Page> {
    let list: List<'_> = serde_json::from_slice(body)?;
    let nodes = list.items.unwrap_or_default().into_iter();
    let next = list.metadata.next.filter(|next| !next.is_empty());
    Ok(Page {
        nodes: nodes.map(|raw| raw.keep(names)).collect(),
        version: list.metadata.version.into_owned(),
        next: next.map(Cow::into_owned),
    })
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Of<T> {
    object: T,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
struct BookmarkMetadata {
    #[serde(default, rename = "resourceVersion")]
    version: String,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The mark of the bookmark behind a streamed list.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// How the API server begins an event; so the type is known without a look at the whole of it.
const BEGIN: &[u8] = b"{\"type\":\"";

fn kind(line: &[u8]) -> serde_json::Result<Cow<'_, str>> {
    let begun = line.strip_prefix(BEGIN);
    let known = begun.and_then(|rest| {
        let end = rest.iter().take(16).position(|byte| *byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok()
    });
    match known {
        Some(kind) => Ok(kind.into()),
        None => serde_json::from_slice::<Kind<'_>>(line).map(|event| event.kind),
    }
}

fn read_event(line: &[u8], names: &Names) -> Result<Event, KubeError> {
    let bad = |error: serde_json::Error| KubeError::WatchEnded(format!("an event is odd: {error}"));
    let node = || -> Result<Box<Node>, KubeError> {
        let event: Of<Raw<'_>> = serde_json::from_slice(line).map_err(bad)?;
        Ok(Box::new(event.object.keep(names)))
    };
    match &*kind(line).map_err(bad)? {
        "ADDED" | "MODIFIED" => Ok(Event::Put(node()?)),
        "DELETED" => Ok(Event::Deleted(node()?)),
        "BOOKMARK" => {
            let event: Of<Bookmark> = serde_json::from_slice(line).map_err(bad)?;
            let annotations = event.object.metadata.annotations.unwrap_or_default();
            let end = annotations.get(END_OF_LIST).is_some_and(|v| v == "true");
            Ok(Event::Bookmark(event.object.metadata.version, end))
        }
        "ERROR" => {
            let event: Of<Status> = serde_json::from_slice(line).map_err(bad)?;
            let Status { message, code, .. } = event.object;
            match code {
                410 => Err(KubeError::Gone(message)),
                _ => Err(KubeError::WatchEnded(message)),
            }
        }
        other => Err(KubeError::WatchEnded(format!("an event of type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(line: &str) -> Result<Event, KubeError> {
        read_event(line.as_bytes(), &Names::new("x.y").unwrap())
    }

    #[test]
    fn events_of_every_kind() {
        let node = r#"{"metadata":{"name":"a","annotations":{"x.y/public-ip":"192.0.2.1"}}}"#;
        for kind in ["ADDED", "MODIFIED"] {
            let line = format!(r#"{{"type":"{kind}","object":{node}}}"#);
            assert!(matches!(event(&line), Ok(Event::Put(node)) if node.name == "a"));
        }
        let line = format!(r#"{{"object":{node},"type":"DELETED"}}"#);
        assert!(matches!(event(&line), Ok(Event::Deleted(_))));
        let bookmark = |annotations: &str| {
            event(&format!(
                r#"{{"type":"BOOKMARK","object":{{"kind":"Node","metadata":{{"resourceVersion":"7"{annotations}}}}}}}"#
            ))
            .unwrap()
        };
        assert_eq!(bookmark(""), Event::Bookmark("7".to_owned(), false));
        let end = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;
        assert_eq!(bookmark(end), Event::Bookmark("7".to_owned(), true));
    }

    #[test]
    fn errors_of_a_watch() {
        let line = |code: u16| {
            format!(
                r#"{{"type":"ERROR","object":{{"kind":"Status","status":"Failure","message":"m","code":{code}}}}}"#
            )
        };
        assert!(matches!(event(&line(410)), Err(KubeError::Gone(_))));
        assert!(matches!(event(&line(500)), Err(KubeError::WatchEnded(m)) if m == "m"));
        assert!(event("{").is_err() && event(r#"{"type":"X"}"#).is_err());
    }

    #[test]
    fn pages_and_paths() {
        let names = Names::new("x.y").unwrap();
        let text = r#"{"kind":"NodeList","metadata":{"resourceVersion":"9","continue":"a=/b"},"items":[{"metadata":{"name":"a"}}]}"#;
        let page = read_page(text.as_bytes(), &names).unwrap();
        assert_eq!((page.nodes.len(), &*page.version), (1, "9"));
        assert_eq!(escape(&page.next.unwrap()), "a%3D%2Fb");
        let last = r#"{"metadata":{"resourceVersion":"9"},"items":null}"#;
        assert_eq!(read_page(last.as_bytes(), &names).unwrap().next, None);
        assert_eq!(escape("../x?y"), "..%2Fx%3Fy");
    }

    proptest! {
        #[test]
        fn fz_events_and_pages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), object in ".{0,60}") {
            let names = Names::new("x.y").unwrap();
            let _ = read_event(&bytes, &names);
            let _ = read_page(&bytes, &names);
            for kind in ["ADDED", "BOOKMARK", "ERROR"] {
                let line = format!(r#"{{"type":"{kind}","object":{{{object}}}}}"#);
                let _ = read_event(line.as_bytes(), &names);
            }
        }
    }
}
