//! Memory of Pods: the proportional set size (PSS) of all their processes, the shim included. The
//! kernel's own memory, page cache and containerd's are on both sides and in neither figure.

use std::collections::HashMap;

use super::node::{Node, Side};
use super::report::Row;
use super::{Interrupt, Options, Result, pod};

/// `PID PPID NAME PSS_KIB PRIVATE_KIB IDS`, a line for each process; IDS is the argument after -id.
const PROCESSES: &str = r#"cd /proc; for p in [0-9]*; do
    stat=$(cat $p/stat 2>/dev/null) || continue
    name=${stat#*\(}; name=${name%\)*}; rest=${stat##*\) }; set -- $rest; parent=$2
    memory=$(sed -n -e 's/^Pss: *\([0-9]*\).*/\1/p' -e 's/^Private_[A-Za-z]*: *\([0-9]*\).*/p \1/p' $p/smaps_rollup 2>/dev/null) || continue
    pss=0 private=0
    set -- $memory
    while [ $# -gt 0 ]; do
        if [ "$1" = p ]; then private=$((private + $2)); shift 2; else pss=$1; shift; fi
    done
    id=$(tr '\0' '\n' <$p/cmdline 2>/dev/null | grep -A1 -x -e '-id' | tail -n 1)
    echo "$p $parent $(echo "$name" | tr ' ' '_') $pss $private ${id:--}"
done"#;

/// A row for each kind of process, and one for their sum.
pub(super) async fn measure(
    node: &Node,
    sides: &[Side; 2],
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut private = Row::new("of it private", "MiB");
    let mut total = Row::new("total", "MiB");
    for (index, side) in sides.iter().enumerate() {
        let mut pods = Vec::new();
        for number in 0..options.rounds {
            interrupt.check()?;
            let name = format!("{}-{number}", side.handler);
            pods.push(pod::start(node, side, &name).await?.0);
        }
        let processes = parse(&node.shell(PROCESSES).await?);
        for id in &pods {
            let mut sum = HashMap::<&str, f64>::new();
            for process in of_pod(&processes, id) {
                *sum.entry(&process.name).or_default() += process.pss;
                *sum.entry("").or_default() += process.private;
            }
            total.values[index].push(
                sum.iter()
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(_, pss)| pss)
                    .sum(),
            );
            private.values[index].push(sum.remove("").unwrap_or_default());
            for (name, pss) in sum {
                let row = match rows.iter().position(|row| row.name == name) {
                    Some(at) => &mut rows[at],
                    None => {
                        rows.push(Row::new(name, "MiB"));
                        let last = rows.len() - 1;
                        &mut rows[last]
                    }
                };
                row.values[index].push(pss);
            }
        }
        for id in pods {
            pod::remove(node, id).await?;
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows.push(private);
    rows.push(total);
    Ok(rows)
}

#[derive(Debug, PartialEq)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    /// MiB.
    pss: f64,
    private: f64,
    /// The Pod of a shim.
    pod: String,
}

fn parse(text: &str) -> Vec<Process> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Process {
            pid: words.next()?.parse().ok()?,
            parent: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
            pss: words.next()?.parse::<f64>().ok()? / 1024.0,
            private: words.next()?.parse::<f64>().ok()? / 1024.0,
            pod: words.next()?.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// The Pod's shims and all that descends from them.
fn of_pod<'a>(processes: &'a [Process], pod: &str) -> Vec<&'a Process> {
    let mut found: Vec<&Process> = processes.iter().filter(|p| p.pod == pod).collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].pid;
        let known = |p: &Process| found.iter().any(|f| f.pid == p.pid);
        let children: Vec<_> = processes
            .iter()
            .filter(|p| p.parent == parent && !known(p))
            .collect();
        found.extend(children);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_processes_are_its_shims_and_what_descends_from_them() {
        let processes = parse(
            "1 0 systemd 4096 4096 -\n\
             10 1 containerd-shim 2048 1024 pod-a\n\
             11 10 pause 100 50 -\n\
             12 10 wasmkind-runner 512 256 -\n\
             13 12 child_of_it 1 1 -\n\
             20 1 containerd-shim 2048 1024 pod-b\n\
             21 20 pause 100 50 -\n\
             half a line",
        );
        assert_eq!(processes.len(), 7);
        let pids: Vec<u32> = of_pod(&processes, "pod-a").iter().map(|p| p.pid).collect();
        assert_eq!(pids, [10, 11, 12, 13]);
        assert_eq!(of_pod(&processes, "pod-a")[0].pss, 2.0);
        assert!(of_pod(&processes, "pod-c").is_empty());
    }
}
