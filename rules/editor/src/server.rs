//! The language server: messages from an editor in, answers and diagnostics out.
//!
//! One thread reads messages and answers them, in order, from what it holds in memory. Compiling takes longer than an
//! answer may, so a second thread does it: it always takes the newest text of a file, and what was typed meanwhile is
//! compiled once, afterwards.

mod check;
mod dispatch;
pub(crate) mod rpc;

use std::io::{BufRead, Write};
use std::sync::{Mutex, PoisonError};

use celesta_engine::ErrorKind;

use check::Checks;
use dispatch::{Editor, Step};

/// The stack of the compiling thread: what the main thread of a process has, for expressions as deep as is allowed.
const STACK_BYTES: usize = 8 << 20;

/// Why a server has ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The editor cannot be read from or written to.
    #[error("the editor has gone: {0}")]
    Io(#[from] std::io::Error),
    /// What came is no message.
    #[error("the editor does not speak the protocol: {0}")]
    Protocol(String),
    /// The editor left without saying so.
    #[error("the editor ended the session without `shutdown`")]
    NoShutdown,
}

impl ServeError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(_) => ErrorKind::Unavailable,
            Self::Protocol(_) | Self::NoShutdown => ErrorKind::Invalid,
        }
    }
}

/// Serves an editor until it says `exit`.
///
/// # Errors
/// When the editor goes away without `shutdown`, or what it sends is no message.
pub fn serve(input: &mut impl BufRead, output: &mut (impl Write + Send)) -> Result<(), ServeError> {
    let output = Mutex::new(output);
    let checks = Checks::default();
    let send = |message: &serde_json::Value| {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        rpc::write(&mut **output, message)
    };
    std::thread::scope(|scope| {
        let compiler = std::thread::Builder::new().stack_size(STACK_BYTES);
        compiler.spawn_scoped(scope, || checks.run(&send))?;
        let served = answer(input, &checks, &send);
        checks.stop();
        served
    })
}

fn answer(
    input: &mut impl BufRead,
    checks: &Checks,
    send: &dyn Fn(&serde_json::Value) -> std::io::Result<()>,
) -> Result<(), ServeError> {
    let mut editor = Editor::default();
    while let Some(message) = rpc::read(input)? {
        for step in editor.take(&message) {
            match step {
                Step::Send(message) => send(&message)?,
                Step::Check(request) => checks.add(request),
                Step::Forget(uri) => checks.forget(&uri),
                Step::Exit { orderly: true } => return Ok(()),
                Step::Exit { orderly: false } => return Err(ServeError::NoShutdown),
            }
        }
    }
    Err(ServeError::NoShutdown)
}
