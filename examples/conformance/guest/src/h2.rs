//! As much of HTTP/2 as a gRPC probe needs of a server, over a connection that began with its
//! preface, and of a client: RFC 9113. Every call is taken for a health check, as requests' headers
//! stay compressed.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::grpc;

/// First line of the preface; the rest follows.
pub const PREFACE: &str = "PRI * HTTP/2.0";
const TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_REST: usize = "\r\nSM\r\n\r\n".len();

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// END_STREAM of data and headers, ACK of settings and pings.
const END_OR_ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Calls the health check of a server, and returns what came before the trailers.
pub fn check(address: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{PREFACE}\r\n\r\nSM\r\n\r\n").as_bytes())?;
    send(&mut stream, SETTINGS, 0, 0, &[])?;
    // POST and http are entries 3 and 6 of HPACK's table; :path and :authority are names 4 and 1.
    let mut head = vec![0x83, 0x86];
    for (name, value) in [(4, grpc::HEALTH_CHECK), (1, address)] {
        head.extend([name, value.len() as u8]);
        head.extend_from_slice(value.as_bytes());
    }
    head.extend(header("content-type", grpc::CONTENT_TYPE));
    head.extend(header("te", "trailers"));
    send(&mut stream, HEADERS, END_HEADERS, 1, &head)?;
    send(&mut stream, DATA, END_OR_ACK, 1, grpc::ANY)?;
    let mut answer = Vec::new();
    loop {
        let (kind, flags, _, payload) = receive(&mut stream)?;
        match kind {
            SETTINGS if flags & END_OR_ACK == 0 => {
                send(&mut stream, SETTINGS, END_OR_ACK, 0, &[])?;
            }
            DATA => answer.extend(payload),
            // Trailers, or there is no answer; they are compressed.
            HEADERS if flags & END_OR_ACK != 0 => return Ok(answer),
            RST_STREAM | GOAWAY => return Err(io::Error::other("the call was refused")),
            _ => {}
        }
    }
}

/// Serves until the client goes away.
pub fn serve(mut reader: impl Read, mut writer: impl Write) -> io::Result<()> {
    reader.read_exact(&mut [0; PREFACE_REST])?;
    send(&mut writer, SETTINGS, 0, 0, &[])?;
    let mut requests: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let Ok((kind, flags, stream, payload)) = receive(&mut reader) else {
            return Ok(());
        };
        match kind {
            SETTINGS | PING if flags & END_OR_ACK == 0 => {
                let answer = if kind == PING { &payload[..] } else { &[] };
                send(&mut writer, kind, END_OR_ACK, 0, answer)?;
            }
            DATA => requests.entry(stream).or_default().extend(payload),
            GOAWAY => return Ok(()),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_OR_ACK != 0 {
            let answer = grpc::check(&requests.remove(&stream).unwrap_or_default());
            // `:status: 200` is entry 8 of HPACK's table.
            let head = [&[0x88], &header("content-type", grpc::CONTENT_TYPE)[..]].concat();
            send(&mut writer, HEADERS, END_HEADERS, stream, &head)?;
            send(&mut writer, DATA, 0, stream, &answer)?;
            let trailers = header(grpc::OK.0, grpc::OK.1);
            send(
                &mut writer,
                HEADERS,
                END_HEADERS | END_OR_ACK,
                stream,
                &trailers,
            )?;
        }
    }
}

/// A frame's type, flags, stream and payload.
fn receive(reader: &mut impl Read) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head)?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    reader.read_exact(&mut payload)?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

fn send(
    writer: &mut impl Write,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    // In one piece, as the client may go away after any.
    writer.write_all(&[&head, payload].concat())
}

/// A header in HPACK, neither indexed nor compressed: RFC 7541, section 6.2.2. Its name and value are
/// shorter than 127 bytes.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
