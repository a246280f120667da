//! How long an editor waits: a rules file of 2,000 lines, a letter typed before each question.
//!
//! `cargo bench -p celesta-editor` prints the median and the slowest of 200 rounds over pipes, the way an editor asks.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use celesta_editor::{format, serve};
use serde_json::{Value, json};

const LINES: usize = 2_000;
const ROUNDS: usize = 200;

/// A file of that many lines with facts, and rules that use them.
fn text() -> String {
    let mut text = "workflow large;\n\n".to_owned();
    let mut lines = 2;
    let mut number = 0;
    while lines < LINES {
        let rule = format!(
            "fact Job{number} {{ id: string, state: string = \"new\", size: int = 0 }}\n\
             fact Part{number} {{ job: string, index: int, state: string = \"new\", file: artifact? }}\n\n\
             rule \"split {number}\" {{\n    match  {{ job: Job{number} where job.state == \"new\"; }}\n    action {{\n        \
             job.state = \"split\";\n        for index in 0..job.size {{\n            \
             insert(\"Part{number}\", #{{ job: job.id, index: index }});\n        }}\n        \
             log(`job ${{job.id}} has ${{job.size}} parts`);\n    }}\n}}\n\n\
             rule \"join {number}\" {{\n    match {{\n        job: Job{number} where job.state == \"split\";\n        \
             no Part{number} p where p.job == job.id && p.state != \"done\";\n        \
             parts = collect Part{number} p where p.job == job.id order by p.index;\n    }}\n    \
             action {{ job.state = \"done\"; complete(#{{ files: parts.map(|part| part.file) }}); }}\n}}\n\n"
        );
        lines += rule.lines().count();
        text.push_str(&rule);
        number += 1;
    }
    text
}

struct Session {
    input: std::io::PipeWriter,
    output: BufReader<PipeReader>,
    requests: u64,
}

impl Session {
    fn send(&mut self, message: &Value) {
        let body = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("the server reads");
    }

    fn notify(&mut self, method: &str, parameters: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": parameters }));
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }));
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                self.output.read_line(&mut line).expect("the server writes");
                match line.trim().strip_prefix("Content-Length: ") {
                    Some(number) => length = number.parse().expect("a number"),
                    None => break,
                }
            }
            let mut body = vec![0; length];
            self.output
                .read_exact(&mut body)
                .expect("the whole message comes");
            let message: Value = serde_json::from_slice(&body).expect("the server writes JSON");
            if message["id"] == id {
                return message["result"].clone();
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

fn told(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2];
    let slowest = times[times.len() - 1];
    println!("{what:<28} median {median:>10.2?}   slowest {slowest:>10.2?}");
}

fn main() {
    let text = format("large.rules", &text()).expect("the text has no mistake");
    let count = text.lines().count();
    println!("{count} lines, {} bytes, {ROUNDS} rounds", text.len());
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = now();
        let laid_out = format("large.rules", &text).expect("the text has no mistake");
        assert_eq!(laid_out, text);
        times.push(start.elapsed());
    }
    told("format", times);

    let (from_client, input) = std::io::pipe().expect("the system gives pipes");
    let (output, mut to_client) = std::io::pipe().expect("the system gives pipes");
    let server = std::thread::spawn(move || serve(&mut BufReader::new(from_client), &mut to_client));
    let output = BufReader::new(output);
    let mut session = Session {
        input,
        output,
        requests: 0,
    };
    session.ask("initialize", &json!({ "capabilities": {} }));
    let uri = "file:///nowhere/large.rules";
    let document = json!({ "uri": uri, "languageId": "celesta", "version": 1, "text": text });
    session.notify("textDocument/didOpen", &json!({ "textDocument": document }));
    // In the middle of the file, in the action of a `split`: a line that is typed letter by letter.
    let middle = text.lines().enumerate().skip(count / 2);
    let line = middle
        .filter(|(_, line)| line.contains("job.state = \"split\";"))
        .map(|(at, _)| at)
        .next()
        .expect("there is such a line");
    let mut names = String::new();
    let methods = ["completion", "hover", "definition", "references"];
    let mut times = vec![Vec::new(); methods.len()];
    for round in 0..ROUNDS {
        for (at, method) in methods.iter().enumerate() {
            let typed = (round * methods.len() + at).is_multiple_of(2);
            let start = json!({ "line": line, "character": 0 });
            let end = json!({ "line": line, "character": 8 });
            let written = if typed { "  job." } else { "        " };
            let end = if typed {
                end
            } else {
                json!({ "line": line, "character": 6 })
            };
            let change = json!([{ "range": { "start": start, "end": end }, "text": written }]);
            let version = round * methods.len() + at + 2;
            let changed = json!({ "uri": uri, "version": version });
            let began = now();
            session.notify(
                "textDocument/didChange",
                &json!({ "textDocument": changed, "contentChanges": change }),
            );
            let column = if typed { 6 } else { 8 };
            let place = json!({ "line": line, "character": column });
            let asked = json!({
                "textDocument": { "uri": uri },
                "position": place,
                "context": { "includeDeclaration": true },
            });
            let answer = session.ask(&format!("textDocument/{method}"), &asked);
            times[at].push(began.elapsed());
            if *method == "completion" && round == 0 {
                let labels = answer.as_array().into_iter().flatten();
                labels.for_each(|one| write!(names, " {}", one["label"]).expect("a string takes everything"));
            }
        }
    }
    println!("proposed after `job.`:{names}");
    for (method, times) in methods.iter().zip(times) {
        told(method, times);
    }
    session.ask("shutdown", &json!(null));
    session.notify("exit", &json!(null));
    server
        .join()
        .expect("the server does not panic")
        .expect("the session ends in order");
}
