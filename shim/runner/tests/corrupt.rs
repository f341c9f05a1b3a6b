//! Guests in which bytes were changed: each is refused in one line, or runs as what it has become,
//! and neither the compiler nor the runner suffers.
//!
//! WASMKIND_CORRUPTIONS says how many, WASMKIND_SEED which.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::{Container, Guest, number};
use wasmkind_engine::protocol::{READY, START, STARTED};

/// Enough to go through each kind of damage with each guest, in a few seconds.
const CORRUPTIONS: usize = 200;

/// Loops that have become endless are ended after this long.
const LONG: Duration = Duration::from_millis(300);

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

fn corrupt(bytes: &mut Vec<u8>, random: &mut Random) {
    match random.below(8) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let at = random.below(bytes.len());
            let end = bytes.len().min(at + 1 + random.below(16));
            bytes.drain(at..end);
        }
        2 => {
            let at = random.below(bytes.len());
            bytes.insert(at, random.byte());
        }
        3 => {
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            let end = bytes.len().min(from + 1 + random.below(32));
            let part = bytes[from..end].to_vec();
            bytes.splice(to..to, part);
        }
        // Most damage is seen at once; a single bit has the best chance to get far.
        _ => {
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
    }
}

fn run(mut container: Container, address: Option<SocketAddr>) -> String {
    let said = container.said();
    if said == READY {
        container.say(START);
        let said = container.said();
        if let Some(address) = address.filter(|_| said == STARTED) {
            // Whatever it answers, within a time of its own.
            let mut stream = TcpStream::connect(address).unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let started = Instant::now();
        while address.is_none() && started.elapsed() < LONG {
            if container.child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if container.child.try_wait().unwrap().is_none() {
            container.signal(libc::SIGTERM);
        }
    }
    // Fails where the runner was killed, as by a bad access of memory.
    container.end().stderr
}

#[test]
fn damage_is_refused_or_harmless() {
    let guests = [
        "command",
        "trap",
        "http",
        "streams",
        "command-p3",
        "http-p3",
    ];
    let originals = guests.map(|name| {
        let path = format!("{}/tests/guests/{name}.wat", env!("CARGO_MANIFEST_DIR"));
        wat::parse_file(path).unwrap()
    });
    let seed = u64::try_from(number("WASMKIND_SEED", 0x5eed)).unwrap();
    let mut random = Random(seed.max(1));
    let (mut refused, mut ran) = (0, 0);
    for count in 0..number("WASMKIND_CORRUPTIONS", CORRUPTIONS) {
        let which = count % originals.len();
        let mut bytes = originals[which].clone();
        corrupt(&mut bytes, &mut random);
        let what = format!("corruption {count} of {} with seed {seed}", guests[which]);
        let mut guest = match Guest::try_of(&bytes) {
            Ok(guest) => guest,
            Err(message) => {
                assert_eq!(message.lines().count(), 1, "{what}: {message}");
                assert!(message.contains("/app.wasm"), "{what}: {message}");
                refused += 1;
                continue;
            }
        };
        let address = guest.config.http.as_mut().map(|http| {
            http.timeout_ms = Some(300);
            http.grace_seconds = 1;
            http.listen
        });
        let stderr = run(guest.create(), address);
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        ran += 1;
    }
    assert!(refused > 0 && ran > 0, "{refused} refused, {ran} ran");
}
