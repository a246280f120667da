//! The language server as an editor starts it: the program, its standard input and output.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};

use celesta_tests::{binary, example, process};
use serde_json::{Value, json};

fn send(input: &mut ChildStdin, message: &Value) {
    let body = message.to_string();
    write!(input, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("the server reads");
}

fn receive(output: &mut BufReader<ChildStdout>) -> Value {
    let mut length = 0;
    loop {
        let mut line = String::new();
        output.read_line(&mut line).expect("the server writes");
        assert!(!line.is_empty(), "the server has ended");
        match line.trim().strip_prefix("Content-Length: ") {
            Some(number) => length = number.parse().expect("a number"),
            None => break,
        }
    }
    let mut body = vec![0; length];
    output.read_exact(&mut body).expect("the whole message comes");
    serde_json::from_slice(&body).expect("the server writes JSON")
}

#[test]
fn an_editor_gets_completions_and_diagnostics_from_the_program() {
    let mut server = process(binary())
        .args(["lsp", "--stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = server.stdin.take().expect("standard input is a pipe");
    let mut output = BufReader::new(server.stdout.take().expect("standard output is a pipe"));
    let path = example("greeter")
        .canonicalize()
        .expect("the example is there")
        .join("rules/greet.rules");
    let text = std::fs::read_to_string(&path).expect("the example is there");
    let text = text.replace("guest.greeted = true", "guest.");
    let line = text
        .lines()
        .position(|line| line.contains("guest.;"))
        .expect("the line is there");
    let column = text
        .lines()
        .nth(line)
        .and_then(|line| line.find("guest.;"))
        .expect("it is there")
        + 6;
    let uri = format!("file://{}", path.display());
    let document = json!({ "uri": uri, "languageId": "celesta", "version": 1, "text": text });
    let at = json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": column } });
    let messages = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "capabilities": {} } }),
        json!({ "jsonrpc": "2.0", "method": "initialized", "params": {} }),
        json!({ "jsonrpc": "2.0", "method": "textDocument/didOpen", "params": { "textDocument": document } }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "textDocument/completion", "params": at }),
    ];
    for message in &messages {
        send(&mut input, message);
    }
    let (mut fields, mut wrong) = (None, None);
    while fields.is_none() || wrong.is_none() {
        let message = receive(&mut output);
        if message["id"] == 2 {
            fields = Some(message["result"].clone());
        } else if message["method"] == "textDocument/publishDiagnostics" {
            wrong = Some(message["params"]["diagnostics"].clone());
        }
    }
    let fields = fields.unwrap_or_default();
    let labels: Vec<&str> = fields
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["label"].as_str())
        .collect();
    assert_eq!(labels, ["id", "name", "language", "greeted"]);
    assert_eq!(wrong.unwrap_or_default()[0]["code"], "syntax");
    send(
        &mut input,
        &json!({ "jsonrpc": "2.0", "id": 3, "method": "shutdown" }),
    );
    assert_eq!(receive(&mut output)["id"], 3);
    send(&mut input, &json!({ "jsonrpc": "2.0", "method": "exit" }));
    assert!(server.wait().expect("the server ends").success());
}
