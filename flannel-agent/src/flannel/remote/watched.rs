//! Answers to a watch: events since a cursor, or everything, and the cursor to go on from.
//!
//! flannel 0.7 looks at the events first: if there are none, the snapshot is all there is.

use ipnet::Ipv4Net;
use serde_json::Value;

use super::{Lease, MessageError, fields, subnet};

/// One lease's change.
#[derive(Debug)]
pub enum Event {
    Added(Box<Lease>),
    Removed(Ipv4Net),
}

/// An answer to a watch of leases.
#[derive(Debug)]
pub struct Watched {
    pub events: Vec<Event>,
    /// Counts only if there are no events.
    pub snapshot: Vec<Lease>,
    pub cursor: String,
}

/// A network that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    Added(String),
    Removed(String),
}

/// An answer to a watch of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    pub events: Vec<NetworkEvent>,
    pub snapshot: Vec<String>,
    pub cursor: String,
}

/// The answer with these events, each JSON.
#[must_use]
pub fn events<'a>(events: impl IntoIterator<Item = &'a str>, cursor: i64) -> String {
    format!(
        r#"{{"events":{},"snapshot":null,"cursor":"{cursor}"}}"#,
        list(events)
    )
}

/// The answer with all there is, each JSON.
#[must_use]
pub fn snapshot<'a>(all: impl IntoIterator<Item = &'a str>, cursor: i64) -> String {
    format!(
        r#"{{"events":null,"snapshot":{},"cursor":"{cursor}"}}"#,
        list(all)
    )
}

fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::from("[");
    for item in items {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push(']');
    text
}

impl Watched {
    /// # Errors
    /// When it is no such answer. A lease that cannot be read is in it as one that cannot be read.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let value = serde_json::from_slice(json)?;
        let (events, snapshot, cursor) = parts(&value)?;
        let leases = snapshot.iter().map(Lease::from_value);
        Ok(Self {
            events: events.iter().map(event).collect::<Result<_, _>>()?,
            snapshot: leases.collect::<Result<_, _>>()?,
            cursor,
        })
    }
}

impl Networks {
    /// # Errors
    /// When it is no such answer.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let value = serde_json::from_slice(json)?;
        let (events, snapshot, cursor) = parts(&value)?;
        let event = |event: &Value| {
            let fields = fields(event)?;
            let network = fields.str("network")?.unwrap_or_default().to_owned();
            Ok::<_, MessageError>(match fields.str("type")? {
                Some("removed") => NetworkEvent::Removed(network),
                _ => NetworkEvent::Added(network),
            })
        };
        let names = snapshot.iter().filter_map(Value::as_str);
        Ok(Self {
            events: events.iter().map(event).collect::<Result<_, _>>()?,
            snapshot: names.map(str::to_owned).collect(),
            cursor,
        })
    }
}

fn parts(value: &Value) -> Result<(&[Value], &[Value], String), MessageError> {
    let fields = fields(value)?;
    let list = |name| {
        let list = fields.get(name).and_then(Value::as_array);
        list.map_or(&[][..], Vec::as_slice)
    };
    let cursor = fields
        .str("cursor")?
        .ok_or(MessageError::Missing("cursor"))?;
    Ok((list("events"), list("snapshot"), cursor.to_owned()))
}

fn event(value: &Value) -> Result<Event, MessageError> {
    let event = fields(value)?;
    let lease = event.get("lease").ok_or(MessageError::Missing("lease"))?;
    Ok(match event.str("type")? {
        Some("added") => Event::Added(Box::new(Lease::from_value(lease)?)),
        Some("removed") => Event::Removed(subnet(&fields(lease)?)?),
        _ => return Err(MessageError::Missing("type, added or removed,")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As flannel 0.7 wrote it; the one that is removed has no attributes.
    const EVENTS: &str = r#"{"events":[{"type":"added","lease":{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"},"Expiration":"2016-02-04T10:11:12.5Z"}},{"type":"removed","lease":{"Subnet":"10.3.2.0/24","Attrs":{"PublicIP":"0.0.0.0"},"Expiration":"0001-01-01T00:00:00Z"}}],"snapshot":null,"cursor":"12"}"#;
    const SNAPSHOT: &str = r#"{"events":null,"snapshot":[{"Subnet":"10.3.1.0/24","Attrs":{"PublicIP":"1.1.1.1"},"Expiration":"2016-02-04T10:11:12Z"}],"cursor":"7"}"#;

    #[test]
    fn events_as_the_old_server_wrote_them() {
        let watched = Watched::from_json(EVENTS.as_bytes()).unwrap();
        assert_eq!(watched.cursor, "12");
        assert!(watched.snapshot.is_empty());
        let [Event::Added(added), Event::Removed(removed)] = &watched.events[..] else {
            panic!("{watched:?}");
        };
        assert_eq!(added.subnet.to_string(), "10.3.1.0/24");
        assert!(added.attrs.is_ok());
        assert_eq!(removed.to_string(), "10.3.2.0/24");
    }

    #[test]
    fn a_snapshot_as_the_old_server_wrote_it() {
        let watched = Watched::from_json(SNAPSHOT.as_bytes()).unwrap();
        assert!(watched.events.is_empty());
        assert_eq!((watched.snapshot.len(), &*watched.cursor), (1, "7"));
        let empty = r#"{"events":[],"snapshot":[],"cursor":"7"}"#;
        assert!(
            Watched::from_json(empty.as_bytes())
                .unwrap()
                .snapshot
                .is_empty()
        );
    }

    #[test]
    fn what_we_write_is_the_same_to_the_byte() {
        let lease = &SNAPSHOT[SNAPSHOT.find("[{").unwrap() + 1..SNAPSHOT.find("],").unwrap()];
        assert_eq!(snapshot([lease], 7), SNAPSHOT);
        let start = r#"{"events":["#.len();
        let two = &EVENTS[start..EVENTS.find("],").unwrap()];
        let (one, other) = two.split_once("},{\"type").unwrap();
        let (one, other) = (format!("{one}}}"), format!("{{\"type{other}"));
        assert_eq!(events([&*one, &*other], 12), EVENTS);
        assert_eq!(
            snapshot([], 1),
            r#"{"events":null,"snapshot":[],"cursor":"1"}"#
        );
    }

    #[test]
    fn blanks_in_front_are_no_part_of_it() {
        assert!(Watched::from_json(format!("   {SNAPSHOT}\n").as_bytes()).is_ok());
    }

    #[test]
    fn networks_come_and_go() {
        let json = r#"{"events":[{"type":"added","network":"blue"},{"type":"removed","network":"red"}],"snapshot":null,"cursor":"3"}"#;
        let networks = Networks::from_json(json.as_bytes()).unwrap();
        let expected = [
            NetworkEvent::Added("blue".to_owned()),
            NetworkEvent::Removed("red".to_owned()),
        ];
        assert_eq!(networks.events, expected);
        let json = r#"{"events":[],"snapshot":["blue"],"cursor":"3"}"#;
        assert_eq!(
            Networks::from_json(json.as_bytes()).unwrap().snapshot,
            ["blue"]
        );
    }

    #[test]
    fn an_answer_that_says_nothing_is_refused() {
        for json in [
            "",
            "7",
            r#"{"events":[]}"#,
            r#"{"events":[{"type":"added"}],"cursor":"1"}"#,
            r#"{"events":[{"type":"moved","lease":{"Subnet":"10.3.2.0/24"}}],"cursor":"1"}"#,
            r#"{"snapshot":[{}],"cursor":"1"}"#,
        ] {
            assert!(Watched::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }
}
