//! The conformance guest as a wasi:http service, with a fresh instance a request.
#![cfg(target_os = "wasi")]

mod grpc;
mod http;
mod lie;
mod memory;
mod routes;
mod wasi_http;
