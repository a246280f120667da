//! The language server as an editor sees it: messages through pipes, one after the other.

mod client;

use client::{Client, bundle};
use proptest::prelude::*;
use serde_json::json;

const PARTY: &str = "examples/greeter/rules/party.rules";

#[test]
fn a_session_begins_and_ends_as_the_protocol_says() {
    let mut client = Client::start();
    let answer = client.request("initialize", &json!({ "capabilities": {} }));
    assert_eq!(answer["capabilities"]["positionEncoding"], "utf-16");
    assert_eq!(answer["capabilities"]["textDocumentSync"]["change"], 2);
    client.notify("initialized", &json!({}));
    let refused = client.refused("textDocument/willSaveWaitUntil", &json!({}));
    assert_eq!(refused["code"], -32601);
    client.request("shutdown", &json!(null));
    client.notify("exit", &json!(null));
    assert!(client.ended().is_ok());
}

#[test]
fn nothing_is_answered_before_the_session_begins() {
    let mut client = Client::start();
    let refused = client.refused("textDocument/hover", &json!({}));
    assert_eq!(refused["code"], -32002);
}

#[test]
fn an_editor_that_vanishes_is_an_error() {
    let client = Client::ready();
    assert!(client.ended().is_err());
}

#[test]
fn an_example_has_no_mistakes() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    assert_eq!(client.diagnostics(), json!([]));
}

#[test]
fn a_mistake_is_shown_while_it_is_there() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    assert_eq!(client.diagnostics(), json!([]));
    client.edit("party.state == \"new\"", "party.stat == \"new\"");
    let found = client.diagnostics();
    assert_eq!(found[0]["code"], "unknown-field");
    assert_eq!(client.text_in(&found[0]["range"]), "stat");
    assert!(
        found[0]["message"]
            .as_str()
            .is_some_and(|text| text.contains("did you mean `state`?"))
    );
    client.edit("party.stat == \"new\"", "party.state == \"new\"");
    assert_eq!(client.diagnostics(), json!([]));
}

#[test]
fn the_functions_of_the_bundle_are_known() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    assert_eq!(client.diagnostics(), json!([]));
    client.edit("call(\"polish\"", "call(\"polsh\"");
    assert_eq!(client.diagnostics()[0]["code"], "unknown-call");
}

#[test]
fn a_closed_file_has_no_diagnostics() {
    let mut client = Client::ready();
    client.open("file:///nowhere/a.rules", "workflow");
    assert_ne!(client.diagnostics(), json!([]));
    client.close();
    assert_eq!(client.diagnostics(), json!([]));
}

#[test]
fn files_that_are_no_rules_files_are_left_alone() {
    let mut client = Client::ready();
    client.open("file:///nowhere/letter.txt", "Dear all,");
    assert!(client.ask("textDocument/documentSymbol").is_null());
    client.open("file:///nowhere/a.rules", "workflow");
    assert_ne!(
        client.diagnostics(),
        json!([]),
        "the first ones are those of the rules file"
    );
}

/// Types `written` in place of `marked` in the example and asks what may follow.
fn proposed(marked: &str, written: &str) -> Vec<String> {
    let mut client = Client::ready();
    client.open_file(PARTY);
    client.edit(marked, written);
    client.completions()
}

#[test]
fn fields_follow_a_fact() {
    let found = proposed("if party.patience", "if party.");
    assert_eq!(found, ["id", "guests", "patience", "state"]);
    let found = proposed("first.push(guest.greeting)", "first.push(guest.");
    assert_eq!(found, ["index", "name", "state", "greeting"]);
    let found = proposed("where g.state == \"waiting\"", "where g.");
    assert_eq!(found, ["index", "name", "state", "greeting"]);
}

#[test]
fn fields_follow_a_fact_within_a_template_and_a_closure() {
    let text = "log(`${guest.";
    assert_eq!(
        proposed("guest.state = \"arriving\";", text),
        ["index", "name", "state", "greeting"]
    );
    let text = "let l = guests.map(|one| one.";
    assert_eq!(
        proposed("let first = [];", text),
        ["index", "name", "state", "greeting"]
    );
}

#[test]
fn fields_that_are_missing_follow_in_an_insert() {
    let found = proposed(
        "insert(\"Guest\", #{ index: index, name: name });",
        "insert(\"Guest\", #{ index: index, ",
    );
    assert_eq!(found, ["name", "state", "greeting"]);
}

#[test]
fn fact_types_follow_a_colon_and_a_quote() {
    assert_eq!(
        proposed("party: Party where party.state == \"new\"", "party: "),
        ["Party", "Guest"]
    );
    assert_eq!(proposed("insert(\"Guest\"", "insert(\""), ["Party", "Guest"]);
    assert_eq!(proposed("no Guest g where", "no "), ["Party", "Guest"]);
}

#[test]
fn functions_and_operations_follow_a_quote() {
    assert_eq!(proposed("call(\"polish\"", "call(\""), ["greet", "polish"]);
    assert_eq!(
        proposed("call(\"polish\"", "request(\"gr"),
        ["greeter/greet", "greeter/party"]
    );
}

#[test]
fn what_a_section_can_do_is_proposed_where_it_can_be_done() {
    let action = proposed("guest.state = \"arriving\";", "ca");
    assert!(action.iter().any(|one| one == "call") && action.iter().all(|one| one != "retry"));
    assert!(action.iter().any(|one| one == "guest"));
    let error = proposed("guest.greeting = \"(no greeting)\";", "re");
    assert!(error.iter().any(|one| one == "retry") && error.iter().all(|one| one != "call"));
    assert!(error.iter().any(|one| one == "error"));
}

#[test]
fn words_of_the_language_are_proposed_where_they_stand() {
    assert_eq!(
        proposed("greeted = count Guest g", "greeted = "),
        ["count", "sum", "min", "max", "collect"]
    );
    assert_eq!(
        proposed("no Guest g where g.state", "\n        "),
        ["no", "any", "if"]
    );
    assert_eq!(
        proposed("match    { guest: Guest", "\n    "),
        ["match", "action", "reaction", "error"]
    );
    assert!(proposed("workflow party;", "workflow party;\n").contains(&"rule".to_owned()));
    assert!(proposed("index: int,", "index: ").contains(&"artifact".to_owned()));
}

#[test]
fn nothing_is_proposed_in_comments_and_texts() {
    assert!(proposed("// Somebody", "// Some").is_empty());
    assert!(proposed("\"(no greeting)\"", "\"(no").is_empty());
}

#[test]
fn hovering_tells_what_a_name_is() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    let about = |client: &mut Client, marked: &str| client.hover(marked);
    assert!(about(&mut client, "party.patience != ").contains("party: Party"));
    assert!(about(&mut client, "patience != ").contains("patience: string = \"\""));
    assert!(about(&mut client, "Guest g where").contains("fact Guest {"));
    assert!(about(&mut client, "timer(party").contains("timer(\"2h\")"));
    assert!(about(&mut client, "collect Guest").contains("order by"));
    assert!(about(&mut client, "reaction {").contains("come back well"));
    assert!(about(&mut client, "polish\"").contains("call(\"polish\""));
}

#[test]
fn a_definition_is_found_in_this_file_and_beside_it() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    let place = client.ask_at("textDocument/definition", "Guest\", #{");
    assert_eq!(
        client.line_of(&place["range"]),
        "fact Guest { index: int, name: string, state: string = \"waiting\", greeting: string = \"\" }"
    );
    let place = client.ask_at("textDocument/definition", "polish\"");
    assert!(
        place["uri"]
            .as_str()
            .is_some_and(|uri| uri.ends_with("functions/polish/function.toml"))
    );
}

#[test]
fn references_are_those_of_the_same_name_in_the_same_rule() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    let places = client.references("guest.state = \"arriving\"");
    assert_eq!(places.len(), 8, "{places:?}");
    let places = client.references("greeting: string");
    assert_eq!(places.len(), 4, "{places:?}");
}

#[test]
fn symbols_are_the_declarations() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    let symbols = client.ask("textDocument/documentSymbol");
    let names: Vec<&str> = symbols
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "party",
            "Party",
            "Guest",
            "open the door",
            "greet a guest",
            "celebrate",
            "say goodbye"
        ]
    );
    assert_eq!(symbols[1]["children"].as_array().map(Vec::len), Some(4));
}

#[test]
fn formatting_is_one_edit_or_none() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    assert_eq!(client.ask("textDocument/formatting"), json!([]));
    client.edit("        party.state = \"open\";", "party.state=\"open\";");
    let edits = client.ask("textDocument/formatting");
    client.apply(&edits);
    assert!(client.text().contains("        party.state = \"open\";\n"));
    client.edit("party.state = \"open\";", "party.state = ;");
    let refused = client.refused_at("textDocument/formatting", json!({}));
    assert_eq!(refused["code"], -32803);
}

#[test]
fn a_fact_type_is_renamed_in_the_bundle() {
    let folder = bundle("greeter");
    let mut client = Client::ready();
    client.open_path(&folder.path().join("rules/party.rules"));
    assert_eq!(client.diagnostics(), json!([]));
    let changes = client.rename("Guest g where g.state == \"waiting\"", "Visitor");
    let names: Vec<&str> = changes
        .as_object()
        .into_iter()
        .flatten()
        .map(|(uri, _)| uri.rsplit('/').next().unwrap_or(""))
        .collect();
    assert_eq!(names, ["party.rules", "party.toml"]);
    client.apply_in_folder(&changes);
    let rules = std::fs::read_to_string(folder.path().join("rules/party.rules")).expect("the file is there");
    assert!(!rules.contains("Guest ") && rules.contains("insert(\"Visitor\""));
    let greet = std::fs::read_to_string(folder.path().join("rules/greet.rules")).expect("the file is there");
    assert!(
        greet.contains("fact Guest "),
        "another workflow has a type of its own"
    );
    let files = celesta_bundle::read_folder(folder.path()).expect("the folder is a bundle");
    let bundle = celesta_bundle::Bundle::compile(&files).expect("the bundle is right");
    celesta_bundle::scenario::check(&bundle, &files).expect("the scenarios are right");
}

#[test]
fn the_fact_of_an_operation_is_renamed_in_the_service_too() {
    let folder = bundle("greeter");
    let mut client = Client::ready();
    client.open_path(&folder.path().join("rules/party.rules"));
    let changes = client.rename("Party where party.state == \"open\"", "Feast");
    client.apply_in_folder(&changes);
    let files = celesta_bundle::read_folder(folder.path()).expect("the folder is a bundle");
    let bundle = celesta_bundle::Bundle::compile(&files).expect("the bundle is right");
    assert_eq!(&*bundle.operations["party"].fact, "Feast");
}

#[test]
fn fields_and_names_are_renamed_where_they_mean_the_same() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    let changes = client.rename("state: string = \"waiting\"", "phase");
    client.apply_own(&changes);
    let text = client.text().to_owned();
    assert!(text.contains("guest.phase = \"greeted\"") && text.contains("g.phase == \"arriving\""));
    assert!(
        text.contains("party.state = \"over\""),
        "another type has a field of the same name"
    );
    let changes = client.rename("guest: Guest where guest.phase", "visitor");
    client.apply_own(&changes);
    let text = client.text().to_owned();
    assert!(text.contains("visitor.greeting = result.greeting"));
    assert!(
        text.contains("for guest in guests"),
        "another rule has a name of its own"
    );
    assert!(text.contains("\"greet a guest\""));
}

#[test]
fn a_rename_that_would_break_something_is_refused() {
    let mut client = Client::ready();
    client.open_file(PARTY);
    for (marked, to) in [
        ("Guest g where", "Party"),
        ("Guest g where", "a b"),
        ("guest: Guest", "insert"),
        ("greeting: string", "name"),
        ("timer(party", "clock"),
    ] {
        let refused = client.refused_at_text("textDocument/rename", marked, json!({ "newName": to }));
        assert_eq!(refused["code"], -32803, "{marked} to {to}");
    }
}

#[test]
fn every_answer_is_given_at_every_place_of_a_broken_file() {
    let mut client = Client::ready();
    let text = client::example("examples/video-encoder/rules/encode.rules");
    let half = &text[..text.len() / 2];
    client.open("file:///nowhere/encode.rules", half);
    let lines = half.lines().count();
    for line in 0..lines {
        // Each line is cut where it would hurt.
        let column = (line * 7) % 40;
        client.cut(line, column);
        for method in [
            "completion",
            "hover",
            "definition",
            "prepareRename",
            "documentHighlight",
        ] {
            client.ask_at_position(&format!("textDocument/{method}"), line, column);
        }
    }
    client.ask("textDocument/documentSymbol");
}

/// What somebody might type anywhere.
const TYPED: [&str; 24] = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\"",
    "`",
    "${",
    "|",
    "||",
    ".",
    "..",
    ";",
    ",",
    ":",
    "=",
    "#{",
    "/*",
    "//",
    "'",
    "fact ",
    "rule \"",
    "\u{1f600}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_typed_ends_the_server(
        typed in proptest::collection::vec((0..TYPED.len(), 0_usize..220, 0_usize..60), 1..60),
    ) {
        let mut client = Client::ready();
        client.open("file:///nowhere/encode.rules", &client::example("examples/video-encoder/rules/encode.rules"));
        for (what, line, column) in typed {
            client.insert(line, column, TYPED[what]);
            client.completions();
            for method in ["hover", "definition", "documentHighlight"] {
                client.ask_at_position(&format!("textDocument/{method}"), line, column);
            }
        }
        client.ask("textDocument/documentSymbol");
    }
}
