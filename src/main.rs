//! The program: everything is in the library.

use std::process::ExitCode;

/// The static binary for containers is linked with musl, whose own allocator has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gantry::cli::main(std::env::args_os(), std::env::vars_os())
}
