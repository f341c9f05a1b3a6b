//! wasi:http, as plain functions: one request comes in, others go out.

use std::fmt::Debug;
use std::io::{self, Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream};

use crate::grpc;
use crate::http::Answer;
use crate::routes::{self, Calls, Request, Response};

struct Service;

wasip2::http::proxy::export!(Service);

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        if let Err(error) = handle(&request, target.clone(), out) {
            // Nobody is left to answer to.
            eprintln!("answer {target}: {error}");
        }
    }
}

fn handle(request: &IncomingRequest, target: String, out: ResponseOutparam) -> io::Result<()> {
    let mut body = Incoming::open(
        request
            .consume()
            .map_err(|()| failed("open", "the request"))?,
    )?;
    let mut outgoing = Outgoing::NotBegun(Some(out));
    if target == grpc::HEALTH_CHECK {
        let mut question = Vec::new();
        body.read_to_end(&mut question)?;
        outgoing.begin_with(200, &[("content-type", grpc::CONTENT_TYPE)])?;
        outgoing.write_all(&grpc::check(&question))?;
        return outgoing.end(Some(fields(&[grpc::OK])?));
    }
    let request = Request {
        target,
        body: &mut body,
    };
    routes::answer(request, &mut outgoing, &Calls { get, check })?;
    outgoing.end(None)
}

/// A body and its stream, which must be dropped first.
struct Incoming {
    stream: InputStream,
    _body: IncomingBody,
}

impl Incoming {
    fn open(body: IncomingBody) -> io::Result<Self> {
        let stream = body.stream().map_err(|()| failed("open", "the stream"))?;
        Ok(Self {
            stream,
            _body: body,
        })
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut self.stream, buffer)
    }
}

enum Outgoing {
    NotBegun(Option<ResponseOutparam>),
    Begun {
        stream: OutputStream,
        body: OutgoingBody,
    },
}

impl Outgoing {
    fn stream(&mut self) -> io::Result<&mut OutputStream> {
        match self {
            Self::Begun { stream, .. } => Ok(stream),
            Self::NotBegun(_) => Err(failed("write", "before the head")),
        }
    }

    fn begin_with(&mut self, status: u16, headers: &[(&str, &str)]) -> io::Result<()> {
        let Self::NotBegun(out) = self else {
            return Err(failed("begin", "a second time"));
        };
        let out = out.take().ok_or_else(|| failed("begin", "a second time"))?;
        let response = OutgoingResponse::new(fields(headers)?);
        response
            .set_status_code(status)
            .map_err(|()| failed("set the status", status))?;
        let body = response.body().map_err(|()| failed("open", "the body"))?;
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().map_err(|()| failed("open", "the stream"))?;
        *self = Self::Begun { stream, body };
        Ok(())
    }

    fn end(self, trailers: Option<Fields>) -> io::Result<()> {
        if let Self::Begun { stream, body } = self {
            drop(stream);
            OutgoingBody::finish(body, trailers)
                .map_err(|error| failed("finish the body", error))?;
        }
        Ok(())
    }
}

impl Response for Outgoing {
    fn begin(&mut self, status: u16) -> io::Result<()> {
        self.begin_with(status, &[])
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self.stream()?, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

/// Gets `http://AUTHORITY/PATH`, or the same of https.
fn get(url: &str) -> io::Result<Answer> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err(failed("not an http URL", url)),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| failed("ask for", url))?;
    let response = send(request)?;
    let mut text = String::new();
    let body = response
        .consume()
        .map_err(|()| failed("open", "the body"))?;
    Incoming::open(body)?.read_to_string(&mut text)?;
    Ok(Answer {
        status: response.status(),
        text,
    })
}

/// Calls the health check of a server over gRPC, and wants its trailers too.
fn check(address: &str) -> io::Result<Vec<u8>> {
    let request = OutgoingRequest::new(fields(&[
        ("content-type", grpc::CONTENT_TYPE),
        ("te", "trailers"),
    ])?);
    request
        .set_method(&Method::Post)
        .and_then(|()| request.set_scheme(Some(&Scheme::Http)))
        .and_then(|()| request.set_authority(Some(address)))
        .and_then(|()| request.set_path_with_query(Some(grpc::HEALTH_CHECK)))
        .map_err(|()| failed("call", address))?;
    let body = request.body().map_err(|()| failed("open", "the body"))?;
    let mut stream = body.write().map_err(|()| failed("open", "the stream"))?;
    let future = outgoing_handler::handle(request, None).map_err(io::Error::other)?;
    Write::write_all(&mut stream, grpc::ANY)?;
    Write::flush(&mut stream)?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|error| failed("finish the body", error))?;
    let response = take(&future)?;
    let body = response
        .consume()
        .map_err(|()| failed("open", "the body"))?;
    let mut answer = Vec::new();
    let mut incoming = Incoming::open(body)?;
    incoming.read_to_end(&mut answer)?;
    let Incoming {
        stream,
        _body: body,
    } = incoming;
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    let trailers = match trailers.get() {
        Some(Ok(Ok(Some(trailers)))) => trailers,
        other => return Err(failed("no trailers came", other.is_some())),
    };
    let (name, ok) = grpc::OK;
    match &trailers.get(name)[..] {
        [status] if status == ok.as_bytes() => Ok(answer),
        other => Err(failed("the call ended with", other)),
    }
}

fn send(request: OutgoingRequest) -> io::Result<IncomingResponse> {
    take(&outgoing_handler::handle(request, None).map_err(io::Error::other)?)
}

fn take(future: &FutureIncomingResponse) -> io::Result<IncomingResponse> {
    future.subscribe().block();
    match future.get() {
        Some(Ok(response)) => response.map_err(io::Error::other),
        _ => Err(failed("take", "the response")),
    }
}

fn fields(named: &[(&str, &str)]) -> io::Result<Fields> {
    let named: Vec<_> = named
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&named).map_err(|error| failed("set headers", error))
}

fn failed(what: &str, cause: impl Debug) -> io::Error {
    io::Error::other(format!("{what}: {cause:?}"))
}
