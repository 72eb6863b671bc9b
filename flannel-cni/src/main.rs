//! The CNI plugin `flannel`, which container runtimes start once per pod: it puts what the agent wrote into `subnet.env`
//! into a configuration of another plugin (`bridge`, unless told otherwise) and has that do the work.
//!
//! To the byte what flannel's own plugin does (v1.9): the delegate's configuration, saved files, results, errors; so a node
//! changes from one to the other with its pods running. Beyond it CNI 1.1 in full: CHECK, STATUS and GC.

#![forbid(unsafe_code)]

mod conf;
mod delegate;
mod error;
mod exec;
mod gc;
mod go_json;
mod plugin;
mod prev_result;
mod request;
mod result;
mod saved;
mod subnet_env;
mod version;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use crate::request::Request;

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CNI_COMMAND").is_empty() {
        eprintln!("{}", version::about());
        return ExitCode::SUCCESS;
    }
    let stdin = || {
        let mut config = Vec::new();
        io::stdin().lock().read_to_end(&mut config).map(|_| config)
    };
    let said = Request::read(variable, stdin).and_then(|request| plugin::answer(&request));
    let (text, code) = match said {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::FAILURE),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        // Nobody can be told any more.
        Err(_) => ExitCode::FAILURE,
    }
}
