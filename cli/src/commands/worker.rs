//! `celesta worker`: functions for a server elsewhere. Not there yet, and said so.

use clap::Args;

use super::Context;
use crate::exit::{Failure, Outcome};

/// Options of `worker`.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Processor slots for functions
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
}

/// Says what to use instead.
pub(crate) fn run(_context: &Context, args: &WorkerArgs) -> Outcome {
    let slots = args
        .workers
        .map_or_else(String::new, |workers| format!(" --workers {workers}"));
    Err(
        Failure::usage("this release runs functions on the server's own machine only").hint(format!(
            "`celesta serve{slots}` and `celesta dev` run a worker of their own"
        )),
    )
}
