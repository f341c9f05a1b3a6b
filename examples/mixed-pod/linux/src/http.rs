//! As much HTTP/1.1 as the sample needs: GET, one request a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD: u64 = 16 << 10;
const MAX_UNREAD: u64 = 1 << 20;

pub struct Request {
    /// Without the query.
    pub path: String,
}

pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// Answers each connection in a thread of its own, as a caller may be called back.
pub fn serve(listener: &TcpListener, answer: fn(&Request) -> Answer) {
    for stream in listener.incoming() {
        let served = stream.and_then(|stream| {
            thread::Builder::new().spawn(move || {
                if let Err(e) = serve_one(&stream, answer) {
                    eprintln!("serve a connection: {e}");
                }
            })
        });
        if let Err(e) = served {
            eprintln!("accept a connection: {e}");
            // Out of descriptors or threads: it passes when others are done.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn serve_one(stream: &TcpStream, answer: fn(&Request) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let Some(request) = read_request(stream)? else {
        return Ok(()); // a TCP probe
    };
    let answer = answer(&request);
    println!("GET {} {}", request.path, answer.status);
    let reason = match answer.status {
        200 => "OK",
        404 => "Not Found",
        502 => "Bad Gateway",
        _ => "",
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.text.len()
    );
    let mut stream = stream;
    stream.write_all((head + &answer.text).as_bytes())?;
    // Closed with something unread, a body for instance, the connection would be reset and the
    // answer lost.
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream.take(MAX_UNREAD), &mut io::sink())?;
    Ok(())
}

fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut head = BufReader::new(stream.take(MAX_HEAD));
    let mut first = String::new();
    if head.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    skip_headers(&mut head)?;
    match first.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["GET", target, _] => {
            let path = target.split('?').next().unwrap_or(target);
            Ok(Some(Request { path: path.into() }))
        }
        _ => Err(invalid(format!(
            "not a GET request: {:?}",
            first.trim_end()
        ))),
    }
}

/// Gets `http://PEER/PATH`.
pub fn get(peer: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&peer, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {peer}\r\n\r\n")?;
    let mut reader = BufReader::new(stream.take(1 << 20));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| invalid(format!("not an HTTP answer: {first:?}")))?;
    skip_headers(&mut reader)?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok(Answer { status, text })
}

fn skip_headers(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            return Ok(());
        }
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
