//! Compiling in the background: the newest text of each file, once.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use celesta_engine::{Diagnostic, Environment, Severity, Source, WordKind, compile, words};
use serde_json::{Value, json};

use crate::document::{Columns, Document};
use crate::surroundings::Surroundings;

/// A text to be compiled.
#[derive(Debug, Clone)]
pub(super) struct CheckRequest {
    pub(super) uri: String,
    pub(super) path: Option<PathBuf>,
    pub(super) version: i64,
    pub(super) text: String,
    pub(super) columns: Columns,
}

/// What waits to be compiled, and what is the newest of each file.
#[derive(Debug, Default)]
pub(super) struct Checks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<String, CheckRequest>,
    newest: BTreeMap<String, u64>,
    count: u64,
    stopped: bool,
}

impl Checks {
    pub(super) fn add(&self, request: CheckRequest) {
        let mut state = self.lock();
        state.count += 1;
        let count = state.count;
        state.newest.insert(request.uri.clone(), count);
        state.waiting.insert(request.uri.clone(), request);
        self.changed.notify_one();
    }

    pub(super) fn forget(&self, uri: &str) {
        let mut state = self.lock();
        state.waiting.remove(uri);
        state.newest.remove(uri);
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    /// Compiles what comes, until stopped; gives the diagnostics of texts that are still the newest.
    pub(super) fn run(&self, send: &dyn Fn(&Value) -> std::io::Result<()>) {
        while let Some((request, count)) = self.next() {
            // A fault of the compiler must not end the session: the file is broken and will be changed.
            let Ok(published) = catch_unwind(|| check(&request)) else {
                continue;
            };
            let state = self.lock();
            // The lock is held while sending: a file that is closed now gets nothing afterwards.
            if state.newest.get(&request.uri) == Some(&count) && send(&published).is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Option<(CheckRequest, u64)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some((uri, request)) = state.waiting.pop_first() {
                let count = state.newest.get(&uri).copied().unwrap_or(0);
                return Some((request, count));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The notification with everything that is wrong with a text.
fn check(request: &CheckRequest) -> Value {
    let surroundings = request.path.as_deref().map(Surroundings::of).unwrap_or_default();
    let functions = if surroundings.root.is_some() {
        surroundings.callables.keys().cloned().collect()
    } else {
        // Outside of a bundle nothing is known of functions: whatever is named is taken to be there.
        words(&request.text)
            .filter(|word| word.kind == WordKind::Text)
            .map(|word| request.text[word.span].trim_matches('"').to_owned())
            .collect()
    };
    let environment = Environment {
        functions,
        ..Environment::default()
    };
    let source = Source {
        path: request.uri.clone(),
        text: request.text.clone(),
    };
    let found = match compile(&source, &environment) {
        Ok(compiled) => compiled.warnings,
        Err(found) => found,
    };
    let document = Document::new(
        request.uri.clone(),
        None,
        request.version,
        source.text,
        request.columns,
        std::sync::Arc::default(),
    );
    let mut diagnostics: Vec<Value> = found.0.iter().map(|one| shown(&document, one)).collect();
    diagnostics.extend(misnamed(&document, request, &surroundings));
    json!({
        "jsonrpc": "2.0",
        "method": "textDocument/publishDiagnostics",
        "params": { "uri": request.uri, "version": request.version, "diagnostics": diagnostics },
    })
}

fn shown(document: &Document, one: &Diagnostic) -> Value {
    let mut message = one.message.clone();
    for more in std::iter::once(&one.label)
        .chain(&one.hint)
        .filter(|more| !more.is_empty())
    {
        message.push('\n');
        message.push_str(more);
    }
    json!({
        "range": document.range_of_characters(one.line, one.column, one.length),
        "severity": if one.severity == Severity::Error { 1 } else { 2 },
        "code": one.code,
        "source": "celesta",
        "message": message,
    })
}

/// A workflow whose file has another name.
fn misnamed(document: &Document, request: &CheckRequest, surroundings: &Surroundings) -> Option<Value> {
    surroundings.root.as_ref()?;
    let file = request.path.as_ref()?.file_stem()?.to_str()?;
    let declarations = &document.index().outline.declarations;
    let declared = declarations
        .iter()
        .find(|one| matches!(one.what, crate::outline::Declared::Workflow))?;
    let name = &declared.name;
    (!name.name.is_empty() && name.name != file).then(|| {
        json!({
            "range": document.range(&name.span),
            "severity": 1,
            "code": "workflow-name",
            "source": "celesta",
            "message": format!("the workflow `{}` stands in the file `{file}.rules`", name.name),
        })
    })
}
