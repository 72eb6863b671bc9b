//! Who says where the API server is: flags, a kubeconfig file, or what a pod is told.

use std::path::Path;

use super::access::Access;
use super::error::AccessError;
use super::kubeconfig;

/// Where a pod finds its ServiceAccount.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// As flanneld (client-go's BuildConfigFromFlags): the kubeconfig file, with the URL in the place of its server; the URL
/// alone; without either what a pod is given.
///
/// # Errors
/// When the file cannot be used, or nobody says anything.
pub(super) fn choose(url: Option<&str>, file: Option<&Path>) -> Result<Access, AccessError> {
    match (url, file) {
        (url, Some(file)) => kubeconfig::read(file, url),
        (Some(url), None) => Ok(Access::anonymous(url.to_owned())),
        (None, None) => {
            let variable = |name| std::env::var(name).unwrap_or_default();
            Access::in_cluster(
                &variable("KUBERNETES_SERVICE_HOST"),
                &variable("KUBERNETES_SERVICE_PORT"),
                Path::new(SERVICE_ACCOUNT),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Credentials;
    use super::*;

    #[test]
    fn a_url_alone_has_no_credentials() {
        let access = choose(Some("http://127.0.0.1:8080"), None).unwrap();
        assert_eq!(access.server, "http://127.0.0.1:8080");
        assert_eq!(access.credentials, Credentials::default());
        let error = choose(None, Some(Path::new("/no/such/file"))).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
