use std::process::ExitCode;

fn main() -> ExitCode {
    flannel_agent::cli::main()
}
