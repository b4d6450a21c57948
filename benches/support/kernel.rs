//! What the kernel says of a process: the CPU time of its threads, its memory, its open files. Linux.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// CPU time by thread name.
pub type Cpu = BTreeMap<String, Duration>;

/// The CPU time, user and system, that each thread of a process has used; threads of one name are summed up.
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> io::Result<Cpu> {
    let mut cpu = Cpu::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        // A thread may end meanwhile.
        let (Ok(name), Ok(times)) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat"))) else { continue };
        let nanos = times.split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default();
        *cpu.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(nanos);
    }
    Ok(cpu)
}

/// What was used between two looks by the threads whose names begin so.
pub fn used(before: &Cpu, after: &Cpu, name: &str) -> Duration {
    let sum = |cpu: &Cpu| cpu.iter().filter(|(known, _)| known.starts_with(name)).map(|(_, time)| *time).sum::<Duration>();
    sum(after).saturating_sub(sum(before))
}

/// A field of `/proc/<pid>/status` in KiB, such as `VmRSS` or `VmHWM`.
///
/// # Errors
/// The process is gone, or has no such field.
pub fn memory(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no {field}")))
}
