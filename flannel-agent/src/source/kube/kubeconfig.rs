//! kubeconfig files: of all that can be in one, what leads to one API server.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::access::{Access, Bytes, Credentials, ExecPlugin};
use super::error::AccessError;

#[derive(Deserialize, Default)]
struct File {
    #[serde(default, rename = "current-context")]
    current_context: String,
    #[serde(default)]
    clusters: Option<Vec<NamedCluster>>,
    #[serde(default)]
    contexts: Option<Vec<NamedContext>>,
    #[serde(default)]
    users: Option<Vec<NamedUser>>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Context,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    // Go's names are of both kinds.
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<Exec>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Exec {
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    api_version: String,
    install_hint: String,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

const MISSHAPEN: &str = "no kubeconfig: a field has a value of the wrong kind (the value is not shown, it may be a secret); \
                         `kubectl config view` names the field";

/// Reads `path`. `server`, if given, takes the place of the cluster's.
pub(super) fn read(path: &Path, server: Option<&str>) -> Result<Access, AccessError> {
    let text = std::fs::read_to_string(path).map_err(|source| AccessError::File {
        what: "--kubeconfig-file",
        file: path.to_owned(),
        source,
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder, server).map_err(|problem| AccessError::Kubeconfig {
        file: path.to_owned(),
        problem,
    })
}

/// `folder`: where relative file names start.
fn parse(text: &str, folder: &Path, server: Option<&str>) -> Result<Access, String> {
    // Further lines show the place, with what may be a secret.
    let first = |text: String| {
        let first = text.lines().next().unwrap_or_default();
        format!("no kubeconfig: {first}")
    };
    let value: Value = serde_saphyr::from_str(text).map_err(|error| first(error.to_string()))?;
    let file: File =
        // Its words quote the value, which may be a token.
        serde_json::from_value(without_nulls(value)).map_err(|_| MISSHAPEN.to_owned())?;
    let name = &file.current_context;
    if name.is_empty() {
        return Err("no current-context".to_owned());
    }
    let contexts = file.contexts.unwrap_or_default();
    let context = contexts.into_iter().find(|context| context.name == *name);
    let context = context
        .ok_or_else(|| format!("no context {name:?}"))?
        .context;
    let clusters = file.clusters.unwrap_or_default();
    let cluster = clusters.into_iter().find(|c| c.name == context.cluster);
    let cluster = cluster
        .ok_or_else(|| format!("no cluster {:?}", context.cluster))?
        .cluster;
    let user = match context.user.as_str() {
        "" => User::default(),
        name => {
            let users = file.users.unwrap_or_default();
            let user = users.into_iter().find(|user| user.name == name);
            user.ok_or_else(|| format!("no user {name:?}"))?.user
        }
    };
    let has_authority =
        !cluster.certificate_authority.is_empty() || !cluster.certificate_authority_data.is_empty();
    if cluster.insecure_skip_tls_verify && has_authority {
        return Err(
            "insecure-skip-tls-verify and certificate-authority exclude each other: remove one"
                .to_owned(),
        );
    }
    if !cluster.proxy_url.is_empty() {
        return Err("proxy-url is not supported: nodes reach their API server directly".to_owned());
    }
    let server = server.unwrap_or(&cluster.server);
    if server.is_empty() {
        return Err(format!("cluster {:?} has no server", context.cluster));
    }
    Ok(Access {
        server: server.to_owned(),
        server_name: some(cluster.tls_server_name),
        insecure: cluster.insecure_skip_tls_verify,
        authority: bytes(
            "certificate-authority",
            &cluster.certificate_authority,
            &cluster.certificate_authority_data,
            folder,
        )?,
        credentials: credentials(user, folder)?,
    })
}

/// Go takes null for nothing.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn credentials(user: User, folder: &Path) -> Result<Credentials, String> {
    if user.auth_provider.is_some() {
        return Err("auth-provider is gone from Kubernetes: give the plugin as exec".to_owned());
    }
    let certificate = bytes(
        "client-certificate",
        &user.client_certificate,
        &user.client_certificate_data,
        folder,
    )?;
    let key = bytes(
        "client-key",
        &user.client_key,
        &user.client_key_data,
        folder,
    )?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("client-certificate and client-key only work together".to_owned()),
    };
    let basic = (!user.username.is_empty()).then(|| {
        let pair = format!("{}:{}", user.username, user.password);
        format!("Basic {}", STANDARD.encode(pair))
    });
    Ok(Credentials {
        identity,
        token_file: some(user.token_file).map(|file| folder.join(file)),
        token: some(user.token),
        basic,
        exec: user.exec.map(|exec| ExecPlugin {
            // As Go: a name with a slash is a file beside the kubeconfig, another one is looked up in PATH.
            command: match exec.command.contains('/') {
                true => folder.join(&exec.command),
                false => PathBuf::from(&exec.command),
            },
            args: exec.args.unwrap_or_default(),
            env: exec
                .env
                .unwrap_or_default()
                .into_iter()
                .map(|variable| (variable.name, variable.value))
                .collect(),
            api_version: exec.api_version,
            install_hint: exec.install_hint,
        }),
    })
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Data in the file itself counts more than a file that it names, as in Go.
fn bytes(field: &str, file: &str, data: &str, folder: &Path) -> Result<Option<Bytes>, String> {
    if !data.is_empty() {
        let compact: String = data.split_whitespace().collect();
        let decoded = STANDARD.decode(compact);
        return match decoded {
            Ok(bytes) => Ok(Some(Bytes::Here(bytes))),
            Err(error) => Err(format!("{field}-data is not base64: {error}")),
        };
    }
    Ok((!file.is_empty()).then(|| Bytes::File(folder.join(file))))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PLAIN: &str = "
apiVersion: v1
kind: Config
current-context: here
clusters:
- name: c
  cluster:
    server: https://192.0.2.1:6443
    certificate-authority: ca.crt
- name: other
  cluster: {server: https://elsewhere}
contexts:
- name: here
  context: {cluster: c, user: u}
users:
- name: u
  user: {tokenFile: /var/token, client-certificate-data: Y2VydA==, client-key: pki/key}
";

    fn plain(text: &str) -> Result<Access, String> {
        parse(text, Path::new("/etc/kube"), None)
    }

    #[test]
    fn the_current_context_leads_to_server_and_credentials() {
        let access = plain(PLAIN).unwrap();
        assert_eq!(access.server, "https://192.0.2.1:6443");
        assert_eq!(
            access.authority,
            Some(Bytes::File("/etc/kube/ca.crt".into()))
        );
        let credentials = access.credentials;
        assert_eq!(credentials.token_file, Some("/var/token".into()));
        let identity = (
            Bytes::Here(b"cert".to_vec()),
            Bytes::File("/etc/kube/pki/key".into()),
        );
        assert_eq!(credentials.identity, Some(identity));
        let other = parse(PLAIN, Path::new(""), Some("http://127.0.0.1:8080")).unwrap();
        assert_eq!(other.server, "http://127.0.0.1:8080");
    }

    #[test]
    fn json_is_yaml_and_plugins_are_known() {
        let text = r#"{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"c","user":"u"}}],
            "clusters":[{"name":"c","cluster":{"server":"https://x","insecure-skip-tls-verify":true,"tls-server-name":"n"}}],
            "users":[{"name":"u","user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"./plugin",
                "args":["get"],"env":[{"name":"A","value":"b"}],"interactiveMode":"Never"}}}]}"#;
        let access = plain(text).unwrap();
        assert!(access.insecure);
        assert_eq!(access.server_name.as_deref(), Some("n"));
        let exec = access.credentials.exec.unwrap();
        assert_eq!(exec.command, Path::new("/etc/kube/./plugin"));
        assert_eq!(exec.args, ["get"]);
        assert_eq!(exec.env, [("A".to_owned(), "b".to_owned())]);
    }

    #[rstest]
    #[case("current-context: here", "current-context: ", "no current-context")]
    #[case("current-context: here", "current-context: x", "no context \"x\"")]
    #[case("cluster: c,", "cluster: d,", "no cluster \"d\"")]
    #[case("user: u}", "user: v}", "no user \"v\"")]
    #[case("Y2VydA==", "?", "client-certificate-data is not base64")]
    #[case(", client-key: pki/key", "", "only work together")]
    #[case("tokenFile: /var/token", "auth-provider: {name: gcp}", "auth-provider")]
    #[case("certificate-authority: ca.crt", "proxy-url: http://p", "proxy-url")]
    #[case("clusters:", "clusters: 7", "no kubeconfig")]
    #[case(
        "ca.crt",
        "ca.crt\n    insecure-skip-tls-verify: true",
        "exclude each other"
    )]
    fn what_is_wrong_is_named(#[case] from: &str, #[case] to: &str, #[case] part: &str) {
        let error = plain(&PLAIN.replace(from, to)).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_secret_of_the_wrong_kind_is_not_shown() {
        for user in ["token: 714253", "exec: s714253", "password: [714253]"] {
            let error = plain(&PLAIN.replace("tokenFile: /var/token", user)).unwrap_err();
            assert!(error.contains("no kubeconfig"), "{error}");
            assert!(!error.contains("714253"), "{error}");
        }
    }
}
