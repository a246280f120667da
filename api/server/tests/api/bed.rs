//! A server of a test's own, and what is asked of it.

use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_bundle::{FileEntry, Files, pack};
use celesta_queue::Queues;
use celesta_runs::{Parts, Runtime, RuntimeConfig};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_server::{Api, Server, ServerConfig};
use celesta_store::{Migration, Store, StoreOptions};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;

const SERVICE: &str = r#"
name = "hello"

[operations.greet]
workflow = "greet"
fact = "Guest"
[operations.greet.input]
type = "object"
required = ["name"]
properties = { name = { type = "string", maxLength = 20 } }
additionalProperties = false

[operations.wait]
workflow = "wait"
fact = "Guest"

[subscriptions.guest]
type = "guest.*"
start = "greet"
input = { name = "/data/name" }
"#;

const GREET: &str = r#"
workflow greet;

fact Guest { name: string }

rule "greet" {
    match  { g: Guest; }
    action { log(`greeting ${g.name}`); complete(#{ greeting: `hello ${g.name}` }); }
}
"#;

const WAIT: &str = r#"
workflow wait;

fact Guest { name: string }

rule "ask" {
    match    { g: Guest; }
    action   { call("nobody", #{ name: g.name }); }
    reaction { complete(#{}); }
}
"#;

/// A running server and its folder.
pub(crate) struct Bed {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    tasks: TaskSet,
    _folder: TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The answer is a problem of this status and code, complete as RFC 9457 wants it.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.json["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["type"], format!("/errors/{code}"));
        for member in ["title", "detail", "instance"] {
            assert!(
                self.json[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member}: {self:?}"
            );
        }
    }
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(ServerConfig {
            listen: "127.0.0.1:0".to_owned(),
            token: None,
        })
        .await
    }

    pub(crate) async fn with(config: ServerConfig) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tasks = TaskSet::new(Shutdown::new());
        let api = api(folder.path(), &tasks).await;
        let server = Server::bind(config, api).await.expect("a free port");
        let url = format!("http://{}", server.address());
        server.spawn(&tasks);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self {
            url,
            http,
            tasks,
            _folder: folder,
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("the answer is whole").to_vec();
        Answer {
            status,
            headers,
            json: serde_json::from_slice(&body).unwrap_or_default(),
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header("Content-Type", "application/json")
            .body(body.to_owned());
        self.send(
            headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value)),
        )
        .await
    }

    pub(crate) async fn push(&self, service: &str, packed: Vec<u8>) -> Answer {
        let request = self.request(Method::PUT, &format!("/v1/services/{service}"));
        self.send(request.header("Content-Type", "application/gzip").body(packed))
            .await
    }

    /// Pushes the service that the tests speak with.
    pub(crate) async fn push_hello(&self) -> Answer {
        let answer = self.push("hello", pack(&hello())).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        answer
    }

    pub(crate) async fn stop(self) {
        let Self { http, tasks, .. } = self;
        drop(http);
        assert!(tasks.stop(Duration::from_secs(20)).await, "everything ends");
    }
}

/// The parts of a server on a store in `folder`.
pub(crate) async fn api(folder: &std::path::Path, tasks: &TaskSet) -> Api {
    let clock = Clock::system();
    let migrations: Vec<Migration> = [
        celesta_queue::MIGRATIONS,
        celesta_runs::MIGRATIONS,
        celesta_worker::MIGRATIONS,
    ]
    .concat();
    let options = StoreOptions::at(folder.join("celesta.db"));
    let store = Store::open(&options, &migrations, &clock, tasks)
        .await
        .expect("the store opens");
    let queues = Queues::open(&store, &clock, tasks, celesta_queue::Options::default())
        .await
        .expect("the queues open");
    let artifacts = Artifacts::open(folder.join("artifacts"))
        .await
        .expect("the artifacts open");
    let parts = Parts {
        store: store.clone(),
        queues: queues.clone(),
        artifacts: artifacts.clone(),
        clock: clock.clone(),
        random: Random::system(),
        tasks: tasks.clone(),
    };
    let runtime = Runtime::open(RuntimeConfig::new(folder.join("bundles")), parts)
        .await
        .expect("the runtime opens");
    Api {
        runtime,
        store,
        artifacts,
        queues: queues.into(),
        clock,
    }
}

pub(crate) fn hello() -> Files {
    let function = "name = \"nobody\"\nprotocol = \"exec\"\ncommand = [\"/bin/cat\"]\n";
    let entries = [
        ("service.toml", SERVICE),
        ("rules/greet.rules", GREET),
        ("rules/wait.rules", WAIT),
        ("functions/nobody/function.toml", function),
    ];
    entries
        .into_iter()
        .map(|(path, text)| (path.to_owned(), FileEntry::text(text)))
        .collect()
}
