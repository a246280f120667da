//! `[retention.WORKFLOW]` of `service.toml`: how long finished runs stay as they are, and the histories of resting ones.

use std::collections::BTreeMap;
use std::ops::Range;

use celesta_functions::names::is_name;

use crate::toml_text::{Fields, Text, did_you_mean, type_name};

/// The shortest time anything is kept: below it a client that waits for the end might find it moved.
const KEPT_MS_MIN: i64 = 1_000;

/// How long the runs of a workflow are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// For how long after its end a run stays among the others; then it is archived. For ever when none.
    pub finished_ms: Option<i64>,
    /// For how long after it came to rest a run keeps the turns before its last one. For ever when none.
    pub history_ms: Option<i64>,
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
        let history_ms = fields.duration("history");
        for (word, given) in [("finished", finished_ms), ("history", history_ms)] {
            if given.is_some_and(|given| given < KEPT_MS_MIN) {
                text.report_with(
                    &value.span(),
                    format!("`{word}` is less than a second"),
                    format!("for example `{word} = \"30d\"`"),
                );
            }
        }
        fields.finish();
        let retention = Retention {
            finished_ms,
            history_ms,
        };
        read.insert(name.to_owned(), (retention, key));
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
