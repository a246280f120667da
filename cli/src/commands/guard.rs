//! The hidden `guard`: the worker starts every function through this same binary.

use std::ffi::OsString;
use std::process::ExitCode;

/// The first argument that makes this program a guard.
pub(crate) const SUBCOMMAND: &str = "guard";

/// Runs the guard to its end; it exits as the function did. No part of the usual command line is set up: the guard
/// must be small, and its words are not the user's.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    celesta_worker::guard::main(arguments)
}
