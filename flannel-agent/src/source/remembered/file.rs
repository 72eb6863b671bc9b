//! The file: JSON, for this agent alone.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ipnet::Ipv4Net;
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::base::files;
use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use crate::source::place::Place;

/// A later form has another number, and is nothing to an older agent.
const FORM: u32 = 1;

/// What the datastore said.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// When: seconds since 1970.
    pub(super) written: u64,
    pub(super) config: NetworkConfig,
    /// What an admin has given this node in the datastore.
    pub(super) public_ip: Option<Ipv4Addr>,
    pub(super) own: Own,
    pub(super) leases: Leases,
    pub(super) place: Place,
}

/// Our lease, by a clock that goes on while the node is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) subnet: Ipv4Net,
    pub(super) attrs: LeaseAttrs,
    /// Seconds since 1970; `None` for one that does not end.
    expires: Option<u64>,
}

impl Own {
    pub(super) fn never_ends(&self) -> bool {
        self.expires.is_none()
    }

    /// Two clocks that are read one after the other make the same end a second more or less.
    fn says_the_same(&self, other: &Self) -> bool {
        let ends_alike = match (self.expires, other.expires) {
            (Some(one), Some(other)) => one.abs_diff(other) <= 1,
            (one, other) => one == other,
        };
        ends_alike && (self.subnet, &self.attrs) == (other.subnet, &other.attrs)
    }
}

impl From<OwnLease> for Own {
    fn from(own: OwnLease) -> Self {
        let left = |ends: Instant| ends.saturating_duration_since(Instant::now()).as_secs();
        Self {
            expires: own.expires.map(|ends| now() + left(ends)),
            subnet: own.subnet,
            attrs: own.attrs,
        }
    }
}

impl From<Own> for OwnLease {
    fn from(own: Own) -> Self {
        Self {
            // What has no such end was not loaded.
            expires: own.expires.and_then(instant),
            subnet: own.subnet,
            attrs: own.attrs,
        }
    }
}

/// The same by the clock of this boot; `None`: it does not reach so far.
fn instant(ends: u64) -> Option<Instant> {
    let left = Duration::from_secs(ends.saturating_sub(now()));
    Instant::now().checked_add(left)
}

/// Beyond a reboot there is no other clock. One that is wrong makes a lease end early, or late by as much, unless it is known to have
/// been set back.
fn now() -> u64 {
    Moment::now().unix().as_secs()
}

/// By so much the wall clock may be corrected without the file being written anew: no lease is shorter.
const STEP: Duration = Duration::from_mins(1);

/// For so long a lease without an end is ours though nobody confirms it, as one of etcd: a Node may be deleted and made again, or the
/// machine may have been away for months. One that has not been off since serves it all the while.
const LONGEST: Duration = Duration::from_hours(24);

/// What has become of our lease, as far as the clock and the machine tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Holds,
    /// The datastore may have given the subnet to another node.
    Ended,
    /// It has no end, and nobody has confirmed it for too long.
    Old,
    /// The file was written later than now: the clock was wrong then, or is, and nobody knows how long ago that was.
    Unknown,
    /// It was written elsewhere, of this.
    Elsewhere(&'static str),
}

impl Snapshot {
    /// `None` before the configuration is known.
    pub(super) fn now(
        config: Option<NetworkConfig>,
        public_ip: Option<Ipv4Addr>,
        own: OwnLease,
        leases: Leases,
    ) -> Option<Self> {
        Some(Self {
            written: now(),
            config: config?,
            public_ip,
            own: own.into(),
            leases,
            place: Place::default(),
        })
    }

    pub(super) fn standing(&self, here: &Place) -> Standing {
        match self.place.other(here) {
            Some(other) => Standing::Elsewhere(other),
            None => match self.standing_at(now()) {
                Standing::Old if self.place.is_of_this_boot(here) => Standing::Holds,
                standing => standing,
            },
        }
    }

    fn standing_at(&self, now: u64) -> Standing {
        match self.own.expires {
            Some(_) if now < self.written => Standing::Unknown,
            Some(expires) if expires <= now => Standing::Ended,
            // By a clock that is behind, as that of a machine without one of its own, it is young.
            None if now.saturating_sub(self.written) > LONGEST.as_secs() => Standing::Old,
            _ => Standing::Holds,
        }
    }

    /// When it was written.
    pub(super) fn moment(&self) -> Moment {
        Moment::at(Duration::from_secs(self.written))
    }

    /// Whether the wall clock has gone on, and was not set, in the time that has `passed` until `other` by the clock that nobody
    /// sets: a boot would believe what was written under the wrong one.
    pub(super) fn clock_went_on_until(&self, other: &Self, passed: Duration) -> bool {
        let expected = self.written.saturating_add(passed.as_secs());
        expected.abs_diff(other.written) <= STEP.as_secs()
    }

    /// But for when it was written.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            written: _,
            config,
            public_ip,
            own,
            leases,
            // Who looks at files says where we are; the datastore, that what it said holds there.
            place: _,
        } = self;
        (config, public_ip, leases) == (&other.config, &other.public_ip, &other.leases)
            && own.says_the_same(&other.own)
    }
}

#[derive(Deserialize)]
struct Form {
    written: String,
    config: NetworkConfig,
    public_ip: Option<Ipv4Addr>,
    subnet: Ipv4Net,
    /// As flannel writes a lease.
    attrs: String,
    expires: Option<u64>,
    peers: BTreeMap<Ipv4Net, String>,
    /// Not in files of earlier versions.
    #[serde(default)]
    place: Place,
}

/// All of it as it is written, without a copy of what may be thousands.
#[derive(Serialize)]
struct Written<'a> {
    form: u32,
    written: String,
    config: &'a NetworkConfig,
    public_ip: Option<Ipv4Addr>,
    subnet: Ipv4Net,
    attrs: String,
    expires: Option<u64>,
    #[serde(serialize_with = "as_flannel_writes_them")]
    peers: &'a Leases,
    place: &'a Place,
}

fn as_flannel_writes_them<S: Serializer>(peers: &Leases, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(peers.len()))?;
    for (subnet, attrs) in peers.iter() {
        let attrs = attrs.to_json().map_err(S::Error::custom)?;
        map.serialize_entry(subnet, &attrs)?;
    }
    map.end()
}

/// # Errors
/// When folder or file cannot be written; the old file is then still there.
pub(super) fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let form = Written {
        form: FORM,
        written: snapshot.moment().to_string(),
        config: &snapshot.config,
        public_ip: snapshot.public_ip,
        subnet: snapshot.own.subnet,
        attrs: snapshot.own.attrs.to_json()?,
        expires: snapshot.own.expires,
        peers: &snapshot.leases,
        place: &snapshot.place,
    };
    // The configuration may hold a key that all nodes share.
    files::replace_private_in_new_folder(path, &serde_json::to_vec(&form)?)
}

/// `None` without a file, or with one that is not to be understood, which is said.
pub(super) fn load(path: &Path) -> Option<Snapshot> {
    read(path).unwrap_or_else(|error| {
        tracing::warn!("leaving {} out: {error:#}", path.display());
        None
    })
}

/// `None` without a file.
///
/// # Errors
/// It cannot be read, or not be understood.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Snapshot>> {
    match std::fs::read(path) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("it cannot be read"),
    }
}

fn parse(text: &[u8]) -> anyhow::Result<Snapshot> {
    #[derive(Deserialize)]
    struct Number {
        form: u32,
    }
    let Number { form } = serde_json::from_slice(text).context("it is damaged")?;
    anyhow::ensure!(
        form == FORM,
        "it is of form {form}, and this agent reads {FORM}"
    );
    let form: Form = serde_json::from_slice(text).context("it is damaged")?;
    let peers: anyhow::Result<BTreeMap<_, _>> = form
        .peers
        .into_iter()
        .map(|(subnet, attrs)| {
            let attrs = LeaseAttrs::from_json(attrs.as_bytes());
            Ok((subnet, attrs.with_context(|| subnet.to_string())?))
        })
        .collect();
    let written = Moment::parse(&form.written).context("it is damaged")?;
    if let Some(expires) = form.expires {
        let holds_it = instant(expires).is_some();
        anyhow::ensure!(holds_it, "it is damaged: a lease that ends at {expires}");
    }
    Ok(Snapshot {
        written: written.unix().as_secs(),
        config: form.config,
        public_ip: form.public_ip,
        own: Own {
            subnet: form.subnet,
            attrs: LeaseAttrs::from_json(form.attrs.as_bytes()).context("its own lease")?,
            expires: form.expires,
        },
        leases: peers?.into(),
        place: form.place,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::source::remembered) fn attrs(last: u8) -> LeaseAttrs {
        LeaseAttrs {
            public_ip: Ipv4Addr::new(192, 0, 2, last),
            public_ipv6: None,
            backend_type: "vxlan".to_owned(),
            backend_data: Some(
                serde_json::json!({"VNI": 1, "VtepMAC": "5a:9d:a9:52:56:9c"}).into(),
            ),
            backend_v6_data: None,
        }
    }

    pub(in crate::source::remembered) fn snapshot(expires: Option<Duration>) -> Snapshot {
        let config = NetworkConfig::parse(
            r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":4789}}"#,
        );
        let own = OwnLease {
            subnet: "10.244.1.0/24".parse().unwrap(),
            attrs: attrs(1),
            expires: expires.map(|left| Instant::now() + left),
        };
        let peer = ("10.244.2.0/24".parse().unwrap(), attrs(2));
        Snapshot::now(
            Some(config.unwrap()),
            None,
            own,
            BTreeMap::from([peer]).into(),
        )
        .unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lib/coreos.com_network.json");
        assert!(load(&file).is_none());
        let saved = snapshot(Some(Duration::from_hours(1)));
        save(&file, &saved).unwrap();
        let loaded = load(&file).unwrap();
        assert!(loaded.says_the_same(&saved));
        assert_eq!(loaded.standing(&Place::here()), Standing::Holds);
        assert_eq!(loaded.written, saved.written);
        let lease = OwnLease::from(loaded.own);
        let left = lease
            .expires
            .unwrap()
            .saturating_duration_since(Instant::now());
        assert!(
            left > Duration::from_mins(59) && left <= Duration::from_hours(1),
            "{left:?}"
        );
    }

    #[test]
    fn a_lease_that_has_ended_is_known() {
        let ended = snapshot(Some(Duration::ZERO));
        let here = Place::here();
        assert_eq!(ended.standing(&here), Standing::Ended);
        let reserved = snapshot(None);
        assert_eq!(reserved.standing(&here), Standing::Holds);
    }

    #[test]
    fn a_lease_without_an_end_is_believed_for_a_day() {
        let endless = snapshot(None);
        let (written, hour) = (endless.written, 3600);
        for (now, standing) in [
            (written, Standing::Holds),
            (written + 24 * hour, Standing::Holds),
            (written + 25 * hour, Standing::Old),
            (written - 1, Standing::Holds),
            (0, Standing::Holds),
        ] {
            assert_eq!(endless.standing_at(now), standing, "{now}");
        }
        let here = Place::here();
        let old = Snapshot {
            written: written - 25 * hour,
            ..snapshot(None)
        };
        assert_eq!(old.standing(&here), Standing::Old, "nobody knows of when");
        let of_this_boot = Snapshot {
            place: here.clone(),
            ..old
        };
        assert_eq!(of_this_boot.standing(&here), Standing::Holds);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_lease_valid() {
        let day = snapshot(Some(Duration::from_hours(24)));
        let written = day.written;
        let hour = 3600;
        for (now, standing) in [
            (written, Standing::Holds),
            (written + 23 * hour, Standing::Holds),
            (written + 25 * hour, Standing::Ended),
            (written - 1, Standing::Unknown),
            // A clock without a battery.
            (0, Standing::Unknown),
        ] {
            assert_eq!(day.standing_at(now), standing, "{now}");
        }
    }

    #[test]
    fn the_end_of_a_lease_may_be_a_second_off_and_no_more() {
        let one = snapshot(Some(Duration::from_hours(24)));
        for (by, same) in [(0, true), (1, true), (-1, true), (3, false), (3600, false)] {
            let mut other = one.clone();
            other.own.expires = one.own.expires.map(|end| end.saturating_add_signed(by));
            assert_eq!(one.says_the_same(&other), same, "{by}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_known_by_the_time_that_passed() {
        let before = snapshot(None);
        let written = |by: i64| Snapshot {
            written: before.written.saturating_add_signed(by),
            ..before.clone()
        };
        let hour = Duration::from_hours(1);
        for (by, went_on) in [
            (3600, true),
            (3630, true),
            (3570, true),
            (0, false),
            (3600 + 2 * 86_400, false),
            (-2 * 86_400, false),
        ] {
            assert_eq!(
                before.clock_went_on_until(&written(by), hour),
                went_on,
                "{by}"
            );
        }
    }

    #[test]
    fn what_is_damaged_or_newer_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.json");
        save(&file, &snapshot(None)).unwrap();
        let whole = std::fs::read_to_string(&file).unwrap();
        let endless = format!("\"expires\":{}", u64::MAX);
        let endless = whole.replace("\"expires\":null", &endless);
        assert_ne!(endless, whole);
        for damaged in [
            endless,
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"form\":1", "\"form\":2"),
            whole.replace("192.0.2.2", "0.0.0.0"),
            whole.replace(" GMT", ""),
            String::new(),
        ] {
            std::fs::write(&file, damaged).unwrap();
            assert!(load(&file).is_none());
        }
    }
}
