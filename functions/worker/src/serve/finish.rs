//! Settling one invocation of a warm process.

use std::sync::Arc;

use celesta_functions::INLINE_JSON_MAX;
use tokio::sync::Notify;

use super::Process;
use super::flights::Flight;
use crate::attempts::Output;
use crate::feed::Finished;
use crate::files;
use crate::floor::{Floor, Held};
use crate::judge::check_output;
use crate::outcome::{Ended, Failure};
use crate::packages::Package;

impl Process {
    pub(super) fn finish_now(&self, held: &Held, result: Result<Vec<u8>, Failure>) -> Finished {
        let ended = Ended {
            result,
            stdout: Output::default(),
            stderr: Output::default(),
        };
        self.floor.finish(held, &self.package.manifest, ended)
    }

    /// Finishes a flight that needs files stored, output kept or a folder removed, beside the others.
    pub(super) fn finish_later(&self, flight: Flight, result: Result<Vec<u8>, Failure>) {
        let Flight {
            held,
            folder,
            printed,
            ..
        } = flight;
        let Some(held) = held else {
            return;
        };
        self.floor.metrics.running.dec();
        let (floor, package) = (Arc::clone(&self.floor), Arc::clone(&self.package));
        let work = folder.as_ref().unwrap_or(&self.folder).join("work");
        self.finishing.push(Box::pin(async move {
            let work = async {
                let result = match result {
                    Ok(result) => finish_result(&floor, &package, result, &work).await,
                    Err(failure) => Err(failure),
                };
                let stderr = match printed {
                    Some(printed) => floor.output(*printed).await,
                    None => Output::default(),
                };
                if let Some(folder) = folder {
                    tokio::fs::remove_dir_all(folder).await.ok();
                }
                floor.finish(
                    &held,
                    &package.manifest,
                    Ended {
                        result,
                        stdout: Output::default(),
                        stderr,
                    },
                )
            };
            floor.holding(held.leased.lease(), &Notify::new(), work).await
        }));
    }
}

async fn finish_result(
    floor: &Floor,
    package: &Package,
    result: Vec<u8>,
    work: &std::path::Path,
) -> Result<Vec<u8>, Failure> {
    if result.len() > INLINE_JSON_MAX {
        return Err(files::too_large(result.len()));
    }
    let result = if files::names_files(&result) {
        files::take_out(&result, work, &floor.artifacts).await?
    } else {
        result
    };
    check_output(&package.manifest, &result)?;
    Ok(result)
}
