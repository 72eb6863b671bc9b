//! Answers to a watch: events since a cursor, or everything, and the cursor to go on from.
//!
//! flannel 0.7 looks at the events first: if there are none, the snapshot is all there is.

use ipnet::Ipv4Net;
use serde_json::value::RawValue;

use super::{Lease, MessageError, Parts, subnet};
use crate::base::excerpt::excerpt;
use crate::base::json_fields::Fields;

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
    /// Counts only if it is [`Self::of_all`].
    pub snapshot: Vec<Lease>,
    /// There was not one event, whether it could be read or not: the snapshot is all there is.
    pub of_all: bool,
    /// Leases whose subnet cannot be read, and why: nobody knows whose they are.
    pub unread: Vec<String>,
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
    /// When it is no such answer, or of a whole list no lease can be read. One of which the attributes cannot be read is in it as such,
    /// and one without a subnet takes no other along.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let (events, snapshot, cursor) = parts(json)?;
        let mut watched = Self {
            events: Vec::new(),
            snapshot: Vec::new(),
            of_all: events.is_empty(),
            unread: Vec::new(),
            cursor,
        };
        for raw in events {
            let (kind, lease) = event(raw)?;
            let read = match kind {
                Kind::Added => Lease::from_json(lease).map(|lease| Event::Added(Box::new(lease))),
                Kind::Removed => removed(lease),
            };
            match read {
                Ok(event) => watched.events.push(event),
                Err(error) => watched.unread.push(unread(lease, &error)),
            }
        }
        for raw in snapshot {
            match Lease::from_json(bytes(raw)) {
                Ok(lease) => watched.snapshot.push(lease),
                Err(error) => watched.unread.push(unread(bytes(raw), &error)),
            }
        }
        match watched.unread.first() {
            Some(unread) if watched.of_all && watched.snapshot.is_empty() => {
                Err(MessageError::NoLease(unread.clone()))
            }
            _ => Ok(watched),
        }
    }
}

fn unread(lease: &[u8], error: &MessageError) -> String {
    let lease = excerpt(&String::from_utf8_lossy(lease));
    format!("the lease {lease} is left out: {error}")
}

fn removed(lease: &[u8]) -> Result<Event, MessageError> {
    let read = Parts::of(lease)?.read(&["Subnet"])?;
    Ok(Event::Removed(subnet(&Fields::new(&read))?))
}

enum Kind {
    Added,
    Removed,
}

impl Networks {
    /// # Errors
    /// When it is no such answer.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let (events, snapshot, cursor) = parts(json)?;
        let event = |event: &RawValue| {
            let read = Parts::of(bytes(event))?.read(&["network", "type"])?;
            let fields = Fields::new(&read);
            let network = fields.str("network")?.unwrap_or_default().to_owned();
            Ok::<_, MessageError>(match fields.str("type")? {
                Some("removed") => NetworkEvent::Removed(network),
                _ => NetworkEvent::Added(network),
            })
        };
        let names = snapshot.iter();
        let names = names.filter_map(|name| serde_json::from_str(name.get()).ok());
        Ok(Self {
            events: events.into_iter().map(event).collect::<Result<_, _>>()?,
            snapshot: names.collect(),
            cursor,
        })
    }
}

/// Events, what there is, and the cursor.
type Told<'a> = (Vec<&'a RawValue>, Vec<&'a RawValue>, String);

fn parts(json: &[u8]) -> Result<Told<'_>, MessageError> {
    let parts = Parts::of(json)?;
    let read = parts.read(&["cursor"])?;
    let cursor = Fields::new(&read).str("cursor")?;
    let cursor = cursor.ok_or(MessageError::Missing("cursor"))?.to_owned();
    Ok((parts.list("events"), parts.list("snapshot"), cursor))
}

/// What became of which lease.
fn event(event: &RawValue) -> Result<(Kind, &[u8]), MessageError> {
    let event = Parts::of(bytes(event))?;
    let lease = bytes(event.get("lease").ok_or(MessageError::Missing("lease"))?);
    let read = event.read(&["type"])?;
    match Fields::new(&read).str("type")? {
        Some("added") => Ok((Kind::Added, lease)),
        Some("removed") => Ok((Kind::Removed, lease)),
        _ => Err(MessageError::Missing("type, added or removed,")),
    }
}

fn bytes(raw: &RawValue) -> &[u8] {
    raw.get().as_bytes()
}

#[cfg(test)]
mod tests;
