//! What the conformance guest answers as a service, in both builds.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::{lie, memory};

pub struct Request<'a> {
    /// `/path?name=value&name=value`
    pub target: String,
    pub body: &'a mut dyn Read,
}

/// Where the answer goes: its head once, then its body.
pub trait Response: Write {
    fn begin(&mut self, status: u16) -> io::Result<()>;
}

/// Requests that go out: the builds differ in how.
pub struct Calls {
    /// Gets a URL of http or https.
    pub get: fn(&str) -> io::Result<crate::http::Answer>,
    /// Asks for the health of what serves at an address, over gRPC without TLS. The answer as it
    /// came, once the trailers have come too.
    pub check: fn(&str) -> io::Result<Vec<u8>>,
}

pub fn answer(request: Request, response: &mut dyn Response, calls: &Calls) -> io::Result<()> {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let value = |name: &str| parameter(query, name);
    let number = |name: &str| value(name).parse::<u64>().unwrap_or(0);
    println!("{path}");
    if lie::about("answer") {
        response.begin(418)?;
        return response.flush();
    }
    let result: Result<String, (u16, String)> = match path {
        "/" => Ok("conformance\n".into()),
        "/env" => env::var(value("name")).map_err(|_| (404, "not set\n".into())),
        "/file" => fs::read_to_string(value("path")).map_err(failed),
        "/write" => fs::write(value("path"), value("text"))
            .map(|()| "written\n".into())
            .map_err(failed),
        // Healthy while the file is there, or when none is named.
        "/healthz" => match value("file") {
            file if file.is_empty() || Path::new(&file).exists() => Ok("ok\n".into()),
            file => Err((503, format!("{file} is not there\n"))),
        },
        // Healthy until the file is there.
        "/healthy-until" => match value("file") {
            file if Path::new(&file).exists() => Err((503, format!("{file} is there\n"))),
            _ => Ok("ok\n".into()),
        },
        "/memory" => memory::take(number("mib") as usize)
            .map(|kept| format!("took {} MiB\n", kept.len()))
            .map_err(failed),
        "/spin" => {
            let end = Instant::now() + Duration::from_millis(number("ms"));
            while Instant::now() < end {}
            Ok("spun\n".into())
        }
        "/sleep" => {
            thread::sleep(Duration::from_millis(number("ms")));
            Ok("slept\n".into())
        }
        "/abort" => panic!("asked to abort"),
        "/fetch" => match (calls.get)(&value("url")) {
            Ok(answer) => Ok(format!("{} {}", answer.status, answer.text)),
            Err(error) => Err((502, format!("{error}\n"))),
        },
        "/grpc-check" => match (calls.check)(&value("address")) {
            Ok(answer) if answer == crate::grpc::check(crate::grpc::ANY) => Ok("serving\n".into()),
            Ok(answer) => Err((502, format!("{answer:?}\n"))),
            Err(error) => Err((502, format!("{error}\n"))),
        },
        "/large" => {
            response.begin(200)?;
            let piece = [b'x'; 16 << 10];
            let mut left = number("bytes") as usize;
            while left > 0 {
                let length = left.min(piece.len());
                response.write_all(&piece[..length])?;
                left -= length;
            }
            return response.flush();
        }
        // Sends back what comes, as it comes.
        "/echo" => {
            response.begin(200)?;
            let mut buffer = [0; 16 << 10];
            loop {
                let length = request.body.read(&mut buffer)?;
                if length == 0 {
                    return response.flush();
                }
                response.write_all(&buffer[..length])?;
                response.flush()?;
            }
        }
        "/count" => io::copy(request.body, &mut io::sink())
            .map(|length| format!("{length}\n"))
            .map_err(failed),
        // A line every so often.
        "/ticks" => {
            response.begin(200)?;
            for number in 1..=number("count") {
                writeln!(response, "tick {number}")?;
                response.flush()?;
                thread::sleep(Duration::from_millis(100));
            }
            return response.flush();
        }
        _ => Err((404, format!("{path} is not here\n"))),
    };
    let (status, text) = match result {
        Ok(text) => (200, text),
        Err((status, text)) => (status, text),
    };
    response.begin(status)?;
    response.write_all(text.as_bytes())?;
    response.flush()
}

fn failed(error: io::Error) -> (u16, String) {
    (500, format!("{error}\n"))
}

/// A value of the query, with %XX decoded; empty when it is not there.
fn parameter(query: &str, name: &str) -> String {
    let value = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(found, _)| *found == name)
        .map_or("", |(_, value)| value);
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%'
            && let Some(code) = tail.get(..2)
            && let Ok(code) = std::str::from_utf8(code)
            && let Ok(byte) = u8::from_str_radix(code, 16)
        {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
