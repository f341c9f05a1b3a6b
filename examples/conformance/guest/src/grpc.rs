//! gRPC's health checking protocol, of which Kubernetes' probes use one call:
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::path::Path;

use crate::lie;

pub const CONTENT_TYPE: &str = "application/grpc";
/// Trailer of a call that was answered.
pub const OK: (&str, &str) = ("grpc-status", "0");

pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// A `HealthCheckRequest` for the server as a whole.
pub const ANY: &[u8] = &[0, 0, 0, 0, 0];

/// Answers a `HealthCheckRequest` with a `HealthCheckResponse`, each after gRPC's prefix: whether it
/// is compressed, in a byte, and its length in four. A service is the path of a file, which serves
/// while it is there.
pub fn check(request: &[u8]) -> Vec<u8> {
    const PREFIX: usize = 5;
    // Field 1 is the service's name, shorter than 128 bytes; no field is the empty name.
    let service = match request.get(PREFIX..) {
        Some([0x0a, length, name @ ..]) => name.get(..usize::from(*length)).unwrap_or_default(),
        _ => b"",
    };
    let service = String::from_utf8_lossy(service);
    let serving = service.is_empty() || Path::new(&*service).exists();
    let status = if serving != lie::about("answer") {
        1
    } else {
        2
    };
    vec![0, 0, 0, 0, 2, 0x08, status]
}
