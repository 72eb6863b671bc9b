//! Client–server mode: the real server over a real etcd, asked as old clients ask and as our own lease source does.

#![cfg(test)]

mod activation;
mod calls;
mod crowd;
mod limits;
mod networks;
mod old_routes;
mod readiness;
mod scripted;
mod source;
mod support;
mod tls;
