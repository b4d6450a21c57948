//! What a login costs: `cargo bench --bench callback -- [cached|cold|visits|storm]…`; all but the storm by default.
//!
//! The program that ships runs as a process of its own with one worker, between the stand-ins, over real sockets
//! on loopback. CPU time is the kernel's count for its threads, so neither the stand-ins nor the load are in it.

#![expect(unreachable_pub, reason = "a benchmark has no outside")]

#[path = "../support/mod.rs"]
mod support;

mod cached;
mod cold;
mod percentile;
mod sources;
mod storm;
mod visits;

use std::io;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

/// The parts that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Cached,
    Cold,
    Visits,
    Storm,
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        match name {
            "cached" => Some(Self::Cached),
            "cold" => Some(Self::Cold),
            "visits" => Some(Self::Visits),
            "storm" => Some(Self::Storm),
            _ => None,
        }
    }

    fn run(self) -> io::Result<()> {
        match self {
            // One thread for load and idle stand-ins leaves the other core to the worker.
            Self::Cached => one_thread()?.block_on(cached::run()),
            Self::Cold => two_threads()?.block_on(cold::run()),
            Self::Visits => one_thread()?.block_on(visits::run()),
            Self::Storm => two_threads()?.block_on(storm::run()),
        }
    }
}

fn one_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn two_threads() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let mut parts = Vec::new();
    for name in &names {
        let Some(part) = Part::named(name) else {
            eprintln!("there is no part {name:?}; there are: cached, cold, visits, storm");
            return ExitCode::from(64);
        };
        parts.push(part);
    }
    if parts.is_empty() {
        parts.extend([Part::Cached, Part::Cold, Part::Visits]);
    }
    for part in parts {
        if let Err(error) = part.run() {
            eprintln!("{part:?}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
