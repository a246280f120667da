//! `celesta doctor`: checks every invariant of a node's data and says what is wrong, where, and what to do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use celesta_artifacts::Artifacts;
use celesta_runs::invariants::{self, Blobs, Findings, Invariant, Looks, Tables};
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
    /// Check the deployment in this PostgreSQL database instead of a folder
    #[arg(long, env = "CELESTA_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Another database of the deployment, as its nodes were told it: a name and a PostgreSQL URL. May be repeated
    #[arg(
        long = "database",
        env = "CELESTA_DATABASES",
        hide_env_values = true,
        value_name = "NAME=URL"
    )]
    databases: Vec<String>,
    /// The folder of artifacts; in the data folder unless given. Those of a deployment are not looked at without it
    #[arg(long, env = "CELESTA_ARTIFACTS", value_name = "DIR")]
    artifacts: Option<PathBuf>,
}

/// Checks the data of a folder, or a database; nodes may run on it meanwhile.
pub(crate) async fn run(context: &Context, args: DoctorArgs) -> Outcome {
    let findings = match &args.store {
        Some(url) => look_at_database(url, &args).await?,
        None => look_at_folder(&args).await?,
    };
    told(context, &findings)
}

/// What stands in a database that nodes share.
async fn look_at_database(url: &str, args: &DoctorArgs) -> Result<Findings, Failure> {
    let databases = node::databases(url, &args.databases)?;
    let look = async |url: &str, which: &str| {
        let snapshot = Snapshot::of_database(url).await;
        snapshot.map_err(|error| {
            Failure::new(Exit::Unreachable, format!("{which}: {error}"))
                .hint("name a PostgreSQL database that is there, as postgres://user@host:port/database")
        })
    };
    let mut looks = Looks {
        main: look(databases.main(), "the main database").await?,
        named: BTreeMap::new(),
        versions: match databases.named().next() {
            Some(_) => Some(look(databases.main(), "the main database").await?),
            None => None,
        },
    };
    for (name, url) in databases.named() {
        let taken = look(url, &format!("database `{name}`")).await?;
        looks.named.insert(name.to_owned(), taken);
    }
    let artifacts = args.artifacts.as_ref().map(Artifacts::reading);
    let blobs = artifacts.as_ref().map(|artifacts| Blobs {
        artifacts,
        hash: !args.quick,
    });
    let (shared, partition) = node::deployment_migrations();
    let tables = Tables {
        shared: &shared,
        partition: &partition,
    };
    let checked = invariants::check_deployment(&mut looks, tables, blobs).await;
    checked.map_err(|error| {
        Failure::new(Exit::Failed, error.to_string())
            .hint("the database must hold a deployment that a node of this release has opened")
    })
}

/// What stands in a node's data folder.
async fn look_at_folder(args: &DoctorArgs) -> Result<Findings, Failure> {
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
    let artifacts = args.artifacts.clone();
    let artifacts = Artifacts::reading(artifacts.unwrap_or_else(|| folder.join(node::ARTIFACTS_FOLDER)));
    let blobs = Blobs {
        artifacts: &artifacts,
        hash: !args.quick,
    };
    invariants::check(&mut snapshot, blobs)
        .await
        .map_err(|error| unreadable(&error).hint("the file is damaged beyond reading: restore a backup"))
}

/// Says what was found.
fn told(context: &Context, findings: &Findings) -> Outcome {
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
