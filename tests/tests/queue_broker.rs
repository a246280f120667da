//! Messages that reach their consumers through a real RabbitMQ: `serve --broker`, `transport=broker`, `queue consume`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use celesta_tests::{Answer, Said, Server, celesta};
use serde_json::json;

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "tests are told where the broker is")]
fn broker() -> String {
    std::env::var("CELESTA_TEST_RABBITMQ")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// Who may use the broker: the same file as in the tests of `queue/rabbitmq`.
fn turn_file() -> File {
    let path = std::env::temp_dir().join("celesta-rabbitmq-tests.lock");
    let file = File::options().create(true).append(true).open(path);
    file.expect("a file in the temporary folder")
}

fn rabbitmqctl(arguments: &[&str]) {
    let output = celesta_tests::process(Path::new("rabbitmqctl"))
        .args(arguments)
        .output()
        .expect("rabbitmqctl is on this machine");
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
}

struct Place {
    server: Server,
    queue: String,
}

impl Place {
    /// A server with the broker, and a queue of its own there.
    fn start() -> Self {
        let server = Server::start_with(&["--broker", &broker()]);
        let name = server.folder().file_name().and_then(|name| name.to_str());
        let queue = format!(
            "broker-test-{}",
            name.expect("a name of text").trim_start_matches('.')
        );
        let made = server.celesta(&["queue", "configure", &queue, "transport=broker", "--json"]);
        assert_eq!(made.json()["settings"]["transport"], json!("broker"), "{made:?}");
        Self { server, queue }
    }

    async fn enqueue(&self, numbers: std::ops::Range<u32>) {
        let messages: Vec<_> = numbers
            .map(|number| json!({ "payload": { "n": number } }))
            .collect();
        let path = format!("/v1/queues/{}/messages", self.queue);
        let answer = self
            .server
            .post(&path, &[], &json!({ "messages": messages }))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Consumes so many messages on a thread; what the command gets is one line of `got`.
    fn consume(&self, max: u32, command: &str) -> tokio::task::JoinHandle<Said> {
        let folder: PathBuf = self.server.folder().to_owned();
        let (queue, command) = (self.queue.clone(), command.to_owned());
        tokio::task::spawn_blocking(move || {
            let max = max.to_string();
            let arguments = [
                "queue",
                "consume",
                &queue,
                "--broker",
                &broker(),
                "--parallel",
                "2",
                "--delay",
                "0s",
                "--max",
                &max,
                "--json",
                "--",
                "sh",
                "-c",
                &command,
            ];
            celesta(&folder, &arguments)
        })
    }

    fn got(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.server.folder().join("got")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the queue's counts are as wanted.
    async fn until(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> Answer {
        let path = format!("/v1/queues/{}", self.queue);
        let wanted = |answer: &Answer| wanted(&answer.json["counts"]);
        self.server.until(&path, PATIENCE, wanted).await
    }

    /// Takes the queue's traces out of the broker.
    fn end(self) {
        rabbitmqctl(&["--quiet", "delete_queue", &format!("celesta.{}", self.queue)]);
        let name = std::fs::read_to_string(self.server.data().join("broker-name"));
        let reports = format!("celesta!reports.{}", name.expect("the node has a name"));
        drop(self.server);
        rabbitmqctl(&["--quiet", "delete_queue", &reports]);
    }
}

/// All of them are done: nothing waits and nobody holds anything.
fn is_empty(counts: &serde_json::Value) -> bool {
    ["pending", "invisible", "running"]
        .iter()
        .all(|state| counts[state] == json!(0))
}

fn lines(numbers: std::ops::Range<u32>) -> BTreeSet<String> {
    numbers.map(|number| format!("{{\"n\":{number}}}")).collect()
}

#[tokio::test]
async fn a_command_gets_each_message_and_its_end_is_the_messages_end() {
    let turn = turn_file();
    turn.lock_shared().expect("the lock is to be had");
    let place = Place::start();
    place.enqueue(0..6).await;
    let said = place
        .consume(6, "read line; echo \"$line\" >> got")
        .await
        .expect("it ends");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stdout.matches("\"completed\"").count(), 6, "{said:?}");
    assert_eq!(place.got().into_iter().collect::<BTreeSet<_>>(), lines(0..6));
    place.until(is_empty).await;

    // One that fails for good is a dead letter with what was said; one that fails is tried again.
    place.enqueue(6..7).await;
    let said = place
        .consume(1, "echo no such shop >&2; exit 65")
        .await
        .expect("it ends");
    assert_eq!(said.code, 1, "{said:?}");
    place.until(|counts| counts["errored"] == json!(1)).await;
    let peeked = place
        .server
        .celesta(&["queue", "peek", &place.queue, "--state", "errored"]);
    assert!(peeked.stdout.contains("no such shop"), "{peeked:?}");
    place.enqueue(7..8).await;
    let said = place
        .consume(2, "test $CELESTA_ATTEMPT = 2")
        .await
        .expect("it ends");
    assert!(
        said.stdout.contains("\"failed\"") && said.stdout.contains("\"completed\""),
        "{said:?}"
    );
    place.until(is_empty).await;

    // Back to direct: consumers ask the server again.
    let direct = place
        .server
        .celesta(&["queue", "configure", &place.queue, "transport=direct"]);
    assert_eq!(direct.code, 0, "{direct:?}");
    place.end();
}

#[tokio::test]
async fn a_broker_that_restarts_loses_no_message() {
    let turn = turn_file();
    turn.lock().expect("the lock is to be had");
    let place = Place::start();
    place.enqueue(0..10).await;
    let consuming = place.consume(40, "read line; echo \"$line\" >> got; sleep 0.05");
    place.until(|counts| counts["running"] != json!(0)).await;
    rabbitmqctl(&["--quiet", "stop_app"]);
    place.enqueue(10..30).await;
    rabbitmqctl(&["--quiet", "start_app"]);
    rabbitmqctl(&["--quiet", "await_startup", "--timeout", "60"]);
    place.enqueue(30..40).await;
    // A delivery may be worked on twice and counts once: what is left in the record is what nobody has completed.
    place.until(is_empty).await;
    assert_eq!(place.got().into_iter().collect::<BTreeSet<_>>(), lines(0..40));
    let path = format!("/v1/queues/{}", place.queue);
    let counts = place.server.get(&path).await.json["counts"].clone();
    assert_eq!(counts["errored"], json!(0), "{counts}");
    assert_eq!(consuming.await.expect("it ends").code, 0);
    place.end();
}
