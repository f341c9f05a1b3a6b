//! The conformance guest as a command. What it does is its arguments' affair: `COMMAND ARGUMENT...`,
//! each a small act whose result a case compares. Results go to stdout, reasons to stderr; the exit
//! code is 0 or 1, or 2 for a command that is not understood.
//!
//! The same source is built as a WASI 0.2 command and as a static Linux binary, so that a
//! difference in what a case sees is one between runtimes.

mod commands;
#[cfg(not(target_os = "wasi"))]
mod grpc;
#[cfg(not(target_os = "wasi"))]
mod h2;
mod http;
mod lie;
mod memory;
#[cfg(not(target_os = "wasi"))]
mod routes;
#[cfg(not(target_os = "wasi"))]
mod serve;
#[cfg(not(target_os = "wasi"))]
mod system;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(not(target_os = "wasi"))]
    system::end_on_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments = lie::words(arguments);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match lie::result(commands::run(&words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(commands::Failure::Unknown) => {
            eprintln!("unknown command: {}", arguments.join(" "));
            ExitCode::from(2)
        }
        Err(commands::Failure::Io(error)) => {
            eprintln!("{}: {error}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}
