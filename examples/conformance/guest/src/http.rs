//! As much of an HTTP client as the guest needs: one GET, over a socket of std.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const MAX: u64 = 1 << 20;

pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// Gets `http://HOST[:PORT]/PATH`.
#[cfg_attr(target_os = "wasi", allow(dead_code))] // the service has wasi:http
pub fn get(url: &str) -> io::Result<Answer> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| invalid(format!("not an http URL: {url}")))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut stream = TcpStream::connect(&address)
        .map_err(|error| io::Error::new(error.kind(), format!("connect to {address}: {error}")))?;
    // HTTP/1.0: the answer ends with the connection.
    // In one piece: a server may answer, and close, after the first.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream.take(MAX));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid(format!("not an HTTP answer: {first:?}")))?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok(Answer { status, text })
}
