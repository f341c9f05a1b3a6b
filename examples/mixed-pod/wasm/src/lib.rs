//! The Wasm half of the mixed Pod: a wasi:http service with a fresh instance a request.
//!
//! `GET /` shows that it shares with the Linux container beside it what containers of a Pod
//! share: localhost and a volume. `GET /hello` answers alone, for probes and for `/call-wasm`
//! of the Linux container.

mod http;

use std::fmt::Write as _;
use std::time::Duration;
use std::{env, fs, io, thread};

use http::Answer;

const LINUX: &str = "127.0.0.1:9090";
const FROM_WASM: &str = "/shared/from-wasm";
const FROM_LINUX: &str = "/shared/from-linux";

/// Requests at the same time overwrite each other's files, so a value that is not the expected
/// one is tried again before it counts as a failure.
const ATTEMPTS: u32 = 20;

fn answer(path: &str) -> Answer {
    let (status, text) = match path {
        "/" => match home() {
            Ok(text) => (200, text),
            Err(reason) => {
                eprintln!("mixed-pod: {reason}");
                (502, format!("mixed-pod: failed: {reason}\n"))
            }
        },
        "/hello" | "/healthz" => (200, format!("{}\n", greeting())),
        path => (404, format!("{path} is not here, try /\n")),
    };
    println!("GET {path} {status}");
    Answer { status, text }
}

fn home() -> Result<String, String> {
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            // Random, so that two instances do not go on in step.
            let wait = random() % (10 << attempt.min(5));
            thread::sleep(Duration::from_millis(wait));
        }
        match exchange()? {
            Ok(text) => return Ok(text),
            Err(mismatch) => last = mismatch,
        }
    }
    Err(last)
}

/// One exchange in both directions. The outer error is final, the inner one a value that another
/// request may have overwritten.
fn exchange() -> Result<Result<String, String>, String> {
    let mine = format!("{:016x}", random());
    write_whole(FROM_WASM, &mine).map_err(|e| format!("write {FROM_WASM}: {e}"))?;

    let answer = ask_linux()?;
    let read_by_linux = line(&answer, "read from-wasm")?;
    let written_by_linux = line(&answer, "wrote from-linux")?;
    let read_by_wasm =
        fs::read_to_string(FROM_LINUX).map_err(|e| format!("read {FROM_LINUX}: {e}"))?;

    if read_by_linux != mine {
        return Ok(Err(format!(
            "wrote {mine} to {FROM_WASM}, linux read {read_by_linux}"
        )));
    }
    if read_by_wasm != written_by_linux {
        return Ok(Err(format!(
            "linux wrote {written_by_linux} to {FROM_LINUX}, wasm read {read_by_wasm}"
        )));
    }

    let mut text = String::new();
    let _ = writeln!(text, "wasm:   {}", greeting());
    let _ = writeln!(
        text,
        "wasm:   wrote {mine} to {FROM_WASM}, then called http://{LINUX}/"
    );
    for line in answer.lines() {
        let _ = writeln!(text, "linux:  {line}");
    }
    let _ = writeln!(text, "wasm:   read {read_by_wasm} from {FROM_LINUX}");
    let _ = writeln!(text, "mixed-pod: ok");
    Ok(Ok(text))
}

fn ask_linux() -> Result<String, String> {
    let answer = http::get(LINUX, "/").map_err(|e| format!("call {LINUX}: {e}"))?;
    if answer.status != 200 {
        return Err(format!(
            "call {LINUX}: status {}: {}",
            answer.status, answer.text
        ));
    }
    Ok(answer.text)
}

fn greeting() -> String {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "GREETING is not set".into());
    format!("{greeting}, from Wasm ({})", env::consts::ARCH)
}

/// The value of a `name: value` line.
fn line<'a>(answer: &'a str, name: &str) -> Result<&'a str, String> {
    answer
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        .ok_or_else(|| format!("{LINUX} answered without \"{name}\": {answer}"))
}

/// Through a rename, so that no reader sees half a value.
fn write_whole(path: &str, value: &str) -> io::Result<()> {
    let unfinished = format!("{path}.{value}");
    fs::write(&unfinished, value)?;
    fs::rename(&unfinished, path)
}

fn random() -> u64 {
    wasip2::random::insecure::get_insecure_random_u64()
}
