//! What each command does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::conf::NetConf;
use crate::error::{CniError, Code};
use crate::prev_result::with_gateways;
use crate::request::{Command, Request};
use crate::{delegate, exec, gc, go_json, result, saved, subnet_env, version};

/// What the runtime is to read on stdout.
///
/// # Errors
/// What it is to read instead.
pub(crate) fn answer(request: &Request) -> Result<String, CniError> {
    if request.command == Command::Version {
        return Ok(version::answer());
    }
    let conf = NetConf::read(&request.config)?;
    let allows = |command, since| version::allows(conf.version(), command, since);
    version::check(conf.version())?;
    match request.command {
        Command::Add => add(request, &conf),
        Command::Del => del(request, &conf).map(nothing),
        Command::Check => allows("CHECK", "0.4.0")
            .and_then(|()| check(request, &conf))
            .map(nothing),
        Command::Status => allows("STATUS", "1.1.0")
            .and_then(|()| status(request, &conf))
            .map(nothing),
        Command::Gc => allows("GC", "1.1.0")
            .and_then(|()| collect(request, &conf))
            .map(nothing),
        Command::Version => Ok(version::answer()),
    }
}

fn nothing(_: impl Sized) -> String {
    String::new()
}

/// What a new pod's delegate is given.
fn configuration(conf: &NetConf) -> Result<Value, CniError> {
    let env = subnet_env::read(&conf.subnet_file).map_err(|error| {
        CniError::internal(format!(
            "failed to load flannel 'subnet.env' file: {error}. Check the flannel pod log for this node."
        ))
    })?;
    delegate::configuration(conf, &env)
}

/// The file comes first: whatever becomes of ADD, the runtime calls DEL after it.
fn add(request: &Request, conf: &NetConf) -> Result<String, CniError> {
    let given = configuration(conf)?;
    refuse_own_netns(request)?;
    let text = go_json::compact(&given);
    saved::save(&conf.data_dir, &request.container, &text)
        .map_err(|error| cannot_save(conf, &error))?;
    let said = exec::run(delegate::name(&given), &request.path, "ADD", &text)
        .map_err(|error| within("failed to delegate add", error))?;
    result::again(&said, conf.version())
}

fn cannot_save(conf: &NetConf, error: &std::io::Error) -> CniError {
    CniError::internal(format!("{}: {error}", conf.data_dir.display()))
}

/// Errors of our own say where they come from; a delegate's are handed on as they are.
fn within(what: &str, error: CniError) -> CniError {
    if error.code() == Code::Internal as u64 && error.is_ours() {
        return CniError::internal(format!("{what}: {error}"));
    }
    error
}

/// What is not there any more is not an error: DEL may come twice, and after an ADD that never was.
fn del(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    refuse_own_netns(request)?;
    let found = saved::load(&conf.data_dir, &request.container)
        .map_err(|error| cannot_save(conf, &error))?;
    let Some(bytes) = found else {
        return Ok(());
    };
    let given = match serde_json::from_slice::<Value>(&bytes) {
        Ok(given) if given.is_object() => {
            let text = String::from_utf8_lossy(&bytes);
            return undo(request, conf, &given, &text);
        }
        // Half of a file: flannel's plugin writes in place. What a new pod would be given frees the address, too.
        _ => match configuration(conf) {
            Ok(given) => given,
            Err(error) => {
                eprintln!(
                    "failed to parse netconf saved for {}, and cannot make it anew: {error}",
                    request.container
                );
                return Ok(());
            }
        },
    };
    undo(request, conf, &given, &go_json::compact(&given))
}

/// The file stays until the delegate is done: the runtime tries again.
fn undo(request: &Request, conf: &NetConf, given: &Value, text: &str) -> Result<(), CniError> {
    exec::run(delegate::name(given), &request.path, "DEL", text)?;
    saved::forget(&conf.data_dir, &request.container);
    Ok(())
}

/// The delegate looks after what it made.
fn check(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let found = saved::load(&conf.data_dir, &request.container)
        .map_err(|error| cannot_save(conf, &error))?;
    let Some(bytes) = found else {
        let msg = format!(
            "{} has no file in {}: it was not added by this plugin",
            request.container,
            conf.data_dir.display()
        );
        return Err(CniError::new(Code::UnknownContainer, msg));
    };
    let mut given: Value = serde_json::from_slice(&bytes).map_err(|error| {
        let file = conf.data_dir.join(&request.container);
        let msg = format!("{}: {error}: delete the pod to mend it", file.display());
        CniError::new(Code::Decoding, msg)
    })?;
    if let Some(given) = given.as_object_mut() {
        // The versions of both have to be the one of this call, since the result is.
        given.insert("cniVersion".to_owned(), json!(conf.cni_version));
        if let Some(result) = &conf.prev_result {
            given.insert("prevResult".to_owned(), with_gateways(result.clone()));
        }
    }
    let text = go_json::compact(&given);
    exec::run(delegate::name(&given), &request.path, "CHECK", &text).map(drop)
}

/// Ready means that a pod can be added: there is a lease, and a delegate that is ready itself.
fn status(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let given = configuration(conf)
        .map_err(|error| CniError::new(Code::NotAvailable, error.to_string()))?;
    delegate_speaks(request, conf, &given)
        .map_err(|error| CniError::new(Code::NotAvailable, error.to_string()))?;
    let text = go_json::compact(&given);
    match exec::run(delegate::name(&given), &request.path, "STATUS", &text) {
        Err(error) if error.is_unknown_command() => Ok(()),
        Err(error) if error.is_ours() => Err(CniError::new(Code::NotAvailable, error.to_string())),
        outcome => outcome.map(drop),
    }
}

fn collect(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let (alive, list) = gc::alive(conf)?;
    let mut given = configuration(conf)?;
    if let Some(given) = given.as_object_mut() {
        given.insert(gc::ATTACHMENTS.to_owned(), list);
    }
    delegate_speaks(request, conf, &given)?;
    let text = go_json::compact(&given);
    match exec::run(delegate::name(&given), &request.path, "GC", &text) {
        // It keeps the addresses of the dead, and their files are what frees them at a late DEL.
        Err(error) if error.is_unknown_command() => Ok(()),
        outcome => outcome.and_then(|_| gc::forget_others(conf, &alive)),
    }
}

/// An older delegate answers a command it does not know with whatever it misses first, so its version is asked for.
///
/// # Errors
/// If it does not speak the configuration's version: it cannot add a pod either.
fn delegate_speaks(request: &Request, conf: &NetConf, given: &Value) -> Result<(), CniError> {
    let name = delegate::name(given);
    let asked = json!({ "cniVersion": conf.version() }).to_string();
    let said = exec::run(name, &request.path, "VERSION", &asked)?;
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    let speaks = said.get("supportedVersions").and_then(Value::as_array);
    if speaks.is_some_and(|all| all.iter().any(|version| version == conf.version())) {
        return Ok(());
    }
    Err(CniError::detailed(
        Code::IncompatibleVersion,
        format!(
            "the plugin {name} does not speak CNI {}: install a newer one, or lower cniVersion in the network's configuration",
            conf.version()
        ),
        said.to_string(),
    ))
}

/// A pod in the node's own namespace would have the delegate work on the node's own devices. Asked before anything is
/// done; flannel's plugin asks when all is done.
///
/// # Errors
/// If the container's namespace is ours. One that is gone is nobody's.
fn refuse_own_netns(request: &Request) -> Result<(), CniError> {
    let id = |path: &str| {
        let data = fs::metadata(path).ok()?;
        Some((data.dev(), data.ino()))
    };
    let theirs = id(&request.netns);
    if request.own_netns_too || theirs.is_none() || theirs != id("/proc/self/ns/net") {
        return Ok(());
    }
    Err(CniError::new(
        Code::InvalidNetns,
        "plugin's netns and netns from CNI_NETNS should not be the same",
    ))
}
