//! What the command line prints, as text anyone can read. The commands here need no server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Runs `celesta` in `folder` and gives everything it printed, and its exit code.
#[expect(
    clippy::disallowed_methods,
    reason = "the test starts the program as its users do"
)]
fn celesta(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_celesta"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("COLUMNS", "100");
    for variable in [
        "CELESTA_SERVER",
        "CELESTA_TOKEN",
        "CELESTA_DATA",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(variable);
    }
    let output = command.output().expect("the binary starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let mut said = String::new();
    for (name, text) in [("", &stdout), ("--- standard error\n", &stderr)] {
        if !text.is_empty() {
            said.push_str(name);
            said.push_str(text.trim_end());
            said.push('\n');
        }
    }
    format!("{said}--- exit {}", output.status.code().unwrap_or(-1))
}

fn anywhere() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn mistakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/mistakes")
}

/// Times differ from run to run.
fn without_times(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(" ms") {
        let start = rest[..at]
            .rfind(|c: char| !(c.is_ascii_digit() || c == '.'))
            .map_or(0, |before| before + 1);
        words.push(format!("{}[time]", &rest[..start]));
        rest = &rest[at + 3..];
    }
    words.push(rest.to_owned());
    words.concat()
}

#[test]
fn help_lists_the_commands() {
    insta::assert_snapshot!(celesta(anywhere().path(), &["--help"]));
}

#[test]
fn help_of_a_command_lists_its_options() {
    insta::assert_snapshot!(celesta(anywhere().path(), &["help", "call"]));
}

#[test]
fn the_exit_codes_are_documented() {
    insta::assert_snapshot!(celesta(anywhere().path(), &["help", "exit-codes"]));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let folder = anywhere();
    let said = [
        celesta(folder.path(), &["frobnicate"]),
        celesta(folder.path(), &["call", "nonsense"]),
        celesta(folder.path(), &["call", "a/b", "--input", "{"]),
        celesta(folder.path(), &["service", "list", "--server", "nonsense"]),
        celesta(folder.path(), &["new", "Not A Name"]),
    ];
    insta::assert_snapshot!(said.join("\n\n"));
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    // Port 9 (discard) is not served here.
    insta::assert_snapshot!(celesta(
        anywhere().path(),
        &["--server", "http://127.0.0.1:9", "run", "list"]
    ));
}

#[test]
fn json_errors_are_one_line() {
    let said = celesta(
        anywhere().path(),
        &["--json", "--server", "http://127.0.0.1:9", "run", "list"],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn every_mistake_of_a_bundle_is_shown_at_its_place() {
    insta::assert_snapshot!(celesta(&mistakes(), &["check"]));
}

#[test]
fn mistakes_are_json_when_asked_for() {
    let said = celesta(&mistakes(), &["check", "--json"]);
    let document: serde_json::Value =
        serde_json::from_str(said.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(document["errors"], 5, "{said}");
    assert_eq!(document["diagnostics"][0]["path"], "rules/mistakes.rules");
}

#[test]
fn a_new_bundle_is_right_and_its_scenarios_pass() {
    let folder = anywhere();
    let said = [
        celesta(folder.path(), &["new", "hello"]),
        celesta(folder.path(), &["check", "hello"]),
        celesta(folder.path(), &["test", "hello"]),
        celesta(folder.path(), &["new", "hello"]),
    ];
    insta::assert_snapshot!(without_times(&said.join("\n\n")));
}

#[test]
fn a_failing_scenario_says_what_was_expected() {
    let folder = anywhere();
    celesta(folder.path(), &["new", "hello"]);
    let scenarios = folder.path().join("hello/tests/welcome.toml");
    let text = std::fs::read_to_string(&scenarios).expect("the starter has scenarios");
    std::fs::write(
        &scenarios,
        text.replace("\"Hello, Ada!\", \"Hello, Grace!\"", "\"Hello, nobody!\""),
    )
    .expect("writable");
    insta::assert_snapshot!(without_times(&celesta(folder.path(), &["test", "hello"])));
}

#[test]
fn what_is_not_there_is_not_found() {
    let folder = anywhere();
    let said = [
        celesta(folder.path(), &["check"]),
        celesta(folder.path(), &["test", "nowhere"]),
    ];
    insta::assert_snapshot!(said.join("\n\n"));
}

#[test]
fn formatting_tells_what_it_changed_and_leaves_broken_files_alone() {
    let folder = anywhere();
    let rules = folder.path().join("rules");
    std::fs::create_dir(&rules).expect("the folder is empty");
    let ragged = "workflow a;fact F{x:int}\nrule \"r\"{match{f:F where f.x==1}action{f.x=2}}\n";
    let broken = "workflow b;\nrule \"r\" { match { f: F where ; } action { f.x = ; } }\n";
    std::fs::write(rules.join("a.rules"), ragged).expect("the file can be written");
    let said = [
        celesta(folder.path(), &["fmt", "--check"]),
        celesta(folder.path(), &["fmt"]),
        celesta(folder.path(), &["fmt", "rules", "--check", "--json"]),
    ];
    std::fs::write(rules.join("b.rules"), broken).expect("the file can be written");
    let refused = celesta(folder.path(), &["fmt", "rules/b.rules"]);
    let left = std::fs::read_to_string(rules.join("b.rules")).expect("the file is there");
    assert_eq!(left, broken);
    let laid_out = std::fs::read_to_string(rules.join("a.rules")).expect("the file is there");
    insta::assert_snapshot!(format!(
        "{}\n{refused}\n--- rules/a.rules\n{laid_out}",
        said.join("\n")
    ));
}
