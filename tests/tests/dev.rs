//! `celesta dev` reloads what changes and survives mistakes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use celesta_tests::{binary, celesta, process};
use serde_json::Value;

/// A `celesta dev` and the lines it prints.
struct Dev {
    child: Child,
    lines: Receiver<Value>,
    url: String,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        let mut command = process(binary());
        command
            .args(["--json", "dev", "hello", "--listen", "127.0.0.1:0"])
            .current_dir(folder);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = sync_channel(100);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender
                    .send(serde_json::from_str(&line).expect("a JSON line"))
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut dev = Self {
            child,
            lines,
            url: String::new(),
        };
        let listening = dev.next("listening");
        listening["url"]
            .as_str()
            .expect("an address")
            .clone_into(&mut dev.url);
        dev
    }

    /// The next line, which must be of this kind.
    fn next(&self, kind: &str) -> Value {
        let line = self
            .lines
            .recv_timeout(Duration::from_secs(30))
            .expect("a line comes");
        assert_eq!(line["kind"], kind, "{line}");
        line
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_changed_file_is_pushed_and_a_bad_one_is_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(celesta(folder.path(), &["new", "hello"]).code, 0);
    let dev = Dev::start(folder.path());
    let first = dev.next("pushed");
    assert_eq!(first["service"], "hello");

    let rules = folder.path().join("hello/rules/welcome.rules");
    let good = std::fs::read_to_string(&rules).expect("the starter has rules");
    std::fs::write(
        &rules,
        good.replace("party.state == \"new\"", "party.stat == \"new\""),
    )
    .expect("writable");
    let invalid = dev.next("invalid");
    assert_eq!(
        invalid["diagnostics"][0]["path"], "rules/welcome.rules",
        "{invalid}"
    );

    std::fs::write(&rules, format!("// changed\n{good}")).expect("writable");
    let second = dev.next("pushed");
    assert_eq!(second["files"], "rules/welcome.rules");
    assert_ne!(first["version"], second["version"]);

    let said = celesta(
        folder.path(),
        &[
            "--server",
            &dev.url,
            "call",
            "hello/welcome",
            "--input",
            r#"{"names":["Ada"]}"#,
            "--wait",
        ],
    );
    assert_eq!(said.code, 0, "{said:?}");
}
