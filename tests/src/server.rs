//! A `celesta serve` of a test's own: started, asked over HTTP, killed, started again.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Said, binary, celesta, process};

/// A server and its folder; both are gone when the value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// Its process id.
    pub pid: u32,
    http: reqwest::Client,
    folder: TempDir,
    arguments: Vec<String>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null when it is none.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The code of the problem it holds.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

impl Server {
    /// A server on a fresh folder.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server on a fresh folder with more arguments to `serve`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(arguments, |_| ())
    }

    /// A server on a folder whose data `lay_out` puts there first.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_on(arguments: &[&str], lay_out: impl FnOnce(&Path)) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        lay_out(&folder.path().join("data"));
        let (child, url, pid) = launch(
            &folder.path().join("data"),
            "127.0.0.1:0",
            folder.path(),
            &arguments,
        );
        Self {
            child,
            url,
            pid,
            http: reqwest::Client::new(),
            folder,
            arguments,
        }
    }

    /// The folder that is gone with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours can be killed");
        self.child.wait().expect("a child of ours can be waited for");
    }

    /// Starts it again on the same data and the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        let listen = self.url.trim_start_matches("http://").to_owned();
        (self.child, self.url, self.pid) = launch(&self.data(), &listen, self.folder.path(), &self.arguments);
        // The connections of the client before lead to the server before.
        self.http = reqwest::Client::new();
    }

    /// Asks it to stop with SIGTERM and gives its exit code.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn terminate(&mut self) -> i32 {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("a child of ours takes signals");
        self.child
            .wait()
            .expect("a child of ours can be waited for")
            .code()
            .unwrap_or(-1)
    }

    /// `celesta` with these arguments, as a client of this server.
    #[must_use]
    pub fn celesta(&self, arguments: &[&str]) -> Said {
        let mut all = vec!["--server", &self.url];
        all.extend(arguments);
        celesta(self.folder.path(), &all)
    }

    /// Pushes an example.
    ///
    /// # Panics
    /// When the server refuses it.
    pub fn push(&self, folder: &Path) {
        let said = self.celesta(&["push", folder.to_str().expect("a path of text")]);
        assert_eq!(said.code, 0, "{said:?}");
    }

    /// A request to be completed.
    ///
    /// # Panics
    /// When the method is none.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request and reads the answer.
    ///
    /// # Panics
    /// When the server is away.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the answer is whole");
        Answer {
            status,
            headers,
            json: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    /// Reads `path`.
    ///
    /// # Panics
    /// When the server is away.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    /// Sends JSON to `path`, with these headers.
    ///
    /// # Panics
    /// When the server is away.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = self.request("POST", path).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request).await
    }

    /// Waits until `path` answers as `wanted`, at most `patience`, and gives that answer.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn until(&self, path: &str, patience: Duration, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let look = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(patience, look).await;
        match found {
            Ok(answer) => answer,
            Err(_) => panic!(
                "{path} did not become what was wanted: {:?}",
                self.get(path).await
            ),
        }
    }

    /// The most memory it has had resident, in MiB.
    #[must_use]
    pub fn peak_rss_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or_default()
            / 1_024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn launch(data: &Path, listen: &str, folder: &Path, arguments: &[String]) -> (Child, String, u32) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))
        .expect("a log file");
    let mut command = process(binary());
    command
        .args(["serve", "--json", "--listen", listen, "--data"])
        .arg(data)
        .args(arguments);
    for variable in [
        "CELESTA_TOKEN",
        "CELESTA_DATA",
        "CELESTA_QUEUES",
        "CELESTA_STORE",
        "CELESTA_DATABASES",
        "CELESTA_NODE",
    ] {
        command.env_remove(variable);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("standard output is piped");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("standard output is readable");
    let started: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        panic!("the server did not start: {line}\n{log}")
    });
    let url = started["url"]
        .as_str()
        .expect("the address")
        .trim_end_matches('/')
        .to_owned();
    let pid = started["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .expect("the process id");
    (child, url, pid)
}
