//! From text to manifest: the keys of `function.toml` one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use celesta_types::ErrorClass;
use toml::de::{DeTable, DeValue};

use super::toml_fields::{Fields, Mistakes, nearest, to_json, type_name};
use super::{Manifest, ManifestErrors, Processes, Program, Protocol, Resources};
use crate::names::is_name;
use crate::retry::{Backoff, RetryPolicy};
use crate::schema::Schema;

/// Ten minutes, unless the manifest says otherwise.
const TIMEOUT_MS: u64 = 600_000;
/// Seven days: an attempt that takes longer should be cut into parts.
const TIMEOUT_MS_MAX: u64 = 7 * 86_400_000;
/// Waits between attempts: a day. What is mended later is retried by people.
const WAIT_MS_MAX: u64 = 86_400_000;
/// Invocations in flight in one warm process unless the manifest says otherwise.
const BATCH: u32 = 16;
/// Beyond this a batch gains nothing and one lost process loses much.
const BATCH_MAX: u32 = 1_024;
/// Warm processes of one function on one worker.
const PROCESSES_MAX: u32 = 1_024;
/// Attempts of one call.
const ATTEMPTS_MAX: u32 = 1_000;
/// Processors one process may ask for.
const CPU_MAX: f64 = 1_024.0;
/// The least memory anything starts in.
const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// Bytes of a manifest: it is text written by people.
const TEXT_MAX: usize = 256 * 1024;

pub(super) fn read(
    path: &str,
    text: &str,
    sibling: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Manifest, ManifestErrors> {
    let mistakes = Mistakes::new(path, text);
    if text.len() > TEXT_MAX {
        mistakes.report(
            &(0..0),
            format!(
                "the manifest has {} bytes, at most {TEXT_MAX} are read",
                text.len()
            ),
            None,
        );
        mistakes.finish()?;
    }
    let (document, wrong) = DeTable::parse_recoverable(text);
    for error in &wrong {
        mistakes.report(&error.span().unwrap_or(0..0), error.message().to_owned(), None);
    }
    // After a syntax error the tables are cut: what they seem to lack is no mistake of the author.
    mistakes.finish()?;
    let mut fields = Fields::new(document.get_ref(), 0..0, "", &mistakes);
    let manifest = manifest(&mut fields, &mistakes, sibling);
    fields.finish();
    mistakes.finish()?;
    Ok(manifest)
}

fn manifest(
    fields: &mut Fields<'_, '_>,
    mistakes: &Mistakes<'_>,
    sibling: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Manifest {
    Manifest {
        name: name(fields, mistakes).into(),
        version: fields.text("version", "a text").map(|(text, _)| text.to_owned()),
        description: fields
            .text("description", "a text")
            .map(|(text, _)| text.to_owned()),
        program: program(fields, mistakes),
        protocol: protocol(fields, mistakes),
        timeout_ms: fields
            .duration("timeout", 1, TIMEOUT_MS_MAX)
            .unwrap_or(TIMEOUT_MS),
        batch: fields.integer("batch", 1..=BATCH_MAX).unwrap_or(BATCH),
        pure: fields.flag("pure").unwrap_or(false),
        processes: fields
            .table("processes")
            .map(|table| processes(table, mistakes))
            .unwrap_or_default(),
        resources: fields
            .table("resources")
            .map(|table| resources(table, mistakes))
            .unwrap_or_default(),
        retry: fields
            .table("retry")
            .map(|table| retry(table, mistakes))
            .unwrap_or_default(),
        env: fields
            .table("env")
            .map(|table| env(&table, mistakes))
            .unwrap_or_default(),
        input: schema(fields, "input", mistakes, sibling),
        output: schema(fields, "output", mistakes, sibling),
    }
}

fn name(fields: &mut Fields<'_, '_>, mistakes: &Mistakes<'_>) -> String {
    match fields.text("name", "a text") {
        Some((name, span)) => {
            if !is_name(name) {
                let hint =
                    "a lowercase letter, then lowercase letters, digits, `-` and `_`, at most 64 characters";
                mistakes.report(
                    &span,
                    format!("`{name}` cannot name a function"),
                    Some(hint.to_owned()),
                );
            }
            name.to_owned()
        }
        None => {
            if fields.get("name").is_none() {
                mistakes.report(
                    fields.span(),
                    "the key `name` is missing",
                    Some("for example `name = \"encode\"`".to_owned()),
                );
            }
            String::new()
        }
    }
}

fn program(fields: &mut Fields<'_, '_>, mistakes: &Mistakes<'_>) -> Program {
    const EXAMPLE: &str = "for example `command = [\"python3\", \"encode.py\"]`";
    let image = fields
        .text("image", "a text")
        .map(|(text, span)| (text.to_owned(), span));
    let command = fields.get("command");
    match (command, image) {
        (Some(command), Some(_)) => {
            mistakes.report(
                &command.span(),
                "both `command` and `image` are given",
                Some("keep one of them".to_owned()),
            );
            Program::Command(Vec::new())
        }
        (None, Some((image, span))) => {
            if image.trim().is_empty() {
                mistakes.report(&span, "`image` is empty", None);
            }
            Program::Image(image)
        }
        (Some(command), None) => {
            let words: Option<Vec<String>> = command.get_ref().as_array().and_then(|words| {
                words
                    .iter()
                    .map(|word| word.get_ref().as_str().map(str::to_owned))
                    .collect()
            });
            match words {
                Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                    Program::Command(words)
                }
                _ => {
                    let message = "`command` is not a list of a program and its arguments";
                    mistakes.report(&command.span(), message, Some(EXAMPLE.to_owned()));
                    Program::Command(Vec::new())
                }
            }
        }
        (None, None) => {
            if fields.get("image").is_none() {
                mistakes.report(
                    fields.span(),
                    "the key `command` is missing",
                    Some(EXAMPLE.to_owned()),
                );
            }
            Program::Command(Vec::new())
        }
    }
}

fn protocol(fields: &mut Fields<'_, '_>, mistakes: &Mistakes<'_>) -> Protocol {
    match fields.text("protocol", "\"exec\" or \"serve\"") {
        None | Some(("exec", _)) => Protocol::Exec,
        Some(("serve", _)) => Protocol::Serve,
        Some((other, span)) => {
            let hint = nearest(other, &BTreeSet::from(["exec", "serve"])).map_or_else(
                || "write \"exec\" or \"serve\"".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            mistakes.report(&span, format!("unknown protocol `{other}`"), Some(hint));
            Protocol::Exec
        }
    }
}

fn processes(mut fields: Fields<'_, '_>, mistakes: &Mistakes<'_>) -> Processes {
    let min = fields.integer("min", 0..=PROCESSES_MAX).unwrap_or(0);
    let max = fields.integer("max", 1..=PROCESSES_MAX);
    if max.is_some_and(|max| max < min) {
        mistakes.report(fields.span(), format!("`min` is {min} and `max` is less"), None);
    }
    fields.finish();
    Processes { min, max }
}

fn resources(mut fields: Fields<'_, '_>, mistakes: &Mistakes<'_>) -> Resources {
    let usual = Resources::default();
    let cpu = fields
        .number("cpu", 0.001..=CPU_MAX)
        .unwrap_or_else(|| f64::from(usual.cpu_millis) / 1_000.0);
    let memory = fields
        .bytes("memory", MEMORY_BYTES_MIN)
        .map_or(usual.memory_bytes, |(bytes, _)| bytes);
    let memory_max = match fields.bytes("memory_max", MEMORY_BYTES_MIN) {
        Some((most, span)) => {
            if most < memory {
                mistakes.report(
                    &span,
                    format!("`memory_max` is less than `memory`, {memory} bytes"),
                    None,
                );
            }
            most
        }
        None => memory.saturating_mul(super::MEMORY_GROWTH),
    };
    let disk = fields
        .bytes("disk", 1 << 10)
        .map_or(usual.disk_bytes, |(bytes, _)| bytes);
    fields.finish();
    Resources {
        cpu_millis: thousandths(cpu),
        memory_bytes: memory,
        memory_max_bytes: memory_max,
        disk_bytes: disk,
    }
}

/// Thousandths of a number between 0.001 and 1,024, through its duration so that no cast truncates.
fn thousandths(number: f64) -> u32 {
    std::time::Duration::try_from_secs_f64(number)
        .ok()
        .and_then(|span| u32::try_from((span.as_micros() + 500) / 1_000).ok())
        .unwrap_or(super::CPU_MILLIS)
        .max(1)
}

fn retry(mut fields: Fields<'_, '_>, mistakes: &Mistakes<'_>) -> RetryPolicy {
    let default = backoff(&mut fields, &Backoff::default());
    let mut classes = BTreeMap::new();
    for class in ErrorClass::ALL {
        let Some(mut table) = fields.table(class.name()) else {
            continue;
        };
        if matches!(
            class,
            ErrorClass::Input | ErrorClass::Canceled | ErrorClass::Preempted
        ) {
            let why = if class == ErrorClass::Preempted {
                "always retried and burn no attempt"
            } else {
                "never retried"
            };
            mistakes.report(
                table.span(),
                format!("errors of class `{class}` are {why}"),
                Some("remove this table".to_owned()),
            );
        }
        classes.insert(class, backoff(&mut table, &default));
        table.finish();
    }
    fields.finish();
    RetryPolicy { default, classes }
}

fn backoff(fields: &mut Fields<'_, '_>, usual: &Backoff) -> Backoff {
    Backoff {
        attempts: fields
            .integer("attempts", 1..=ATTEMPTS_MAX)
            .unwrap_or(usual.attempts),
        first_ms: fields.duration("first", 0, WAIT_MS_MAX).unwrap_or(usual.first_ms),
        factor: fields.number("factor", 1.0..=100.0).unwrap_or(usual.factor),
        cap_ms: fields.duration("cap", 0, WAIT_MS_MAX).unwrap_or(usual.cap_ms),
        jitter: fields.number("jitter", 0.0..=1.0).unwrap_or(usual.jitter),
    }
}

fn env(fields: &Fields<'_, '_>, mistakes: &Mistakes<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (key, key_span, value) in fields.entries() {
        let named = !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !named || key.starts_with(|first: char| first.is_ascii_digit()) {
            mistakes.report(
                &key_span,
                format!("`{key}` cannot name a variable"),
                Some("letters, digits and `_`".to_owned()),
            );
        } else if key.starts_with("CELESTA_") {
            mistakes.report(
                &key_span,
                format!("`{key}` belongs to the platform"),
                Some("choose a name without `CELESTA_`".to_owned()),
            );
        }
        match value.get_ref().as_str() {
            Some(text) if !text.contains('\0') => {
                variables.insert(key.to_owned(), text.to_owned());
            }
            _ => mistakes.report(
                &value.span(),
                format!("`{key}` is {}, expected a text", type_name(value.get_ref())),
                None,
            ),
        }
    }
    variables
}

fn schema(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    mistakes: &Mistakes<'_>,
    sibling: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Option<Schema> {
    let place = fields.get(key)?;
    let span = place.span();
    let json = match place.get_ref() {
        table @ DeValue::Table(_) => to_json(table),
        DeValue::String(file) => file_json(file, &span, mistakes, sibling)?,
        other => {
            let hint =
                "write a JSON Schema as a table, or the name of a file: `input = \"input.schema.json\"`";
            mistakes.report(
                &span,
                format!("`{key}` is {}, expected a schema", type_name(other)),
                Some(hint.to_owned()),
            );
            return None;
        }
    };
    Schema::compile(json)
        .map_err(|error| mistakes.report(&span, format!("`{key}` is {error}"), None))
        .ok()
}

fn file_json(
    file: &str,
    span: &Range<usize>,
    mistakes: &Mistakes<'_>,
    sibling: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Option<serde_json::Value> {
    if file.starts_with('/') || file.split('/').any(|part| part == "..") {
        mistakes.report(span, format!("`{file}` leads out of the function's folder"), None);
        return None;
    }
    let Some(bytes) = sibling(file) else {
        mistakes.report(
            span,
            format!("there is no file `{file}` beside the manifest"),
            None,
        );
        return None;
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| mistakes.report(span, format!("`{file}` is not JSON: {error}"), None))
        .ok()
}
