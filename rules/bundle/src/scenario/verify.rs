//! What a scenario expects against what happened, in words that say where to look.

use std::collections::BTreeMap;

use serde_json::Value;

use super::read::Scenario;
use super::template::{Names, differences, fits, shown};
use super::trace::Trace;

/// Errors of sections shown when a scenario fails.
const THROWN_SHOWN: usize = 5;
/// Facts shown beside a count that is wrong.
const FACTS_SHOWN: usize = 5;

/// Everything that is not as expected.
pub(super) fn failures(scenario: &Scenario, trace: &Trace) -> Vec<String> {
    let expect = &scenario.expect;
    let mut failures: Vec<String> = trace.broken.clone();
    if let Some(words) = &expect.refused {
        match &trace.refused {
            Some(message) if message.contains(words.as_str()) => {}
            Some(message) => failures.push(format!(
                "refused: expected a message with \"{words}\", got: {message}"
            )),
            None => failures.push(format!(
                "refused: expected the request to be refused with \"{words}\", and it was accepted"
            )),
        }
    }
    if let Some(state) = &expect.state
        && state != trace.state.name()
    {
        failures.push(wrong_state(state, trace));
    }
    let names = Names {
        run: trace.run,
        input: None,
    };
    for (expected, exactly) in [(&expect.result, false), (&expect.result_exactly, true)] {
        let Some(expected) = expected else { continue };
        match names.fill(expected) {
            Ok(expected) => failures.extend(differences("result", &expected, &trace.result, exactly)),
            Err(message) => failures.push(format!("result: {message}")),
        }
    }
    if let Some(error) = &expect.error {
        match &trace.error {
            Some(actual) if actual.contains(error.as_str()) => {}
            Some(actual) => failures.push(format!(
                "error: expected a message with \"{error}\", got \"{actual}\""
            )),
            None => failures.push(format!(
                "error: expected a message with \"{error}\", and the run has none"
            )),
        }
    }
    fired(scenario, trace, &mut failures);
    tallies("calls", &expect.calls, &trace.calls, &mut failures);
    tallies("attempts", &expect.attempts, &trace.attempts, &mut failures);
    for expected in &expect.facts {
        let filter = match expected
            .filter
            .as_ref()
            .map(|filter| names.fill(filter))
            .transpose()
        {
            Ok(filter) => filter,
            Err(message) => {
                failures.push(format!("facts: {message}"));
                continue;
            }
        };
        facts(
            &expected.fact_type,
            expected.count,
            filter.as_ref(),
            trace,
            &mut failures,
        );
    }
    if let Some(elapsed) = expect.elapsed_ms
        && elapsed != trace.elapsed_ms
    {
        failures.push(format!(
            "elapsed: expected {}, got {}",
            span(elapsed),
            span(trace.elapsed_ms)
        ));
    }
    if let Some(progress) = expect.progress {
        let actual = trace.progress.unwrap_or(0.0);
        if (actual - progress).abs() > 1e-6 {
            failures.push(format!("progress: expected {progress}, got {actual}"));
        }
    }
    if !failures.is_empty() {
        // What was thrown is seldom expected, and mostly the reason for everything else.
        failures.extend(trace.threw.iter().take(THROWN_SHOWN).cloned());
    }
    failures
}

fn wrong_state(expected: &str, trace: &Trace) -> String {
    let mut text = format!("state: expected {expected}, got {}", trace.state.name());
    if let Some(error) = &trace.error {
        text.push_str(": ");
        text.push_str(error);
    }
    for call in &trace.awaited {
        text.push_str("\nstill awaited: ");
        text.push_str(call);
    }
    text
}

fn fired(scenario: &Scenario, trace: &Trace, failures: &mut Vec<String>) {
    let expect = &scenario.expect;
    let actual = || {
        if trace.fired.is_empty() {
            "nothing".to_owned()
        } else {
            summary(&trace.fired)
        }
    };
    if let Some(wanted) = &expect.fired {
        let mut rest = trace.fired.iter();
        if let Some(missing) = wanted.iter().find(|rule| !rest.any(|fired| fired == *rule)) {
            let never = !trace.fired.contains(missing);
            let how = if never {
                "and it did not"
            } else {
                "and it did not at its place in the order"
            };
            let mut text = format!(
                "fired: expected \"{missing}\" to fire, {how}\nfired: {}",
                actual()
            );
            if let Some(explanation) = trace.explanations.get(missing).filter(|_| never) {
                text.push('\n');
                text.push_str(explanation);
            }
            failures.push(text);
        }
    }
    if let Some(wanted) = &expect.fired_exactly
        && *wanted != trace.fired
    {
        let at = wanted
            .iter()
            .zip(&trace.fired)
            .take_while(|(one, other)| one == other)
            .count();
        let side = |list: &[String]| {
            list.get(at)
                .map_or_else(|| "nothing".to_owned(), |rule| format!("\"{rule}\""))
        };
        let mut text = format!(
            "fired: firing {} was expected to be {}, and is {}\nexpected: {}\nfired: {}",
            at + 1,
            side(wanted),
            side(&trace.fired),
            summary(wanted),
            actual()
        );
        if let Some(explanation) = wanted.get(at).and_then(|rule| trace.explanations.get(rule)) {
            text.push('\n');
            text.push_str(explanation);
        }
        failures.push(text);
    }
    for rule in &expect.not_fired {
        let count = trace.fired.iter().filter(|fired| *fired == rule).count();
        if count > 0 {
            failures.push(format!(
                "fired: expected \"{rule}\" not to fire, and it fired {count} times"
            ));
        }
    }
    for (rule, expected) in &expect.counts {
        let count = trace.fired.iter().filter(|fired| *fired == rule).count();
        if u64::try_from(count).ok() != Some(*expected) {
            let mut text =
                format!("counts: expected \"{rule}\" to fire {expected} times, and it fired {count} times");
            if let Some(explanation) = trace.explanations.get(rule) {
                text.push('\n');
                text.push_str(explanation);
            }
            failures.push(text);
        }
    }
}

/// Rules in order, repetitions counted.
fn summary(rules: &[String]) -> String {
    let mut parts: Vec<(&str, usize)> = Vec::new();
    for rule in rules {
        match parts.last_mut() {
            Some((last, count)) if *last == rule.as_str() => *count += 1,
            _ => parts.push((rule, 1)),
        }
    }
    let parts = parts.iter().map(|(rule, count)| {
        if *count > 1 {
            format!("\"{rule}\" ×{count}")
        } else {
            format!("\"{rule}\"")
        }
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn tallies(
    what: &str,
    expected: &BTreeMap<String, u64>,
    actual: &BTreeMap<String, u64>,
    failures: &mut Vec<String>,
) {
    for (name, expected) in expected {
        let actual = actual.get(name).copied().unwrap_or(0);
        if actual != *expected {
            failures.push(format!("{what}: expected {expected} of `{name}`, got {actual}"));
        }
    }
}

fn facts(
    fact_type: &str,
    count: Option<u64>,
    filter: Option<&Value>,
    trace: &Trace,
    failures: &mut Vec<String>,
) {
    let of_type: Vec<&Value> = trace
        .facts
        .iter()
        .filter(|(name, _)| name == fact_type)
        .map(|(_, value)| value)
        .collect();
    let fitting = of_type
        .iter()
        .filter(|value| filter.is_none_or(|filter| fits(filter, value)))
        .count();
    let wrong = count.map_or(fitting == 0, |count| u64::try_from(fitting).ok() != Some(count));
    if !wrong {
        return;
    }
    let wanted = count.map_or_else(|| "some".to_owned(), |count| count.to_string());
    let condition = filter.map_or_else(String::new, |filter| format!(" where {}", shown(filter)));
    let mut text = format!(
        "facts: expected {wanted} {fact_type}{condition}, got {fitting} of {}",
        of_type.len()
    );
    for value in of_type.iter().take(FACTS_SHOWN) {
        text.push_str("\nthere is ");
        text.push_str(&shown(value));
    }
    failures.push(text);
}

/// Milliseconds in the way durations are written.
fn span(ms: i64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = ms;
    let mut text = String::new();
    for (unit, length) in units {
        if rest / length > 0 {
            text.push_str(&(rest / length).to_string());
            text.push_str(unit);
        }
        rest %= length;
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shown_as_they_are_written() {
        assert_eq!(span(0), "0s");
        assert_eq!(span(5_400_250), "1h30m250ms");
        assert_eq!(span(30 * 86_400_000), "30d");
    }

    #[test]
    fn repeated_rules_are_counted() {
        let rules: Vec<String> = ["a", "b", "b", "a"].iter().map(ToString::to_string).collect();
        assert_eq!(summary(&rules), "\"a\", \"b\" ×2, \"a\"");
    }
}
