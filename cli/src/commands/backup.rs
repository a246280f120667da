//! `celesta backup` and `celesta restore`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Context;
use crate::args::DataArgs;
use crate::backup;
use crate::exit::{Exit, Failure, Outcome};
use crate::node::STORE_FILE;

/// Options of `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The folder to write; it must not be there yet
    #[arg(value_name = "TARGET")]
    target: PathBuf,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The folder that `celesta backup` has written
    #[arg(value_name = "BACKUP")]
    source: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Takes a backup.
pub(crate) async fn run(context: &Context, args: BackupArgs) -> Outcome {
    let data = &args.data.folder;
    if !data.join(STORE_FILE).is_file() {
        let message = format!("there is no store in {}", data.display());
        return Err(Failure::new(Exit::NotFound, message).hint("name the folder of a node with --data"));
    }
    let (manifest, damaged) = backup::take(data, &args.target, context.out).await?;
    context.out.json(&json!({
        "backup": args.target,
        "manifest": manifest,
        "damaged": damaged,
    }))?;
    context.out.line(format_args!("{}", args.target.display()))?;
    if damaged.is_empty() {
        return Ok(Exit::Done);
    }
    let message = format!(
        "{} artifacts are damaged where they are and not in the backup: {} and so on",
        damaged.len(),
        damaged[0]
    );
    Err(Failure::new(Exit::Failed, message).hint("`celesta doctor` names all that something refers to"))
}

/// Restores a backup.
pub(crate) async fn restore(context: &Context, args: RestoreArgs) -> Outcome {
    let data = &args.data.folder;
    let manifest = backup::restore(&args.source, data, context.out).await?;
    context.out.json(&json!({ "data": data, "manifest": manifest }))?;
    context
        .out
        .line(format_args!("{}: start a node on it with --data", data.display()))?;
    Ok(Exit::Done)
}
