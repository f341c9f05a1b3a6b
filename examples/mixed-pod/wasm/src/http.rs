//! wasi:http, as plain functions: one request comes in, others go out.

use std::io::{self, Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

const TIMEOUT_NS: u64 = 5_000_000_000;

pub struct Answer {
    pub status: u16,
    pub text: String,
}

struct Service;

wasip2::http::proxy::export!(Service);

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let answer = match request.method() {
            Method::Get => crate::answer(path),
            _ => Answer {
                status: 405,
                text: "only GET is here\n".into(),
            },
        };
        if let Err(e) = send(out, &answer) {
            // Nobody is left to answer to.
            eprintln!("answer {path}: {e}");
        }
    }
}

fn send(out: ResponseOutparam, answer: &Answer) -> io::Result<()> {
    let headers = Fields::new();
    let length = answer.text.len().to_string();
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", &length),
    ] {
        headers
            .append(name, value.as_bytes())
            .map_err(|e| failed(name, e))?;
    }
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(answer.status)
        .map_err(|()| failed("set the status", answer.status))?;
    let body = response.body().map_err(|()| failed("open", "the body"))?;
    ResponseOutparam::set(out, Ok(response));
    {
        // The stream is a child of the body and must be dropped first.
        let mut stream = body.write().map_err(|()| failed("open", "the stream"))?;
        stream.write_all(answer.text.as_bytes())?;
        match stream.blocking_flush() {
            // With the last byte that content-length announced, a host may close the stream.
            Ok(()) | Err(StreamError::Closed) => {}
            Err(e) => return Err(failed("flush the stream", e)),
        }
    }
    OutgoingBody::finish(body, None).map_err(|e| failed("finish the body", e))
}

/// Gets `http://AUTHORITY/PATH`.
pub fn get(authority: &str, path: &str) -> io::Result<Answer> {
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&Scheme::Http))
        .map_err(|()| failed("set the scheme", "http"))?;
    request
        .set_authority(Some(authority))
        .map_err(|()| failed("set the authority", authority))?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| failed("set the path", path))?;

    let options = RequestOptions::new();
    // A host that supports no timeouts keeps its own.
    let _ = options.set_connect_timeout(Some(TIMEOUT_NS));
    let _ = options.set_first_byte_timeout(Some(TIMEOUT_NS));

    let future = outgoing_handler::handle(request, Some(options)).map_err(io::Error::other)?;
    future.subscribe().block();
    let response = match future.get() {
        Some(Ok(response)) => response.map_err(io::Error::other)?,
        _ => return Err(failed("take", "the response")),
    };
    Ok(Answer {
        status: response.status(),
        text: read_text(&response)?,
    })
}

fn read_text(response: &IncomingResponse) -> io::Result<String> {
    let body = response
        .consume()
        .map_err(|()| failed("open", "the body"))?;
    let mut stream = body.stream().map_err(|()| failed("open", "the stream"))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn failed(what: &str, cause: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{what}: {cause:?}"))
}
