//! Exits with the code that is its argument.

mod lie;

fn main() {
    let code = std::env::args()
        .nth(1)
        .and_then(|code| code.parse::<u8>().ok());
    let Some(code) = code else {
        eprintln!("exit: the argument must be a code from 0 to 255");
        exit(2)
    };
    exit(if lie::about("end") { code ^ 1 } else { code })
}

/// std's own makes 1 of every code but 0 on WASI 0.2.
#[cfg(target_os = "wasi")]
fn exit(code: u8) -> ! {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("the host ends the guest")
}

#[cfg(not(target_os = "wasi"))]
fn exit(code: u8) -> ! {
    std::process::exit(code.into())
}
