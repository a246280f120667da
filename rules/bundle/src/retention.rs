//! `[retention.WORKFLOW]` of `service.toml`: how long finished runs stay as they are.

use std::collections::BTreeMap;
use std::ops::Range;

use celesta_functions::names::is_name;

use crate::toml_text::{Fields, Text, did_you_mean, type_name};

/// The shortest time a finished run is kept: below it a client that waits for the end might find it moved.
const FINISHED_MS_MIN: i64 = 1_000;

/// How long the runs of a workflow are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// For how long after its end a run stays among the others; then it is archived. For ever when none.
    pub finished_ms: Option<i64>,
}

/// Reads the table; whether its workflows exist is for [`check`].
pub(crate) fn read(
    fields: &mut Fields<'_, '_>,
    text: &Text<'_>,
) -> BTreeMap<String, (Retention, Range<usize>)> {
    let mut read = BTreeMap::new();
    let Some(table) = fields.table("retention") else {
        return read;
    };
    for (name, key, value) in table.entries() {
        let Some(of_workflow) = value.get_ref().as_table() else {
            let found = type_name(value.get_ref());
            text.report_with(
                &value.span(),
                format!("`{name}` is {found}, expected a table"),
                format!("write `[retention.{name}]` and below it `finished = \"30d\"`"),
            );
            continue;
        };
        let mut fields = Fields::new(of_workflow, key.clone(), format!("retention.{name}"), text);
        let finished_ms = fields.duration("finished");
        if finished_ms.is_some_and(|finished| finished < FINISHED_MS_MIN) {
            text.report_with(
                &value.span(),
                "`finished` is less than a second",
                "for example `finished = \"30d\"`".to_owned(),
            );
        }
        fields.finish();
        read.insert(name.to_owned(), (Retention { finished_ms }, key));
    }
    read
}

/// The retention of the workflows there are; others are mistakes.
pub(crate) fn check<'a>(
    written: BTreeMap<String, (Retention, Range<usize>)>,
    workflows: &(impl Iterator<Item = &'a str> + Clone),
    text: &Text<'_>,
) -> BTreeMap<String, Retention> {
    let mut checked = BTreeMap::new();
    for (name, (retention, span)) in written {
        if is_name(&name) && workflows.clone().any(|known| known == name) {
            checked.insert(name, retention);
        } else {
            let hint = did_you_mean(&name, workflows.clone());
            text.report_with(&span, format!("there is no workflow `{name}`"), hint);
        }
    }
    checked
}
