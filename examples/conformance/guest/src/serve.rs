//! The service on Linux: HTTP/1.1 with one request a connection, enough for Kubernetes' probes and
//! proxies, and HTTP/2 for gRPC probes. It listens where Wasm runtimes listen, and is told otherwise by the same variable.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;
use std::{env, thread};

use crate::h2;
use crate::routes::{self, Calls, Request, Response};

const LISTEN: &str = "0.0.0.0:8080";
const VARIABLE: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
const TIMEOUT: Duration = Duration::from_secs(30);

pub fn run() -> io::Result<()> {
    let listen = env::var(VARIABLE).unwrap_or_else(|_| LISTEN.into());
    let listener = TcpListener::bind(&listen)?;
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors: it passes when others are done.
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = thread::Builder::new().spawn(move || {
            if let Err(error) = connection(&stream) {
                eprintln!("serve a connection: {error}");
            }
        });
    }
}

fn connection(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(()); // a TCP probe
    }
    if first.trim_end() == h2::PREFACE {
        return h2::serve(reader, stream);
    }
    let target = first
        .split_ascii_whitespace()
        .nth(1)
        .unwrap_or("/")
        .to_owned();
    // A client of HTTP/1.0 takes an answer that ends with the connection.
    let in_chunks = !first.trim_end().ends_with("HTTP/1.0");
    let mut length = 0;
    let mut chunked = false;
    let mut expects = false;
    let mut hosts = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            Some(("expect", _)) => expects = true,
            Some(("host", value)) => hosts.push(value.trim().to_owned()),
            _ => {}
        }
    }
    if expects {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body: Box<dyn Read> = if chunked {
        Box::new(Chunks {
            reader,
            left: 0,
            ended: false,
        })
    } else {
        Box::new(reader.take(length))
    };
    let mut answer = Answer {
        stream,
        in_chunks,
        begun: false,
    };
    let request = Request {
        target,
        body: &mut *body,
    };
    let calls = Calls {
        get: crate::http::get,
        check: h2::check,
    };
    if hosts_are_valid(&hosts, in_chunks) {
        routes::answer(request, &mut answer, &calls)?;
    } else {
        answer.begin(400)?;
    }
    answer.end()?;
    // Closed with something unread, the connection would be reset and the answer lost.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let _ = io::copy(&mut stream.take(1 << 20), &mut io::sink());
    Ok(())
}

/// RFC 9112, section 3.2, as far as cases go: of HTTP/1.1 one Host, of HTTP/1.0 one at most.
fn hosts_are_valid(hosts: &[String], needed: bool) -> bool {
    match hosts {
        [] => !needed,
        [host] => !host.contains(|c: char| c.is_whitespace() || "@/?#".contains(c)),
        _ => false,
    }
}

struct Answer<'a> {
    stream: &'a TcpStream,
    in_chunks: bool,
    begun: bool,
}

impl Answer<'_> {
    fn end(&mut self) -> io::Result<()> {
        if self.begun && self.in_chunks {
            self.stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }
}

impl Response for Answer<'_> {
    fn begin(&mut self, status: u16) -> io::Result<()> {
        self.begun = true;
        let encoding = if self.in_chunks {
            "transfer-encoding: chunked\r\n"
        } else {
            ""
        };
        write!(
            self.stream,
            "HTTP/1.1 {status} \r\ncontent-type: text/plain\r\n{encoding}connection: close\r\n\r\n"
        )
    }
}

impl Write for Answer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.in_chunks {
            return self.stream.write(bytes);
        }
        if !bytes.is_empty() {
            let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.stream.write_all(&chunk)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A chunked body.
struct Chunks<R> {
    reader: R,
    left: usize,
    ended: bool,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = line.trim_end().split(';').next().unwrap_or_default();
            self.left = usize::from_str_radix(size, 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if self.left == 0 {
                self.ended = true;
                self.reader.read_line(&mut line)?;
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let length = self.reader.read(&mut buffer[..most])?;
        self.left -= length;
        if self.left == 0 {
            self.reader.read_line(&mut String::new())?;
        }
        Ok(length)
    }
}
