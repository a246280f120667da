//! What belongs to a service as a whole, with two nodes on one PostgreSQL: a result of a pure function is known to all
//! partitions, releases change once, and counts of runs are those of all partitions.

use std::path::Path;
use std::time::Duration;

use celesta_tests::{Answer, Cluster, Said, Server};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: &str = r#"
name = "oracle"
[operations.ask]
workflow = "ask"
fact = "Question"
input = { type = "object", properties = { text = { type = "string" } } }
[versions.ask]
policy = "upgrade-on-touch"
"#;
/// Its answer is another one each time it runs.
const FUNCTION: &str = r#"
name = "muse"
command = ["sh", "-c", "cat >/dev/null; printf '\"%s\"' $(cat /proc/sys/kernel/random/uuid)"]
pure = true
[resources]
cpu = 0.05
memory = "64MiB"
"#;

/// Pushes a version whose facts have `fields`, and says how that was answered.
fn push(node: &Server, folder: &Path, fields: &str) -> Said {
    let rules = format!(
        "workflow ask;\nfact Question {{ text: string{fields} }}\n\
         rule \"ask\" {{ match {{ q: Question; }} action {{ call(\"muse\", #{{ text: q.text }}); }} \
         reaction {{ complete(#{{ answer: result }}); }} }}\n"
    );
    let files = [
        ("service.toml", SERVICE),
        ("rules/ask.rules", &rules),
        ("functions/muse/function.toml", FUNCTION),
    ];
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    node.celesta(&["push", folder.to_str().expect("a path of text")])
}

async fn ask(node: &Server, text: &str, reuse: &str) -> Answer {
    let headers = [("Prefer", "wait=30"), ("Celesta-Reuse", reuse)];
    let answer = node
        .post("/v1/services/oracle/ask", &headers, &json!({ "text": text }))
        .await;
    assert_eq!(answer.json["state"], "completed", "{answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_service_as_a_whole_is_asked_and_done_once() {
    let Some(cluster) = Cluster::start() else {
        let said = "initdb of PostgreSQL is not installed: a deployment as a whole was not tested\n";
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("standard error");
        return;
    };
    let url = cluster.url();
    let arguments = ["--store", url.as_str(), "--partitions", "4", "--workers", "2"];
    let first = Server::start_with(&arguments);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pushed = push(&first, folder.path(), "");
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let second = Server::start_with(&arguments);
    for node in [&first, &second] {
        let settled = |answer: &Answer| {
            let nodes = answer.json["nodes"].as_array().cloned().unwrap_or_default();
            nodes.len() == 2
                && nodes
                    .iter()
                    .all(|node| node["partitions"].as_array().map(Vec::len) == Some(2))
        };
        node.until("/v1/nodes", PATIENCE, settled).await;
        node.until("/v1/services", PATIENCE, |answer| answer.text.contains("oracle"))
            .await;
    }

    // The nodes own different partitions: what one has found out, the other reports.
    let mut reused = 0;
    for number in 0..10 {
        let text = format!("question {number}");
        let here = ask(&first, &text, "yes").await;
        let there = ask(&second, &text, "yes").await;
        let same = here.json["result"] == there.json["result"];
        assert_eq!(there.json["avoided"] == json!(1), same, "{there:?}");
        reused += usize::from(same);
    }
    // A result is told a moment after its run has ended: one or the other may come before.
    assert!(reused >= 5, "{reused}");
    let asked = ask(&second, "question 0", "no").await;
    assert_eq!(asked.json["avoided"].as_u64().unwrap_or(0), 0, "{asked:?}");

    let operation = json!({ "action": "cancel", "filter": { "service": "oracle" }, "preview": true });
    let preview = second.post("/v1/operations", &[], &operation).await;
    assert_eq!(preview.json["runs"], 21, "{preview:?}");

    // A version that stored facts would not survive is refused, and a good one is taken back once.
    let refused = push(&second, folder.path(), ", mood: string");
    assert!(
        refused.code != 0 && refused.stderr.contains("mood"),
        "it would break facts: {refused:?}"
    );
    let pushed = push(&second, folder.path(), ", mood: string = \"calm\"");
    assert_eq!(pushed.code, 0, "{pushed:?}");
    let taken = first
        .post("/v1/releases/oracle/rollback", &[], &Value::Null)
        .await;
    assert_eq!(taken.status, 200, "{taken:?}");
    let releases = second.get("/v1/releases/oracle").await;
    let rows = releases.json["rows"].as_array().cloned().unwrap_or_default();
    let kinds: Vec<&str> = rows.iter().filter_map(|row| row["kind"].as_str()).collect();
    assert_eq!(kinds, ["rollback", "push", "push"], "{releases:?}");
    let metrics = first.get("/metrics").await;
    let turns = metrics
        .text
        .lines()
        .find_map(|line| line.strip_prefix("celesta_runs_turns_total "));
    assert!(turns.is_some_and(|turns| turns != "0"), "{turns:?}");
}
