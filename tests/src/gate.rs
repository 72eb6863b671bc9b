//! A gate in front of a server: closed, it cuts every connection; frozen, it lets nothing through
//! and says nothing, as a host that lost its power does.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
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
    Closed,
    Frozen,
}

impl Gate {
    /// An open gate to `server`.
    pub async fn to(server: (Ipv4Addr, u16)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listen on loopback");
        let address = listener.local_addr().expect("the address of the gate");
        let (state, states) = watch::channel(State::Open);
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
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
        self.listening.abort();
    }
}

async fn pass(mut client: TcpStream, server: (Ipv4Addr, u16), mut states: watch::Receiver<State>) {
    if *states.borrow() == State::Open {
        let Ok(mut server) = TcpStream::connect(server).await else {
            return;
        };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = states.wait_for(|state| *state != State::Open) => {}
        }
    }
    // The connection lives on, unread, for as long as the gate is frozen.
    let _ = states.wait_for(|state| *state != State::Frozen).await;
}
