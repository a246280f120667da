//! `celesta check [DIR]`: every mistake of a bundle, each at its place, without a server.

use std::path::{Path, PathBuf};

use celesta_bundle::{Bundle, Diagnostic, Files, read_folder};
use clap::{Args, ValueEnum};

use super::Context;
use crate::diagnostics::{Counts, shown};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, STRONG};

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Draw the rules and the facts between them instead
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "svg")]
    graph: Option<Picture>,
    /// The workflow to draw, when there are several
    #[arg(long, value_name = "NAME", requires = "graph")]
    workflow: Option<String>,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Picture {
    /// An SVG picture
    Svg,
    /// Mermaid text
    Mermaid,
}

/// Checks and prints what was found.
pub(crate) fn run(context: &Context, args: &CheckArgs) -> Outcome {
    let (_, checked) = read(&args.dir)?;
    let diagnostics = match &checked {
        Ok(bundle) => bundle.warnings.as_slice(),
        Err(diagnostics) => diagnostics.as_slice(),
    };
    if let (Some(picture), Ok(bundle)) = (args.graph, &checked) {
        return draw(context, bundle, picture, args.workflow.as_deref());
    }
    let counts = Counts::of(diagnostics);
    context.out.json(&serde_json::json!({
        "errors": counts.errors,
        "warnings": counts.warnings,
        "diagnostics": diagnostics,
    }))?;
    for diagnostic in diagnostics {
        context.out.line(format_args!("{}\n", shown(diagnostic)))?;
    }
    match &checked {
        Ok(bundle) => {
            context.out.line(format_args!(
                "{GOOD}ok{GOOD:#} {STRONG}{}{STRONG:#} {DIM}{}{DIM:#}",
                bundle.name,
                contents(bundle)
            ))?;
            Ok(Exit::Done)
        }
        Err(_) => {
            context.out.line(counts.text())?;
            Ok(Exit::Failed)
        }
    }
}

fn draw(context: &Context, bundle: &Bundle, picture: Picture, workflow: Option<&str>) -> Outcome {
    let (name, rules) = super::rules::chosen(bundle, workflow)?;
    let graph = rules.graph();
    let text = match picture {
        Picture::Svg => graph.svg(),
        Picture::Mermaid => graph.mermaid(),
    };
    context
        .out
        .json(&serde_json::json!({ "workflow": name, "graph": text }))?;
    context.out.line(text.trim_end())?;
    Ok(Exit::Done)
}

/// A bundle's files and what the checker says of them.
pub(crate) type Read = (Files, Result<Bundle, Vec<Diagnostic>>);

/// Reads and checks the bundle in `folder`.
///
/// # Errors
/// When the folder cannot be read as a bundle at all.
pub(crate) fn read(folder: &Path) -> Result<Read, Failure> {
    let files = read_folder(folder).map_err(|error| {
        let exit = if folder.exists() {
            Exit::Failed
        } else {
            Exit::NotFound
        };
        Failure::new(exit, format!("cannot read {}: {error}", folder.display()))
    })?;
    if !files.contains_key("service.toml") {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{} holds no service.toml", folder.display()),
        )
        .hint("name the folder of a bundle, or create one with `celesta new NAME`"));
    }
    let checked = Bundle::compile(&files)
        .and_then(|bundle| celesta_bundle::scenario::check(&bundle, &files).map(|()| bundle))
        .map_err(|errors| errors.0);
    Ok((files, checked))
}

/// What a bundle holds, in a few words.
pub(crate) fn contents(bundle: &Bundle) -> String {
    use crate::diagnostics::counted;
    format!(
        "{}, {}, {}, version {}",
        counted(bundle.operations.len(), "operation"),
        counted(bundle.workflows.len(), "workflow"),
        counted(bundle.functions.len(), "function"),
        bundle.digest.short()
    )
}
