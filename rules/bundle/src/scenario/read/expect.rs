//! `[scenario.expect]`: what should have happened.

use std::collections::BTreeMap;
use std::ops::Range;

use celesta_engine::RuleSet;

use super::{Expect, FactsExpected, Known, STATES, known_fact_type, known_function};
use crate::toml_text::{Fields, Text, did_you_mean};

/// Reads the table; mistakes go to `text`.
pub(super) fn expect(
    mut fields: Fields<'_, '_>,
    text: &Text<'_>,
    known: &Known<'_>,
    rules: &RuleSet,
) -> Expect {
    if fields.entries().next().is_none() {
        text.report_with(
            &fields.span,
            "the scenario expects nothing",
            "for example `state = \"completed\"`".to_owned(),
        );
    }
    let state = fields.text("state").map(|(state, span)| {
        if !STATES.contains(&state) {
            let hint = did_you_mean(state, STATES).unwrap_or_else(|| format!("one of {}", STATES.join(", ")));
            text.report_with(&span, format!("`{state}` is not a state of a run"), hint);
        }
        state.to_owned()
    });
    let result = fields.json("result").map(|(value, _)| value);
    let result_exactly = fields.json("result_exactly").map(|(value, _)| value);
    let error = fields.text("error").map(|(text, _)| text.to_owned());
    let fired = rule_list(&mut fields, "fired", text, rules);
    let fired_exactly = rule_list(&mut fields, "fired_exactly", text, rules);
    let not_fired = rule_list(&mut fields, "not_fired", text, rules).unwrap_or_default();
    let fired_counts = counts(&mut fields, "counts", text, |name, span| {
        known_rule(name, span, text, rules);
    });
    let callees = |name: &str, span: &Range<usize>| {
        if !name.contains('/') {
            known_function(name, span, text, known);
        }
    };
    let calls = counts(&mut fields, "calls", text, callees);
    let attempts = counts(&mut fields, "attempts", text, callees);
    let facts = fields
        .tables("facts")
        .into_iter()
        .filter_map(|table| facts_expected(table, text, rules))
        .collect();
    let elapsed_ms = fields.duration("elapsed");
    let progress = fields.json("progress").and_then(|(value, span)| {
        let number = value.as_f64();
        if number.is_none() {
            text.report(&span, "`progress` is a number from 0 to 1");
        }
        number
    });
    let refused = fields.text("refused").map(|(text, _)| text.to_owned());
    fields.finish();
    Expect {
        state,
        result,
        result_exactly,
        error,
        fired,
        fired_exactly,
        not_fired,
        counts: fired_counts,
        facts,
        calls,
        attempts,
        elapsed_ms,
        progress,
        refused,
    }
}

fn rule_list(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    text: &Text<'_>,
    rules: &RuleSet,
) -> Option<Vec<String>> {
    let names = fields.texts(key)?;
    let checked = names.into_iter().map(|(name, span)| {
        known_rule(name, &span, text, rules);
        name.to_owned()
    });
    Some(checked.collect())
}

fn known_rule(name: &str, span: &Range<usize>, text: &Text<'_>, rules: &RuleSet) {
    let names: Vec<String> = rules.rules().iter().map(|rule| rule.name().to_owned()).collect();
    if !names.iter().any(|known| known == name) {
        let hint = did_you_mean(name, names.iter().map(String::as_str));
        text.report_with(
            span,
            format!("the workflow `{}` has no rule \"{name}\"", rules.workflow()),
            hint,
        );
    }
}

fn counts(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    text: &Text<'_>,
    check: impl Fn(&str, &Range<usize>),
) -> BTreeMap<String, u64> {
    let Some(table) = fields.table(key) else {
        return BTreeMap::new();
    };
    let mut counts = BTreeMap::new();
    for (name, key, value) in table.entries() {
        check(name, &key);
        match crate::toml_text::to_json(value.get_ref()).as_u64() {
            Some(count) => {
                counts.insert(name.to_owned(), count);
            }
            None => text.report(&value.span(), format!("`{name}` is a whole number from 0")),
        }
    }
    counts
}

fn facts_expected(mut fields: Fields<'_, '_>, text: &Text<'_>, rules: &RuleSet) -> Option<FactsExpected> {
    let name = fields.needed_text("type", "type = \"Chunk\"");
    let count = fields.count("count");
    let filter = fields.json("where").map(|(value, _)| value);
    fields.finish();
    let (name, span) = name?;
    known_fact_type(name, &span, text, rules)?;
    Some(FactsExpected {
        fact_type: name.to_owned(),
        count,
        filter,
    })
}
