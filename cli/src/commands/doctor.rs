//! `celesta doctor`: checks every invariant of a node's data and says what is wrong, where, and what to do.

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{self, Blobs, Invariant};
use celesta_store::Snapshot;
use clap::Args;
use serde_json::json;

use super::Context;
use crate::args::DataArgs;
use crate::exit::{Exit, Failure, Outcome};
use crate::node;
use crate::output::{DIM, STRONG};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Do not read artifacts whole: only look whether they are there
    #[arg(long)]
    quick: bool,
}

/// Checks the data of a folder; a node may run on it meanwhile.
pub(crate) async fn run(context: &Context, args: DoctorArgs) -> Outcome {
    let folder = &args.data.folder;
    let path = folder.join(node::STORE_FILE);
    if !path.is_file() {
        let message = format!("there is no store in {}", folder.display());
        return Err(Failure::new(Exit::NotFound, message).hint("name the folder of a node with --data"));
    }
    let unreadable = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, error.to_string());
    let mut snapshot = Snapshot::open(&path, &node::migrations())
        .await
        .map_err(|error| unreadable(&error))?;
    let artifacts = Artifacts::reading(folder.join(node::ARTIFACTS_FOLDER));
    let blobs = Blobs {
        artifacts: &artifacts,
        hash: !args.quick,
    };
    let findings = invariants::check(&mut snapshot, blobs)
        .await
        .map_err(|error| unreadable(&error).hint("the file is damaged beyond reading: restore a backup"))?;
    context.out.json(&json!({
        "sound": findings.is_sound(),
        "runs": findings.runs,
        "records": findings.records,
        "messages": findings.messages,
        "artifacts": findings.artifacts,
        "violations": findings.violations.iter().map(|found| json!({
            "invariant": found.invariant,
            "place": found.place,
            "found": found.found,
            "remedy": found.invariant.remedy(),
        })).collect::<Vec<_>>(),
        "unlisted": findings.unlisted,
    }))?;
    for kind in Invariant::ALL {
        let of_kind: Vec<_> = findings
            .violations
            .iter()
            .filter(|found| found.invariant == kind)
            .collect();
        if of_kind.is_empty() {
            continue;
        }
        context.out.line(format_args!(
            "{STRONG}{kind}{STRONG:#} {DIM}{}{DIM:#}",
            kind.remedy()
        ))?;
        for found in of_kind {
            context
                .out
                .line(format_args!("  {}: {}", found.place, found.found))?;
        }
    }
    if findings.unlisted > 0 {
        context.out.line(format_args!("and {} more", findings.unlisted))?;
    }
    let looked = format!(
        "{} runs with {} turns, {} messages, {} artifacts",
        findings.runs, findings.records, findings.messages, findings.artifacts
    );
    if findings.is_sound() {
        context.out.line(format_args!("sound: {looked}"))?;
        Ok(Exit::Done)
    } else {
        let count = findings.violations.len();
        context
            .out
            .line(format_args!("{count} things are wrong; looked at {looked}"))?;
        Ok(Exit::Failed)
    }
}
