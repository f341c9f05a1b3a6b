//! The metrics that containerd reads for a container. Their type must be exactly
//! that of the host's cgroup version: one unknown type makes containerd fail the
//! statistics of the whole node.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::Result;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::{Cgroup, field};
use crate::events::any;

/// Figures that the kernel does not give stay 0, except limits: no limit is u64::MAX.
pub(crate) fn stats(cgroup: &Cgroup) -> Result<Any> {
    match cgroup {
        Cgroup::V1(_) => any(&v1_metrics(cgroup)),
        Cgroup::V2(dir) => any(&v2_metrics(dir)),
    }
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}

fn number<T: FromStr>(dir: &Path, name: &str) -> Option<T> {
    read(dir, name).trim().parse().ok()
}

/// A number, or the word `max`.
fn limit(dir: &Path, name: &str) -> u64 {
    number(dir, name).unwrap_or(u64::MAX)
}

fn v1_metrics(cgroup: &Cgroup) -> v1::Metrics {
    let mut metrics = v1::Metrics::new();
    if let Some(dir) = cgroup.dir("pids") {
        metrics.pids = Some(v1::PidsStat {
            current: number(dir, "pids.current").unwrap_or(0),
            // runc's shim reports no limit as 0 here.
            limit: number(dir, "pids.max").unwrap_or(0),
            ..Default::default()
        })
        .into();
    }
    let mut cpu = v1::CPUStat::new();
    if let Some(dir) = cgroup.dir("cpuacct") {
        cpu.usage = Some(v1::CPUUsage {
            total: number(dir, "cpuacct.usage").unwrap_or(0),
            user: number(dir, "cpuacct.usage_user").unwrap_or(0),
            kernel: number(dir, "cpuacct.usage_sys").unwrap_or(0),
            per_cpu: read(dir, "cpuacct.usage_percpu")
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect(),
            ..Default::default()
        })
        .into();
    }
    if let Some(dir) = cgroup.dir("cpu") {
        let stat = read(dir, "cpu.stat");
        cpu.throttling = Some(v1::Throttle {
            periods: field(&stat, "nr_periods").unwrap_or(0),
            throttled_periods: field(&stat, "nr_throttled").unwrap_or(0),
            throttled_time: field(&stat, "throttled_time").unwrap_or(0),
            ..Default::default()
        })
        .into();
    }
    metrics.cpu = Some(cpu).into();
    if let Some(dir) = cgroup.dir("memory") {
        metrics.memory = Some(v1_memory(dir)).into();
        let control = read(dir, "memory.oom_control");
        metrics.memory_oom_control = Some(v1::MemoryOomControl {
            oom_kill_disable: field(&control, "oom_kill_disable").unwrap_or(0),
            under_oom: field(&control, "under_oom").unwrap_or(0),
            oom_kill: field(&control, "oom_kill").unwrap_or(0),
            ..Default::default()
        })
        .into();
    }
    metrics
}

fn v1_memory(dir: &Path) -> v1::MemoryStat {
    let stat = read(dir, "memory.stat");
    let get = |name| field(&stat, name).unwrap_or(0);
    let entry = |prefix: &str| {
        Some(v1::MemoryEntry {
            limit: limit(dir, &format!("{prefix}.limit_in_bytes")),
            usage: number(dir, &format!("{prefix}.usage_in_bytes")).unwrap_or(0),
            max: number(dir, &format!("{prefix}.max_usage_in_bytes")).unwrap_or(0),
            failcnt: number(dir, &format!("{prefix}.failcnt")).unwrap_or(0),
            ..Default::default()
        })
        .into()
    };
    v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry("memory"),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        kernel_tcp: entry("memory.kmem.tcp"),
        ..Default::default()
    }
}

fn v2_metrics(dir: &Path) -> v2::Metrics {
    let cpu = read(dir, "cpu.stat");
    let get = |name| field(&cpu, name).unwrap_or(0);
    let events = read(dir, "memory.events");
    let event = |name| field(&events, name).unwrap_or(0);
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: number(dir, "pids.current").unwrap_or(0),
            limit: limit(dir, "pids.max"),
            ..Default::default()
        })
        .into(),
        cpu: Some(v2::CPUStat {
            usage_usec: get("usage_usec"),
            user_usec: get("user_usec"),
            system_usec: get("system_usec"),
            nr_periods: get("nr_periods"),
            nr_throttled: get("nr_throttled"),
            throttled_usec: get("throttled_usec"),
            nr_bursts: get("nr_bursts"),
            burst_usec: get("burst_usec"),
            psi: pressure(dir, "cpu.pressure").into(),
            ..Default::default()
        })
        .into(),
        memory: Some(v2_memory(dir)).into(),
        io: Some(v2_io(dir)).into(),
        memory_events: Some(v2::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

fn v2_memory(dir: &Path) -> v2::MemoryStat {
    let stat = read(dir, "memory.stat");
    let get = |name| field(&stat, name).unwrap_or(0);
    v2::MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault_anon") + get("workingset_refault_file"),
        workingset_activate: get("workingset_activate_anon") + get("workingset_activate_file"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: number(dir, "memory.current").unwrap_or(0),
        usage_limit: limit(dir, "memory.max"),
        max_usage: number(dir, "memory.peak").unwrap_or(0),
        swap_usage: number(dir, "memory.swap.current").unwrap_or(0),
        swap_limit: limit(dir, "memory.swap.max"),
        swap_max_usage: number(dir, "memory.swap.peak").unwrap_or(0),
        psi: pressure(dir, "memory.pressure").into(),
        ..Default::default()
    }
}

fn v2_io(dir: &Path) -> v2::IOStat {
    let usage = read(dir, "io.stat").lines().filter_map(io_entry).collect();
    v2::IOStat {
        usage,
        psi: pressure(dir, "io.pressure").into(),
        ..Default::default()
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`
fn io_entry(line: &str) -> Option<v2::IOEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut entry = v2::IOEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..Default::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or(0);
        match name {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// None where the kernel keeps no pressure figures.
fn pressure(dir: &Path, name: &str) -> Option<v2::PSIStats> {
    let text = read(dir, name);
    let line = |kind: &str| {
        let rest = text.lines().find_map(|l| l.strip_prefix(kind))?;
        let mut data = v2::PSIData::new();
        for (name, value) in rest.split_whitespace().filter_map(|w| w.split_once('=')) {
            match name {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        Some(data)
    };
    Some(v2::PSIStats {
        some: Some(line("some ")?).into(),
        full: line("full ").into(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn v2_without_a_limit_reports_the_greatest_number() {
        let dir = dir(&[
            ("memory.max", "max\n"),
            ("memory.current", "4096\n"),
            ("memory.stat", "anon 1\ninactive_file 2\n"),
            ("memory.events", "oom 1\noom_kill 3\n"),
            ("cpu.stat", "usage_usec 7\n"),
            (
                "io.stat",
                "8:16 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            (
                "cpu.pressure",
                "some avg10=0.10 avg60=0.00 avg300=0.00 total=9\n",
            ),
        ]);
        let any = stats(&Cgroup::V2(dir.path().to_owned())).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2_metrics(dir.path());
        assert_eq!(metrics.memory.usage_limit, u64::MAX);
        assert_eq!(
            (metrics.memory.usage, metrics.memory.inactive_file),
            (4096, 2)
        );
        assert_eq!(
            (metrics.cpu.usage_usec, metrics.memory_events.oom_kill),
            (7, 3)
        );
        assert_eq!(
            (metrics.io.usage[0].minor, metrics.io.usage[0].wbytes),
            (16, 6)
        );
        assert_eq!(metrics.cpu.psi.some.total, 9);
    }

    #[test]
    fn v1_reads_each_controller_in_its_directory() {
        let cpuacct = dir(&[("cpuacct.usage", "12\n")]);
        let memory = dir(&[
            ("memory.usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.stat", "total_inactive_file 3\ntotal_rss 4\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
        ]);
        let cgroup = Cgroup::V1(vec![
            ("cpuacct".into(), cpuacct.path().into()),
            ("memory".into(), memory.path().into()),
        ]);
        assert_eq!(
            stats(&cgroup).unwrap().type_url,
            "io.containerd.cgroups.v1.Metrics"
        );
        let metrics = v1_metrics(&cgroup);
        assert_eq!(metrics.cpu.usage.total, 12);
        assert_eq!(metrics.memory.usage.usage, 8192);
        assert_eq!(
            (metrics.memory.total_inactive_file, metrics.memory.total_rss),
            (3, 4)
        );
        assert_eq!(metrics.memory_oom_control.oom_kill, 1);
    }
}
