//! Requests to a service: what an instance costs, and how many requests there are in a second.
//!
//! Both sides serve in a Pod on the node's network, on one CPU of the node, and stay up while they
//! are put under load in turns. The load is wrk's, which runs on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::node::{Node, Side};
use super::report::Row;
use super::{Error, Interrupt, Options, Result, api, pod};
use crate::docker::archive::Archive;

/// What a service of ours is compared with: a program for the node, which is Debian.
#[derive(Debug, Clone)]
pub enum Rival {
    /// wasmtime's command line: `wasmtime serve` of the same component.
    Wasmtime(PathBuf),
    /// A server, told by the variable PORT where to listen.
    Server(PathBuf),
}

/// What to put under load, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// A component that serves HTTP.
    pub module: PathBuf,
    pub rival: Rival,
    /// Of each turn.
    pub seconds: u16,
    pub connections: u16,
}

/// Of the generator; more than one would take turns with the server's CPU.
const THREADS: &str = "-t1";
/// Until a service answers. Compiling a large component takes several seconds.
const START: Duration = Duration::from_secs(60);
/// Until it answers a request.
const ANSWER: Duration = Duration::from_secs(5);
/// The only CPU of the servers.
const CPU: &str = "0";
/// Where the container finds the files.
const FILES: &str = "/bench";

/// A side that was started.
struct Server {
    name: &'static str,
    address: SocketAddr,
    pod: String,
}

impl Server {
    /// Waits until it does.
    async fn answers(&self, node: &Node, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            interrupt.check()?;
            let answer = get(self.address, "/").await;
            if matches!(answer, Ok((StatusCode::OK, _))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let tail = format!("tail -n 3 {}/{}/app.log", node.logs(), self.name);
                let log = node.shell(&tail).await?;
                return Err(Error::NoAnswer {
                    who: self.name,
                    answer: answer
                        .map_or_else(|error| error.to_string(), |(status, _)| status.to_string()),
                    log: log.trim().to_owned(),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What one turn of one side came to.
#[derive(Debug, PartialEq)]
struct Turn {
    requests_per_second: f64,
    /// In microseconds.
    median: f64,
    /// In microseconds.
    p99: f64,
}

/// The sides as the report shows them.
pub(super) async fn sides(node: &Node, load: &Load) -> Result<[Side; 2]> {
    let mut ours = node.side(super::OURS).await?;
    let mut theirs = node.side("runc").await?;
    ours.image = load.module.display().to_string();
    (theirs.handler, theirs.image) = match &load.rival {
        Rival::Wasmtime(_) => ("wasmtime serve".into(), ours.image.clone()),
        Rival::Server(program) => ("server".into(), program.display().to_string()),
    };
    Ok([ours, theirs])
}

/// Rows for the latencies, for instances, and last for the time that the CPU takes for a request.
pub(super) async fn rounds(
    node: &Node,
    load: &Load,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let directory = copy_files(node, load).await?;
    // Ports that nothing of a node uses, and other ones in each run.
    let port = 20_000 + u16::from_str_radix(&node.run[..4], 16).unwrap_or(0) % 10_000;
    let [ours, theirs] = [node.side(super::OURS).await?, node.side("runc").await?];
    let address = node.address().await?;
    let metrics = SocketAddr::new(address, port + 2);
    let at = |port| SocketAddr::new(address, port);
    let servers = [
        start(node, &ours, load, &directory, at(port), Some(metrics)).await?,
        start(node, &theirs, load, &directory, at(port + 1), None).await?,
    ];
    for server in &servers {
        server.answers(node, interrupt).await?;
    }
    let mut rows = [
        Row::new("requests in a second", "1/s"),
        Row::new("latency, median", "us"),
        Row::new("latency, p99", "us"),
        Row::new("instance, median", "us"),
        Row::new("instance, p99", "us"),
        Row::new("time for a request", "us"),
    ];
    // The first round fills caches.
    for round in 0..=options.rounds {
        for (index, server) in servers.iter().enumerate() {
            interrupt.check()?;
            let before = match index {
                0 => instances(metrics).await?,
                _ => Vec::new(),
            };
            let turn = generate(server, load).await;
            // From a terminal, wrk gets the signal too.
            interrupt.check()?;
            let turn = turn?;
            if round == 0 {
                continue;
            }
            let mut push = |row: usize, value| rows[row].values[index].push(value);
            push(0, turn.requests_per_second);
            push(1, turn.median);
            push(2, turn.p99);
            push(5, 1e6 / turn.requests_per_second);
            if index == 0 {
                let after = instances(metrics).await?;
                for (row, quantile) in [(3, 0.5), (4, 0.99)] {
                    if let Some(value) = within(&before, &after, quantile) {
                        push(row, value);
                    }
                }
            }
        }
    }
    for server in servers {
        pod::remove(node, server.pod).await?;
    }
    Ok(rows.into())
}

/// The component's name in the node.
fn module(load: &Load) -> &'static str {
    match load.module.extension() {
        Some(extension) if extension == "wat" => "module.wat",
        _ => "module.wasm",
    }
}

/// The directory in the node that the programs are in; it is cleaned up with all of a run's.
async fn copy_files(node: &Node, load: &Load) -> Result<String> {
    let directory = node.files();
    let (Rival::Wasmtime(program) | Rival::Server(program)) = &load.rival;
    let mut files = Archive::new(0);
    let mut written = files.folder(&directory, 0o755);
    for (name, path) in [(module(load), &load.module), ("program", program)] {
        let read = tokio::fs::read(path).await;
        let bytes = read.map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        written = written.and_then(|()| files.file(&format!("{directory}/{name}"), 0o755, bytes));
    }
    written.map_err(|e| Error::Unexpected {
        what: "an archive for the files",
        node: node.machine.node.clone(),
        problem: e.to_string(),
    })?;
    files.put(node.docker(), &node.machine.node).await?;
    Ok(directory)
}

async fn start(
    node: &Node,
    side: &Side,
    load: &Load,
    directory: &str,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
) -> Result<Server> {
    let volume = |path: &str, place: &str| api::Volume {
        host_path: path.into(),
        container_path: place.into(),
        readonly: true,
    };
    let env = |key: &str, value: String| api::KeyValue {
        key: key.into(),
        value,
    };
    let module = format!("{FILES}/{}", module(load));
    let program = format!("{FILES}/program");
    let mut mounts = vec![volume(directory, FILES)];
    // Only ours has them.
    let (command, envs) = match (metrics, &load.rival) {
        (Some(metrics), _) => (
            vec![module],
            vec![
                env("WASMKIND_HTTP_LISTEN", address.to_string()),
                env("WASMKIND_HTTP_METRICS", metrics.to_string()),
            ],
        ),
        (_, Rival::Wasmtime(_)) => {
            let words = ["serve", "-Opooling-allocator=y", "-Scli", "--addr"];
            let mut command = vec![program];
            command.extend(words.map(str::to_owned));
            command.extend([address.to_string(), module]);
            // The node's own C library.
            mounts.extend(["/lib", "/lib64", "/usr"].map(|path| volume(path, path)));
            (command, Vec::new())
        }
        (_, Rival::Server(_)) => (vec![program], vec![env("PORT", address.port().to_string())]),
    };
    let mut config = pod::container(node, side);
    config.mounts = mounts;
    config.command = command;
    config.envs = envs;
    if let Some(linux) = &mut config.linux {
        linux.resources = Some(api::LinuxContainerResources {
            cpuset_cpus: CPU.into(),
        });
    }
    let name = if metrics.is_some() {
        "wasmkind"
    } else {
        "rival"
    };
    let (pod, _) = pod::start_with(node, side, name, config).await?;
    Ok(Server { name, address, pod })
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let asked = async {
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(HOST, address.to_string());
        let request = request.body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(ANSWER, asked).await?
}

async fn generate(server: &Server, load: &Load) -> Result<Turn> {
    let output = Command::new("wrk")
        .args([THREADS, "--latency"])
        .arg(format!("-c{}", load.connections))
        .arg(format!("-d{}s", load.seconds))
        .arg(format!("http://{}/", server.address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::Generator)?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        Error::Load(said.trim().to_owned())
    })
}

/// Of what wrk prints. None where requests failed, as such figures say nothing.
fn parse(text: &str) -> Option<Turn> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| {
            let (first, rest) = line.trim().split_once(char::is_whitespace)?;
            (first == name).then(|| rest.trim())
        });
        lines.next()
    };
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    Some(Turn {
        requests_per_second: value("Requests/sec:")?.parse().ok()?,
        median: microseconds(value("50%")?)?,
        p99: microseconds(value("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (value, unit) = text.split_at(unit);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(value.parse::<f64>().ok()? * factor)
}

/// Upper bounds of the buckets, in microseconds, with the instances made in each time or less.
async fn instances(metrics: SocketAddr) -> Result<Vec<(f64, f64)>> {
    let (_, text) = get(metrics, "/metrics").await.map_err(Error::Metrics)?;
    Ok(buckets(&text))
}

fn buckets(text: &str) -> Vec<(f64, f64)> {
    let prefix = "wasmkind_instance_start_seconds_bucket{le=\"";
    let lines = text.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix(prefix)?.split_once("\"} ")?;
        let bound = bound.parse::<f64>().ok()?;
        Some((bound * 1e6, count.parse().ok()?))
    });
    lines.collect()
}

/// A quantile of what was counted between two states, as Prometheus' histogram_quantile finds it: as
/// if the values in a bucket were spread evenly.
fn within(before: &[(f64, f64)], after: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let counts: Vec<_> = before
        .iter()
        .zip(after)
        .map(|((bound, before), (_, after))| (*bound, after - before))
        .collect();
    let rank = counts.last()?.1 * quantile;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= rank && count > below {
            // Above the last bound all that is known is that it is above.
            let upper = if bound.is_finite() { bound } else { lower };
            return Some(lower + (upper - lower) * (rank - below) / (count - below));
        }
        (lower, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 3s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms    1.40ms  30.10ms   97.04%
    Req/Sec    34.57k     3.91k   42.69k    66.67%
  Latency Distribution
     50%  857.00us
     75%    1.01ms
     90%    1.31ms
     99%    4.42ms
  103235 requests in 3.00s, 12.80MB read
Requests/sec:  34381.41
Transfer/sec:      4.26MB
";

    #[test]
    fn wrk_is_understood() {
        let turn = Turn {
            requests_per_second: 34381.41,
            median: 857.0,
            p99: 4420.0,
        };
        assert_eq!(parse(OUTPUT), Some(turn));
        assert_eq!(parse("unable to connect"), None);
        let failed = format!("{OUTPUT}  Non-2xx or 3xx responses: 1\n");
        assert_eq!(parse(&failed), None);
    }

    #[test]
    fn quantiles_are_of_what_came_between() {
        let text = |counts: [u32; 3]| {
            let [a, b, c] = counts;
            let name = "wasmkind_instance_start_seconds_bucket";
            format!(
                "# HELP x\n{name}{{le=\"0.00001\"}} {a}\n{name}{{le=\"0.00002\"}} {b}\n{name}{{le=\"+Inf\"}} {c}\n"
            )
        };
        let (before, after) = (buckets(&text([5, 5, 5])), buckets(&text([55, 104, 105])));
        let near = |quantile, expected: f64| {
            let found = within(&before, &after, quantile).unwrap();
            assert!((found - expected).abs() < 1e-6, "{found}");
        };
        near(0.25, 5.0);
        near(0.5, 10.0);
        near(0.99, 20.0);
        near(1.0, 20.0);
        assert_eq!(within(&before, &before, 0.5), None);
    }
}
