//! Questions to the servers: one of them at a time, the next when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, USER_AGENT};
use hyper::{Method, Request, Response};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::{RemoteError, RemoteOptionsError};
use super::options::RemoteOptions;
use super::tls;
use super::transport::{Connection, Server, describe};
use crate::base::wall::Moment;
use crate::flannel::remote::{ALIVE, CLUSTER};

/// For an answer that is due at once. etcd behind the server may elect a leader meanwhile.
const ANSWER: Duration = Duration::from_secs(12);
/// Of a server that breaks no silence: the kernel probes the connection, and what waits at an old server forever is asked anew now and then.
const LONG_SILENCE: Duration = Duration::from_mins(10);
/// A network of a hundred thousand nodes.
const LARGEST: usize = 64 << 20;

/// The servers, as `--remote` names them.
#[derive(Debug)]
pub(super) struct Client {
    servers: Vec<Peer>,
    tls: Option<Arc<ClientConfig>>,
    /// The one that answered last; it is asked first.
    current: AtomicUsize,
    /// Told when what is connected is dead.
    dead: watch::Sender<()>,
    /// See [`RemoteOptions::silence`].
    silence: Duration,
}

#[derive(Debug)]
struct Peer {
    server: Server,
    /// It has answered, and not said that it breaks silences.
    is_old: AtomicBool,
}

/// An answer, and what time it is at the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) server: String,
    pub(super) body: Bytes,
    pub(super) date: Moment,
    /// The id of the etcd behind it, if the server says it.
    pub(super) cluster: Option<String>,
}

impl Answer {
    fn new(server: String, headers: &HeaderMap, body: Bytes) -> Self {
        let cluster = headers.get(CLUSTER).and_then(|id| id.to_str().ok());
        Self {
            server,
            body,
            date: date(headers),
            cluster: cluster.map(str::to_owned),
        }
    }
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// Completes "cannot …".
    pub(super) what: &'a str,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) body: &'a str,
}

/// A connection that is kept from one long poll to the next.
#[derive(Debug, Default)]
pub(super) struct Line {
    open: Option<(usize, Connection)>,
}

impl Client {
    pub(super) fn new(options: &RemoteOptions) -> Result<Self, RemoteOptionsError> {
        let tls = options.tls.as_ref();
        let peer = |text: &String| {
            let server = Server::parse(text, tls.is_some());
            Ok(Peer {
                server: server.map_err(|problem| RemoteOptionsError::Server {
                    server: text.clone(),
                    problem,
                })?,
                is_old: AtomicBool::new(false),
            })
        };
        let servers = options.servers.iter().map(peer);
        let servers = servers.collect::<Result<Vec<Peer>, RemoteOptionsError>>()?;
        let system = super::options::RemoteTls {
            ca_file: None,
            identity: None,
        };
        let https = servers.iter().any(|peer| peer.server.https);
        Ok(Self {
            tls: match https {
                true => Some(tls::client_config(tls.unwrap_or(&system))?),
                false => None,
            },
            servers,
            current: AtomicUsize::new(0),
            dead: watch::Sender::default(),
            silence: options.silence,
        })
    }

    /// Gives up all connections, and what is under way on them.
    pub(super) fn reconnect(&self) {
        self.dead.send_replace(());
    }

    /// Host and port of each server.
    pub(super) fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|peer| &*peer.server.authority)
    }

    /// The first answer. One that fails by itself, or for want of what is behind it, is not the last word.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, RemoteError> {
        let mut failures = Vec::new();
        for index in self.turns() {
            match self.ask_one(index, ask).await? {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(unreachable(ask, &failures))
    }

    /// The same of each server, for whoever wants to know about all of them.
    pub(super) async fn ask_each(
        &self,
        ask: Ask<'_>,
    ) -> Vec<(String, Result<Answer, RemoteError>)> {
        let mut answers = Vec::new();
        for (index, peer) in self.servers.iter().enumerate() {
            let answer = match self.ask_one(index, ask).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(failure)) => Err(unreachable(ask, &[failure])),
                Err(error) => Err(error),
            };
            answers.push((peer.server.authority.clone(), answer));
        }
        answers
    }

    /// An answer, why there is none, or a refusal.
    async fn ask_one(
        &self,
        index: usize,
        ask: Ask<'_>,
    ) -> Result<Result<Answer, String>, RemoteError> {
        let mut dead = self.dead.subscribe();
        let attempt = async {
            let mut line = Line::default();
            let response = self.begin(index, ask, &mut line).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((head, body))
        };
        let answer = tokio::select! {
            answer = timeout(ANSWER, attempt) => answer,
            Ok(()) = dead.changed() => Ok(Err("this node's address has changed".to_owned())),
        };
        let server = self.servers[index].server.authority.clone();
        let failed = |why: &str| Ok(Err(format!("{server}: {why}")));
        let (head, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return failed(&why),
            Err(_) => return failed(&format!("no answer in {} s", ANSWER.as_secs())),
        };
        if head.status.is_success() {
            return Ok(Ok(Answer::new(server, &head.headers, body)));
        }
        let reason = reason(head.status.as_u16(), &body);
        match head.status.is_server_error() {
            true => failed(&reason),
            false => Err(refused(&server, ask, head.status.as_u16(), reason)),
        }
    }

    /// Waits for the answer to a long poll, on the connection of the one before.
    pub(super) async fn poll(&self, ask: Ask<'_>, line: &mut Line) -> Result<Answer, RemoteError> {
        let mut failures = Vec::new();
        let mut dead = self.dead.subscribe();
        let turns: Vec<usize> = match &line.open {
            Some((index, connection)) if connection.is_open() => {
                std::iter::once(*index).chain(self.turns()).collect()
            }
            _ => self.turns().collect(),
        };
        for index in turns {
            let polled = tokio::select! {
                polled = self.poll_one(index, ask, line) => polled,
                Ok(()) = dead.changed() => {
                    line.open = None;
                    failures.push("this node's address has changed".to_owned());
                    break;
                }
            };
            match polled {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Broken::Failed(why)) => failures.push(why),
                Err(Broken::Last(error)) => {
                    if let RemoteError::WatchEnded { .. } = error {
                        // It may be silent still: the next one is asked first.
                        let next = (index + 1) % self.servers.len();
                        self.current.store(next, Ordering::Relaxed);
                        line.open = None;
                    }
                    return Err(error);
                }
            }
            line.open = None;
        }
        Err(unreachable(ask, &failures))
    }

    async fn poll_one(
        &self,
        index: usize,
        ask: Ask<'_>,
        line: &mut Line,
    ) -> Result<Answer, Broken> {
        let server = self.servers[index].server.authority.clone();
        let failed = |why: String| Broken::Failed(format!("{server}: {why}"));
        let silence = || match self.servers[index].is_old.load(Ordering::Relaxed) {
            true => LONG_SILENCE,
            false => self.silence,
        };
        let unheard = |silence: Duration| format!("silent for {} s", silence.as_secs());
        let limit = silence();
        let response = timeout(limit, self.begin(index, ask, line));
        let response = response.await.map_err(|_| failed(unheard(limit)))?;
        let (head, mut body) = response.map_err(failed)?.into_parts();
        let mut whole = Vec::new();
        let ended = |reason: String| {
            Broken::Last(RemoteError::WatchEnded {
                server: server.clone(),
                reason,
            })
        };
        // By what the head says.
        let limit = silence();
        loop {
            let frame = timeout(limit, body.frame()).await;
            match frame.map_err(|_| ended(unheard(limit)))? {
                None => break,
                Some(Ok(frame)) => whole.extend_from_slice(frame.data_ref().map_or(&[], |it| it)),
                Some(Err(error)) => return Err(ended(describe(&error))),
            }
            if whole.len() > LARGEST {
                return Err(ended("the answer has no end".to_owned()));
            }
        }
        let code = head.status;
        if code.is_success() {
            return Ok(Answer::new(server, &head.headers, whole.into()));
        }
        let reason = reason(code.as_u16(), &whole);
        Err(match code.is_server_error() {
            true => failed(reason),
            false => Broken::Last(refused(&server, ask, code.as_u16(), reason)),
        })
    }

    /// Sends, on a connection of `line` if there is one.
    async fn begin(
        &self,
        index: usize,
        ask: Ask<'_>,
        line: &mut Line,
    ) -> Result<Response<Incoming>, String> {
        let peer = &self.servers[index];
        if let Some((_, connection)) = &mut line.open
            && connection.is_open()
            && let Ok(response) = connection.send(request(&peer.server, ask)?).await
        {
            peer.learn(&response);
            return Ok(response);
        }
        // The server ends what is idle, and that may have crossed our question.
        let connection = Connection::open(&peer.server, self.tls.as_ref()).await?;
        let (_, connection) = line.open.insert((index, connection));
        let response = connection.send(request(&peer.server, ask)?).await?;
        peer.learn(&response);
        Ok(response)
    }

    fn turns(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, servers) = (self.current.load(Ordering::Relaxed), self.servers.len());
        (0..servers).map(move |turn| (first + turn) % servers)
    }
}

impl Peer {
    /// What does not succeed may be the answer of somebody between us, who knows of no headers.
    fn learn(&self, response: &Response<Incoming>) {
        if !response.status().is_success() {
            return;
        }
        let is_old = !response.headers().contains_key(ALIVE);
        self.is_old.store(is_old, Ordering::Relaxed);
    }
}

enum Broken {
    /// The next server may do better.
    Failed(String),
    Last(RemoteError),
}

fn request(server: &Server, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(HOST, &server.authority)
        .header(
            USER_AGENT,
            concat!("flannel-agent/", env!("CARGO_PKG_VERSION")),
        );
    if !ask.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::copy_from_slice(ask.body.as_bytes()));
    request.body(body).map_err(|error| error.to_string())
}

/// The server's clock, else ours.
fn date(headers: &HeaderMap) -> Moment {
    let text = headers.get(DATE).and_then(|date| date.to_str().ok());
    text.and_then(Moment::parse).unwrap_or_else(Moment::now)
}

fn reason(code: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.lines().next().unwrap_or_default().trim() {
        "" => format!("HTTP {code}"),
        line => line.to_owned(),
    }
}

fn refused(server: &str, ask: Ask<'_>, code: u16, reason: String) -> RemoteError {
    RemoteError::Refused {
        server: server.to_owned(),
        what: ask.what.to_owned(),
        code,
        reason,
    }
}

fn unreachable(ask: Ask<'_>, failures: &[String]) -> RemoteError {
    RemoteError::Unreachable {
        what: ask.what.to_owned(),
        failures: failures.join("; "),
    }
}
