//! What the process takes while it runs: memory and files, and whether they grow.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gantry::demo::client;

use crate::support::kernel;
use crate::world::World;

const EVERY: Duration = Duration::from_secs(1);

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the first one.
    pub at: f64,
    /// Resident memory, KiB.
    pub rss: f64,
    /// Files open.
    pub files: f64,
    /// Login tokens that were minted by then.
    pub minted: f64,
}

/// Looks until traffic ends, or the process is gone.
pub async fn watch(world: &World, pid: u32) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while world.goes_on() {
        let Ok(sample) = look(pid, began, world.apps.chat.calls("users.createToken")) else { break };
        samples.push(sample);
        world.pause(EVERY).await;
    }
    samples
}

#[expect(clippy::cast_precision_loss, reason = "KiB and counts are far below 2^52")]
fn look(pid: u32, began: Instant, minted: usize) -> io::Result<Sample> {
    let (rss, files) = (kernel::memory(pid, "VmRSS")? as f64, files(pid)? as f64);
    Ok(Sample { at: began.elapsed().as_secs_f64(), rss, files, minted: minted as f64 })
}

/// How many files a process has open.
///
/// # Errors
/// The process is gone.
pub fn files(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// By how much a value grew over the second half of the samples: the slope of the line with the least squares,
/// times its length.
pub fn growth(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    let half = &samples[samples.len() / 2..];
    #[expect(clippy::cast_precision_loss, reason = "a few thousand samples")]
    let count = half.len() as f64;
    let (Some(first), Some(last)) = (half.first(), half.last()) else { return 0.0 };
    let mean = |of: &dyn Fn(&Sample) -> f64| half.iter().map(of).sum::<f64>() / count;
    let (at, height) = (mean(&|sample| sample.at), mean(&value));
    let spread: f64 = half.iter().map(|sample| (sample.at - at).powi(2)).sum();
    let slope = half.iter().map(|sample| (sample.at - at) * (value(sample) - height)).sum::<f64>() / spread.max(f64::EPSILON);
    slope * (last.at - first.at)
}

/// The metrics, as they stand.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Asks for them.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn of(admin: SocketAddr) -> io::Result<Self> {
        Ok(Self(client::get(admin, "/metrics", &[]).await?.text()))
    }

    /// One series by name and labels; nothing where it does not stand.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
    }
}
