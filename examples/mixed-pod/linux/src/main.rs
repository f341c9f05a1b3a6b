//! The Linux half of the mixed Pod: a static binary that is the only file of its image.
//!
//! It answers HTTP on 0.0.0.0:9090. There is no shell in the image, so the binary brings the two
//! commands worth an exec: `env` prints its environment, `cat FILE...` prints files.

mod http;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::{env, fs, process, thread};

use http::{Answer, Request};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const LISTEN: &str = "0.0.0.0:9090";
const WASM: &str = "127.0.0.1:8080";
const FROM_WASM: &str = "/shared/from-wasm";
const FROM_LINUX: &str = "/shared/from-linux";

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let done = match args.next().as_deref() {
        None | Some("serve") => serve(),
        Some("env") => print_env(),
        Some("cat") => args.try_for_each(|file| print_file(&file)),
        Some(other) => {
            eprintln!("mixed-linux: unknown command {other:?}: use serve, env or cat FILE...");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("mixed-linux: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM. As PID 1 of its container it would ignore the signal without a handler,
/// and be killed only when the grace period is over.
fn serve() -> Result<(), String> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|e| format!("handle signals: {e}"))?;
    let listener = TcpListener::bind(LISTEN).map_err(|e| format!("listen on {LISTEN}: {e}"))?;
    println!("{}, listening on {LISTEN}", greeting());
    thread::spawn(move || http::serve(&listener, answer));
    signals.forever().next();
    println!("told to stop");
    Ok(())
}

fn answer(request: &Request) -> Answer {
    match request.path.as_str() {
        "/" => result(exchange()),
        "/call-wasm" => result(call_wasm()),
        "/healthz" => Answer {
            status: 200,
            text: "ok\n".into(),
        },
        path => Answer {
            status: 404,
            text: format!("{path} is not here, try /\n"),
        },
    }
}

fn result(text: Result<String, String>) -> Answer {
    match text {
        Ok(text) => Answer { status: 200, text },
        Err(reason) => Answer {
            status: 502,
            text: format!("failed: {reason}\n"),
        },
    }
}

/// Reads what Wasm wrote and writes something for Wasm to read; the answer says both.
fn exchange() -> Result<String, String> {
    let read = match fs::read_to_string(FROM_WASM) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => "nothing yet".into(),
        Err(e) => return Err(format!("read {FROM_WASM}: {e}")),
    };
    let mine = format!("{:016x}", random());
    write_whole(FROM_LINUX, &mine).map_err(|e| format!("write {FROM_LINUX}: {e}"))?;
    Ok(format!(
        "{}\nread from-wasm: {read}\nwrote from-linux: {mine}\n",
        greeting()
    ))
}

fn call_wasm() -> Result<String, String> {
    let wasm: SocketAddr = WASM.parse().map_err(|e| format!("parse {WASM}: {e}"))?;
    let answer = http::get(wasm, "/hello").map_err(|e| format!("call http://{WASM}/hello: {e}"))?;
    if answer.status != 200 {
        return Err(format!(
            "call http://{WASM}/hello: status {}: {}",
            answer.status, answer.text
        ));
    }
    Ok(format!(
        "linux:  {}\nwasm:   {}\ncall-wasm: ok\n",
        greeting(),
        answer.text.trim_end()
    ))
}

fn greeting() -> String {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "GREETING is not set".into());
    format!(
        "{greeting}, from Linux ({}, pid {})",
        env::consts::ARCH,
        process::id()
    )
}

/// Through a rename, so that no reader sees half a value.
fn write_whole(path: &str, value: &str) -> io::Result<()> {
    let unfinished = format!("{path}.{value}");
    fs::write(&unfinished, value)?;
    fs::rename(&unfinished, path)
}

/// The standard library's only source of randomness: the keys of a new hasher.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn print_env() -> Result<(), String> {
    let mut out = io::stdout().lock();
    env::vars_os()
        .try_for_each(|(k, v)| writeln!(out, "{}={}", k.display(), v.display()))
        .map_err(|e| format!("print the environment: {e}"))
}

fn print_file(file: &str) -> Result<(), String> {
    let failed = |e| format!("print {file}: {e}");
    let mut out = io::stdout().lock();
    io::copy(&mut fs::File::open(file).map_err(failed)?, &mut out).map_err(failed)?;
    Ok(())
}
