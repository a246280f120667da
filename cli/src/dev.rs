//! The bundles `celesta dev` watches: what changed, what is wrong with it, what was pushed.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use celesta_bundle::{Files, is_left_out};
use celesta_runs::{PushError, Runtime};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use serde_json::json;
use tokio::sync::mpsc;

use crate::commands::Context;
use crate::commands::check::{contents, read};
use crate::diagnostics::{Counts, shown};
use crate::exit::Failure;
use crate::output::{BAD, DIM, GOOD, STRONG, shorten};

/// Names of changed files shown in one line.
const NAMES_WIDTH_MAX: usize = 80;

/// The folders and what was last found in them.
pub(crate) struct Bundles {
    folders: Vec<Folder>,
    /// Holds at most one word: "look again".
    changes: mpsc::Receiver<()>,
    /// Ends with this value.
    _watcher: RecommendedWatcher,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// What was last looked at, good or bad; nothing before the first look.
    seen: Option<Files>,
}

impl std::fmt::Debug for Bundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundles")
            .field("folders", &self.folders.len())
            .finish_non_exhaustive()
    }
}

impl Bundles {
    /// Watches these folders.
    ///
    /// # Errors
    /// When the system cannot watch one of them.
    pub(crate) fn watch(paths: &[PathBuf]) -> Result<Self, Failure> {
        let (sender, changes) = mpsc::channel(1);
        let mut roots = Vec::new();
        for path in paths {
            roots.push(
                path.canonicalize()
                    .map_err(|error| Failure::file("read", path, &error))?,
            );
        }
        let watched = roots.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            // An error (say, a lost event) is a reason to look, too.
            let relevant = event.as_ref().map_or(true, |event| {
                !event.kind.is_access() && event.paths.iter().any(|path| concerns(&watched, path))
            });
            if relevant {
                // A full channel already says "look again".
                sender.try_send(()).ok();
            }
        };
        let failed = |error: notify::Error| Failure::internal(format!("cannot watch files: {error}"));
        let mut watcher = notify::recommended_watcher(on_event).map_err(failed)?;
        for root in &roots {
            watcher.watch(root, RecursiveMode::Recursive).map_err(failed)?;
        }
        let folders = paths
            .iter()
            .map(|path| Folder {
                path: path.clone(),
                seen: None,
            })
            .collect();
        Ok(Self {
            folders,
            changes,
            _watcher: watcher,
        })
    }

    /// Waits until something may have changed.
    ///
    /// # Cancel safety
    /// A change seen while nobody waits is kept.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Looks at every folder; pushes what changed and is right, shows what is wrong.
    ///
    /// # Errors
    /// When nothing can be printed any more.
    pub(crate) async fn load(&mut self, context: &Context, runtime: &Runtime) -> Result<(), Failure> {
        for folder in &mut self.folders {
            folder.load(context, runtime).await?;
        }
        Ok(())
    }
}

impl Folder {
    async fn load(&mut self, context: &Context, runtime: &Runtime) -> Result<(), Failure> {
        let out = context.out;
        let (files, checked) = match read(&self.path) {
            Ok(read) => read,
            Err(failure) => {
                out.failure(&failure);
                return Ok(());
            }
        };
        let changed = match &self.seen {
            Some(seen) if *seen == files => return Ok(()),
            Some(seen) => changed_names(seen, &files),
            None => String::new(),
        };
        self.seen = Some(files.clone());
        let bundle = match checked {
            Ok(bundle) => bundle,
            Err(diagnostics) => {
                let counts = Counts::of(&diagnostics);
                out.json(&json!({ "kind": "invalid", "folder": self.path, "diagnostics": diagnostics }))?;
                for diagnostic in &diagnostics {
                    out.line(format_args!("{}\n", shown(diagnostic)))?;
                }
                return out.line(format_args!(
                    "{} {DIM}in {}; what was pushed before stays{DIM:#}",
                    counts.text(),
                    self.path.display()
                ));
            }
        };
        for warning in &bundle.warnings {
            out.line(format_args!("{}\n", shown(warning)))?;
        }
        let (name, text) = (bundle.name.clone(), contents(&bundle));
        match runtime.push(&name, files).await {
            Ok(pushed) => {
                out.json(&json!({
                    "kind": "pushed", "service": name, "version": pushed.version.digest, "changed": pushed.changed, "files": changed,
                }))?;
                let what = if pushed.changed { "pushed" } else { "unchanged" };
                let why = if changed.is_empty() {
                    text
                } else {
                    format!("{} ({changed} changed)", pushed.version.digest.short())
                };
                out.line(format_args!(
                    "{GOOD}{what}{GOOD:#} {STRONG}{name}{STRONG:#} {DIM}{why}{DIM:#}"
                ))
            }
            Err(error) => refused(context, &self.path, &error),
        }
    }
}

fn refused(context: &Context, folder: &Path, error: &PushError) -> Result<(), Failure> {
    context
        .out
        .json(&json!({ "kind": "refused", "folder": folder, "message": error.to_string() }))?;
    context.out.line(format_args!(
        "{BAD}not pushed{BAD:#} {}: {error}",
        folder.display()
    ))
}

/// Whether a change of `path` may change a bundle: hidden files and build folders do not belong to it.
fn concerns(roots: &[PathBuf], path: &Path) -> bool {
    let inside = roots.iter().filter_map(|root| path.strip_prefix(root).ok());
    inside.into_iter().any(|relative| {
        !relative.components().any(|part| match part {
            Component::Normal(name) => name.to_str().is_none_or(is_left_out),
            _ => false,
        })
    })
}

/// The files that differ, by name.
fn changed_names(before: &Files, after: &Files) -> String {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed: Vec<&str> = paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(String::as_str)
        .collect();
    shorten(&changed.join(", "), NAMES_WIDTH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_inside_a_bundle_does_not_count() {
        let roots = [PathBuf::from("/b")];
        assert!(concerns(&roots, Path::new("/b/rules/x.rules")));
        assert!(!concerns(&roots, Path::new("/b/.celesta/celesta.db-wal")));
        assert!(!concerns(&roots, Path::new("/elsewhere/x.rules")));
    }
}
