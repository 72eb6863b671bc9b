//! Which cluster and which Node we are of, as far as files and variables say so: the API server is not asked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::access::{Access, Bytes};
use super::choice::choose;
use super::identity::{Identity, KubeOptions};
use crate::source::place::{Place, fingerprint};

/// Of a token that the kubelet got for a pod: since Kubernetes 1.30 it says on which Node that is (ServiceAccountTokenPodNodeInfo).
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
struct Bound {
    node: BoundNode,
}

#[derive(Deserialize)]
struct BoundNode {
    name: String,
    uid: String,
}

impl KubeOptions {
    /// The API server's URL, if flags, files and variables lead to one.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        let access = choose(self.api_url.as_deref(), self.kubeconfig.as_deref());
        access.ok().map(|access| access.server)
    }

    /// Where what the API server says holds.
    #[must_use]
    pub fn place(&self) -> Place {
        let access = choose(self.api_url.as_deref(), self.kubeconfig.as_deref()).ok();
        let identity = Identity::new(|name| std::env::var(name).ok()).ok();
        of(access.as_ref(), identity.as_ref())
    }
}

pub(super) fn of(access: Option<&Access>, identity: Option<&Identity>) -> Place {
    let mut place = Place::here();
    if let Some(access) = access {
        let authority = access.authority.as_ref();
        let pem = authority.and_then(|authority| authority.read().ok());
        let pem = pem.unwrap_or_default();
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        place.authorities = certificates.map(|it| fingerprint(&it)).collect();
        // With an authority it may change: a cluster gets a balancer, say.
        place.server = authority.is_none().then(|| access.server.clone());
        if let Some(node) = bound(access) {
            place.node = Some(node.name);
            place.node_uid = Some(node.uid);
        }
    }
    if let Some(Identity::Node(name)) = identity {
        place.node = Some(name.clone());
    }
    place
}

/// What is not such a token says nothing. It is not verified: who could forge it could write the snapshot.
fn bound(access: &Access) -> Option<BoundNode> {
    let credentials = &access.credentials;
    let token = match &credentials.token_file {
        Some(file) => Bytes::File(file.clone()).read().ok()?,
        None => credentials.token.clone()?.into_bytes(),
    };
    let token = String::from_utf8(token).ok()?;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some(claims.kubernetes.node)
}

#[cfg(test)]
mod tests {
    use super::super::access::Credentials;
    use super::*;

    /// With the claims of a pod's token, as an API server of 1.34 makes it.
    fn access(claims: &str) -> Access {
        let claims = URL_SAFE_NO_PAD.encode(claims);
        Access {
            credentials: Credentials {
                token: Some(format!("eyJhbGciOiJSUzI1NiJ9.{claims}.c2ln")),
                ..Credentials::default()
            },
            ..Access::anonymous("https://192.0.2.1:6443".to_owned())
        }
    }

    #[test]
    fn a_pods_token_names_its_node() {
        let token = r#"{"aud":["https://kubernetes.default.svc"],"exp":1,"kubernetes.io":{"namespace":"kube-flannel",
            "node":{"name":"one","uid":"u-1"},"pod":{"name":"p","uid":"u-2"},"serviceaccount":{"name":"flannel","uid":"u-3"}}}"#;
        let place = of(Some(&access(token)), None);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((place.node, place.node_uid), (text("one"), text("u-1")));
        assert_eq!(place.server, text("https://192.0.2.1:6443"));
        let named = Identity::Node("two".to_owned());
        let place = of(Some(&access("{}")), Some(&named));
        assert_eq!((place.node, place.node_uid), (text("two"), None));
    }

    #[test]
    fn a_cluster_is_known_by_its_authorities() {
        let pem = |byte: u8| {
            let body = base64::engine::general_purpose::STANDARD.encode([byte; 30]);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let with = |pem: String| {
            let access = Access {
                authority: Some(Bytes::Here(pem.into_bytes())),
                ..access("{}")
            };
            of(Some(&access), None)
        };
        let (old, both, new) = (with(pem(1)), with(pem(1) + &pem(2)), with(pem(2)));
        assert_eq!((old.other(&both), both.other(&new)), (None, None));
        assert!(old.other(&new).unwrap().contains("another cluster"));
        assert_eq!(old.server, None, "that may be another one tomorrow");
    }

    #[test]
    fn tokens_of_other_kinds_say_nothing() {
        for token in ["secret", "a.b.c", "a..c", ""] {
            let mut access = access("");
            access.credentials.token = Some(token.to_owned());
            assert_eq!(of(Some(&access), None).node, None, "{token}");
        }
    }
}
