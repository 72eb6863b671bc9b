//! From a request to its answer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use ipnet::Ipv4Net;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::call::{Call, Wrong};
use super::caller::Caller;
use super::feed::SharedFeed;
use super::networks::Networks;
use super::poll::{ALIVE, Poll, Words, at_once};
use super::turn::{Answer, Turn};
use crate::base::wall::Moment;
use crate::flannel::lease::{LeaseAttrs, OwnLease, ValueError};
use crate::flannel::remote::{self, Lease, MessageError, Reservation, lease_value};
use crate::source::etcd::EtcdError;
use crate::source::etcd::registry::{Registry, RegistryError, Rights};

/// A lease is a few hundred bytes.
const LARGEST_BODY: usize = 64 << 10;
/// So much of a body that is too large is read and thrown away: who is still sending hears no answer.
const LARGEST_WASTE: usize = 16 << 20;
/// So much of a body is taken of everybody, and no more of who has nothing to say by one.
const SMALL_BODY: usize = 4 << 10;
/// For a request's body, and for the first word of etcd.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the rest of a large body that has its place: who stalls with one keeps out others, and before the end nobody knows whether
/// that one may write at all.
const HURRY: Duration = Duration::from_secs(2);

/// What there is to say to a request.
enum Reply {
    Json(String),
    /// With the etcd that says it.
    Words(Words, Option<u64>),
}

/// A request that is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The same for all who asked at that time.
    #[error(transparent)]
    Together(#[from] Arc<RegistryError>),
    #[error("the body: {0}")]
    Message(#[from] MessageError),
    #[error("the body: {0}")]
    Attrs(#[from] ValueError),
    #[error("the body has more than {LARGEST_BODY} bytes")]
    TooLarge,
    #[error("the body did not arrive: {0}")]
    Lost(String),
    #[error("the body is about {said}, and the path about {path}")]
    TwoSubnets { said: Ipv4Net, path: Ipv4Net },
    #[error("PublicIP is {0}, and the certificate does not name that address")]
    Forbidden(std::net::Ipv4Addr),
    #[error("the leases are not known yet: etcd does not answer")]
    NotYet,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Wrong(Wrong::Path(_)) => StatusCode::NOT_FOUND,
            Self::Wrong(Wrong::Method(_)) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Registry(error) => status_of(error),
            Self::Together(error) => status_of(error),
            Self::NotYet => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

const fn status_of(error: &RegistryError) -> StatusCode {
    match error {
        RegistryError::Forbidden { .. } => StatusCode::FORBIDDEN,
        RegistryError::Held { .. }
        | RegistryError::NotAdmitted(_)
        | RegistryError::Enough { .. } => StatusCode::CONFLICT,
        RegistryError::Etcd(EtcdError::OutOfSubnets { .. }) => StatusCode::BAD_REQUEST,
        RegistryError::Etcd(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Answers `request`, whatever it is.
pub(super) async fn answer(
    networks: &Networks,
    caller: &Caller,
    request: Request<Incoming>,
    turn: Arc<Turn>,
) -> Result<Response<Answer>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut cluster = None;
    let (status, kind, answer) = match respond(networks, caller, request).await {
        Ok(Reply::Json(text)) => (StatusCode::OK, "application/json", turn.say(text.into())),
        Ok(Reply::Words(words, of)) => {
            cluster = of;
            (StatusCode::OK, "application/json", turn.tell(words))
        }
        Err(refusal) => {
            tracing::debug!("{method} {path}: {refusal}");
            if let Refusal::Lost(_) = refusal {
                turn.is_half_read();
            }
            let text = format!("{refusal}\n").into();
            let kind = "text/plain; charset=utf-8";
            (refusal.status(), kind, turn.say(text))
        }
    };
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let alive = HeaderName::from_static(remote::ALIVE);
    headers.insert(alive, ALIVE.as_secs().into());
    if let Some(cluster) = cluster {
        headers.insert(HeaderName::from_static(remote::CLUSTER), cluster.into());
    }
    Ok(response)
}

async fn respond(
    networks: &Networks,
    caller: &Caller,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let uri = request.uri();
    let parsed = Call::parse(request.method(), uri.path(), uri.query());
    let takes = parsed.is_ok() && matches!(*request.method(), Method::POST | Method::PUT);
    // Also of a call that is refused: see `LARGEST_WASTE`.
    let body = body(request, takes, &networks.bodies).await;
    let (name, call) = parsed?;
    let (body, _room) = body?;
    let name = name.as_deref();
    let registry = || networks.registry(name);
    let may = |holder| caller.may(holder);
    let rights = Rights {
        may: &may,
        most: caller.most(),
    };
    match call {
        Call::Config => Ok(Reply::Json(registry().config().await?)),
        Call::Acquire { previous } => {
            let attrs = LeaseAttrs::from_json(&body)?;
            require(caller, &attrs)?;
            let own = registry().acquire(&attrs, previous, rights).await?;
            tracing::info!(network = name, lease = %own.subnet, node = %attrs.public_ip, "lease given");
            Ok(own_lease(&own))
        }
        Call::Renew { subnet, was } => {
            let lease = Lease::from_json(&body)?;
            if lease.subnet != subnet {
                let (said, path) = (lease.subnet, subnet);
                return Err(Refusal::TwoSubnets { said, path });
            }
            let attrs = lease.attrs?;
            require(caller, &attrs)?;
            let own = registry().renew(subnet, &attrs, was, rights).await?;
            Ok(own_lease(&own))
        }
        Call::Revoke { subnet, was } => {
            registry().revoke(subnet, was, rights).await?;
            tracing::info!(network = name, lease = %subnet, "lease ended");
            Ok(Reply::Json(String::new()))
        }
        Call::Leases { cursor } => {
            let network = networks.follow(name).await?;
            poll(&network.leases, registry(), cursor, None).await
        }
        Call::Lease { subnet, cursor } => {
            let network = networks.follow(name).await?;
            let mut first = Poll::new(&network.leases, registry(), None, None);
            if cursor.is_none() && first.ready(PATIENCE).await && !network.leases.has(&subnet) {
                return Err(RegistryError::NoLease(subnet).into());
            }
            poll(&network.leases, registry(), cursor, Some(subnet)).await
        }
        Call::Networks { cursor } => poll(&networks.names(), registry(), cursor, None).await,
        Call::Reservations => {
            registry().config().await?;
            let reservations = registry().reservations().await?.into_iter();
            let values: Vec<_> = reservations.map(Reservation::to_value).collect();
            // As long as all leases may be.
            let text = serde_json::Value::from(values).to_string();
            Ok(Reply::Words(at_once(networks.stock.keep(text)), None))
        }
        Call::Reserve => {
            let reservation = Reservation::from_json(&body)?;
            if !caller.may(reservation.public_ip) {
                return Err(Refusal::Forbidden(reservation.public_ip));
            }
            registry().reserve(reservation, rights).await?;
            Ok(Reply::Json(String::new()))
        }
        Call::Unreserve(subnet) => {
            registry().unreserve(subnet, rights).await?;
            Ok(Reply::Json(String::new()))
        }
    }
}

fn require(caller: &Caller, attrs: &LeaseAttrs) -> Result<(), Refusal> {
    match caller.may(attrs.public_ip) {
        true => Ok(()),
        false => Err(Refusal::Forbidden(attrs.public_ip)),
    }
}

async fn poll<K: Ord + Clone + Send + Sync + 'static>(
    feed: &SharedFeed<K>,
    registry: Registry,
    cursor: Option<i64>,
    only: Option<K>,
) -> Result<Reply, Refusal> {
    let mut poll = Poll::new(feed, registry, cursor, only);
    // From here on no status can be given any more.
    if !poll.ready(PATIENCE).await {
        return Err(Refusal::NotYet);
    }
    Ok(Reply::Words(poll.words(), feed.cluster()))
}

/// A body, and its share of what all may have together.
type Whole = (Bytes, Option<OwnedSemaphorePermit>);

/// The whole body, if it is not too large; else, and unless the call `takes` one, what is still on its way is taken and thrown away.
async fn body<B>(request: Request<B>, takes: bool, room: &Arc<Semaphore>) -> Result<Whole, Refusal>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let (head, body) = request.into_parts();
    if head.method == Method::GET && body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    let mut too_large = body.size_hint().lower() > LARGEST_BODY as u64;
    let mut body = pin!(Limited::new(body, LARGEST_WASTE));
    let read = async {
        let (mut whole, mut length) = (Vec::new(), 0);
        let (mut share, mut due) = (None, None);
        loop {
            let next = body.frame();
            let frame = match due {
                Some(due) => timeout_at(due, next).await.map_err(|_| late(HURRY))?,
                None => next.await,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Refusal::Lost(error.to_string()))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            length += data.len();
            too_large |= length > LARGEST_BODY;
            if too_large || !takes {
                (whole, share, due) = (Vec::new(), None, None);
                continue;
            }
            if length > SMALL_BODY && share.is_none() {
                share = Arc::clone(room).acquire_owned().await.ok();
                due = Some(tokio::time::Instant::now() + HURRY);
            }
            whole.extend_from_slice(data);
        }
        match too_large {
            true => Err(Refusal::TooLarge),
            false => Ok((Bytes::from(whole), share)),
        }
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(whole) => whole,
        Err(_) => Err(late(PATIENCE)),
    }
}

fn late(after: Duration) -> Refusal {
    Refusal::Lost(format!("not in {} s", after.as_secs()))
}

/// A reservation has no end, and old clients renew at the end: in a year of theirs.
fn own_lease(own: &OwnLease) -> Reply {
    let ends = own
        .expires
        .unwrap_or_else(|| Instant::now() + remote::FOREVER);
    let value = lease_value(own.subnet, &own.attrs, Some(Moment::of(ends)));
    Reply::Json(value.to_string())
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt as _};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    async fn taken(length: usize, takes: bool, room: &Arc<Semaphore>) -> Result<Whole, Refusal> {
        let spaces = Full::new(Bytes::from(vec![b' '; length]));
        let request = Request::builder().method(Method::POST);
        let request = request.body(spaces).unwrap();
        super::body(request, takes, room).await
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_have_bounds_together_and_small_ones_need_not_wait() {
        let room = Arc::new(Semaphore::new(1));
        let (one, share) = taken(LARGEST_BODY, true, &room).await.unwrap();
        assert_eq!((one.len(), share.is_some()), (LARGEST_BODY, true));
        let other = taken(SMALL_BODY + 1, true, &room).await.unwrap_err();
        assert!(matches!(other, Refusal::Lost(_)), "{other}");
        let (small, _) = taken(SMALL_BODY, true, &room).await.unwrap();
        assert_eq!(small.len(), SMALL_BODY);
        drop(share);
        assert!(taken(SMALL_BODY + 1, true, &room).await.is_ok());
        let error = taken(LARGEST_BODY + 1, true, &room).await.unwrap_err();
        assert!(matches!(error, Refusal::TooLarge), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalls_with_a_large_body_keeps_no_other_out() {
        let room = Arc::new(Semaphore::new(1));
        let begun = Frame::data(Bytes::from(vec![b' '; SMALL_BODY + 1]));
        let begun = stream::iter([Ok::<_, Infallible>(begun)]).chain(stream::pending());
        let request = Request::builder().method(Method::POST);
        let request = request.body(StreamBody::new(begun)).unwrap();
        let stalled = super::body(request, true, &room);
        let (stalled, other) = tokio::join!(stalled, taken(LARGEST_BODY, true, &room));
        assert!(matches!(stalled, Err(Refusal::Lost(_))));
        assert_eq!(other.unwrap().0.len(), LARGEST_BODY);
    }

    #[tokio::test]
    async fn of_a_call_without_a_body_none_is_kept() {
        let room = Arc::new(Semaphore::new(0));
        let (kept, share) = taken(LARGEST_BODY, false, &room).await.unwrap();
        assert!(kept.is_empty() && share.is_none());
    }
}
