//! Entry point: parses the arguments, runs the command, prints the error chain and sets the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use understudy::cli::{self, Arguments};
use understudy::config::printable::printable_lines;

/// Allocator of the process: jemalloc. The system's allocator keeps the memory of streams that are long
/// closed.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // A failure to write the error cannot be reported anywhere.
            let _ = writeln!(std::io::stderr(), "error: {}", printable_lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
