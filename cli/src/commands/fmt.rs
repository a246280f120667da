//! `celesta fmt [FILE|DIR…]`: lays out rules files; what they say stays the same.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use celesta_bundle::is_left_out;
use celesta_editor::{FormatError, format};
use clap::Args;

use super::Context;
use crate::diagnostics::{Counts, counted, shown};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, Output, STRONG};

/// Folders within folders that are searched, as deep as those of a bundle.
const DEPTH_MAX: usize = 32;

/// Options of `fmt`.
#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// Rules files, or folders whose rules files are meant
    #[arg(default_value = ".", value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Change nothing; end with 1 when a file is laid out differently
    #[arg(long)]
    check: bool,
    /// Format standard input and print the result
    #[arg(long, conflicts_with_all = ["check", "paths"])]
    stdin: bool,
}

/// Formats and tells what has changed.
pub(crate) fn run(context: &Context, args: &FmtArgs) -> Outcome {
    if args.stdin {
        return standard_input(context);
    }
    let mut files = Vec::new();
    for path in &args.paths {
        search(path, 0, &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut changed = Vec::new();
    let mut mistakes = Vec::new();
    for path in &files {
        let name = path.strip_prefix("./").unwrap_or(path).display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        match format(&name, &text) {
            Ok(laid_out) if laid_out == text => {}
            Ok(laid_out) => {
                if !args.check {
                    std::fs::write(path, laid_out).map_err(|error| {
                        Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
                    })?;
                }
                changed.push(name);
            }
            Err(FormatError::Mistakes(found)) => mistakes.extend(found),
            Err(error @ FormatError::Misread) => return Err(misread(&name, &error)),
        }
    }
    context.out.json(&serde_json::json!({
        "files": files.len(),
        "changed": changed,
        "diagnostics": mistakes,
    }))?;
    for diagnostic in &mistakes {
        context.out.line(format_args!("{}\n", shown(diagnostic)))?;
    }
    let verb = if args.check { "would change" } else { "changed" };
    for name in &changed {
        context
            .out
            .line(format_args!("{verb} {STRONG}{name}{STRONG:#}"))?;
    }
    if !mistakes.is_empty() {
        context.out.line(Counts::of(&mistakes).text())?;
        return Ok(Exit::Failed);
    }
    if args.check && !changed.is_empty() {
        return Ok(Exit::Failed);
    }
    context.out.line(format_args!(
        "{GOOD}ok{GOOD:#} {DIM}{}, {} changed{DIM:#}",
        counted(files.len(), "rules file"),
        changed.len()
    ))?;
    Ok(Exit::Done)
}

fn standard_input(context: &Context) -> Outcome {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
    match format("standard input", &text) {
        Ok(laid_out) => {
            Output::bytes(laid_out.as_bytes())?;
            Ok(Exit::Done)
        }
        Err(FormatError::Mistakes(found)) => {
            // Standard output is the formatted file or nothing.
            if context.out.is_json() {
                Output::remark(serde_json::to_string(&found)?);
            } else {
                found.iter().map(shown).for_each(Output::remark);
            }
            Ok(Exit::Failed)
        }
        Err(error @ FormatError::Misread) => Err(misread("standard input", &error)),
    }
}

/// The rules files at or below a path.
fn search(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let kind = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !kind.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth > DEPTH_MAX {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let entry = entry.map_err(|error| unreadable(path, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_left_out(&name) && (is_folder || name.ends_with(".rules")) {
            search(&entry.path(), depth + 1, files)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound {
        Exit::NotFound
    } else {
        Exit::Failed
    };
    Failure::new(exit, format!("cannot read {}: {error}", path.display()))
}

fn misread(name: &str, error: &FormatError) -> Failure {
    Failure::internal(format!("cannot format {name}: {error}"))
        .hint("it is left as it is; please report the file")
}
