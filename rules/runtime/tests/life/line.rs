//! A second service for the tests of what lies between runs: requests, groups, events, breakpoints.

use celesta_bundle::Files;
use celesta_runs::{RunView, Submit, SubmitError};
use celesta_types::{Priority, RunId};

use crate::bed::Node;
use crate::given::{self, ECHO, GROUPS, PAYMENTS};

const SERVICE: &str = r#"
name = "line"

[operations.one]
workflow = "one"
fact = "Job"

[operations.strict]
workflow = "strict"
fact = "Job"

[operations.last]
workflow = "last"
fact = "Job"

[operations.latest]
workflow = "latest"
fact = "Job"

[operations.ask]
workflow = "ask"
fact = "Ask"

[operations.stages]
workflow = "stages"
fact = "Job"

[operations.announce]
workflow = "announce"
fact = "Job"

[workflows.strict]
concurrency = { runs = "strict-sequential", key = "/name" }

[workflows.last]
concurrency = "last-only"

[workflows.latest]
concurrency = "latest-only"

[subscriptions.announced]
type = "line.announced"
source = "/services/line"
start = "one"
input = { name = "/data/name" }

[subscriptions.ordered]
type = "shop.order.*"
start = "one"
input = { name = "/data/name" }
labels = { order = "/data/name" }

"#;

const ASK: &str = r#"
workflow ask;

fact Ask { target: string, input: map, timeout: string? }

rule "ask in time" {
    match    { ask: Ask where ask.timeout != (); }
    action   { request(ask.target, ask.input, #{ timeout: ask.timeout }); }
    reaction { complete(#{ answer: result }); }
}

rule "ask" {
    match    { ask: Ask where ask.timeout == (); }
    action   { request(ask.target, ask.input); }
    reaction { complete(#{ answer: result }); }
}
"#;

const STAGES: &str = r#"
workflow stages;

fact Job { name: string, state: string = "new" }

rule "first" {
    match    { job: Job where job.state == "new"; }
    action   { job.state = "first"; call("echo", #{ stage: 1 }); }
    reaction { job.state = "one"; }
}

rule "second" {
    match    { job: Job where job.state == "one"; }
    action   { job.state = "second"; call("echo", #{ stage: 2, name: job.name }); }
    reaction { job.state = "two"; }
}

rule "third" {
    match    { job: Job where job.state == "two"; }
    action   { job.state = "done"; complete(#{ name: job.name }); }
}
"#;

const ANNOUNCE: &str = r#"
workflow announce;

fact Job { name: string }

rule "tell" {
    match  { job: Job; }
    action { emit("line.announced", #{ name: job.name }); emit("line.unheard", #{}); complete(#{}); }
}
"#;

const AWAIT: &str = r#"
workflow await;

fact Order   { order: string }
fact Payment { amount: int }

rule "paid" {
    match  { order: Order; payment: Payment; }
    action { complete(#{ order: order.order, amount: payment.amount }); }
}
"#;

/// The files of the service.
pub(crate) fn line() -> Files {
    let mut entries = vec![
        ("service.toml".to_owned(), format!("{SERVICE}{GROUPS}{PAYMENTS}")),
        ("rules/ask.rules".to_owned(), ASK.to_owned()),
        ("rules/stages.rules".to_owned(), STAGES.to_owned()),
        ("rules/announce.rules".to_owned(), ANNOUNCE.to_owned()),
        ("rules/await.rules".to_owned(), AWAIT.to_owned()),
        ("functions/echo/function.toml".to_owned(), ECHO.to_owned()),
    ];
    for workflow in ["one", "limited", "strict", "first", "last", "latest", "double"] {
        entries.push((format!("rules/{workflow}.rules"), given::one_call(workflow)));
    }
    given::files(entries)
}

/// A request of the service.
pub(crate) fn request(operation: &str, input: &str) -> Submit {
    given::request("line", operation, input)
}

impl Node {
    /// Requests an operation of `line`.
    pub(crate) async fn ask(&self, operation: &str, input: &str) -> RunId {
        self.try_ask(request(operation, input)).await.expect("accepted")
    }

    pub(crate) async fn ask_at(&self, operation: &str, input: &str, priority: Priority) -> RunId {
        let request = Submit {
            priority: Some(priority),
            ..request(operation, input)
        };
        self.try_ask(request).await.expect("accepted")
    }

    pub(crate) async fn try_ask(&self, request: Submit) -> Result<RunId, SubmitError> {
        let submitted = self.runtime.submit(request, None).await;
        submitted.map(|submitted| submitted.run)
    }

    pub(crate) async fn view(&self, run: RunId) -> RunView {
        let view = self.runtime.run(run).await.expect("the store answers");
        view.expect("the run is there")
    }

    /// Waits until `done` says so of the run.
    pub(crate) async fn until_it(&self, run: RunId, done: impl Fn(&RunView) -> bool) -> RunView {
        loop {
            let view = self.view(run).await;
            if done(&view) {
                return view;
            }
            tokio::task::yield_now().await;
        }
    }
}
