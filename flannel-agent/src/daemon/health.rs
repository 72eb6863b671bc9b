//! `/healthz` and `/readyz`, with flanneld's texts (manifests and load balancers compare them), and `/metrics`.

mod board;
mod body;
mod guest;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::daemon::metrics::{self, Exporter};
pub(super) use board::Board;
use body::Shared;
use guest::Door;

const NOT_YET: &str = "flanneld is not ready yet";

/// Set once everything is in place; shared with `/readyz`.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    #[default]
    NotYet,
    Ready,
    /// Everything of ours is in place, and something else is in the way.
    Hindered(String),
}

impl Ready {
    pub fn set(&self, ready: bool) {
        self.enter(if ready { State::Ready } else { State::NotYet });
    }

    /// Not ready, and why.
    pub fn hinder(&self, why: String) {
        self.enter(State::Hindered(why));
    }

    #[must_use]
    pub fn get(&self) -> bool {
        self.state() == State::Ready
    }

    fn enter(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn state(&self) -> State {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The health endpoints on a port that is ours already.
#[derive(Debug)]
pub struct Health {
    listener: TcpListener,
    asked: Asked,
}

/// Who is asked.
#[derive(Debug)]
enum Asked {
    One(Ready, Option<Exporter>),
    Several(Board),
}

impl Health {
    /// # Errors
    /// The port is taken or the address is not this node's.
    pub async fn bind(address: SocketAddr, ready: Ready) -> anyhow::Result<Self> {
        Self::bind_for(address, Asked::One(ready, None)).await
    }

    /// The same for several networks.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub(super) async fn of_several(address: SocketAddr, board: Board) -> anyhow::Result<Self> {
        Self::bind_for(address, Asked::Several(board)).await
    }

    async fn bind_for(address: SocketAddr, asked: Asked) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!(
                "cannot serve health on {address}: give a free port with --healthz-port \
                 (0 turns it off) and an address of this node with --healthz-ip"
            )
        })?;
        Ok(Self { listener, asked })
    }

    /// Answers `/metrics`, too.
    #[must_use]
    pub fn with_metrics(mut self, exporter: Exporter) -> Self {
        if let Asked::One(_, of) = &mut self.asked {
            *of = Some(exporter);
        }
        self
    }

    /// # Errors
    /// The socket has no address, which the kernel never says of a bound one.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until cancelled.
    ///
    /// # Errors
    /// The listening socket broke.
    pub async fn serve(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let app = Router::new().route("/healthz", get(|| async { "flanneld is running" }));
        let app = match self.asked {
            Asked::One(ready, exporter) => {
                let app = app.route("/readyz", get(move || async move { ready.answer() }));
                match exporter {
                    Some(exporter) => with_metrics(app, move || exporter.text().ok()),
                    None => app,
                }
            }
            Asked::Several(board) => {
                let (each, all) = (board.clone(), board.clone());
                let one = |extract::Path(name): extract::Path<String>| async move {
                    match each.answer_of(&name) {
                        Some(answer) => answer,
                        None => (StatusCode::NOT_FOUND, format!("no network {name}\n")),
                    }
                };
                let app = app
                    .route("/readyz", get(move || async move { all.answer() }))
                    .route("/readyz/{network}", get(one));
                with_metrics(app, move || board.metrics().ok())
            }
        };
        // Dropping the server closes what is open: a prober's kept-alive connection must not hold up
        // the end of the agent.
        tokio::select! {
            served = axum::serve(Door::new(self.listener), app) => served.context("the health endpoints broke"),
            () = cancel.cancelled() => Ok(()),
        }
    }
}

impl Ready {
    fn answer(&self) -> (StatusCode, String) {
        match self.why_not() {
            None => (StatusCode::OK, "flanneld is ready".to_owned()),
            Some(why) if why.is_empty() => (StatusCode::SERVICE_UNAVAILABLE, NOT_YET.to_owned()),
            Some(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{NOT_YET}: {why}\n"),
            ),
        }
    }

    /// `None`: it is. Empty: everything takes its time.
    pub(super) fn why_not(&self) -> Option<String> {
        match self.state() {
            State::Ready => None,
            State::NotYet => Some(String::new()),
            State::Hindered(why) => Some(why),
        }
    }
}

fn with_metrics(
    app: Router,
    text: impl FnOnce() -> Option<String> + Clone + Send + Sync + 'static,
) -> Router {
    let shared = Arc::new(Shared::default());
    let answer = move || metrics(text.clone(), Arc::clone(&shared));
    app.route("/metrics", get(answer))
}

async fn metrics(
    text: impl FnOnce() -> Option<String> + Send + 'static,
    shared: Arc<Shared>,
) -> Result<impl IntoResponse, StatusCode> {
    match shared.get(text).await {
        Some(text) => Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text)),
        None => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    #[tokio::test]
    async fn running_is_not_ready() {
        let ready = Ready::default();
        let cancel = CancellationToken::new();
        let health = Health::bind("127.0.0.1:0".parse().unwrap(), ready.clone())
            .await
            .unwrap();
        let address = health.address().unwrap();
        let server = tokio::spawn(health.serve(cancel.clone()));

        let running = (200, "flanneld is running".to_owned());
        assert_eq!(get(address, "/healthz").await, running);
        let not_yet = (503, "flanneld is not ready yet".to_owned());
        assert_eq!(get(address, "/readyz").await, not_yet);
        ready.set(true);
        assert_eq!(
            get(address, "/readyz").await,
            (200, "flanneld is ready".to_owned())
        );
        assert_eq!(get(address, "/healthz").await, running);
        ready.hinder("FORWARD drops".to_owned());
        let why = "flanneld is not ready yet: FORWARD drops\n".to_owned();
        assert_eq!(get(address, "/readyz").await, (503, why));
        assert_eq!(get(address, "/metrics").await.0, 404);

        cancel.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_kept_alive_connection_does_not_hold_up_the_end() {
        let cancel = CancellationToken::new();
        let health = Health::bind("127.0.0.1:0".parse().unwrap(), Ready::default())
            .await
            .unwrap();
        let address = health.address().unwrap();
        let server = tokio::spawn(health.serve(cancel.clone()));
        let mut open = TcpStream::connect(address).await.unwrap();
        open.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            .await
            .unwrap();
        assert_ne!(open.read(&mut [0; 512]).await.unwrap(), 0);
        cancel.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_busy_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = Health::bind(address, Ready::default()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("--healthz-port"), "{text}");
        assert!(text.contains("in use"), "{text}");
    }
}
