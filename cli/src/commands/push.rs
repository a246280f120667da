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
}

/// Pushes.
pub(crate) async fn run(context: &Context, args: &PushArgs) -> Outcome {
    let client = context.client()?;
    let answer = push_folder(context, &client, &args.dir).await?;
    context.out.json(&answer)?;
    Ok(Exit::Done)
}

/// Checks, packs and pushes the bundle in `folder`; remarks go to standard error.
///
/// # Errors
/// When the bundle is wrong, or the server is away or refuses it.
pub(crate) async fn push_folder(context: &Context, client: &Client, folder: &Path) -> Result<Value, Failure> {
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
    let answer = upload(client, &bundle.name, celesta_bundle::pack(&files)).await?;
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
    let request = client
        .request(Method::PUT, client.url(&["v1", "services", service], &[]))
        .header(header::CONTENT_TYPE, "application/gzip")
        .body(packed);
    client::json(client.send(request, Repeat::Safe).await?).await
}
