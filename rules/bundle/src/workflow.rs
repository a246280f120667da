//! `[workflows.<name>]` of `service.toml`: what holds for all runs of a workflow, whichever operation asked for them.

use std::ops::Range;

use toml::de::DeValue;

use crate::concurrency::{self, Limit};
use crate::toml_text::{Fields, Text, type_name};

/// What is written of a workflow, and where its name stands.
#[derive(Debug)]
pub(crate) struct WorkflowText {
    pub(crate) name: (String, Range<usize>),
    pub(crate) settings: Workflow,
}

/// What holds for all runs of a workflow.
#[derive(Debug, Clone, Default)]
pub struct Workflow {
    /// How many may be under way at once; entered in this order.
    pub concurrency: Vec<Limit>,
}

/// Reads the table `workflows`.
pub(crate) fn read(fields: &mut Fields<'_, '_>, text: &Text<'_>) -> Vec<WorkflowText> {
    if fields.get("workflows").is_none() {
        return Vec::new();
    }
    let Some(workflows) = fields.table("workflows") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, key, value) in workflows.entries() {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("`{name}` is {}, expected a table", type_name(value.get_ref()));
            text.report(&value.span(), message);
            continue;
        };
        let mut fields = Fields::new(table, key.clone(), format!("workflows.{name}"), text);
        let settings = Workflow {
            concurrency: concurrency::read(&mut fields, text),
        };
        fields.finish();
        found.push(WorkflowText {
            name: (name.to_owned(), key),
            settings,
        });
    }
    found
}
