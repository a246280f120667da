//! What the tests of one node and those of a deployment are given: services, requests, and damage done to a store.

pub(crate) mod recipes;

use std::time::Duration;

use celesta_bundle::{FileEntry, Files};
use celesta_runs::Submit;
use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::{Cell, Expect, Migration, Statement, Store, StoreOptions, Unit};

/// Rules that call `echo` as often as they are asked to.
pub(crate) const COUNT: &str = r#"
workflow count;

fact Counter { id: string, total: int, done: int = 0, state: string = "idle" }

rule "step" {
    match    { c: Counter where c.state == "idle" && c.done < c.total; }
    action   { c.state = "waiting"; call("echo", #{ n: c.done }); }
    reaction { c.done = c.done + 1; c.state = "idle"; }
}

rule "finish" {
    match    { c: Counter where c.state == "idle" && c.done >= c.total; }
    action   { c.state = "done"; complete(#{ count: c.done }); }
}
"#;

/// The manifest of `echo`, whose result is its input.
pub(crate) const ECHO: &str = "name = \"echo\"\nprotocol = \"exec\"\ncommand = [\"/bin/cat\"]\n";

/// The part of a service whose runs are in groups; each workflow has the rules of [`one_call`].
pub(crate) const GROUPS: &str = r#"
[operations.limited]
workflow = "limited"
fact = "Job"
labels = { order = "/name" }

[operations.first]
workflow = "first"
fact = "Job"

[operations.double]
workflow = "double"
fact = "Job"

[workflows.limited]
concurrency = "parallel(2)"

[workflows.first]
concurrency = "first-only"

[[workflows.double.concurrency]]
runs = "sequential"
key = "/name"
[[workflows.double.concurrency]]
runs = "parallel(2)"
"#;

/// The part of a service whose orders await payments, by their label and by the run's id.
pub(crate) const PAYMENTS: &str = r#"
[operations.await]
workflow = "await"
fact = "Order"
labels = { order = "/order" }

[subscriptions.paid]
type = "shop.paid"
fact = "Payment"
label = { order = "/data/order" }
fields = { amount = "/data/amount" }

[subscriptions.told]
type = "shop.told"
fact = "Payment"
run = "/subject"
"#;

/// Rules with one call, whose result is the run's.
pub(crate) fn one_call(workflow: &str) -> String {
    format!(
        r#"
workflow {workflow};

fact Job {{ name: string }}

rule "work" {{
    match    {{ job: Job; }}
    action   {{ call("echo", #{{ name: job.name }}); }}
    reaction {{ complete(#{{ name: result.name }}); }}
}}
"#
    )
}

/// The files of a bundle.
pub(crate) fn files<P: Into<String>, T: AsRef<str>>(entries: impl IntoIterator<Item = (P, T)>) -> Files {
    let entries = entries.into_iter();
    entries
        .map(|(path, text)| (path.into(), FileEntry::text(text.as_ref())))
        .collect()
}

/// A request of an operation.
pub(crate) fn request(service: &str, operation: &str, input: &str) -> Submit {
    Submit {
        service: service.to_owned(),
        operation: operation.to_owned(),
        input: input.as_bytes().to_vec(),
        ..Submit::default()
    }
}

/// Does what `head` and `tail` say to a store, once with `cell`.
pub(crate) async fn damage(
    options: &StoreOptions,
    migrations: &[Migration],
    head: &'static str,
    tail: &'static str,
    cell: Cell,
) {
    let tasks = TaskSet::new(Shutdown::new());
    let store = Store::open(options, migrations, &Clock::system(), &tasks)
        .await
        .expect("the store opens");
    let statement: &'static Statement = Box::leak(Box::new(Statement {
        name: "test.damage",
        rank: 10,
        head,
        row: "(?)",
        tail,
        cells: 1,
        expect: Expect::Any,
    }));
    let mut unit = Unit::new();
    unit.add(statement, [cell]);
    store.commit(unit).await.expect("the damage is done");
    tasks.shutdown().request();
    drop(store);
    assert!(tasks.stop(Duration::from_secs(20)).await, "everything ends");
}
