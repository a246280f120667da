//! Constants and fact types.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::ruleset::{FIELDS_MAX, Field, FieldKind};
use crate::scripts::Scripts;
use crate::syntax::place::{Places, Reporter};
use crate::syntax::{FactDecl, File, Name, Span};
use crate::{FactType, Value};

/// For each type the slots that some section writes, going by the names of fields.
pub(super) fn volatile(file: &File, places: &Places<'_>, types: &[FactType]) -> Vec<u64> {
    let sections = file.rules.iter().flat_map(|rule| rule.sections.iter().flatten());
    let texts: Vec<&str> = sections.map(|span| &places.text[span.clone()]).collect();
    let written = |name: &str| {
        texts.iter().any(|text| {
            text.match_indices(name).any(|(at, _)| {
                let rest = text[at + name.len()..].trim_start();
                let rest = rest.trim_start_matches(['+', '-', '*', '/', '%']);
                text[..at].ends_with('.') && rest.starts_with('=') && !rest.starts_with("==")
            })
        })
    };
    let mask = |kind: &FactType| {
        let fields = kind.fields.iter().enumerate();
        fields
            .filter(|(_, field)| written(&field.name))
            .fold(0, |all, (slot, _)| all | 1 << slot)
    };
    types.iter().map(mask).collect()
}

pub(super) fn repeated<'a>(names: impl Iterator<Item = &'a Name>, what: &str, report: &mut Reporter<'_>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(&name.text) {
            report.error(
                "repeated-name",
                &name.span,
                format!("{what} `{}` is declared twice", name.text),
                "declared again here",
            );
        }
    }
}

pub(super) fn literal(
    span: &Span,
    places: &Places<'_>,
    scripts: &Scripts,
    report: &mut Reporter<'_>,
) -> Option<Value> {
    match scripts.literal(&places.text[span.clone()]) {
        Ok(value) => Some(value),
        Err(why) => {
            report.error("not-a-literal", span, "this is no literal", why);
            None
        }
    }
}

pub(super) fn constants(
    file: &File,
    places: &Places<'_>,
    scripts: &Scripts,
    report: &mut Reporter<'_>,
) -> FxHashMap<String, Value> {
    repeated(
        file.consts.iter().map(|constant| &constant.name),
        "constant",
        report,
    );
    (file.consts.iter())
        .map(|constant| {
            let value = literal(&constant.value, places, scripts, report).unwrap_or_default();
            (constant.name.text.clone(), value)
        })
        .collect()
}

pub(super) fn fact_type(
    fact: &FactDecl,
    places: &Places<'_>,
    scripts: &Scripts,
    report: &mut Reporter<'_>,
) -> FactType {
    repeated(fact.fields.iter().map(|field| &field.name), "field", report);
    if fact.fields.len() > FIELDS_MAX {
        report.error(
            "too-many-fields",
            &fact.name.span,
            format!("a fact type has at most {FIELDS_MAX} fields"),
            "too many",
        );
    }
    let fields = (fact.fields.iter().take(FIELDS_MAX))
        .map(|declared| {
            let kind = FieldKind::ALL
                .into_iter()
                .find(|kind| kind.name() == declared.kind.text)
                .unwrap_or_else(|| {
                    let kinds: Vec<_> = FieldKind::ALL.iter().map(|kind| kind.name()).collect();
                    let message = format!("unknown kind `{}`", declared.kind.text);
                    report
                        .error(
                            "unknown-kind",
                            &declared.kind.span,
                            message,
                            format!("expected one of {}", kinds.join(", ")),
                        )
                        .similar(&declared.kind.text, kinds);
                    FieldKind::Any
                });
            let mut field = Field {
                name: declared.name.text.as_str().into(),
                kind,
                optional: declared.optional,
                default: None,
            };
            if let Some(span) = &declared.default
                && let Some(value) = literal(span, places, scripts, report)
            {
                match field.checked(value) {
                    Ok(value) => field.default = Some(value),
                    Err(why) => {
                        report.error("wrong-type", span, why, format!("expected {}", kind.name()));
                    }
                }
            }
            field
        })
        .collect();
    FactType {
        name: fact.name.text.as_str().into(),
        fields,
        shared: fact.shared,
    }
}
