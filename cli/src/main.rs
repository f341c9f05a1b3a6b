//! The `wasmkind` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    wasmkind::commands::main()
}
