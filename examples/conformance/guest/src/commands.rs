//! What the command can do.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::{http, lie, memory};

/// Between two looks at something that another process is to do.
const LOOK: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(10);

pub enum Failure {
    Unknown,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub fn run(words: &[&str]) -> Result<(), Failure> {
    let mut out = lie::Output(io::stdout());
    match *words {
        // Environment and arguments
        ["env"] => {
            for (name, value) in env::vars_os() {
                writeln!(out, "{}={}", name.display(), value.display())?;
            }
        }
        ["env", ref names @ ..] => {
            for name in names {
                match env::var(name) {
                    Ok(value) => writeln!(out, "{name}={value}")?,
                    Err(_) => writeln!(out, "{name} is not set")?,
                }
            }
        }
        ["args", ref rest @ ..] => {
            for argument in rest {
                writeln!(out, "{argument:?}")?;
            }
        }
        ["cwd"] => writeln!(out, "{}", env::current_dir()?.display())?,

        // Files
        ["cat", ref files @ ..] => {
            for file in files {
                io::copy(&mut fs::File::open(file).map_err(named(file))?, &mut out)?;
            }
            out.flush()?;
        }
        ["write", file, text] => fs::write(file, text).map_err(named(file))?,
        ["append", file, text] => {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(file)
                .map_err(named(file))?;
            file.write_all(text.as_bytes())?;
        }
        ["fill", file, mib] => {
            let mut file = fs::File::create(file).map_err(named(file))?;
            for _ in 0..parse::<usize>(mib)? {
                file.write_all(&[b'x'; 1 << 20])?;
            }
        }
        ["list", dir] => {
            let entries: io::Result<Vec<_>> = fs::read_dir(dir)
                .map_err(named(dir))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect();
            let mut names = entries?;
            names.sort();
            for name in names {
                writeln!(out, "{name}")?;
            }
        }
        ["remove", file] => fs::remove_file(file).map_err(named(file))?,
        ["rename", from, to] => fs::rename(from, to).map_err(named(from))?,
        ["copy", from, to] => {
            fs::copy(from, to).map_err(named(from))?;
        }
        // What std does for Wasm only where it is unstable.
        #[cfg(unix)]
        ["link", target, link] => std::os::unix::fs::symlink(target, link).map_err(named(link))?,
        ["mkdir", dir] => fs::create_dir(dir).map_err(named(dir))?,
        ["size", file] => writeln!(out, "{}", fs::metadata(file).map_err(named(file))?.len())?,
        ["exists", file] => writeln!(out, "{}", Path::new(file).exists())?,
        // Waits for a file: order without sleeping.
        ["wait", file] => wait_for(|| Path::new(file).exists()),
        // Waits for a file with that text.
        ["wait", file, text] => {
            wait_for(|| fs::read_to_string(file).is_ok_and(|found| found.trim() == text));
        }

        // Standard streams
        ["say", ref texts @ ..] => writeln!(out, "{}", texts.join(" "))?,
        ["complain", ref texts @ ..] => writeln!(io::stderr(), "{}", texts.join(" "))?,
        ["echo"] => {
            // Unbuffered, for whoever types at the other end.
            let mut stdin = io::stdin().lock();
            let mut buffer = [0; 16 << 10];
            loop {
                match stdin.read(&mut buffer)? {
                    0 => break,
                    n => out.write_all(&buffer[..n])?,
                }
                out.flush()?;
            }
        }
        // Answers each line, so that a caller sees that it was read.
        ["answer"] => {
            for line in io::stdin().lines() {
                let line = line?;
                if line == "end" {
                    break;
                }
                writeln!(out, "read {line:?}")?;
            }
        }
        ["count-input"] => writeln!(
            out,
            "{}",
            io::copy(&mut io::stdin().lock(), &mut io::sink())?
        )?,
        ["lines", count] => {
            for number in 1..=parse::<u64>(count)? {
                writeln!(out, "line {number}")?;
            }
        }
        ["long", length] => writeln!(out, "{}", "x".repeat(parse(length)?))?,
        ["bytes"] => {
            let all: Vec<u8> = (0..=255).collect();
            out.write_all(&all)?;
            out.flush()?;
        }
        ["partial", text] => {
            write!(out, "{text}")?;
            out.flush()?;
        }
        ["streams"] => {
            writeln!(out, "to stdout")?;
            writeln!(io::stderr(), "to stderr")?;
        }
        ["tty"] => {
            let terminal = [
                io::stdin().is_terminal(),
                io::stdout().is_terminal(),
                io::stderr().is_terminal(),
            ];
            writeln!(out, "{terminal:?}")?;
        }

        // Ends
        ["true"] => {}
        ["false"] => return Err(io::Error::other("as asked").into()),
        // `unreachable` in Wasm, SIGABRT on Linux: 134 in both.
        ["abort"] => panic!("asked to abort"),
        ["sleep", seconds] => thread::sleep(Duration::from_secs_f64(parse(seconds)?)),
        // Runs until it is ended.
        ["stay"] => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        ["say-and-stay", ref texts @ ..] => {
            writeln!(out, "{}", texts.join(" "))?;
            run(&["stay"])?;
        }
        ["count"] => {
            for number in 1_u64.. {
                writeln!(out, "{number}")?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        // Fails the first time, when the file is not there yet.
        ["fail-once", file] => {
            let again = Path::new(file).exists();
            fs::write(file, "was here").map_err(named(file))?;
            writeln!(out, "{} time", if again { "second" } else { "first" })?;
            if !again {
                return Err(io::Error::other("as asked").into());
            }
        }
        ["stay-unless", file] => {
            wait_for(|| Path::new(file).exists());
            return Err(io::Error::other(format!("{file} is there")).into());
        }
        ["in-turn", ref acts @ ..] => {
            // `in-turn ACT... -- ACT...`
            for act in acts.split(|word| *word == "--") {
                run(act)?;
            }
        }

        // Resources
        ["memory", mib] => {
            let kept = memory::take(parse(mib)?)?;
            writeln!(out, "took {mib} MiB")?;
            drop(kept);
        }
        ["memory-and-stay", mib] => {
            let _kept = memory::take(parse(mib)?)?;
            writeln!(out, "took {mib} MiB")?;
            run(&["stay"])?;
        }
        ["spin", seconds] => {
            let end = Instant::now() + Duration::from_secs_f64(parse(seconds)?);
            let mut rounds = 0_u64;
            while Instant::now() < end {
                for number in 0..10_000_u64 {
                    std::hint::black_box(number);
                }
                rounds += 1;
            }
            writeln!(out, "{rounds} rounds")?;
        }

        // Network
        ["resolve", name] => {
            let mut addresses: Vec<String> = (name, 0)
                .to_socket_addrs()
                .map_err(named(name))?
                .map(|address| address.ip().to_string())
                .collect();
            addresses.sort();
            addresses.dedup();
            for address in addresses {
                writeln!(out, "{address}")?;
            }
        }
        ["get", url] => {
            let answer = http::get(url)?;
            writeln!(out, "{} {}", answer.status, answer.text.trim_end())?;
        }
        // Until the server is up.
        ["get-when-up", url] => {
            let end = Instant::now() + TIMEOUT;
            let answer = loop {
                match http::get(url) {
                    // Until a Service's rules are there, its address may lead to somebody else.
                    Ok(answer) if answer.status == 200 || Instant::now() > end => break answer,
                    Ok(_) => thread::sleep(LOOK),
                    Err(error) if Instant::now() > end => return Err(error.into()),
                    Err(_) => thread::sleep(LOOK),
                }
            };
            writeln!(out, "{} {}", answer.status, answer.text.trim_end())?;
        }
        // Sends a text, and prints what comes back until the connection ends.
        ["tcp", address, text] => {
            let mut stream = connect(address)?;
            stream.write_all(text.as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            io::copy(&mut stream, &mut out)?;
            writeln!(out)?;
        }
        // Sends a text, and goes without waiting for an answer.
        ["leave", address, text] => {
            let mut stream = connect(address)?;
            stream.write_all(text.as_bytes())?;
            thread::sleep(Duration::from_millis(300));
        }
        // Answers connections with who it is and what they sent.
        ["tcp-echo", address, name] => {
            let listener = TcpListener::bind(address).map_err(named(address))?;
            writeln!(out, "listening on {}", listener.local_addr()?)?;
            loop {
                let (mut stream, _) = listener.accept()?;
                let mut text = String::new();
                if stream.read_to_string(&mut text).is_ok() {
                    let _ = stream.write_all(format!("{name} read {text}").as_bytes());
                }
            }
        }
        ["udp", address, text] => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let end = Instant::now() + TIMEOUT;
            let answer = exchange(&socket, address, text, end)?;
            writeln!(out, "{answer}")?;
        }
        ["udp-echo", address, name] => {
            let socket = UdpSocket::bind(address).map_err(named(address))?;
            let mut buffer = [0; 2048];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer)?;
                let text = String::from_utf8_lossy(&buffer[..length]);
                socket.send_to(format!("{name} read {text}").as_bytes(), peer)?;
            }
        }
        ["listen", address] => {
            TcpListener::bind(address).map_err(named(address))?;
            writeln!(out, "listened")?;
        }
        // Opens that many connections at a time, and says how many were answered.
        ["connections", address, count] => {
            let streams: io::Result<Vec<_>> = (0..parse::<usize>(count)?)
                .map(|_| connect(address))
                .collect();
            let mut answered = 0;
            for (number, stream) in streams?.iter_mut().enumerate() {
                stream.write_all(format!("{number}").as_bytes())?;
                stream.shutdown(std::net::Shutdown::Write)?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                answered += usize::from(text.ends_with(&format!(" read {number}")));
            }
            writeln!(out, "{answered}")?;
        }

        #[cfg(not(target_os = "wasi"))]
        ["serve"] => crate::serve::run()?,
        #[cfg(not(target_os = "wasi"))]
        _ => return crate::system::run(words),
        #[cfg(target_os = "wasi")]
        _ => return Err(Failure::Unknown),
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let end = Instant::now() + TIMEOUT;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(named(address)(error)),
            // Its listener may still be starting.
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// Sends again until an answer comes: datagrams get lost, and the peer may still be starting.
fn exchange(socket: &UdpSocket, peer: &str, text: &str, end: Instant) -> io::Result<String> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        // Refused while nobody listens there.
        let _ = socket.send_to(text.as_bytes(), peer);
        for _ in 0..10 {
            thread::sleep(LOOK);
            if let Ok((length, _)) = socket.recv_from(&mut buffer) {
                return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
    }
    Err(named(peer)(io::ErrorKind::TimedOut.into()))
}

/// However long it takes: whoever runs the Pod has a limit.
fn wait_for(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::sleep(LOOK);
    }
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, Failure> {
    word.parse().map_err(|_| Failure::Unknown)
}

fn named(what: &str) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
