//! `celesta push [DIR]`: checks a bundle here, packs it and gives it to the server.

use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::{Method, header};
use serde_json::Value;

use super::Context;
use super::check::{contents, read};
use crate::client::{self, Client, Repeat};
use crate::diagnostics::{Counts, shown};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, Output, STRONG};

/// Options of `push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Push nothing: show what would become of the runs there are
    #[arg(long, conflicts_with_all = ["canary", "canary_label"])]
    preview: bool,
    /// Have only so many of a hundred new runs follow this version
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary: Option<u8>,
    /// Have only new runs with this label follow it
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "canary")]
    canary_label: Option<String>,
}

/// Pushes.
pub(crate) async fn run(context: &Context, args: &PushArgs) -> Outcome {
    let client = context.client()?;
    let mut query = Vec::new();
    let percent = args.canary.map(|percent| percent.to_string());
    if let Some(percent) = &percent {
        query.push(("canary_percent", percent.as_str()));
    }
    if let Some(label) = &args.canary_label {
        query.push(("canary_label", label.as_str()));
    }
    if args.preview {
        query.push(("preview", "true"));
    }
    let answer = push_with(context, &client, &args.dir, &query).await?;
    context.out.json(&answer)?;
    if args.preview {
        context.out.line(previewed(&answer))?;
    }
    Ok(Exit::Done)
}

/// Checks, packs and pushes the bundle in `folder`; remarks go to standard error.
async fn push_with(
    context: &Context,
    client: &Client,
    folder: &Path,
    query: &[(&str, &str)],
) -> Result<Value, Failure> {
    let (files, checked) = read(folder)?;
    let bundle = match checked {
        Ok(bundle) => bundle,
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                Output::remark(format_args!("{}\n", shown(diagnostic)));
            }
            let counts = Counts::of(&diagnostics);
            return Err(Failure::new(
                Exit::Failed,
                format!("{} in {}; nothing was pushed", counts.text(), folder.display()),
            ));
        }
    };
    for warning in &bundle.warnings {
        context.out.note(format_args!("{}\n", shown(warning)));
    }
    let answer = upload_with(client, &bundle.name, celesta_bundle::pack(&files), query).await?;
    if query.contains(&("preview", "true")) {
        return Ok(answer);
    }
    context.out.line(format_args!(
        "{GOOD}pushed{GOOD:#} {STRONG}{}{STRONG:#} {DIM}{}{DIM:#}",
        bundle.name,
        contents(&bundle)
    ))?;
    Ok(answer)
}

/// Gives a packed bundle to the server, and its answer.
///
/// # Errors
/// When the server is away or refuses the bundle.
pub(crate) async fn upload(client: &Client, service: &str, packed: Vec<u8>) -> Result<Value, Failure> {
    upload_with(client, service, packed, &[]).await
}

async fn upload_with(
    client: &Client,
    service: &str,
    packed: Vec<u8>,
    query: &[(&str, &str)],
) -> Result<Value, Failure> {
    let request = client
        .request(Method::PUT, client.url(&["v1", "services", service], query))
        .header(header::CONTENT_TYPE, "application/gzip")
        .body(packed);
    client::json(client.send(request, Repeat::Safe).await?).await
}

/// What would become of the runs of each workflow, as text.
fn previewed(answer: &Value) -> String {
    let workflows = answer
        .get("workflows")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let text = |value: &Value, key: &str| {
        let text = value.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let mut lines = Vec::new();
    for workflow in &workflows {
        lines.push(format!(
            "{}: {} runs of other versions ({}); {} looked at, {} of these would stay",
            text(workflow, "workflow"),
            number(workflow, "runs"),
            text(workflow, "policy"),
            number(workflow, "looked_at"),
            number(workflow, "would_stay"),
        ));
        for rule in workflow
            .get("rules")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            lines.push(format!(
                "  \"{}\" would fire in {} runs, {} times",
                text(rule, "rule"),
                number(rule, "runs"),
                number(rule, "activations"),
            ));
        }
        for broken in workflow
            .get("breaks")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            lines.push(format!(
                "  {}\n    {}",
                text(broken, "message"),
                text(broken, "hint")
            ));
        }
    }
    lines.join("\n")
}
