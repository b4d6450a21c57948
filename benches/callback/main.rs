//! What a login costs: `cargo bench --bench callback -- [cached|cold|visits|storm]… [--people 10000] [--program FILE]`;
//! all but the storm by default, of the program that is built beside it or of another one.
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
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use support::program::BUILT;
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

    fn run(self, program: &Path, people: usize) -> io::Result<()> {
        match self {
            // One thread for load and idle stand-ins leaves the other core to the worker.
            Self::Cached => one_thread()?.block_on(cached::run(program)),
            Self::Cold => two_threads()?.block_on(cold::run(program)),
            Self::Visits => one_thread()?.block_on(visits::run(program)),
            Self::Storm => two_threads()?.block_on(storm::run(program, people)),
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
    let mut program = PathBuf::from(BUILT);
    let mut people = storm::PEOPLE;
    let mut parts = Vec::new();
    // Cargo adds `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        if arg == "--program" {
            program = args.next().unwrap_or_default().into();
        } else if arg == "--people" {
            match args.next().unwrap_or_default().parse() {
                Ok(count) => people = count,
                Err(error) => {
                    eprintln!("--people: {error}");
                    return ExitCode::from(64);
                }
            }
        } else if let Some(part) = Part::named(&arg) {
            parts.push(part);
        } else {
            eprintln!(
                "there is no {arg:?}; there are cached, cold, visits, storm, --people with a number for the storm, and --program with the file of \
                 another build"
            );
            return ExitCode::from(64);
        }
    }
    if parts.is_empty() {
        parts.extend([Part::Cached, Part::Cold, Part::Visits]);
    }
    for part in parts {
        if let Err(error) = part.run(&program, people) {
            eprintln!("{part:?}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
