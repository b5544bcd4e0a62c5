//! The command line: parse, run, print the error chain, choose the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use understudy::cli::{self, Arguments};

/// Thousands of streams come and go, and the system's allocator keeps what they took.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // There is nobody left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
