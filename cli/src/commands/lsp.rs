//! `celesta lsp`: a language server for rules files, on standard input and output.

use celesta_editor::{ServeError, serve};
use clap::Args;

use crate::exit::{Exit, Failure, Outcome};

/// Options of `lsp`.
#[derive(Debug, Args)]
pub(crate) struct LspArgs {
    /// Taken and ignored: what some editors add
    #[arg(long, hide = true)]
    stdio: bool,
}

/// Serves the editor that has started this program.
pub(crate) fn run(_args: &LspArgs) -> Outcome {
    match serve(&mut std::io::stdin().lock(), &mut std::io::stdout()) {
        // The editor has gone: there is nobody left to tell.
        Ok(()) | Err(ServeError::Io(_)) => Ok(Exit::Done),
        Err(error @ ServeError::NoShutdown) => Err(Failure::new(Exit::Failed, error.to_string())),
        Err(error @ ServeError::Protocol(_)) => Err(Failure::new(Exit::Failed, error.to_string())
            .hint("`celesta lsp` is started by an editor; see docs/editor.md")),
    }
}
