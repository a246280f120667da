//! `celesta dev [DIR…]`: everything in one process; bundles are pushed, and pushed again when their files change.
//!
//! A bundle with mistakes is shown and left alone: the version pushed before stays, and nothing ends.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Context;
use super::serve::LISTEN;
use crate::args::DataArgs;
use crate::dev::Bundles;
use crate::exit::{Exit, Failure, Outcome};
use crate::node::{Node, NodeOptions};
use crate::output::{DIM, STRONG};
use crate::signals;

/// Editors write a file in several steps: what changes within this time is one change.
const SETTLE: Duration = Duration::from_millis(80);

/// Options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folders of bundles; the current one unless given
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// The address to listen on
    #[arg(long, env = "CELESTA_LISTEN", default_value = LISTEN, value_name = "ADDRESS:PORT")]
    listen: String,
    /// Processor slots for functions. The machine's processors unless given
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
}

/// Serves and reloads until it is told to stop.
pub(crate) async fn run(context: &Context, args: DevArgs) -> Outcome {
    context.start_logging("warn");
    let out = context.out;
    let folders = folders(args.dirs)?;
    let options = NodeOptions {
        token: context.global.token.clone(),
        workers: args.workers,
        ..NodeOptions::alone(args.data.folder.clone(), args.listen)
    };
    let node = Node::start(options).await?;
    out.json(&json!({ "kind": "listening", "url": node.url, "pid": std::process::id() }))?;
    out.line(format_args!(
        "celesta {} listens on {STRONG}{}{STRONG:#} {DIM}(data in {}, Ctrl-C stops){DIM:#}",
        env!("CARGO_PKG_VERSION"),
        node.url,
        args.data.folder.display()
    ))?;
    let mut bundles = Bundles::watch(&folders)?;
    bundles.load(context, &node.runtime).await?;
    loop {
        tokio::select! {
            () = bundles.changed() => {}
            () = signals::interrupted() => break,
            () = node.tasks.shutdown().requested() => break,
        }
        node.clock.sleep(SETTLE).await;
        bundles.load(context, &node.runtime).await?;
    }
    let asked = !node.tasks.shutdown().is_requested();
    tokio::select! {
        () = node.stop() => {}
        () = signals::interrupted() => return Ok(Exit::Interrupted),
    }
    if asked {
        Ok(Exit::Done)
    } else {
        Err(Failure::internal("a part of the node ended; the log says which"))
    }
}

/// The folders to watch: those given, else the current one.
fn folders(given: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let folders = if given.is_empty() {
        vec![PathBuf::from(".")]
    } else {
        given
    };
    for folder in &folders {
        if !folder.is_dir() {
            return Err(
                Failure::new(Exit::NotFound, format!("{} is not a folder", folder.display()))
                    .hint("create a bundle with `celesta new NAME`"),
            );
        }
    }
    Ok(folders)
}
