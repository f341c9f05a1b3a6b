//! What only a Linux process has: signals, identity, processes, a terminal's size.

use std::io::{self, Write};
use std::{fs, process, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::commands::Failure;

/// As a signal's default action would, which the first process of a PID namespace does not have.
pub fn end_on_signals() {
    let Ok(mut signals) = Signals::new([SIGTERM, SIGINT]) else {
        return;
    };
    let ignores = std::env::args()
        .nth(1)
        .is_some_and(|word| word == "ignore-signals");
    thread::spawn(move || {
        for signal in signals.forever() {
            println!("signal {signal}");
            if !ignores {
                process::exit(128 + signal);
            }
        }
    });
}

pub fn run(words: &[&str]) -> Result<(), Failure> {
    let mut out = io::stdout();
    match *words {
        ["ignore-signals"] => loop {
            thread::park();
        },
        ["id"] => {
            let mut groups: Vec<u32> = rustix::process::getgroups()
                .map_err(io::Error::from)?
                .iter()
                .map(|group| group.as_raw())
                .collect();
            groups.sort();
            writeln!(
                out,
                "uid={} gid={} groups={groups:?}",
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
            )?;
        }
        ["owner", file] => {
            use std::os::unix::fs::MetadataExt;
            let found = fs::metadata(file)?;
            writeln!(
                out,
                "{}:{} {:o}",
                found.uid(),
                found.gid(),
                found.mode() & 0o7777
            )?;
        }
        ["processes"] => {
            for entry in fs::read_dir("/proc")? {
                let path = entry?.path();
                if let Ok(name) = fs::read_to_string(path.join("comm"))
                    && let Some(number) = path.file_name()
                    && number.as_encoded_bytes()[0].is_ascii_digit()
                {
                    writeln!(out, "{} {}", number.display(), name.trim_end())?;
                }
            }
        }
        ["status", field] => {
            let status = fs::read_to_string("/proc/self/status")?;
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            writeln!(out, "{}", value.unwrap_or("not there").trim())?;
        }
        ["terminal-size"] => {
            let size = rustix::termios::tcgetwinsize(io::stdout()).map_err(io::Error::from)?;
            writeln!(out, "{} {}", size.ws_col, size.ws_row)?;
        }
        ["hostname"] => {
            write!(out, "{}", fs::read_to_string("/proc/sys/kernel/hostname")?)?;
        }
        _ => return Err(Failure::Unknown),
    }
    Ok(())
}
