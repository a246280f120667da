//! Scenarios: tests of a service's rules that need no function, no server and no time.
//!
//! A scenario gives a request (or facts), says how functions answer, and states what it expects of the run. The rules
//! are evaluated by the same engine, turn by turn, as in production; only the clock is virtual, so thirty days pass in
//! a millisecond. Failed answers follow the function's own retry policy and its timeout. No process is started: what
//! functions really do is tested where they are.

mod read;
mod template;
#[cfg(test)]
mod tests;
mod trace;
mod verify;
mod world;

use std::fmt;

use serde::Serialize;

use crate::bundle::{Bundle, text_of};
use crate::diagnostic::{BundleErrors, Diagnostic, Severity};
use crate::files::Files;
use crate::toml_text::Text;
use read::Scenario;

/// What came of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScenarioResult {
    /// The file it stands in.
    pub path: String,
    /// The line it begins at.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Whether everything was as expected.
    pub passed: bool,
    /// What was not, each with expected and actual; the first is the most telling.
    pub failures: Vec<String>,
    /// The state the run ended in.
    pub state: &'static str,
    /// Virtual milliseconds from the request to the end of the run.
    pub elapsed_ms: i64,
    /// Turns evaluated.
    pub turns: u64,
    /// Rules fired.
    pub firings: usize,
}

/// What came of all scenarios of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Each scenario that was run, in the order of files and lines.
    pub results: Vec<ScenarioResult>,
    /// How many the filter left out.
    pub filtered: usize,
}

impl Report {
    /// How many passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.results.iter().filter(|result| result.passed).count()
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.results.len() - self.passed()
    }
}

impl fmt::Display for ScenarioResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.passed { "ok" } else { "FAILED" };
        write!(f, "{} … {outcome}", self.name)?;
        if self.passed {
            return Ok(());
        }
        write!(f, "\n  --> {}:{}", self.path, self.line)?;
        for failure in &self.failures {
            for (at, line) in failure.lines().enumerate() {
                write!(f, "\n  {}{line}", if at == 0 { "" } else { "  " })?;
            }
        }
        Ok(())
    }
}

/// Runs the scenarios of `tests/*.toml` whose name or file contains `filter`.
///
/// # Errors
/// When a scenario file is wrong; none is run then.
pub fn run_scenarios(bundle: &Bundle, files: &Files, filter: Option<&str>) -> Result<Report, BundleErrors> {
    let scenarios = read_all(bundle, files)?;
    let mut report = Report {
        results: Vec::new(),
        filtered: 0,
    };
    for scenario in &scenarios {
        let wanted =
            filter.is_none_or(|filter| scenario.name.contains(filter) || scenario.path.contains(filter));
        if wanted {
            report.results.push(run(bundle, scenario));
        } else {
            report.filtered += 1;
        }
    }
    Ok(report)
}

/// Checks the scenario files without running them.
///
/// # Errors
/// Everything that is wrong in them.
pub fn check(bundle: &Bundle, files: &Files) -> Result<(), BundleErrors> {
    read_all(bundle, files).map(|_| ())
}

fn run(bundle: &Bundle, scenario: &Scenario) -> ScenarioResult {
    let trace = world::play(bundle, scenario);
    let failures = verify::failures(scenario, &trace);
    ScenarioResult {
        path: scenario.path.clone(),
        line: scenario.line,
        name: scenario.name.clone(),
        passed: failures.is_empty(),
        failures,
        state: trace.state.name(),
        elapsed_ms: trace.elapsed_ms,
        turns: trace.turns,
        firings: trace.fired.len(),
    }
}

fn read_all(bundle: &Bundle, files: &Files) -> Result<Vec<Scenario>, BundleErrors> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut scenarios = Vec::new();
    for (path, file) in files {
        if !(path.starts_with("tests/") && path.ends_with(".toml")) {
            continue;
        }
        let Some(content) = text_of(path, &file.content, &mut found) else {
            continue;
        };
        let text = Text::new("scenario", path, content);
        scenarios.extend(read::read(&text, bundle, files));
        found.extend(text.finish());
    }
    if found.iter().any(|one| one.severity == Severity::Error) {
        Err(BundleErrors(found))
    } else {
        Ok(scenarios)
    }
}
