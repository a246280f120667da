//! The house is kept: a crate sees lower floors only, and a foreign crate has one owner.
//!
//! `floors.txt` is the committed list. A new edge is a line in review: change the list by hand, on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use celesta_tests::process;
use serde_json::Value;

/// Foreign crates that only their owners may depend on: what they are used for is reached through the owner.
const OWNED: [&str; 10] = [
    "sqlx",
    "rhai",
    "axum",
    "utoipa",
    "prometheus",
    "notify",
    "reqwest",
    "jsonschema",
    "lapin",
    "mimalloc",
];

/// One crate of the workspace and what it depends on.
struct Member {
    name: String,
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

#[test]
fn the_edges_are_those_of_the_list() {
    let members = members();
    let listed = std::fs::read_to_string(root().join("tests/floors.txt")).expect("the list is committed");
    let floors: Vec<&str> = listed.lines().filter(|line| line.starts_with("floor ")).collect();
    let found = rendered(&floors, &members);
    let differences = differences(&listed, &found);
    assert!(
        differences.is_empty(),
        "the dependencies of the workspace differ from tests/floors.txt:\n{}\nThe whole list would be:\n\n{found}",
        differences.join("\n")
    );
}

#[test]
fn every_edge_goes_down() {
    let listed = std::fs::read_to_string(root().join("tests/floors.txt")).expect("the list is committed");
    let floors: BTreeMap<&str, u32> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("floor "))
        .filter_map(|line| line.split_once(' '))
        .map(|(floor, name)| (name, floor.parse().expect("a floor is a number")))
        .collect();
    for member in members() {
        let own = floors
            .get(member.name.as_str())
            .unwrap_or_else(|| panic!("{} has no floor in tests/floors.txt", member.name));
        for below in member.normal.iter().filter(|name| name.starts_with("celesta")) {
            let floor = floors
                .get(below.as_str())
                .unwrap_or_else(|| panic!("{below} has no floor"));
            assert!(
                floor < own,
                "{} (floor {own}) must not see {below} (floor {floor})",
                member.name
            );
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate stands in the workspace")
        .to_owned()
}

fn members() -> Vec<Member> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let output = process(Path::new(env!("CARGO")))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let mut members: Vec<Member> = packages
        .iter()
        .map(|package| {
            let of_kind = |wanted: fn(&Value) -> bool| {
                let dependencies = package["dependencies"]
                    .as_array()
                    .expect("a list of dependencies")
                    .iter();
                dependencies
                    .filter(|dependency| wanted(&dependency["kind"]))
                    .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
                    .filter(|name| name.starts_with("celesta") || OWNED.contains(&name.as_str()))
                    .collect()
            };
            Member {
                name: package["name"].as_str().expect("a name").to_owned(),
                normal: of_kind(Value::is_null),
                dev: of_kind(|kind| kind == "dev"),
            }
        })
        .collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    members
}

/// The list as it would stand in the file.
fn rendered(floors: &[&str], members: &[Member]) -> String {
    let mut lines = vec![
        "# Which crate sees which. Checked by tests/tests/floors.rs; change it on purpose.".to_owned(),
        String::new(),
    ];
    lines.push("# A crate sees lower floors only.".to_owned());
    lines.extend(floors.iter().map(|line| (*line).to_owned()));
    lines.extend([
        String::new(),
        "# Edges between the crates of the workspace.".to_owned(),
    ]);
    for member in members {
        let below = member.normal.iter().filter(|name| name.starts_with("celesta"));
        lines.extend(below.map(|name| format!("{} -> {name}", member.name)));
    }
    lines.extend([String::new(), "# Edges in tests only.".to_owned()]);
    for member in members {
        let below = member
            .dev
            .iter()
            .filter(|name| name.starts_with("celesta") && !member.normal.contains(*name));
        lines.extend(below.map(|name| format!("{} ~> {name}", member.name)));
    }
    lines.extend([String::new(), "# Foreign crates and their owners.".to_owned()]);
    for owned in OWNED {
        let owners = members.iter().filter(|member| member.normal.contains(owned));
        lines.extend(owners.map(|member| format!("{owned}: {}", member.name)));
    }
    lines.join("\n") + "\n"
}

/// Lines that only one of the two has.
fn differences(listed: &str, found: &str) -> Vec<String> {
    let set = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (listed, found) = (set(listed), set(found));
    let added = found.difference(&listed).map(|line| format!("+ {line}"));
    added
        .chain(listed.difference(&found).map(|line| format!("- {line}")))
        .collect()
}
