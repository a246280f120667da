//! `celesta test [DIR] [FILTER]`: the scenarios of a bundle, without a server, printed as tests are.

use std::path::{Path, PathBuf};

use celesta_bundle::Diagnostic;
use celesta_bundle::scenario::{Report, ScenarioResult, run_scenarios};
use celesta_runtime::Clock;
use clap::Args;
use serde_json::json;

use super::Context;
use super::check::read;
use crate::diagnostics::{Counts, counted, shown};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{BAD, DIM, GOOD, STRONG, duration};

/// Options of `test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only scenarios whose name or file contains this
    filter: Option<String>,
}

/// Runs the scenarios.
pub(crate) fn run(context: &Context, args: &TestArgs) -> Outcome {
    let clock = Clock::system();
    let begun = clock.monotonic();
    let (files, checked) = read(&args.dir)?;
    let bundle = match checked {
        Ok(bundle) => bundle,
        Err(diagnostics) => return mistaken(context, &args.dir, &diagnostics),
    };
    let report = match run_scenarios(&bundle, &files, args.filter.as_deref()) {
        Ok(report) => report,
        Err(errors) => return mistaken(context, &args.dir, &errors.0),
    };
    let took = clock.monotonic().saturating_sub(begun);
    context.out.json(&json!({
        "passed": report.passed(),
        "failed": report.failed(),
        "filtered": report.filtered,
        "elapsed_ms": took.as_millis(),
        "results": report.results,
    }))?;
    context.out.line(format_args!(
        "running {} of {STRONG}{}{STRONG:#}",
        counted(report.results.len(), "scenario"),
        bundle.name
    ))?;
    for result in &report.results {
        context.out.line(line(result))?;
    }
    let failed: Vec<&ScenarioResult> = report.results.iter().filter(|result| !result.passed).collect();
    for result in &failed {
        context.out.line(told(result))?;
    }
    context.out.line(summary(&report, took))?;
    Ok(if failed.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn line(result: &ScenarioResult) -> String {
    let verdict = if result.passed {
        format!("{GOOD}ok{GOOD:#}")
    } else {
        format!("{BAD}FAILED{BAD:#}")
    };
    format!("scenario {} ... {verdict}", result.name)
}

/// What was not as expected.
fn told(result: &ScenarioResult) -> String {
    let mut text = format!(
        "\n---- {BAD}{}{BAD:#} {DIM}{}:{}{DIM:#}",
        result.name, result.path, result.line
    );
    for failure in &result.failures {
        text.push('\n');
        text.push_str(failure);
    }
    text
}

fn summary(report: &Report, took: std::time::Duration) -> String {
    let verdict = if report.failed() == 0 {
        format!("{GOOD}ok{GOOD:#}")
    } else {
        format!("{BAD}FAILED{BAD:#}")
    };
    format!(
        "\nresult: {verdict}. {} passed; {} failed; {} filtered out; finished in {}",
        report.passed(),
        report.failed(),
        report.filtered,
        duration(took)
    )
}

/// Nothing can be run: says why.
fn mistaken(context: &Context, folder: &Path, diagnostics: &[Diagnostic]) -> Outcome {
    let counts = Counts::of(diagnostics);
    context
        .out
        .json(&json!({ "errors": counts.errors, "warnings": counts.warnings, "diagnostics": diagnostics }))?;
    for diagnostic in diagnostics {
        context.out.line(format_args!("{}\n", shown(diagnostic)))?;
    }
    if context.out.is_json() {
        return Err(Failure::silent(Exit::Failed));
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} in {}; no scenario was run", counts.text(), folder.display()),
    ))
}
