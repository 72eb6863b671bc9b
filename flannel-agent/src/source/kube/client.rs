//! Requests to the API server, with credentials that are read again when they change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use rustls::ClientConfig;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::access::{Access, Bytes as Contents};
use super::choice::choose;
use super::error::{AccessError, KubeError, Status};
use super::lines::Lines;
use super::transport::{Connection, Server, describe};
use super::{plugin, trust};

/// For an answer, or a watch's first sign of life.
const ANSWER: Duration = Duration::from_secs(30);
/// A page of 500 Nodes of the largest kind.
const LARGEST: usize = 1 << 30;

/// The API server, as the flags name it. Connects on first use, and anew after a failure.
#[derive(Debug)]
pub(super) struct Client {
    url: Option<String>,
    kubeconfig: Option<PathBuf>,
    session: Mutex<Option<Session>>,
    /// Counts the times that all connections were given up.
    epoch: watch::Sender<u64>,
}

/// Everything that a refusal puts in doubt.
#[derive(Debug)]
struct Session {
    access: Access,
    server: Server,
    tls: Option<Arc<ClientConfig>>,
    /// From a plugin.
    token: Option<String>,
    connection: Option<Connection>,
}

/// A request without its credentials.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    /// For messages: `patch nodes/status of one`.
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// Content type and body.
    pub(super) body: Option<(&'static str, &'a str)>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(what: &'a str, path: &'a str) -> Self {
        Self {
            what,
            method: Method::GET,
            path,
            body: None,
        }
    }
}

/// An answer, and what time it is at the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) date: Option<String>,
}

impl Client {
    /// # Errors
    /// When the flags and files lead to no API server.
    pub(super) fn new(
        url: Option<String>,
        kubeconfig: Option<PathBuf>,
    ) -> Result<Self, AccessError> {
        let access = choose(url.as_deref(), kubeconfig.as_deref())?;
        server(&access)?;
        Ok(Self {
            url,
            kubeconfig,
            session: Mutex::default(),
            epoch: watch::Sender::new(0),
        })
    }

    /// Where the API server is, and who we are there, as files and variables say now.
    ///
    /// # Errors
    /// They lead to none.
    pub(super) fn access(&self) -> Result<Access, AccessError> {
        choose(self.url.as_deref(), self.kubeconfig.as_deref())
    }

    /// Ends the watches, and the next request connects anew.
    pub(super) fn reconnect(self: &Arc<Self>) {
        let client = self.clone();
        tokio::spawn(async move {
            *client.session.lock().await = None;
            client.epoch.send_modify(|epoch| *epoch += 1);
        });
    }

    /// # Errors
    /// No answer, or a refusal.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, KubeError> {
        let answer = async {
            let (response, url) = self.begin(ask).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| unreachable(ask, &url, error.to_string()))?;
            let date = head.headers.get(DATE).and_then(|date| date.to_str().ok());
            Ok(Answer {
                date: date.map(str::to_owned),
                body: body.to_bytes(),
            })
        };
        match timeout(ANSWER, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                *self.session.lock().await = None;
                let server = self.url.clone().unwrap_or_default();
                let reason = format!("no answer in {} s", ANSWER.as_secs());
                Err(unreachable(ask, &server, reason))
            }
        }
    }

    /// # Errors
    /// No answer, or a refusal.
    pub(super) async fn watch(&self, ask: &Ask<'_>) -> Result<Events, KubeError> {
        // Before the request, or a change of address meanwhile would never be seen.
        let epoch = self.epoch.subscribe();
        let Ok(begun) = timeout(ANSWER, self.begin(ask)).await else {
            *self.session.lock().await = None;
            let why = format!("no answer in {} s", ANSWER.as_secs());
            return Err(KubeError::WatchEnded(why));
        };
        Ok(Events {
            body: begun?.0.into_body(),
            lines: Lines::default(),
            epoch,
            end: None,
        })
    }

    /// Sends, and once more with what the files say now if we are unknown there: tokens and certificates are replaced.
    async fn begin(&self, ask: &Ask<'_>) -> Result<(Response<Incoming>, String), KubeError> {
        let (response, url) = self.attempt(ask).await?;
        if response.status() != 401 {
            return self.checked(ask, response, url).await;
        }
        *self.session.lock().await = None;
        let (response, url) = self.attempt(ask).await?;
        self.checked(ask, response, url).await
    }

    async fn checked(
        &self,
        ask: &Ask<'_>,
        response: Response<Incoming>,
        url: String,
    ) -> Result<(Response<Incoming>, String), KubeError> {
        let code = response.status();
        if code.is_success() {
            return Ok((response, url));
        }
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let status = Status::of(code.as_u16(), &body);
        if matches!(code.as_u16(), 429 | 500 | 502 | 503 | 504) {
            // It is starting, overloaded, or behind something that cannot reach it.
            return Err(unreachable(ask, &url, status.message));
        }
        Err(status.refuse(ask.what))
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Result<(Response<Incoming>, String), KubeError> {
        let mut held = self.session.lock().await;
        let session = match &mut *held {
            Some(session) => session,
            empty => empty.insert(self.open().await?),
        };
        let url = session.server.url.clone();
        let request = session.request(ask)?;
        let mut connection = match session.connection.as_ref().and_then(Connection::share) {
            Some(connection) => connection,
            None => {
                let name = session.access.server_name.as_deref();
                let opened = Connection::open(&session.server, name, session.tls.as_ref()).await;
                match opened {
                    Ok(connection) => {
                        session.connection = connection.share();
                        connection
                    }
                    Err(reason) => {
                        // Address, authority and certificate may be others by now.
                        *held = None;
                        return Err(unreachable(ask, &url, reason));
                    }
                }
            }
        };
        drop(held);
        match connection.send(request).await {
            Ok(response) => Ok((response, url)),
            Err(error) => {
                *self.session.lock().await = None;
                Err(unreachable(ask, &url, describe(&error)))
            }
        }
    }

    async fn open(&self) -> Result<Session, AccessError> {
        let access = self.access()?;
        let server = server(&access)?;
        let given = match &access.credentials.exec {
            Some(exec) => plugin::ask(exec).await?,
            None => plugin::Given::default(),
        };
        let identity = match (given.client_certificate_data, given.client_key_data) {
            (Some(certificate), Some(key)) => Some((certificate.into_bytes(), key.into_bytes())),
            _ => match &access.credentials.identity {
                Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
                None => None,
            },
        };
        let tls = match server.https {
            true => Some(trust::config(&access, identity)?),
            false => None,
        };
        Ok(Session {
            access,
            server,
            tls,
            token: given.token,
            connection: None,
        })
    }
}

fn server(access: &Access) -> Result<Server, AccessError> {
    let identity = access.credentials.identity.is_some();
    let tls = access.insecure || access.authority.is_some() || identity;
    Server::parse(&access.server, tls)
}

fn unreachable(ask: &Ask<'_>, server: &str, reason: String) -> KubeError {
    KubeError::Unreachable {
        what: ask.what.to_owned(),
        server: server.to_owned(),
        reason,
    }
}

impl Session {
    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, AccessError> {
        let scheme = if self.server.https { "https" } else { "http" };
        let (authority, path) = (&self.server.authority, &self.server.path);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .header(ACCEPT, "application/json")
            .header(
                USER_AGENT,
                concat!("flannel-agent/", env!("CARGO_PKG_VERSION")),
            );
        request = match self.connection {
            Some(Connection::Many(_)) => {
                request.uri(format!("{scheme}://{authority}{path}{}", ask.path))
            }
            // HTTP/2 takes the authority from the URI, HTTP/1.1 from a header; either may be the one that is spoken.
            _ if self.server.https => request
                .uri(format!("{scheme}://{authority}{path}{}", ask.path))
                .header(HOST, authority),
            _ => request
                .uri(format!("{path}{}", ask.path))
                .header(HOST, authority),
        };
        if let Some(authorization) = self.authorization()? {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = match ask.body {
            Some((kind, text)) => {
                request = request.header(CONTENT_TYPE, kind);
                Bytes::copy_from_slice(text.as_bytes())
            }
            None => Bytes::new(),
        };
        request.body(Full::new(body)).map_err(|_| AccessError::Url {
            url: self.server.url.clone(),
            problem: "no URL",
        })
    }

    /// The file is read each time: requests are few, and the kubelet replaces it every hour.
    fn authorization(&self) -> Result<Option<HeaderValue>, AccessError> {
        let credentials = &self.access.credentials;
        let text = match (&credentials.token_file, &credentials.token, &self.token) {
            (Some(file), ..) => {
                let token = Contents::File(file.clone()).read()?;
                // An editor's end of line is no part of it.
                Some(format!("Bearer {}", String::from_utf8_lossy(&token).trim()))
            }
            (None, Some(token), _) | (None, None, Some(token)) => {
                Some(format!("Bearer {}", token.trim()))
            }
            (None, None, None) => credentials.basic.clone(),
        };
        let Some(text) = text else {
            return Ok(None);
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            AccessError::Tls("the token has characters that no token has".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// What a watch sends, one JSON object after the other.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    lines: Lines,
    epoch: watch::Receiver<u64>,
    /// When it is given up, though the server has not ended it.
    end: Option<Instant>,
}

impl Events {
    /// Gives the watch up after `longest`.
    pub(super) fn until(self, longest: Duration) -> Self {
        Self {
            end: Some(Instant::now() + longest),
            ..self
        }
    }

    /// The next object; `None` when the server has ended the watch in order.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, KubeError> {
        while !self.lines.is_ready() {
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                Ok(()) = self.epoch.changed() => {
                    let why = "this node's address has changed";
                    return Err(KubeError::WatchEnded(why.to_owned()));
                }
                () = at(self.end) => {
                    let why = "it did not end in time";
                    return Err(KubeError::WatchEnded(why.to_owned()));
                }
            };
            let frame = match frame {
                None => return Ok(None),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(KubeError::WatchEnded(describe(&error))),
            };
            if let Some(data) = frame.data_ref() {
                let pushed = self.lines.push(data);
                pushed.map_err(|_| KubeError::WatchEnded("an event has no end".to_owned()))?;
            }
        }
        Ok(self.lines.next())
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
