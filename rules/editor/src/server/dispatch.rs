//! What each message of the protocol does. Pure but for the files of a bundle that are read beside an open one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::check::CheckRequest;
use super::rpc::path_of;
use crate::document::{Columns, Document};
use crate::rename::{prepare, rename};
use crate::surroundings::Surroundings;
use crate::{answers, complete, format};

/// Files that may be open: far more than a person has.
const DOCUMENTS_MAX: usize = 1_024;

/// Errors of the protocol, by number.
const NOT_INITIALIZED: i64 = -32_002;
const INVALID_REQUEST: i64 = -32_600;
const UNKNOWN_METHOD: i64 = -32_601;
const REQUEST_FAILED: i64 = -32_803;

/// What is to be done after a message.
#[derive(Debug)]
pub(super) enum Step {
    Send(Value),
    Check(CheckRequest),
    /// A file was closed: nothing more is to be said of it.
    Forget(String),
    Exit {
        /// Whether `shutdown` came before.
        orderly: bool,
    },
}

/// Why a request has no answer.
struct Refusal {
    code: i64,
    message: String,
}

type Answer = Result<Value, Refusal>;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    New,
    Ready,
    ShutDown,
}

/// The session with one editor.
#[derive(Debug, Default)]
pub(super) struct Editor {
    documents: BTreeMap<String, Document>,
    phase: Phase,
    columns: Columns,
    snippets: bool,
}

impl Editor {
    /// Takes a message and says what follows from it.
    pub(super) fn take(&mut self, message: &Value) -> Vec<Step> {
        let Some(method) = message["method"].as_str() else {
            // An answer to a request; none was made.
            return Vec::new();
        };
        let parameters = &message["params"];
        let Some(id) = message.get("id") else {
            return self.notified(method, parameters);
        };
        let answer = match method {
            "initialize" => Ok(self.initialize(parameters)),
            _ if self.phase == Phase::New => Err(refusal(NOT_INITIALIZED, "`initialize` comes first")),
            _ if self.phase == Phase::ShutDown => {
                Err(refusal(INVALID_REQUEST, "the session has been shut down"))
            }
            "shutdown" => {
                self.phase = Phase::ShutDown;
                Ok(Value::Null)
            }
            _ => self.asked(method, parameters),
        };
        let answer = match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(Refusal { code, message }) => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
            }
        };
        vec![Step::Send(answer)]
    }

    fn initialize(&mut self, parameters: &Value) -> Value {
        self.phase = Phase::Ready;
        let capabilities = &parameters["capabilities"];
        let encodings = capabilities["general"]["positionEncodings"].as_array();
        if encodings.is_some_and(|encodings| encodings.iter().any(|one| one == "utf-8")) {
            self.columns = Columns::Utf8;
        }
        let completion = &capabilities["textDocument"]["completion"]["completionItem"];
        self.snippets = completion["snippetSupport"] == true;
        json!({
            "serverInfo": { "name": "celesta", "version": env!("CARGO_PKG_VERSION") },
            "capabilities": {
                "positionEncoding": if self.columns == Columns::Utf8 { "utf-8" } else { "utf-16" },
                // Changes come as ranges; saving is of interest because other files may have been written too.
                "textDocumentSync": { "openClose": true, "change": 2, "save": true },
                "completionProvider": { "triggerCharacters": [".", "\"", ":"] },
                "hoverProvider": true,
                "definitionProvider": true,
                "referencesProvider": true,
                "documentHighlightProvider": true,
                "documentSymbolProvider": true,
                "documentFormattingProvider": true,
                "renameProvider": { "prepareProvider": true },
            },
        })
    }

    fn notified(&mut self, method: &str, parameters: &Value) -> Vec<Step> {
        let uri = parameters["textDocument"]["uri"].as_str().unwrap_or_default();
        match method {
            "exit" => vec![Step::Exit {
                orderly: self.phase == Phase::ShutDown,
            }],
            "textDocument/didOpen" => self.open(uri, &parameters["textDocument"]),
            "textDocument/didChange" => self.change(uri, parameters),
            "textDocument/didSave" | "workspace/didChangeWatchedFiles" => self.refresh(),
            "textDocument/didClose" => {
                if self.documents.remove(uri).is_none() {
                    return Vec::new();
                }
                let empty = json!({
                    "jsonrpc": "2.0",
                    "method": "textDocument/publishDiagnostics",
                    "params": { "uri": uri, "diagnostics": [] },
                });
                vec![Step::Forget(uri.to_owned()), Step::Send(empty)]
            }
            _ => Vec::new(),
        }
    }

    fn open(&mut self, uri: &str, opened: &Value) -> Vec<Step> {
        // Generic clients offer whatever they show as plain text.
        let is_rules = uri.ends_with(".rules");
        let is_full = self.documents.len() >= DOCUMENTS_MAX && !self.documents.contains_key(uri);
        if !is_rules || is_full {
            return Vec::new();
        }
        let path = path_of(uri);
        let surroundings = path.as_deref().map(Surroundings::of).unwrap_or_default();
        let document = Document::new(
            uri.to_owned(),
            path,
            opened["version"].as_i64().unwrap_or(0),
            opened["text"].as_str().unwrap_or_default().to_owned(),
            self.columns,
            Arc::new(surroundings),
        );
        let check = Step::Check(request(&document));
        self.documents.insert(uri.to_owned(), document);
        vec![check]
    }

    fn change(&mut self, uri: &str, parameters: &Value) -> Vec<Step> {
        let Some(document) = self.documents.get_mut(uri) else {
            return Vec::new();
        };
        document.version = parameters["textDocument"]["version"]
            .as_i64()
            .unwrap_or(document.version);
        for change in parameters["contentChanges"].as_array().into_iter().flatten() {
            let text = change["text"].as_str().unwrap_or_default();
            match change.get("range").filter(|range| range.is_object()) {
                Some(range) => document.edit(range, text),
                None => document.replace(text.to_owned()),
            }
        }
        vec![Step::Check(request(document))]
    }

    /// Files beside the open ones may have changed: a function more, an operation less.
    fn refresh(&mut self) -> Vec<Step> {
        let documents = self.documents.values_mut();
        documents
            .map(|document| {
                let path = document.path.as_deref();
                document.surroundings = Arc::new(path.map(Surroundings::of).unwrap_or_default());
                Step::Check(request(document))
            })
            .collect()
    }

    fn asked(&self, method: &str, parameters: &Value) -> Answer {
        const PLACED: [&str; 7] = [
            "textDocument/completion",
            "textDocument/hover",
            "textDocument/definition",
            "textDocument/references",
            "textDocument/documentHighlight",
            "textDocument/prepareRename",
            "textDocument/rename",
        ];
        let whole = matches!(method, "textDocument/documentSymbol" | "textDocument/formatting");
        if !whole && !PLACED.contains(&method) {
            return Err(refusal(UNKNOWN_METHOD, format!("there is no `{method}`")));
        }
        let uri = parameters["textDocument"]["uri"].as_str().unwrap_or_default();
        let Some(document) = self.documents.get(uri) else {
            // Nothing is known of files that are no rules files.
            return Ok(Value::Null);
        };
        match method {
            "textDocument/documentSymbol" => return Ok(answers::symbols(document).into()),
            "textDocument/formatting" => return formatted(document),
            _ => {}
        }
        let Some(offset) = document.offset(&parameters["position"]) else {
            return Err(refusal(INVALID_REQUEST, "the position is none"));
        };
        Ok(match method {
            "textDocument/completion" => self.completed(document, offset),
            "textDocument/hover" => answers::hover(document, offset).into(),
            "textDocument/definition" => answers::definition(document, offset).into(),
            "textDocument/references" => {
                let with_declaration = parameters["context"]["includeDeclaration"] == true;
                answers::references(document, offset, with_declaration).into()
            }
            "textDocument/documentHighlight" => answers::highlights(document, offset).into(),
            "textDocument/prepareRename" => prepare(document, offset).into(),
            _ => {
                let to = parameters["newName"].as_str().unwrap_or_default();
                rename(document, offset, to).map_err(|error| refusal(REQUEST_FAILED, error.to_string()))?
            }
        })
    }

    fn completed(&self, document: &Document, offset: usize) -> Value {
        let mut proposals = complete::complete(document, offset);
        if !self.snippets {
            for proposal in proposals.iter_mut().filter(|one| one["insertTextFormat"] == 2) {
                proposal["textEdit"]["newText"] = proposal["label"].clone();
                if let Some(proposal) = proposal.as_object_mut() {
                    proposal.remove("insertTextFormat");
                }
            }
        }
        proposals.into()
    }
}

/// The whole text laid out, as one edit; no edit when there is nothing to change.
fn formatted(document: &Document) -> Answer {
    let text = document.text();
    match format(&document.uri, text) {
        Ok(laid_out) if laid_out == text => Ok(json!([])),
        Ok(laid_out) => {
            let range = document.range(&(0..text.len()));
            Ok(json!([{ "range": range, "newText": laid_out }]))
        }
        Err(error) => Err(refusal(
            REQUEST_FAILED,
            format!(
                "cannot format: {}",
                error.to_string().lines().next().unwrap_or_default()
            ),
        )),
    }
}

fn request(document: &Document) -> CheckRequest {
    CheckRequest {
        uri: document.uri.clone(),
        path: document.path.clone(),
        version: document.version,
        text: document.text().to_owned(),
        columns: document.columns,
    }
}

fn refusal(code: i64, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}
