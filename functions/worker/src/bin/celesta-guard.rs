//! The guard as a program of its own, for tests of this crate; the one binary has it as a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    celesta_worker::guard::main(std::env::args_os().skip(1))
}
