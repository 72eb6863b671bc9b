//! One etcd endpoint: its URL, and a connection to it.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Uri;
use etcd_client::{Channel, Client, ConnectOptions};
use tokio::sync::OnceCell;
use tonic::transport;

use super::dial::{CONNECT_TIMEOUT, Dialer};
use super::error::{OptionsError, describe};
use super::options::EtcdOptions;
use super::tls;
use crate::base::causes;

/// A peer that vanished without a FIN is noticed after these two. etcd allows a ping every 5 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One member of the cluster. Connects on first use and reconnects by itself.
pub(super) struct Endpoint {
    url: String,
    transport: transport::Endpoint,
    /// With https.
    dialer: Option<Dialer>,
    login: Option<(String, String)>,
    client: Mutex<Arc<OnceCell<Client>>>,
}

/// One of those that an endpoint had.
pub(super) struct Connection(Arc<OnceCell<Client>>);

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url).finish()
    }
}

impl Endpoint {
    pub(super) fn all(options: &EtcdOptions) -> Result<Vec<Self>, OptionsError> {
        let urls = options
            .endpoints
            .iter()
            .map(|endpoint| url(endpoint, options.tls.identity.is_some()))
            .collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(OptionsError::NoEndpoint);
        }
        let https = urls.iter().any(|url| url.starts_with("https://"));
        let dialer = match https {
            true => Some(Dialer(tls::client_config(&options.tls)?)),
            false => tls::check(&options.tls).map(|()| None)?,
        };
        let endpoint = |url: String| {
            Ok(Self {
                transport: transport(&url)?,
                dialer: dialer.clone().filter(|_| url.starts_with("https://")),
                login: options
                    .login
                    .as_ref()
                    .map(|login| (login.username.clone(), login.password.clone())),
                client: Mutex::default(),
                url,
            })
        };
        urls.into_iter().map(endpoint).collect()
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A handle to the connection, and which that is. Only a login needs the network here.
    pub(super) async fn client(&self) -> Result<(Client, Connection), etcd_client::Error> {
        let held = self.held().clone();
        let client = held.get_or_try_init(|| self.connect()).await.cloned()?;
        Ok((client, Connection(held)))
    }

    pub(super) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The next call connects anew.
    pub(super) fn forget(&self) {
        *self.held() = Arc::default();
    }

    /// The next call connects anew, unless somebody has done so since: calls at the same time would throw away each other's login.
    pub(super) fn forget_that(&self, used: &Connection) {
        let mut held = self.held();
        if Arc::ptr_eq(&held, &used.0) {
            *held = Arc::default();
        }
    }

    fn held(&self) -> MutexGuard<'_, Arc<OnceCell<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        // Cheap: the channel connects when it is used.
        let connect = |options| {
            let channel = Channel::Tonic(match &self.dialer {
                Some(dialer) => self.transport.connect_with_connector_lazy(dialer.clone()),
                None => self.transport.connect_lazy(),
            });
            Client::from_channel(channel, Some(options))
        };
        let options = ConnectOptions::new()
            // A member cut off from the others says so instead of going silent.
            .with_require_leader(true);
        let Some((username, password)) = &self.login else {
            return connect(options).await;
        };
        let login = options.clone().with_user(username, password);
        match connect(login.with_auto_token_refresh(true)).await {
            // flanneld also starts with a login for an etcd that asks for none.
            Err(error) if describe(&error).contains("authentication is not enabled") => {
                tracing::warn!(
                    endpoint = self.url,
                    "etcd asks for no login: --etcd-username and --etcd-password are not used"
                );
                connect(options).await
            }
            result => result,
        }
    }
}

fn transport(url: &str) -> Result<transport::Endpoint, OptionsError> {
    let uri: Uri = url.parse().map_err(|_| OptionsError::Endpoint {
        endpoint: url.to_owned(),
        problem: "no URL",
    })?;
    // tonic leaves TLS to the dialer only where it sees none; what is said to etcd stays https.
    let dialled = url.replacen("https://", "http://", 1);
    let is_ours_to_dial = uri.scheme_str() == Some("https");
    let transport = transport::Endpoint::from_shared(dialled)
        .map_err(|error| unusable(url, &error))?
        .origin(uri);
    // Around a dialer it would bound the question to DNS, too: a dead first nameserver alone costs 5 s.
    let transport = match is_ours_to_dial {
        true => transport,
        false => transport.connect_timeout(CONNECT_TIMEOUT),
    };
    Ok(transport
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        // etcd ends connections that ping while no call is open ("too many pings").
        .keep_alive_while_idle(false))
}

fn unusable(url: &str, error: &transport::Error) -> OptionsError {
    OptionsError::Unusable {
        endpoint: url.to_owned(),
        reason: causes::append(error.to_string(), error.source()),
    }
}

fn url(endpoint: &str, has_identity: bool) -> Result<String, OptionsError> {
    let problem = |problem| OptionsError::Endpoint {
        endpoint: endpoint.to_owned(),
        problem,
    };
    let (scheme, authority) = match endpoint.trim().split_once("://") {
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return Err(problem("neither http nor https")),
        None if has_identity => ("https", endpoint.trim()),
        None => ("http", endpoint.trim()),
    };
    let url = format!("{scheme}://{}", authority.trim_end_matches('/'));
    let uri: Uri = url.parse().map_err(|_| problem("no URL"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(problem("no host"));
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return Err(problem("no port from 1 to 65535"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(problem("something behind the port"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://127.0.0.1:2379", false, "http://127.0.0.1:2379")]
    #[case(" https://etcd.example:2379/ ", false, "https://etcd.example:2379")]
    #[case("127.0.0.1:2379", false, "http://127.0.0.1:2379")]
    #[case("etcd.example:2379", true, "https://etcd.example:2379")]
    #[case("http://127.0.0.1:2379", true, "http://127.0.0.1:2379")]
    #[case("[::1]:2379", false, "http://[::1]:2379")]
    fn urls(#[case] endpoint: &str, #[case] has_identity: bool, #[case] expected: &str) {
        assert_eq!(url(endpoint, has_identity).unwrap(), expected);
    }

    #[rstest]
    #[case("", "no URL")]
    #[case("http://", "no URL")]
    #[case("http://127.0.0.1", "no port")]
    #[case("unix:///run/etcd.sock", "neither http nor https")]
    #[case("http://127.0.0.1:2379/v2", "something behind the port")]
    #[case("http://127.0.0.1:99999", "no port")]
    #[case("http://127.0.0.1:0", "no port")]
    #[case("http://a b:2379", "no URL")]
    fn bad_urls_are_named(#[case] endpoint: &str, #[case] expected: &str) {
        let error = url(endpoint, false).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{endpoint:?}: {expected}")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn of_connections_only_the_one_that_failed_is_given_up() {
        let options = EtcdOptions::new(vec!["http://127.0.0.1:2379".to_owned()], "/n");
        let endpoint = &Endpoint::all(&options).unwrap()[0];
        let connection = async || endpoint.client().await.unwrap().1;
        let (one, other) = (connection().await, connection().await);
        endpoint.forget_that(&one);
        let new = connection().await;
        assert!(!Arc::ptr_eq(&one.0, &new.0));
        endpoint.forget_that(&other);
        assert!(Arc::ptr_eq(&connection().await.0, &new.0));
    }

    #[test]
    fn no_endpoint_and_missing_files_are_errors() {
        let mut options = EtcdOptions::new(vec![], "/n");
        let error = Endpoint::all(&options).unwrap_err();
        assert!(matches!(error, OptionsError::NoEndpoint));
        options.endpoints = vec!["https://127.0.0.1:2379".to_owned()];
        options.tls.ca_file = Some("/no/such/file.pem".into());
        let error = Endpoint::all(&options).unwrap_err().to_string();
        assert!(
            error.contains("/no/such/file.pem (--etcd-cafile)"),
            "{error}"
        );
        let empty = tempfile::NamedTempFile::new().unwrap();
        options.tls.ca_file = Some(empty.path().to_owned());
        let error = Endpoint::all(&options).unwrap_err().to_string();
        assert!(
            error.contains("(--etcd-cafile) holds no CERTIFICATE block"),
            "{error}"
        );
    }
}
