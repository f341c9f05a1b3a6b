//! A wasi:http service: greets whom the path names.

use std::env;

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".into());
    let name = request.uri().path().trim_start_matches('/');
    Ok(Response::new(
        format!("{greeting} {name}, from Rust\n").into(),
    ))
}
