//! A client that says what a script says, and keeps the text as an editor would.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use celesta_editor::{ServeError, serve};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct Client {
    input: PipeWriter,
    output: BufReader<PipeReader>,
    server: JoinHandle<Result<(), ServeError>>,
    requests: u64,
    published: VecDeque<Value>,
    uri: String,
    text: String,
    version: u64,
    /// Where the last change ended.
    cursor: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file of the repository.
pub(crate) fn example(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("the example is there")
}

/// A copy of an example, to be changed.
pub(crate) fn bundle(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files =
        celesta_bundle::read_folder(&root().join("examples").join(name)).expect("the example is there");
    celesta_bundle::write_folder(folder.path(), &files).expect("the folder is empty");
    folder
}

impl Client {
    pub(crate) fn start() -> Self {
        let (from_client, input) = std::io::pipe().expect("the system gives pipes");
        let (output, mut to_client) = std::io::pipe().expect("the system gives pipes");
        let server = std::thread::spawn(move || serve(&mut BufReader::new(from_client), &mut to_client));
        Self {
            input,
            output: BufReader::new(output),
            server,
            requests: 0,
            published: VecDeque::new(),
            uri: String::new(),
            text: String::new(),
            version: 0,
            cursor: 0,
        }
    }

    pub(crate) fn ready() -> Self {
        let mut client = Self::start();
        client.request("initialize", &json!({ "capabilities": {} }));
        client.notify("initialized", &json!({}));
        client
    }

    /// Ends the session from this side and gives how the server ended.
    pub(crate) fn ended(self) -> Result<(), ServeError> {
        drop(self.input);
        self.server.join().expect("the server does not panic")
    }

    fn send(&mut self, message: &Value) {
        let body = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("the server reads");
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("the server writes");
            assert!(!line.is_empty(), "the server has ended");
            match line.trim().strip_prefix("Content-Length: ") {
                Some(number) => length = number.parse().expect("a number"),
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        self.output
            .read_exact(&mut body)
            .expect("the whole message comes");
        serde_json::from_slice(&body).expect("the server writes JSON")
    }

    pub(crate) fn notify(&mut self, method: &str, parameters: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": parameters }));
    }

    fn exchange(&mut self, method: &str, parameters: &Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }));
        loop {
            let message = self.receive();
            if message["id"] == id {
                return message;
            }
            assert_eq!(message["method"], "textDocument/publishDiagnostics");
            self.published.push_back(message["params"].clone());
        }
    }

    pub(crate) fn request(&mut self, method: &str, parameters: &Value) -> Value {
        let answer = self.exchange(method, parameters);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    pub(crate) fn refused(&mut self, method: &str, parameters: &Value) -> Value {
        let answer = self.exchange(method, parameters);
        assert!(answer.get("result").is_none(), "{method}: {answer}");
        answer["error"].clone()
    }

    pub(crate) fn open(&mut self, uri: &str, text: &str) {
        uri.clone_into(&mut self.uri);
        text.clone_into(&mut self.text);
        self.version = 1;
        let document = json!({ "uri": uri, "languageId": "celesta", "version": 1, "text": text });
        self.notify("textDocument/didOpen", &json!({ "textDocument": document }));
    }

    pub(crate) fn open_path(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path).expect("the file is there");
        self.open(&format!("file://{}", path.display()), &text);
    }

    pub(crate) fn open_file(&mut self, path: &str) {
        let path = root().canonicalize().expect("the repository is there").join(path);
        self.open_path(&path);
    }

    pub(crate) fn close(&mut self) {
        self.notify(
            "textDocument/didClose",
            &json!({ "textDocument": { "uri": self.uri } }),
        );
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The diagnostics of the text as it is now.
    pub(crate) fn diagnostics(&mut self) -> Value {
        loop {
            let params = match self.published.pop_front() {
                Some(params) => params,
                None => self.receive()["params"].clone(),
            };
            // What closes a file says no version.
            let newest = params["version"].is_null() || params["version"] == self.version;
            if params["uri"] == self.uri && newest {
                return params["diagnostics"].clone();
            }
        }
    }

    /// Replaces the first place of a text by another, as typing does.
    pub(crate) fn edit(&mut self, marked: &str, written: &str) {
        let start = self.text.find(marked).expect("the text is there");
        self.replace(start, start + marked.len(), written);
    }

    /// Cuts two characters out of a line.
    pub(crate) fn cut(&mut self, line: usize, column: usize) {
        let start = self.offset(line, column);
        let end = self.offset(line, column + 2);
        self.replace(start, end, "");
    }

    pub(crate) fn insert(&mut self, line: usize, column: usize, written: &str) {
        let at = self.offset(line, column);
        self.replace(at, at, written);
    }

    fn replace(&mut self, start: usize, end: usize, written: &str) {
        let range = json!({ "start": self.position(start), "end": self.position(end) });
        self.text.replace_range(start..end, written);
        self.cursor = start + written.len();
        self.version += 1;
        let document = json!({ "uri": self.uri, "version": self.version });
        let changes = json!([{ "range": range, "text": written }]);
        self.notify(
            "textDocument/didChange",
            &json!({ "textDocument": document, "contentChanges": changes }),
        );
    }

    fn position(&self, offset: usize) -> Value {
        let lead = &self.text[..offset];
        let line = lead.matches('\n').count();
        let column = lead.rsplit('\n').next().unwrap_or("").encode_utf16().count();
        json!({ "line": line, "character": column })
    }

    fn offset(&self, line: usize, column: usize) -> usize {
        let start: usize = self.text.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = &self.text[start..];
        let length = rest.find('\n').unwrap_or(rest.len());
        rest[..length]
            .char_indices()
            .nth(column)
            .map_or(start + length, |(at, _)| start + at)
    }

    fn span(&self, range: &Value) -> (usize, usize) {
        let offset = |place: &Value| {
            let number =
                |key: &str| usize::try_from(place[key].as_u64().expect("a number")).expect("a small one");
            self.offset(number("line"), number("character"))
        };
        (offset(&range["start"]), offset(&range["end"]))
    }

    pub(crate) fn text_in(&self, range: &Value) -> &str {
        let (start, end) = self.span(range);
        &self.text[start..end]
    }

    pub(crate) fn line_of(&self, range: &Value) -> &str {
        let (start, _) = self.span(range);
        let begin = self.text[..start].rfind('\n').map_or(0, |feed| feed + 1);
        self.text[begin..].lines().next().unwrap_or("")
    }

    fn placed(&self, marked: &str, mut more: Value) -> Option<Value> {
        let at = self.text.find(marked)?;
        more["textDocument"] = json!({ "uri": self.uri });
        more["position"] = self.position(at);
        Some(more)
    }

    /// Asks about the first place of a text; null when it is not there.
    pub(crate) fn ask_at(&mut self, method: &str, marked: &str) -> Value {
        match self.placed(marked, json!({})) {
            Some(parameters) => self.request(method, &parameters),
            None => Value::Null,
        }
    }

    pub(crate) fn ask_at_position(&mut self, method: &str, line: usize, column: usize) -> Value {
        let place = json!({ "line": line, "character": column });
        self.request(
            method,
            &json!({ "textDocument": { "uri": self.uri }, "position": place }),
        )
    }

    pub(crate) fn ask(&mut self, method: &str) -> Value {
        self.request(method, &json!({ "textDocument": { "uri": self.uri } }))
    }

    pub(crate) fn refused_at(&mut self, method: &str, mut more: Value) -> Value {
        more["textDocument"] = json!({ "uri": self.uri });
        self.refused(method, &more)
    }

    pub(crate) fn refused_at_text(&mut self, method: &str, marked: &str, more: Value) -> Value {
        let parameters = self.placed(marked, more).expect("the text is there");
        self.refused(method, &parameters)
    }

    /// The labels proposed where the last change ended.
    pub(crate) fn completions(&mut self) -> Vec<String> {
        let position = self.position(self.cursor);
        let parameters = json!({ "textDocument": { "uri": self.uri }, "position": position });
        let found = self.request("textDocument/completion", &parameters);
        let labels = found.as_array().expect("a list").iter();
        labels
            .map(|one| one["label"].as_str().expect("a label").to_owned())
            .collect()
    }

    pub(crate) fn hover(&mut self, marked: &str) -> String {
        let found = self.ask_at("textDocument/hover", marked);
        found["contents"]["value"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn references(&mut self, marked: &str) -> Vec<Value> {
        let more = json!({ "context": { "includeDeclaration": true } });
        let parameters = self.placed(marked, more).expect("the text is there");
        let found = self.request("textDocument/references", &parameters);
        found.as_array().expect("a list").clone()
    }

    /// The changes that a rename makes, by file.
    pub(crate) fn rename(&mut self, marked: &str, to: &str) -> Value {
        let parameters = self
            .placed(marked, json!({ "newName": to }))
            .expect("the text is there");
        self.request("textDocument/rename", &parameters)["changes"].clone()
    }

    pub(crate) fn apply(&mut self, edits: &Value) {
        let mut spans: Vec<(usize, usize, String)> = edits
            .as_array()
            .expect("a list of edits")
            .iter()
            .map(|edit| {
                let (start, end) = self.span(&edit["range"]);
                (start, end, edit["newText"].as_str().expect("a text").to_owned())
            })
            .collect();
        spans.sort();
        for (start, end, written) in spans.into_iter().rev() {
            self.replace(start, end, &written);
        }
    }

    pub(crate) fn apply_own(&mut self, changes: &Value) {
        let edits = changes[&self.uri].clone();
        self.apply(&edits);
    }

    /// Makes the changes in the files.
    pub(crate) fn apply_in_folder(&mut self, changes: &Value) {
        for (uri, edits) in changes.as_object().expect("changes by file") {
            let path = PathBuf::from(uri.strip_prefix("file://").expect("a file"));
            self.open_path(&path);
            self.apply(edits);
            std::fs::write(&path, &self.text).expect("the file can be written");
        }
    }
}
