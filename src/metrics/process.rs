//! The process itself, under the names that every Prometheus client library uses; read from `/proc` at a
//! scrape. Where there is none, these metrics are absent.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Clock ticks a second in `/proc` (`USER_HZ`): 100 on every architecture that Linux still has.
const TICKS: f64 = 100.0;

/// Collects `process_*`.
#[derive(Debug)]
pub(super) struct Process {
    desc: Desc,
    started: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let started = process_start().unwrap_or(started);
        let (name, help) = ("process_start_time_seconds".to_owned(), "When the process started, since 1970.".to_owned());
        Self { desc: Desc::new(name, help, Vec::new(), std::collections::HashMap::new()).expect("constant names"), started }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let status = fs::read_to_string("/proc/self/status").ok();
        let gauges = [
            ("process_start_time_seconds", "When the process started, since 1970.", Some(self.started)),
            ("process_resident_memory_bytes", "Memory that is in RAM.", status.as_deref().and_then(|text| kib(text, "VmRSS:"))),
            ("process_virtual_memory_bytes", "Addresses that are mapped.", status.as_deref().and_then(|text| kib(text, "VmSize:"))),
            ("process_threads", "Threads.", status.as_deref().and_then(|text| first(text, "Threads:"))),
            ("process_open_fds", "File descriptors that are open.", open_fds()),
            ("process_max_fds", "File descriptors that may be open.", max_fds()),
        ];
        let mut families: Vec<MetricFamily> = Vec::new();
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = Gauge::new(name, help).expect("constant names");
            gauge.set(value);
            families.extend(gauge.collect());
        }
        if let Some(seconds) = stat.as_deref().and_then(cpu_seconds) {
            let counter = Counter::new("process_cpu_seconds_total", "Time on a processor, user and system.").expect("constant names");
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
        families
    }
}

/// The number behind `name` in lines like `VmRSS:  5120 kB`.
fn first(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn kib(text: &str, name: &str) -> Option<f64> {
    first(text, name).map(|kib| kib * 1024.0)
}

/// A field of `/proc/<pid>/stat` by its number in proc(5). The command's name may hold blanks and parentheses.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

/// When the process started: boot time and the ticks since then.
fn process_start() -> Option<f64> {
    let boot = first(&fs::read_to_string("/proc/stat").ok()?, "btime ")?;
    Some(boot + field(&fs::read_to_string("/proc/self/stat").ok()?, 22)? / TICKS)
}

fn open_fds() -> Option<f64> {
    // One of them is the directory that is being read.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(count).ok().map(f64::from)
}

fn max_fds() -> Option<f64> {
    first(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_process_is_called() {
        let stat = "1 (a) b (c)) S 0 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 777 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(field(stat, 22), Some(777.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let names: Vec<String> = Process::new().collect().iter().map(|family| family.name().to_owned()).collect();
        for name in ["start_time_seconds", "resident_memory_bytes", "open_fds", "max_fds", "cpu_seconds_total", "threads"] {
            assert!(names.contains(&format!("process_{name}")), "{name}: {names:?}");
        }
    }
}
