//! A gate in front of a server: closed, it cuts every connection; frozen, it lets nothing through
//! and says nothing, as a host that lost its power does; deaf, it keeps from clients what the server answers.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to a server while it is open.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    state: watch::Sender<State>,
    listening: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The same, until a client says this.
    Listening(&'static str),
    /// What clients say passes, and no answer comes back.
    Deaf,
    Closed,
    Frozen,
}

impl State {
    const fn lets_pass(self) -> bool {
        matches!(self, Self::Open | Self::Listening(_) | Self::Deaf)
    }
}

impl Gate {
    /// An open gate to `server`.
    pub async fn to(server: (Ipv4Addr, u16)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen on loopback");
        let address = listener.local_addr().expect("the address of the gate");
        let state = watch::Sender::new(State::Open);
        let states = state.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, states.clone()));
            }
        });
        Self {
            address,
            state,
            listening,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts what is connected and lets nobody in.
    pub fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Keeps connections, but moves no more bytes. Only [`Gate::close`] ends it.
    pub fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    pub fn open(&self) {
        self.state.send_replace(State::Open);
    }

    /// Lets the next question with `words` in it pass, and no answer from there on. [`Gate::close`] ends it.
    pub fn lose_the_answer_to(&self, words: &'static str) {
        self.state.send_replace(State::Listening(words));
    }

    /// Waits until that question was asked.
    pub async fn asked(&self) {
        let mut states = self.state.subscribe();
        let asked = states.wait_for(|state| *state == State::Deaf).await;
        asked.expect("the gate has its state");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
        self.listening.abort();
    }
}

async fn pass(client: TcpStream, server: (Ipv4Addr, u16), state: watch::Sender<State>) {
    let mut states = state.subscribe();
    // Kept while frozen: the connection lives on, unread.
    let mut client = client;
    if state.borrow().lets_pass() {
        let Ok(mut server) = TcpStream::connect(server).await else {
            return;
        };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = ask(from_client, to_server, &state) => return,
            () = answer(from_server, to_client, &state) => return,
            _ = states.wait_for(|state| !state.lets_pass()) => {}
        }
    }
    let _ = states.wait_for(|state| *state != State::Frozen).await;
}

/// Moves bytes to the server until there are no more.
async fn ask(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &watch::Sender<State>,
) {
    let mut buffer = vec![0; 1 << 16];
    // Words may be cut in two.
    let mut said = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        let now = *state.borrow();
        if let State::Listening(words) = now {
            said.extend_from_slice(bytes);
            let mut places = said.windows(words.len());
            if places.any(|place| place == words.as_bytes()) {
                // Before the server hears it.
                state.send_replace(State::Deaf);
            }
            said.drain(..said.len().saturating_sub(words.len()));
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Moves bytes to the client until there are no more.
async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &watch::Sender<State>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let is_lost = *state.borrow() == State::Deaf;
        if !is_lost && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
